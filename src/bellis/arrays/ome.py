"""Multi-scale images as the attributes of a group describe them: parsed and written. No I/O.

OME-Zarr 0.4 and 0.5 (https://ngff.openmicroscopy.org/0.5) and COSEM's groups are read; OME-Zarr 0.5 is written.

**Corner and centre.** An offset of bellis is the corner of the first voxel. A translation of OME-Zarr is its centre, so
that levels that cover the same region have different ones. Most writers, though, give an image's finest level the
translation of its corner (0, in general). Both are kept apart so: the finest level's translation *is* its corner, and
of level k, ``corner = translation - (scale - scale_0) / 2`` along each axis; unless all levels say the same
translation, which then is the corner of all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING, Any

from bellis.arrays.axes import is_channel_name, whole
from bellis.arrays.conventions import cosem_transform
from bellis.arrays.layout import Layout
from bellis.arrays.units import convert, parse_unit, rationals, shown
from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

OME_VERSION = "0.5"
"""The version of OME-Zarr that is written."""

_OLD = ("0.1", "0.2", "0.3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """An axis of an image."""

    name: str
    """As in ``"z"``."""
    type: str
    """``"channel"``, ``"time"`` or ``"space"``."""
    unit: str
    """Symbol of a unit; of no meaning for channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A level of an image."""

    path: str
    """Name of its array in the group of the image."""
    scale: tuple[Fraction, ...]
    """Size of a voxel per axis of the image, in the axis' unit."""
    corner: tuple[Fraction, ...]
    """Where the first voxel begins, per axis of the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A multi-scale image, as the attributes of its group describe it."""

    name: str
    """Empty if it has none."""
    axes: tuple[Axis, ...]
    """One per axis of the arrays, in their order."""
    datasets: tuple[Dataset, ...]
    """Levels, finest first."""

    @property
    def is_single(self) -> bool:
        """Whether it is one array under its own name, as `prepare_ds` notes those that it makes."""
        return len(self.datasets) == 1 and self.name == self.datasets[0].path

    def layout(self, path: str, shape: Sequence[int], dtype: npt.DTypeLike) -> Layout:
        """Return the layout of the level at ``path``; all levels are in the same units.

        Raises
        ------
        ArrayError
            If there is no such level, or it has another number of axes.
        """
        paths = [dataset.path for dataset in self.datasets]
        if path not in paths:
            raise ArrayError(f"image {self.name!r} has no level {path!r}, only {', '.join(paths)}")
        if len(shape) != len(self.axes):
            names = ", ".join(axis.name for axis in self.axes)
            raise ArrayError(f"{path!r} has shape {tuple(shape)}, but its image has {len(self.axes)} axes ({names})")
        physical = [k for k, axis in enumerate(self.axes) if axis.type != "channel"]
        size, begin, units = whole(
            [dataset.scale[k] for dataset in self.datasets for k in physical],
            [dataset.corner[k] for dataset in self.datasets for k in physical],
            [self.axes[k].unit for k in physical] * len(paths),
            [self.axes[k].type for k in physical] * len(paths),
        )
        level = slice(paths.index(path) * len(physical), (paths.index(path) + 1) * len(physical))
        return Layout.of(
            shape,
            dtype,
            voxel_size=size[level],
            offset=begin[level],
            axis_names=[axis.name for axis in self.axes],
            units=units[level],
            types=[axis.type for axis in self.axes],
        )


