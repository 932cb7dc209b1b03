"""The run's token: what whoever takes part in a run must know, and how the service shows that it knows it too."""

from __future__ import annotations

import hmac
import os
import re
import secrets
from typing import TYPE_CHECKING

from bellis.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

_NONCE = re.compile(r"[0-9a-fA-F]{32,64}")
_TOKEN = re.compile(r"[A-Za-z0-9_.~+/=-]{16,200}")


def new_token() -> str:
    """Return a random token."""
    return secrets.token_urlsafe(32)


def is_nonce(text: str) -> bool:
    """Whether ``text`` can be asked about."""
    return _NONCE.fullmatch(text) is not None


def proof(token: str, run_id: str, nonce: str) -> str:
    """Return what only somebody who knows the token can say of a run and a nonce: an HMAC-SHA256, in hex."""
    return hmac.new(token.encode(), f"bellis:{run_id}:{nonce}".encode(), "sha256").hexdigest()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read; it is there as a whole or not at all.

    Raises
    ------
    EngineError
        If it can't be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise EngineError(f"{path} can't be written: {error}; pass another place") from error


def read_token(path: Path) -> str:
    """Return the token that a file has.

    Raises
    ------
    EngineError
        If it can't be read, has no token, or others than its owner can read it.
    """
    try:
        with path.open() as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.read(1024).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"the token can't be read from {path}: {error}") from error
    if mode & 0o077:
        raise EngineError(f"{path} holds a token, but others than its owner may use it: chmod 600 {path}")
    if not _TOKEN.fullmatch(token):
        raise EngineError(f"{path} holds no token: 16 to 200 letters, digits and -_.~+/= are expected in it")
    return token
