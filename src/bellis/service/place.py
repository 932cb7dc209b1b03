"""Where a service listens, with which files, and how that is told to workers."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bellis.errors import EngineError

if TYPE_CHECKING:
    from bellis.service.context import Context
    from bellis.service.keys import Keys

_EVERYWHERE = {"", "0.0.0.0", "::"}  # noqa: S104


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """For TLS, PEM."""

    certificate: Path | None
    """What the service shows; without it, connections are not encrypted."""
    key: Path | None
    """Of the certificate; None if it is in the same file."""
    ca_file: Path | None
    """What worker functions that the run starts trust; None: the certificate."""

    @classmethod
    def of(cls, certificate: str | Path | None, key: str | Path | None, ca_file: str | Path | None) -> Files:
        """Take what a user passed.

        Raises
        ------
        EngineError
            If there is no such file, or no certificate for what was given.
        """
        given = {"certificate": certificate, "key": key, "ca_file": ca_file}
        paths = {name: None if path is None else Path(path) for name, path in given.items()}
        for name, path in paths.items():
            if path is None:
                continue
            if paths["certificate"] is None:
                raise EngineError(
                    f"{name}={str(path)!r} was given without a certificate, so that connections would not be "
                    "encrypted: pass certificate= as well, or neither"
                )
            if not path.is_file():
                raise EngineError(f"{name}={str(path)!r}: there is no such file; pass the name of a file in PEM")
        return cls(**paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a service listens."""

    hostname: str
    """As workers call it."""
    port: int
    is_exposed: bool
    """Whether others can see what is said there: other machines can connect, and it is not encrypted."""
    files: Files

    @classmethod
    def of(cls, host: str, port: int, files: Files) -> Place:
        """Take where a server was told to listen, and the port that it has got."""
        hostname = socket.gethostname() if host in _EVERYWHERE else host
        is_exposed = files.certificate is None and not _is_loopback(host)
        return cls(hostname=hostname, port=port, is_exposed=is_exposed, files=files)

    @property
    def url(self) -> str:
        """What workers are started with."""
        shown = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        return f"{'http' if self.files.certificate is None else 'https'}://{shown}:{self.port}"

    def context(self, keys: Keys, task_id: str, log_dir: Path) -> Context:
        """Return what clients of a task are told; daisy's name for the folder of logs is ``logdir``."""
        from bellis.service.context import Context

        context = Context(hostname=self.hostname, port=self.port, task_id=task_id, token=keys.token, run_id=keys.run_id)
        context["logdir"] = str(log_dir)
        if self.files.certificate is not None:
            context["scheme"] = "https"
            context["ca_file"] = str((self.files.ca_file or self.files.certificate).absolute())
        return context


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: of this machine in a network, or it could not listen there
        return False
