"""Servers that cut regions out of a volume, asked by a URL that has the region in it."""

from __future__ import annotations

import hashlib
import re
import string
from math import prod
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from bellis.arrays.layout import Layout
from bellis.errors import ArrayError, FetchError, TransientError
from bellis.geometry import Roi
from bellis.volumes.access import public
from bellis.volumes.blocks import shown
from bellis.volumes.http import HttpClient

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from bellis.volumes.descriptions import Access, CutoutDescription
    from bellis.volumes.payload import Decoded
    from bellis.volumes.source import Patience

ANSWERS = 4
"""How often a block is asked for, at most, until two answers agree."""

PAGES = ("text/html", "application/xhtml+xml", "application/json", "application/xml", "text/xml")
"""Types of what is no voxels, whatever else it looks like."""

_WIDTH = re.compile(r"0?\d{0,2}d?")
Failure = TypeVar("Failure", bound=FetchError)


class UrlTemplateSource:
    """A server that sends a region for each URL.

    Parameters
    ----------
    description
        The URL and what the server sends.
    access
        Who we are.
    patience
        How long a silent server is waited for; attempts are made again by who calls `fetch`.
    parallel
        Connections to the server.
    name
        Of the volume, for messages.

    Raises
    ------
    ArrayError
        If the URL has another field than ``{x_start}``, ``{x_stop}``, ``{x_size}`` of one of the axes.
    """

    def __init__(
        self, description: CutoutDescription, access: Access, patience: Patience, parallel: int, name: str | None = None
    ) -> None:
        self._description = description
        self._access = access
        self._patience = patience
        self._parallel = parallel
        self._name = name
        self._client = HttpClient(access, parallel)
        self._had_checksums: bool | None = None
        _check_fields(description)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._description, self._access, self._patience, self._parallel, self._name)

    def __str__(self) -> str:
        return f"{self._name or 'volume'!r} from {self.path}"

    @property
    def path(self) -> str:
        """Where it is, for people."""
        return public(self._description.url_format)

    @property
    def domain(self) -> Roi:
        """Its voxels, all axes; begins at 0."""
        return Roi((0,) * len(self._description.shape), self._description.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of a voxel, in native byte order."""
        return self._description.dtype

    @property
    def axes(self) -> tuple[str, ...]:
        """Name of each axis."""
        return self._description.axes

    @property
    def preferred_block(self) -> tuple[int, ...] | None:
        """Voxels per axis that are served together, as the description says."""
        return self._description.preferred_block

    @property
    def layout(self) -> Layout:
        """Where it is in the world, as the description says."""
        said = self._description
        return Layout.of(
            said.shape,
            said.dtype,
            voxel_size=said.voxel_size,
            offset=said.offset,
            axis_names=said.axes,
            units=said.units,
        )

    @property
    def is_checked(self) -> bool | None:
        """Whether all that came had a checksum, in it or in a header; None if nothing came yet."""
        from bellis.volumes.payload import is_checked

        return is_checked(self._description.payload) or self._had_checksums

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """The description, without secrets; the server is not asked."""
        said = self._description
        return {
            "kind": "cutout",
            "url_format": self.path,
            "payload": said.payload,
            "hdf5_dataset": said.hdf5_dataset,
            "axes": list(said.axes),
            "payload_axes": list(said.payload_axes),
            "dtype": said.dtype.name,
            "payload_dtype": said.payload_dtype.newbyteorder("<").name + said.payload_dtype.str[:1],
            "shape": list(said.shape),
            "origin_offset": list(said.origin_offset),
        }

    def url(self, block_roi: Roi) -> str:
        """Return what a region is asked for by; it may hold secrets."""
        said = self._description
        fields = {}
        for axis, begin, size, origin in zip(
            said.axes, block_roi.begin, block_roi.shape, said.origin_offset, strict=True
        ):
            fields[f"{axis}_start"] = begin + origin
            fields[f"{axis}_stop"] = begin + origin + size
            fields[f"{axis}_size"] = size
        return said.url_format.format(**fields)

    def fetch(self, block_roi: Roi, out: npt.NDArray[Any], *, timeout_s: float) -> None:
        """Fill ``out`` with the voxels of a region, as `Source.fetch` says."""
        try:
            out[...] = self._voxels(block_roi, tuple(out.shape), monotonic() + timeout_s)
        except FetchError as error:
            failure = told(error, f"block {shown(block_roi)}" + (f" of {self._name!r}" if self._name else "") + " from")
        else:
            return
        raise failure

    def close(self) -> None:
        """Close connections; a later fetch opens new ones."""
        self._client.close()

    def _voxels(self, block_roi: Roi, shape: tuple[int, ...], deadline: float) -> npt.NDArray[Any]:
        """Return voxels that have a checksum, or that came twice; of others, those that came."""
        seen: set[bytes] = set()
        self._check_whole(block_roi)
        url = self.url(block_roi)
        for _ in range(ANSWERS):
            decoded, is_checked = self._ask(url, shape, deadline)
            if is_checked or not self._description.is_confirmed:
                return decoded.voxels
            digest = hashlib.blake2b(np.ascontiguousarray(decoded.voxels).view(np.uint8).data).digest()
            if digest in seen:
                return decoded.voxels
            seen.add(digest)
        raise TransientError(f"{public(url)}: {ANSWERS} answers are all different, none has a checksum")

    def _check_whole(self, block_roi: Roi) -> None:
        """Refuse a part of an axis that the URL does not name: the server would send the same for each part."""
        said = self._description
        for axis, begin, end, n in zip(said.axes, block_roi.begin, block_roi.end, said.shape, strict=True):
            if end - begin < n and f"{{{axis}_start" not in said.url_format:
                raise FetchError(
                    f"url_format {self.path} does not say {{{axis}_start}}, so that the server sends all {n} voxels of "
                    f"axis {axis}, but {begin}:{end} were asked: name it, or have blocks of {n} voxels along {axis}"
                )

    def _ask(self, url: str, shape: tuple[int, ...], deadline: float) -> tuple[Decoded, bool]:
        from bellis.volumes.payload import begin, decode

        size = prod(shape) * self.dtype.itemsize
        left_s = max(0.001, deadline - monotonic())
        answer = self._client.get(url, timeout_s=left_s, stall_s=self._patience.stall_s, expected_bytes=size)
        failure: FetchError
        try:
            if answer.content_type.partition(";")[0].strip().lower() in PAGES:
                raise TransientError(f"voxels were asked, the answer begins with {begin(answer.body)}")
            decoded = decode(answer.body, self._description, shape)
        except FetchError as error:
            kind = f" ({answer.content_type})" if answer.content_type else ""
            failure = told(error, f"{public(url)}{kind}:")
            failure.args = (self._client.shown(str(failure), url),)
        else:
            is_checked = answer.is_checked or decoded.is_checked
            self._had_checksums = is_checked and self._had_checksums is not False
            return decoded, is_checked
        raise failure  # not chained: a page may have our token in it


def told(error: Failure, where: str) -> Failure:
    """Return an error of the same kind that says where it happened."""
    made = type(error)(f"{where} {error}")
    if isinstance(made, TransientError) and isinstance(error, TransientError):
        made.retry_after_s = error.retry_after_s
    return made


def _check_fields(description: CutoutDescription) -> None:
    known = {f"{axis}_{what}" for axis in description.axes for what in ("start", "stop", "size")}
    try:
        parts = list(string.Formatter().parse(description.url_format))
    except ValueError as error:
        raise ArrayError(f"url_format {public(description.url_format)!r} is not understood: {error}") from error
    for _, name, spec, conversion in parts:
        if name is not None and (name not in known or conversion or not _WIDTH.fullmatch(spec or "")):
            raise ArrayError(
                f"url_format {public(description.url_format)!r} has the field {name!r}: use {', '.join(sorted(known))}"
            )
