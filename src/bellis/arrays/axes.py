"""Names, types and units of axes: filled in, and made to agree. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bellis.arrays.units import check_int64, convert, finest, integral, parse_unit, shown
from bellis.errors import ArrayError
from bellis.geometry import Coordinate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction

TYPES = ("channel", "time", "space")
"""What an axis can be; channels have no place in the world, the others are physical."""


def default_axis_names(ndim: int, dims: int) -> tuple[str, ...]:
    """Return names for channels and physical axes: c, then the last of t, z, y, x.

    >>> default_axis_names(4, 3)
    ('c', 'z', 'y', 'x')
    """
    channels = ndim - dims
    names = ("c",) if channels == 1 else tuple(f"c{k}" for k in range(channels))
    extra = tuple(f"d{k}" for k in range(dims - 4))
    return names + extra + ("t", "z", "y", "x")[4 - min(dims, 4) :]


def is_channel_name(name: str) -> bool:
    """Return whether an axis of this name is a channel, where nothing else says so; a ``^`` at the end is funlib's."""
    return name.endswith("^") or name in {"c", "channel", "channels"} or (name[:1] == "c" and name[1:].isdigit())


def per_axis(given: Sequence[str] | None, default: tuple[str, ...], what: str) -> tuple[str, ...]:
    """Return what was given, or the default; as many entries are due as the default has."""
    if given is None:
        return default
    if len(given) != len(default):
        raise ArrayError(f"{what} {tuple(given)} has {len(given)} entries, {len(default)} are due")
    return tuple(given)


def names_and_types(
    ndim: int,
    *,
    voxel_size: tuple[Fraction, ...] | None,
    offset: tuple[Fraction, ...] | None,
    axis_names: Sequence[str] | None,
    types: Sequence[str] | None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a name and a type for each axis, on which all that is given must agree.

    Without ``types``, axes that are named like channels are channels; without such names, the
    first axes are, as many as ``voxel_size`` and ``offset`` leave over.

    Raises
    ------
    ArrayError
        If the given do not fit each other, or there is no physical axis.
    """
    said = {
        f"{what} {shown(value)}": len(value)
        for what, value in (("voxel_size", voxel_size), ("offset", offset))
        if value is not None
    }
    if axis_names is not None and len(axis_names) != ndim:
        per_axis(axis_names, ("",) * ndim, "axis_names")
    named = [is_channel_name(name) for name in axis_names or ()]
    if types is not None:
        is_channel = [kind == "channel" for kind in _checked_types(types)]
        said[f"types {tuple(types)}"] = is_channel.count(False)
    elif any(named) and next(iter(said.values()), ndim - sum(named)) == ndim - sum(named):
        is_channel = named
    else:
        channels = ndim - next(iter(said.values()), ndim)
        is_channel = [k < channels for k in range(ndim)]
    dims = is_channel.count(False)
    if any(n != dims for n in said.values()) or len(is_channel) != ndim:
        given = ", ".join(f"{name} with {n}" for name, n in said.items())
        raise ArrayError(f"physical dimensions differ: {given}, data with {ndim} axes")
    if dims == 0:
        raise ArrayError("the array has no physical axis: at least one is due")
    names = _woven_names(is_channel) if axis_names is None else tuple(name.removesuffix("^") for name in axis_names)
    if types is None:
        types = ["channel" if c else _physical_type(name) for name, c in zip(names, is_channel, strict=True)]
    return names, tuple(types)


def _checked_types(types: Sequence[str]) -> Sequence[str]:
    if wrong := [kind for kind in types if kind not in TYPES]:
        raise ArrayError(f"types {tuple(types)}: {wrong[0]!r} is none of {', '.join(TYPES)}")
    return types


def _physical_type(name: str) -> str:
    return "time" if name in {"t", "time"} else "space"


def _woven_names(is_channel: Sequence[bool]) -> tuple[str, ...]:
    """Return the default names in the order of the axes."""
    channels = sum(is_channel)
    names = default_axis_names(len(is_channel), len(is_channel) - channels)
    of_channels, of_physical = iter(names[:channels]), iter(names[channels:])
    return tuple(next(of_channels if channel else of_physical) for channel in is_channel)


def unit_per_axis(units: str | Sequence[str] | None, types: Sequence[str]) -> tuple[str, ...]:
    """Return a unit for each physical axis; one for all goes to the axes that it can measure.

    >>> unit_per_axis("micrometer", ("channel", "time", "space", "space"))
    ('s', 'um', 'um')
    """
    physical = [kind for kind in types if kind != "channel"]
    if units is None or isinstance(units, str):
        unit = parse_unit("nm" if units is None else units)
        space = "nm" if unit.quantity == "time" and "time" in physical else unit.symbol
        time = unit.symbol if unit.quantity == "time" else "s"
        return tuple(time if kind == "time" else space for kind in physical)
    return tuple(parse_unit(unit).symbol for unit in per_axis(units, ("",) * len(physical), "units"))


def whole(
    voxel_size: Sequence[Fraction], offset: Sequence[Fraction], units: Sequence[str], types: Sequence[str]
) -> tuple[Coordinate, Coordinate, tuple[str, ...]]:
    """Return voxel size, offset and units in which both are integers; one unit for all axes of a type.

    All arguments have one entry per physical axis.

    >>> from fractions import Fraction
    >>> whole([Fraction(50), Fraction("4.6")], [Fraction(0)] * 2, ["nm", "nm"], ["space", "space"])
    (Coordinate(50000, 4600), Coordinate(0, 0), ('pm', 'pm'))
    """
    size, begin, found = list(voxel_size), list(offset), list(units)
    kinds = [(kind, parse_unit(unit).quantity) for kind, unit in zip(types, units, strict=True)]
    for group in dict.fromkeys(kinds):
        axes = [k for k, kind in enumerate(kinds) if kind == group]
        unit = finest([units[k] for k in axes])
        scales, offsets, unit = integral(
            [convert(voxel_size[k], units[k], unit) for k in axes],
            [convert(offset[k], units[k], unit) for k in axes],
            unit,
        )
        for k, one_size, one_begin in zip(axes, scales, offsets, strict=True):
            size[k], begin[k], found[k] = one_size, one_begin, unit  # type: ignore[call-overload]
    return Coordinate(map(int, size)), Coordinate(map(int, begin)), tuple(found)


def check_extent(offset: Coordinate, shape: Coordinate, voxel_size: Coordinate, units: Sequence[str]) -> None:
    """Refuse an array whose end is beyond 64 bits."""
    for begin, count, size, unit in zip(offset, shape, voxel_size, units, strict=True):
        check_int64((begin + count * size,), f"the end of an axis of {count} voxels of {size} {unit}", unit)
