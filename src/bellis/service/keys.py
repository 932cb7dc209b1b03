"""What workers know a run by: its name, its token, its port. Kept beside the journal until the run is over."""

from __future__ import annotations

import ipaddress
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from bellis.errors import EngineError
from bellis.runtime.folders import own_folder
from bellis.service.token import new_token, read_token, write_private

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "service"
LARGEST_PORT = 65535
LONGEST_PORT = 5


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    run_id: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """How workers find a run, and get in."""

    run_id: str
    """Its name."""
    token: str
    """What whoever takes part knows."""
    port: int | None
    """Where it listened before; None if it is new."""
    token_file: Path
    """Where the token is."""
    folder: Path
    """What is removed when the run is over."""
    is_lent: bool
    """Whether the token's file is the user's, and stays."""
    is_new: bool
    """Whether no interrupted run had them before."""

    @classmethod
    def of(cls, run_id: str, run_dir: Path | None, token_file: Path | None) -> Keys:
        """Take up the keys of an interrupted run, or make new ones.

        Parameters
        ----------
        run_id
            Name of the run, if it is new.
        run_dir
            The journal; None if there is none, and nothing to be taken up.
        token_file
            File of the user's for the token; one that is there is read.

        Raises
        ------
        EngineError
            If the token can't be read or written.
        """
        folder = run_dir / FOLDER if run_dir is not None else own_folder("service")
        kept = _read(folder)
        path = token_file or folder / "token"
        is_there = path.exists()
        token = read_token(path) if is_there else new_token()
        if not is_there:
            write_private(path, token + "\n")
        return cls(
            run_id=kept.run_id if kept is not None else run_id,
            token=token,
            port=kept.port if kept is not None else None,
            token_file=path,
            folder=folder,
            is_lent=is_there and token_file is not None,
            is_new=kept is None,
        )

    def keep(self, port: int) -> None:
        """Note where the run listens."""
        write_private(self.folder / "run.json", msgspec.json.encode(_Kept(self.run_id, port)).decode())

    def remove(self) -> None:
        """Forget the run."""
        if not self.is_lent:
            self.token_file.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(folder: Path) -> _Kept | None:
    try:
        return msgspec.json.decode((folder / "run.json").read_bytes(), type=_Kept)
    except (OSError, msgspec.DecodeError):
        return None


def parsed_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port``, ``host`` or ``[host]:port``.

    Raises
    ------
    EngineError
        If it is none of these.

    Examples
    --------
    >>> parsed_address("10.0.0.1:8000"), parsed_address("node1"), parsed_address("[::1]:0"), parsed_address("::1")
    (('10.0.0.1', 8000), ('node1', 0), ('::1', 0), ('::1', 0))
    """
    host, port = address, "0"
    if address.startswith("[") or address.count(":") == 1:
        host, _, port = address.rpartition(":") if not address.endswith("]") else (address, "", "0")
    is_port = port.isascii() and port.isdecimal() and len(port) <= LONGEST_PORT and int(port) <= LARGEST_PORT
    if not host or not is_port or not _is_host(host):
        raise EngineError(f"{address!r} is no address to listen on: pass host:port, with port 0 for any that is free")
    return host.strip("[]"), int(port)


def _is_host(host: str) -> bool:
    """Whether what has colons or brackets is an address of IPv6; a name is looked up later."""
    if not {":", "[", "]"} & set(host):
        return True
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return ipaddress.ip_address(bare).version == 6
    except ValueError:
        return False