def images(attributes: Mapping[str, Any]) -> tuple[Image, ...]:
    """Parse the images that a group's attributes describe; empty if there are none.

    Those of OME-Zarr before 0.4, which have no units, are left out.

    Raises
    ------
    ArrayError
        If the description is wrong; the message says where.
    """
    ome = attributes.get("ome", attributes)
    entries = ome.get("multiscales", []) if isinstance(ome, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ArrayError("multiscales is no list of objects: this is not OME-Zarr 0.4 or 0.5")
    version = str(ome.get("version", ""))
    found = []
    for k, entry in enumerate(entries):
        if str(entry.get("version", version)) in _OLD:
            continue
        try:
            found.append(_image(entry))
        except ArrayError as error:
            raise ArrayError(f"multiscales[{k}]: {error}") from error
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ArrayError(f"multiscales[{k}] lacks, or has of another type, what is due: {error!r}") from error
    return tuple(found)


def _image(entry: Mapping[str, Any]) -> Image:
    datasets = entry["datasets"]
    if not datasets:
        raise ArrayError("datasets is empty: an image has one level at least")
    if "axes" not in entry and "transform" in datasets[0]:
        return _cosem_image(entry)
    axes = tuple(_axis(axis) for axis in entry["axes"])
    places = []
    for k, dataset in enumerate(datasets):
        steps = [*dataset["coordinateTransformations"], *(entry.get("coordinateTransformations") or ())]
        places.append(_composed(steps, len(axes), f"datasets[{k}]"))
    return _with_corners(str(entry.get("name") or ""), axes, [dataset["path"] for dataset in datasets], places)


def _axis(axis: Mapping[str, Any]) -> Axis:
    name, kind = str(axis["name"]), axis.get("type")
    if kind is None:
        kind = {"t": "time", "x": "space", "y": "space", "z": "space"}.get(name)
    kind = kind if kind in ("time", "space") else "channel"  # axes of other types have no place either
    return Axis(name=name, type=kind, unit=parse_unit(axis.get("unit") or ("s" if kind == "time" else "nm")).symbol)


def _composed(steps: Iterable[Mapping[str, Any]], ndim: int, where: str) -> tuple[list[Fraction], list[Fraction]]:
    """Return scale and translation that stand for a chain of transformations."""
    scale, translation = [Fraction(1)] * ndim, [Fraction(0)] * ndim
    for step in steps:
        kind = step["type"]
        if kind == "identity":
            continue
        if kind not in ("scale", "translation") or kind not in step:
            raise ArrayError(f"{where} has a transformation {dict(step)}: only scale and translation are read")
        values = rationals(step[kind], f"{kind} of {where}")
        if len(values) != ndim or (kind == "scale" and min(values) <= 0):
            due = f"one number for each of {ndim} axes" + (", above 0" if kind == "scale" else "")
            raise ArrayError(f"{kind} {shown(values)} of {where} is not {due}")
        if kind == "scale":
            scale = [one * by for one, by in zip(scale, values, strict=True)]
            translation = [one * by for one, by in zip(translation, values, strict=True)]
        else:
            translation = [one + by for one, by in zip(translation, values, strict=True)]
    return scale, translation


def _cosem_image(entry: Mapping[str, Any]) -> Image:
    said = [cosem_transform(dataset["transform"], is_reversed=True) for dataset in entry["datasets"]]
    names = said[0]["axis_names"] or ["t", "z", "y", "x"][-len(said[0]["voxel_size"]) :]
    units = iter(said[0]["units"] or ["nm"] * len(names))
    axes = []
    for name in names:
        kind = "channel" if is_channel_name(name) else "time" if name in {"t", "time"} else "space"
        axes.append(Axis(name=name, type=kind, unit="nm" if kind == "channel" else parse_unit(next(units)).symbol))
    places = []
    for one in said:
        size, begin = iter(one["voxel_size"]), iter(rationals(one["offset"], "translate"))
        pairs = [(Fraction(1), Fraction(0)) if axis.type == "channel" else (next(size), next(begin)) for axis in axes]
        places.append(([pair[0] for pair in pairs], [pair[1] for pair in pairs]))
    paths = [dataset["path"] for dataset in entry["datasets"]]
    return _with_corners(str(entry.get("name") or ""), tuple(axes), paths, places)


def _with_corners(
    name: str, axes: tuple[Axis, ...], paths: Sequence[str], places: Sequence[tuple[list[Fraction], list[Fraction]]]
) -> Image:
    """Return the image of levels of which scale and translation are known; see the module about corners."""
    corners = []
    for scale, translation in places:
        corner = []
        for k, (size, at) in enumerate(zip(scale, translation, strict=True)):
            first_size, first = places[0][0][k], places[0][1][k]
            shared = all(other[k] == first for _, other in places)
            place = at if shared else at - (size - first_size) / 2
            # Other writers round: what is a millionth of a voxel off is not off.
            corner.append(first if abs(place - first) * 10**6 <= first_size else place)
        corners.append(tuple(corner))
    levels = zip(paths, places, corners, strict=True)
    datasets = [Dataset(path=str(path), scale=tuple(scale), corner=at) for path, (scale, _), at in levels]
    return Image(name=name, axes=axes, datasets=tuple(datasets))


def ome_refusal(layout: Layout) -> str | None:
    """Return why OME-Zarr can't describe an array; None if it can."""
    types, names = layout.types, layout.axis_names
    space = types.count("space")
    if len(types) > 5 or not 2 <= space <= 3:
        return f"it has {len(types)} axes, {space} of them in space: OME-Zarr has up to 5, 2 or 3 of them in space"
    if types.count("time") > 1 or types.count("channel") > 1:
        return f"types {types}: OME-Zarr has one axis of time and one of channels at most"
    if list(types) != sorted(types, key=("time", "channel", "space").index):
        return f"types {types}: OME-Zarr has time first, then channels, then space"
    if len(set(names)) != len(names):
        return f"axis_names {names} are not all different"
    return None


def with_dataset(attributes: Mapping[str, Any], *, image: str, path: str, layout: Layout) -> dict[str, Any]:
    """Return a group's attributes with an array as a level of an image, in OME-Zarr 0.5.

    The image is the one that has a level at ``path`` already, or is called ``image``; one is made if there is none.
    Levels are put in order, finest first. What else is in the attributes is kept.

    Raises
    ------
    ArrayError
        If OME-Zarr can't describe the array, or the other levels of the image have other axes.
    """
    if refusal := ome_refusal(layout):
        raise ArrayError(f"array {path!r} can't be described in OME-Zarr: {refusal}")
    ome: dict[str, Any] = {"version": OME_VERSION, **(attributes.get("ome") or {})}
    entries = list(ome.get("multiscales") or [])
    known = images({"ome": ome})
    at = next((k for k, one in enumerate(known) if path in [dataset.path for dataset in one.datasets]), None)
    if at is None:
        at = next((k for k, one in enumerate(known) if one.name == image), None)
    was = Image(name=image, axes=(), datasets=()) if at is None else known[at]
    others = tuple(dataset for dataset in was.datasets if dataset.path != path)
    axes = _axes_of(layout)
    if others and [(a.name, a.type) for a in was.axes] != [(a.name, a.type) for a in axes]:
        raise ArrayError(
            f"array {path!r} has axes {', '.join(layout.axis_names)}, but image {was.name!r} "
            f"has {', '.join(axis.name for axis in was.axes)}: its levels have the same axes"
        )
    axes = was.axes if others else axes
    levels = sorted((*others, _dataset_of(layout, path, axes)), key=lambda dataset: prod(dataset.scale))
    # An array that was noted for itself, under its own name, may become a level of an image.
    name = image if was.name == path else was.name
    new = Image(name=name, axes=axes, datasets=tuple(levels))
    if at is not None and new == was:
        return dict(attributes)
    if at is None:
        entries.append(_entry_of(new, {}))
    else:
        entries[at] = _entry_of(new, entries[at])
    return {**attributes, "ome": {**ome, "multiscales": entries}}


def without_dataset(attributes: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return a group's attributes without the level at ``path``, and without an image whose last level that was."""
    if "ome" not in attributes:
        return dict(attributes)
    entries = []
    for entry, image in zip(attributes["ome"].get("multiscales", []), images(attributes), strict=True):
        left = tuple(dataset for dataset in image.datasets if dataset.path != path)
        if left == image.datasets:
            entries.append(entry)
        elif left:
            entries.append(_entry_of(replace(image, datasets=left), entry))
    ome = {key: value for key, value in attributes["ome"].items() if key != "multiscales"}
    if entries:
        return {**attributes, "ome": {**ome, "multiscales": entries}}
    rest = {key: value for key, value in attributes.items() if key != "ome"}
    return {**rest, "ome": ome} if set(ome) - {"version"} else rest


def _axes_of(layout: Layout) -> tuple[Axis, ...]:
    units = layout.woven(layout.units, ("nm",) * len(layout.shape))
    triples = zip(layout.axis_names, layout.types, units, strict=True)
    return tuple(Axis(name=name, type=kind, unit=unit) for name, kind, unit in triples)


def _dataset_of(layout: Layout, path: str, axes: Sequence[Axis]) -> Dataset:
    """Return the level that an array is, in the units of the axes."""
    ones, zeros = (Fraction(1),) * len(axes), (Fraction(0),) * len(axes)
    scale, corner = layout.woven(layout.voxel_size, ones), layout.woven(layout.offset, zeros)
    units = [(of.unit, to.unit) for of, to in zip(_axes_of(layout), axes, strict=True)]
    return Dataset(
        path=path,
        scale=tuple(convert(Fraction(n), *pair) for n, pair in zip(scale, units, strict=True)),
        corner=tuple(convert(Fraction(n), *pair) for n, pair in zip(corner, units, strict=True)),
    )


def _entry_of(image: Image, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an image as an entry of ``multiscales``; what ``entry`` has beyond that is kept."""
    kept = {key: value for key, value in entry.items() if key != "coordinateTransformations"}
    sizes = [1 if axis.type == "channel" else parse_unit(axis.unit).size / _named_size(axis) for axis in image.axes]
    axes = []
    for axis in image.axes:
        unit = {} if axis.type == "channel" else {"unit": parse_unit(axis.unit).name}
        axes.append({"name": axis.name, "type": axis.type, **unit})
    first, datasets = image.datasets[0], []
    for dataset in image.datasets:
        shift = [(size - size_0) / 2 for size, size_0 in zip(dataset.scale, first.scale, strict=True)]
        scale = [float(n * by) for n, by in zip(dataset.scale, sizes, strict=True)]
        translation = [float((n + d) * by) for n, d, by in zip(dataset.corner, shift, sizes, strict=True)]
        steps = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": translation}]
        datasets.append({"path": dataset.path, "coordinateTransformations": steps})
    return {**kept, "name": image.name, "axes": axes, "datasets": datasets}


def _named_size(axis: Axis) -> Fraction:
    """Return the size of the unit under whose name an axis is written: of nm, for thirds of one."""
    return parse_unit(axis.unit.partition("/")[0]).size
