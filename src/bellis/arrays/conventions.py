"""What the attributes of one array say about shape, axes and place. No I/O.

They are bellis' and funlib's own, COSEM's ``transform``, or N5's ``pixelResolution``. What a group says of the arrays
in it is parsed by the module ``ome``.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from bellis.arrays.axes import is_channel_name
from bellis.arrays.layout import Layout
from bellis.arrays.units import rationals, shown
from bellis.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from bellis.arrays.layout import RationalsLike


def says_layout(attributes: Mapping[str, Any]) -> bool:
    """Return whether an array says its place itself, as bellis and funlib write it.

    If not, ask first the group that it is a level of (see `images` of the module ``ome``): what other conventions say
    of a coarse level alone, by ``transform`` say, is the centre of its first voxel.
    """
    return attributes.get("voxel_size") is not None


def layout_of(
    attributes: Mapping[str, Any],
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    *,
    is_reversed: bool = False,
    dimension_names: Sequence[str | None] | None = None,
    voxel_size: RationalsLike | None = None,
    offset: RationalsLike | None = None,
    axis_names: Sequence[str] | None = None,
    units: str | Sequence[str] | None = None,
    types: Sequence[str] | None = None,
) -> Layout:
    """Parse the attributes of one stored array.

    The first of these that is there counts: ``voxel_size`` (with ``offset``, ``axis_names``, ``units``, ``types``),
    COSEM's ``transform``, N5's ``pixelResolution``, ``resolution`` (with the same). Without any, a voxel is 1 nm.

    Parameters
    ----------
    attributes
        As they are stored.
    shape
        Voxels per axis, in the order in which bellis has them: z, y, x.
    dtype
        Data type of a voxel.
    is_reversed
        Whether plain lists are in N5's order, x, y, z; those with ``axis_names`` are if these are.
    dimension_names
        Names of the axes that the format knows, if the attributes name none.
    voxel_size, offset, axis_names, units, types
        In place of what the attributes say, as `Layout.of` takes them.

    Raises
    ------
    ArrayError
        If the attributes do not fit the array, or each other.
    """
    said = _said(attributes, is_reversed=is_reversed)
    names = (
        axis_names or said.get("axis_names") or _names(dimension_names) or _names(attributes.get("_ARRAY_DIMENSIONS"))
    )
    if names is not None and axis_names is None and len(names) != len(shape):
        raise ArrayError(f"attributes name {len(names)} axes, {tuple(names)}, but the array has shape {tuple(shape)}")
    return Layout.of(
        shape,
        dtype,
        voxel_size=said.get("voxel_size") if voxel_size is None else voxel_size,
        offset=said.get("offset") if offset is None else offset,
        axis_names=names,
        units=said.get("units") if units is None else units,
        types=said.get("types") if types is None else types,
    )


def _said(attributes: Mapping[str, Any], *, is_reversed: bool) -> dict[str, Any]:
    """Return the arguments for `Layout.of` that attributes give, in the order z, y, x."""
    transform, resolution = attributes.get("transform"), attributes.get("pixelResolution")
    if attributes.get("voxel_size") is None and isinstance(transform, dict) and transform.get("scale") is not None:
        return cosem_transform(transform, is_reversed=is_reversed)
    said = {key: attributes.get(key) for key in ("offset", "axis_names", "units", "types")}
    said["voxel_size"] = attributes.get("voxel_size")
    if said["voxel_size"] is None and isinstance(resolution, dict) and resolution.get("dimensions") is not None:
        factors = attributes.get("downsamplingFactors")
        size = _scaled(resolution["dimensions"], factors)[::-1]
        return {"voxel_size": size, "units": _units(resolution.get("unit"))}
    if said["voxel_size"] is None and attributes.get("resolution") is not None:
        said["voxel_size"] = _scaled(attributes["resolution"], attributes.get("downsamplingFactors"))
    names = _names(said["axis_names"])
    if is_reversed and (names is None or _is_xyz(names)):
        said = {key: value[::-1] if isinstance(value, list | tuple) else value for key, value in said.items()}
    return {**said, "axis_names": _names(said["axis_names"]), "units": _units(said["units"])}


def cosem_transform(transform: Mapping[str, Any], *, is_reversed: bool) -> dict[str, Any]:
    """Parse ``{axes, scale, translate, units}``, one entry per axis; channels have no place."""
    scale = rationals(transform["scale"], "scale of transform")
    names = _names(transform.get("axes"))
    if names is None:
        size, begin = list(scale), list(transform.get("translate") or [0] * len(scale))
        backwards = is_reversed
        physical = list(range(len(scale)))
    else:
        begin = list(transform.get("translate") or [0] * len(names))
        size, physical = list(scale), [k for k, name in enumerate(names) if not is_channel_name(name)]
        backwards = transform.get("order") == "F" or (is_reversed and _is_xyz(names))
    units = transform.get("units")
    units = [units] * len(size) if isinstance(units, str) else list(units or ["nm"] * len(size))
    if not len(size) == len(begin) == len(units) == len(names or size):
        raise ArrayError(f"transform {dict(transform)} does not have one entry for each axis in all of its lists")
    order = physical[::-1] if backwards else physical
    said = {"voxel_size": [size[k] for k in order], "offset": [begin[k] for k in order]}
    named = names[::-1] if names and backwards else names
    return {**said, "axis_names": named, "units": _units([units[k] for k in order])}


def _scaled(values: Any, factors: Any) -> list[Fraction]:
    size = rationals(values, "resolution")
    times = (Fraction(1),) * len(size) if factors is None else rationals(factors, "downsamplingFactors")
    if len(times) != len(size):
        raise ArrayError(f"resolution {shown(size)} and downsamplingFactors {shown(times)} differ in their dimensions")
    return [one * factor for one, factor in zip(size, times, strict=True)]


def _is_xyz(names: Sequence[str]) -> bool:
    """Return whether axes are named backwards, as N5 counts them."""
    places = [names.index(name) for name in ("x", "y", "z") if name in names]
    return len(places) > 1 and places == sorted(places)


def _names(value: Any) -> list[str] | None:
    """Return names of axes, if there is one for each."""
    is_list = isinstance(value, list | tuple) and bool(value)
    return list(value) if is_list and all(isinstance(name, str) and name for name in value) else None


def _units(value: Any) -> Any:
    """Return units, the empty ones (funlib's default) as nm; None if there are none."""
    if isinstance(value, list | tuple):
        return [unit or "nm" for unit in value] if any(value) else None
    return value or None
