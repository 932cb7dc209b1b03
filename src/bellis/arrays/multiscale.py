"""Multi-scale images: one array in several resolutions, as OME-Zarr describes them."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from bellis.arrays.keyvalue import read_attributes, update_attributes
from bellis.arrays.levels import chosen_image, levels_by_name, levels_of, paths_of
from bellis.arrays.location import Location
from bellis.arrays.ome import images, ome_refusal, with_dataset, without_dataset
from bellis.arrays.open import candidates, default_missing, load_format, what_is_there
from bellis.arrays.prepare import layout_asked, prepare_array
from bellis.arrays.zarr_metadata import group_version
from bellis.errors import ArrayError
from bellis.geometry import Coordinate

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from bellis.arrays.array import Array
    from bellis.arrays.format import Missing
    from bellis.arrays.layout import Layout, RationalsLike
    from bellis.geometry import CoordinateLike, Roi

_LEVEL = re.compile(r"^(.*?)(\d+)$")


class Multiscale:
    """The levels of an image, finest first; all in the same world units.

    `Multiscale.open` finds an image, `Multiscale.prepare` makes one, of one level; `add_level` makes room for the next.
    Voxels are written through the levels, which are arrays; `bellis.ops.downscale` fills one from another.

    Parameters
    ----------
    location
        Group of the image.
    name
        Name of the image in the group's metadata.
    levels
        Name in the group, and array, of each level; finest first.

    Examples
    --------
    >>> image = Multiscale.prepare("memory://doc/em.zarr", (64, 64, 64), (40, 4, 4), "uint8")
    >>> image.add_level((1, 2, 2)).shape
    (64, 32, 32)
    >>> [tuple(level.voxel_size) for level in Multiscale.open("memory://doc/em.zarr")]
    [(40, 4, 4), (40, 8, 8)]
    """

    def __init__(self, location: Location, name: str, levels: Sequence[tuple[str, Array]]) -> None:
        self._location = location
        self._name = name
        self._levels = dict(levels)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        name: str | None = None,
        mode: str = "r",
        *,
        image: str | None = None,
        format: str | None = None,
        missing: Missing | None = None,
    ) -> Multiscale:
        """Open an image without reading any voxel.

        It may be OME-Zarr 0.4 or 0.5, a multi-scale group of N5, or neuroglancer precomputed.

        Parameters
        ----------
        path, name, mode, format, missing
            As for `open_ds`: the group of the image.
        image
            Which one of the images that the group's metadata tells of; not needed if there is one.

        Raises
        ------
        ArrayError
            If there is no image, or there are several and none is named.
        """
        if mode not in ("r", "r+", "a"):
            raise ArrayError(f"mode {mode!r} is none of 'r', 'r+', 'a': Multiscale.prepare makes new images")
        location = Location.of(path, name, format)
        found = chosen_image(images(read_attributes(location)), image, location)
        missing = missing or default_missing(location)
        if found is not None:
            return cls(location, found.name, levels_of(location, found, mode != "r", missing))
        for candidate in candidates(location):
            if levels := levels_by_name(candidate, location, mode != "r", missing):
                return cls(location, "", levels)
        if any(candidate.open(location, is_writeable=False, missing=missing) for candidate in candidates(location)):
            raise ArrayError(
                f"there is no multi-scale image at {location}, but a single array: make an image of it, which has room "
                "for levels, with ops.copy or `bellis copy` to another path"
            )
        raise ArrayError(f"there is no multi-scale image: {what_is_there(location)}")

    @classmethod
    def prepare(
        cls,
        path: str | os.PathLike[str],
        total_roi: Roi | Sequence[int] | None = None,
        voxel_size: CoordinateLike | None = None,
        dtype: npt.DTypeLike | None = None,
        *,
        shape: Sequence[int] | None = None,
        offset: CoordinateLike | None = None,
        write_size: CoordinateLike | None = None,
        num_channels: int | None = None,
        chunk_shape: Sequence[int] | None = None,
        shard_shape: Sequence[int] | None = None,
        axis_names: Sequence[str] | None = None,
        units: str | Sequence[str] | None = None,
        types: Sequence[str] | None = None,
        fill_value: complex = 0,
        compressor: str | Mapping[str, Any] | None = "default",
        attrs: Mapping[str, Any] | None = None,
        mode: Literal["a", "w"] = "a",
    ) -> Multiscale:
        """Make a group in OME-Zarr 0.5 with a finest level, ``s0``; or open one whose finest level is as asked.

        Parameters
        ----------
        path
            Path or URL of the group.
        total_roi, voxel_size, dtype, shape, offset, write_size, num_channels, chunk_shape, shard_shape
            Of the finest level, as for `prepare_ds`.
        axis_names, units, types, fill_value, compressor, attrs
            Likewise.
        mode
            ``"a"`` keeps an existing image, with all of its levels; ``"w"`` replaces it.

        Returns
        -------
        Multiscale
            Open to read and write.

        Raises
        ------
        ArrayError
            If the arguments do not fit each other or OME-Zarr, or a level is there that is not as asked.
        """
        location = Location.of(path)
        layout, write_voxels = layout_asked(
            total_roi,
            voxel_size,
            dtype,
            shape=shape,
            offset=offset,
            write_size=write_size,
            num_channels=num_channels,
            axis_names=axis_names,
            units=units,
            types=types,
        )
        if refusal := ome_refusal(layout):
            raise ArrayError(f"{location} can't be an OME-Zarr image: {refusal}; prepare_ds makes any array")
        _check_is_zarr(location)
        _check_is_ours(location)
        if mode == "w":
            _delete_levels(location)
        name = location.url.rpartition("/")[2].removesuffix(".zarr")
        first = prepare_array(
            location / "s0",
            layout,
            write_voxels=write_voxels,
            chunk_shape=chunk_shape,
            shard_shape=shard_shape,
            fill_value=fill_value,
            compressor=compressor,
            attrs=attrs,
            mode=mode,
            is_recorded=False,
        )
        _record(location, name, "s0", first.layout)
        found = next(one for one in images(read_attributes(location)) if "s0" in paths_of(one))
        return cls(location, found.name, levels_of(location, found, True, default_missing(location)))

    @property
    def path(self) -> str:
        """Path or URL of the group."""
        return self._location.url

    @property
    def name(self) -> str:
        """Name of the image in the metadata of its group; may be empty."""
        return self._name

    @property
    def levels(self) -> tuple[Array, ...]:
        """Arrays of all resolutions, finest first."""
        return tuple(self._levels.values())

    @property
    def level_names(self) -> tuple[str, ...]:
        """Names of the levels in the group, finest first."""
        return tuple(self._levels)

    def __getitem__(self, index: int) -> Array:
        return self.levels[index]

    def __len__(self) -> int:
        return len(self._levels)

    def __iter__(self) -> Iterator[Array]:
        return iter(self.levels)

    def __repr__(self) -> str:
        levels = "".join(f"\n  {name}: {level!r}" for name, level in self._levels.items())
        return f"Multiscale({self.path!r}, {len(self)} {'level' if len(self) == 1 else 'levels'}){levels}"

    def add_levels(self, factors: Iterable[CoordinateLike]) -> tuple[Array, ...]:
        """Make empty arrays of all levels from the second on, each from the one above; or open those that are there.

        Called again with the same factors, it changes nothing. See `add_level`.
        """
        return tuple(self.add_level(one, below=k) for k, one in enumerate(factors))

    def add_level(
        self,
        factors: CoordinateLike,
        *,
        below: int | None = None,
        chunk_shape: Sequence[int] | None = None,
        shard_shape: Sequence[int] | None = None,
        compressor: str | Mapping[str, Any] | None = "default",
        overwrite: bool = False,
    ) -> Array:
        """Make the empty array of a coarser level, or open it if it is there as asked.

        It begins where the others do; where the shape is not a multiple of the factors, its last voxels reach beyond
        the end of the others.

        Parameters
        ----------
        factors
            Voxels of the level above per voxel, for each physical axis, or for all.
        below
            Index of the level above; the last one, if not given. If it is not the last, the level after it is the one
            that is meant: it is kept if it is as asked.
        chunk_shape, shard_shape
            Voxels per axis; as of the level above if not given.
        compressor
            As for `prepare_ds`.
        overwrite
            Replace a level that is not as asked.

        Returns
        -------
        Array
            Open to read and write.

        Raises
        ------
        ArrayError
            If the factors do not fit, or a level is there that is not as asked: each difference is listed.
        """
        index = range(len(self))[-1 if below is None else below]
        above, following = self.level_names[index], self.level_names[index + 1 : index + 2]
        source = self._levels[above]
        layout = _coarser(source.layout, factors)
        name = following[0] if following else _name_after(above, self.level_names)
        if not source.is_writeable:
            raise ArrayError(f"image {self.path} is open to read: Multiscale.open(..., mode='r+') lets levels be added")
        _check_is_zarr(self._location)
        if chunk_shape is None and shard_shape is None:
            chunk_shape, shard_shape = _chunks_like(source, layout)
        level = prepare_array(
            self._location / name,
            layout,
            chunk_shape=chunk_shape,
            shard_shape=shard_shape,
            fill_value=0 if source.fill_value is None else source.fill_value,
            compressor=compressor,
            mode="replace different" if overwrite else "a",
            is_recorded=False,
        )
        _record(self._location, self._name, name, level.layout)
        self._levels[name] = level
        return level


def _record(location: Location, image: str, path: str, layout: Layout) -> None:
    update_attributes(location, lambda found: with_dataset(found, image=image, path=path, layout=layout))


def _check_is_ours(location: Location) -> None:
    """Refuse a group with an image that has no level s0: it would hold two."""
    for image in images(read_attributes(location)):
        if not image.is_single and "s0" not in paths_of(image):
            raise ArrayError(
                f"{location} holds the image {image.name!r} with the levels {', '.join(paths_of(image))}, which "
                "another program made: pass another path, or extend it by Multiscale.open(path, mode='r+').add_level()"
            )


def _delete_levels(location: Location) -> None:
    """Remove the image that has a level s0, with all of its levels; other arrays of the group stay."""
    zarr = load_format("zarr")
    for image in images(read_attributes(location)):
        if "s0" in paths_of(image):
            for path in paths_of(image):
                zarr.delete(location / path)
                update_attributes(location, partial(_without, path))


def _without(path: str, attributes: dict[str, Any]) -> dict[str, Any]:
    return without_dataset(attributes, path)


def _check_is_zarr(location: Location) -> None:
    if location.format not in (None, "zarr") or location.suffix not in ("", ".zarr"):
        raise ArrayError(f"{location} is not zarr: images are written as OME-Zarr only, into a path like 'em.zarr'")
    if group_version(location) == 2:
        raise ArrayError(
            f"{location} is a group of zarr 2, but OME-Zarr 0.5, which is written, of zarr 3: use another path"
        )


def _coarser(layout: Layout, factors: RationalsLike) -> Layout:
    """Return the layout of a level that is made of boxes of voxels."""
    whole = Coordinate(factors)  # type: ignore[arg-type]
    by = Coordinate((*whole,) * layout.dims) if whole.dims == 1 else whole
    if by.dims != layout.dims or None in by or min(by) < 1 or max(by) == 1:
        raise ArrayError(
            f"factors {whole} are not one whole number for each of {layout.axes()} axes, >= 1 and one above: "
            "pass one like (1, 2, 2)"
        )
    shape = layout.woven(layout.spatial_shape.ceil_division(by), layout.shape)
    return replace(layout, shape=shape, voxel_size=layout.voxel_size * by)


def _chunks_like(above: Array, layout: Layout) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Return chunks and shards as of the level above; chunks that are not in shards no larger than the array."""
    chunks, parts = above.chunk_shape, above.write_shape
    if chunks is None or parts is None:
        return None, None
    if parts != chunks:
        return chunks, parts
    return tuple(max(1, min(pair)) for pair in zip(chunks, layout.shape, strict=True)), None


def _name_after(name: str, taken: Sequence[str]) -> str:
    """Return the name of the next level: s1 after s0."""
    found = _LEVEL.match(name)
    prefix, number = (found[1], int(found[2])) if found else ("s", len(taken) - 1)
    while (after := f"{prefix}{number + 1}") in taken:
        number += 1
    return after
