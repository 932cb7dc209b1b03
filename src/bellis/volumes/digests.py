"""Checksums that servers send along with an answer, in its headers."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING

from bellis.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_ALGORITHMS: Mapping[str, Callable[[bytes], bytes]] = {
    "md5": lambda body: hashlib.md5(body, usedforsecurity=False).digest(),
    "sha-256": lambda body: hashlib.sha256(body).digest(),
    "sha-512": lambda body: hashlib.sha512(body).digest(),
}


def is_verified(headers: Mapping[str, str], *bodies: bytes) -> bool:
    """Return whether a header has a checksum of what was received, by an algorithm that is known here.

    Parameters
    ----------
    headers
        Of the answer, by names in lower case. ``Content-MD5``, ``Digest`` (RFC 3230), ``Content-Digest`` and
        ``Repr-Digest`` (RFC 9530) and ``x-goog-hash`` are heeded.
    bodies
        What was received, as it came and with its content encoding undone: one of them must fit. The standards mean the
        first, but a proxy that compresses on its way leaves the header of the second.

    Raises
    ------
    TransientError
        If a checksum fits none.
    """
    found = False
    for header, name, digest in _digests(headers):
        compute = _ALGORITHMS.get(name)
        if compute is None:
            continue
        if not any(compute(body) == digest for body in bodies):
            raise TransientError(
                f"the {len(bodies[0])} bytes that came do not have the {name} that its header {header} says: "
                "they were damaged on their way"
            )
        found = True
    return found


def _digests(headers: Mapping[str, str]) -> Iterator[tuple[str, str, bytes]]:
    """Yield header, algorithm and digest; what is no Base64 is left out."""
    said = [("content-md5", f"md5={headers['content-md5']}")] if "content-md5" in headers else []
    said += [(name, headers[name]) for name in ("digest", "content-digest", "repr-digest") if name in headers]
    # Of a file that is stored compressed and sent as it was before, the sums are those of what is stored.
    is_stored = headers.get("x-goog-stored-content-encoding", "identity") == "identity" or "content-encoding" in headers
    if "x-goog-hash" in headers and is_stored:
        said.append(("x-goog-hash", headers["x-goog-hash"]))
    for header, text in said:
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            try:
                yield header, name.strip().lower(), base64.b64decode(value.strip().strip(":"), validate=True)
            except binascii.Error:
                continue
