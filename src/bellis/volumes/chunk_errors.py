"""What tensorstore's errors mean for a block, and which chunks carry checksums."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from bellis.errors import AccessError, FetchError, MissingBlockError, TransientError
from bellis.volumes.answers import shown_status, status_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_STATUS = re.compile(r"\[HTTP code (\d+)\]")
_DETAILS = re.compile(r"\s*\[(tensorstore_spec|source locations|transform|domain|http_response_body)='.*", re.DOTALL)
_CODE = re.compile(r"^([A-Z][A-Z_]+): ")
_PLACE = re.compile(r"Error reading (\S+?): ")
_KINDS: dict[str, type[FetchError]] = {
    "NOT_FOUND": MissingBlockError,
    "PERMISSION_DENIED": AccessError,
    "UNAUTHENTICATED": AccessError,
    **dict.fromkeys(("ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL"), TransientError),
    **dict.fromkeys(("RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNKNOWN"), TransientError),
}
_CHECKED = ("crc32c", "gzip", "zlib", "bz2", "png")


def explained(error: Exception, what: str, *, is_remote: bool) -> FetchError:
    """Return the error of a block that tensorstore could not read.

    A chunk that does not decode may be damaged on its way, and come whole the next time; on a disk it will not.
    """
    text = str(error)
    status = _STATUS.search(text)
    place = _PLACE.search(text)
    if status is not None:
        number = int(status[1])
        note = ", a redirect, which chunks can't follow" if 300 <= number < 400 else ""
        where = f" {place[1]}:" if place else ""
        return status_error(number)(f"{what}{where} {shown_status(number)}{note}")
    code = _CODE.match(text)
    words = _CODE.sub("", _DETAILS.sub("", text)).strip()
    kind = _KINDS.get(code[1]) if code else None
    if kind is None:
        kind = TransientError if is_remote and place and not isinstance(error, NotImplementedError) else FetchError
    return kind(f"{what} {words}")


def explained_metadata(error: Exception) -> FetchError:
    """Return the error of metadata that `bellis.arrays` could not read."""
    if isinstance(error, FetchError):
        return error
    text = str(error)
    codes = (_KINDS[code] for code in re.findall(r"\b[A-Z]+(?:_[A-Z]+)*(?=: )", text) if code in _KINDS)
    kind = TransientError if "no answer within" in text else next(codes, FetchError)
    return kind(_DETAILS.sub("", text))


def has_checksum(documents: Mapping[str, Any], spec: Mapping[str, Any]) -> bool:
    """Return whether what the metadata says of the codecs lets a damaged chunk be noticed."""
    document: dict[str, Any] = next(iter(documents.values()), {})
    if spec.get("driver") == "neuroglancer_precomputed":
        scale = document.get("scales", [{}])[spec.get("scale_index", 0)]
        sharding = scale.get("sharding") or {}
        return scale.get("encoding") in _CHECKED or sharding.get("data_encoding") == "gzip"
    return any(_is_checksum(codec) for codec in _codecs(document))


def _codecs(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the codecs of chunks; of a sharded array, those within the shards."""
    for codec in document.get("codecs") or []:
        inner = (codec.get("configuration") or {}).get("codecs")
        if codec.get("name") == "sharding_indexed" and inner:
            yield from _codecs({"codecs": inner})
        else:
            yield codec
    for codec in (document.get("compressor"), document.get("compression"), *(document.get("filters") or ())):
        if isinstance(codec, dict):
            yield codec
    if isinstance(document.get("compressionType"), str):
        yield {"type": document["compressionType"]}


def _is_checksum(codec: Mapping[str, Any]) -> bool:
    name = codec.get("name") or codec.get("id") or codec.get("type")
    options = codec.get("configuration") or codec
    if name == "bzip2" or name in _CHECKED:
        return True
    return name == "zstd" and options.get("checksum") is True
