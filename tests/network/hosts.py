"""Two hosts on one machine, with a router between them that can be told to drop everything.

Each is a network namespace with an interface and an address of its own, so that what runs in them meets through TCP
as it would between machines: a cut is silent, as when a cable is pulled far away. Needs the right to make namespaces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ADDRESSES = {"here": "10.77.1.2", "there": "10.77.2.2"}
_NUMBERS = count()


def can_make_hosts() -> bool:
    """Whether this process may make network namespaces."""
    if shutil.which("ip") is None:
        return False
    name = f"bellis-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=True)
    return made


class Hosts:
    """The hosts ``here`` and ``there``, while the block of a ``with`` runs."""

    def __init__(self) -> None:
        self._prefix = f"b{os.getpid()}n{next(_NUMBERS)}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            for name in ("here", "there", "router"):
                _ip("netns", "add", self._space(name))
                _ip("-n", self._space(name), "link", "set", "lo", "up")
            for name, address in ADDRESSES.items():
                gateway = address[:-1] + "1"
                ends = f"{self._prefix}{name[0]}", f"{self._prefix}r{name[0]}"
                peer = ("peer", "name", ends[1], "netns", self._space("router"))
                _ip("link", "add", ends[0], "netns", self._space(name), "type", "veth", *peer)
                for end, space, own in zip(ends, (name, "router"), (address, gateway), strict=True):
                    _ip("-n", self._space(space), "addr", "add", f"{own}/24", "dev", end)
                    _ip("-n", self._space(space), "link", "set", end, "up")
                _ip("-n", self._space(name), "route", "add", "default", "via", gateway)
            forward = "open('/proc/sys/net/ipv4/ip_forward', 'w').write('1')"
            subprocess.run(
                ["ip", "netns", "exec", self._space("router"), "python3", "-c", forward], check=True, timeout=20
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait(20)
        for name in ("here", "there", "router"):
            subprocess.run(["ip", "netns", "del", self._space(name)], capture_output=True, check=False)

    def _space(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def start(
        self, name: str, arguments: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a program on a host; it is killed at the end."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self._space(name), *arguments], env={**os.environ, **(env or {})}, **options
        )
        self._processes.append(process)
        return process

    def cut(self) -> None:
        """Drop, from now on, all that passes between the hosts."""
        for address in ADDRESSES.values():
            _ip("-n", self._space("router"), "route", "add", "blackhole", f"{address}/32")

    def mend(self) -> None:
        """Let everything pass again."""
        for address in ADDRESSES.values():
            _ip("-n", self._space("router"), "route", "del", "blackhole", f"{address}/32")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=20, capture_output=True)
