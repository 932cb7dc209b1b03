"""Attributes of HDF5 datasets: ours, and what Fiji, ilastik and dimension labels say. No I/O of its own."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from bellis.arrays.units import convert, parse_unit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bellis.arrays.layout import Layout

LIST_MAX = 1000
"""Entries of a list that is written as one; HDF5 has no room for attributes of more than 64 kB, but for text."""

_KINDS = {"c": "channel", "channel": "channel", "t": "time", "time": "time"}

_OWN_ATTRIBUTES = ("DIMENSION_LABELS", "DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME")
"""What the dimension scales of HDF5 keep in attributes: not the user's."""


def attributes_of(dataset: Any) -> dict[str, Any]:
    """Return the user's attributes of a dataset, as JSON would hold them."""
    found = {key: _as_value(value) for key, value in dataset.attrs.items() if key not in _OWN_ATTRIBUTES}
    if "voxel_size" in found:
        found.pop("element_size_um", None)  # written by us for others, and said already
    return found


def said_by_others(dataset: Any, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return in our words what HDF5's own dimension labels, Fiji and ilastik say, where it fits what we said."""
    sizes = attrs.get("voxel_size", attrs.get("resolution"))
    said = {} if attrs.keys() & {"axis_names", "types"} else _axes(dataset, attrs)
    if isinstance(sizes, list) and len(sizes) != sum(kind != "channel" for kind in said.get("types", sizes)):
        said = {}
    if sizes is None and isinstance(attrs.get("element_size_um"), list):
        said |= _sizes(said.get("types"), attrs["element_size_um"], dataset.ndim)
    return said


def _axes(dataset: Any, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return names and types by the labels of the dimensions, or by the axistags of vigra and ilastik."""
    names = [dimension.label.lower() for dimension in dataset.dims]
    tags = attrs.get("axistags")
    if not all(names) and isinstance(tags, dict) and isinstance(tags.get("axes"), list):
        names = [str(axis.get("key", "")).lower() for axis in tags["axes"] if isinstance(axis, dict)]
    types = [_KINDS.get(name, "space") for name in names]
    is_said = all(names) and len(names) == len(set(names)) == dataset.ndim and set(types) != {"channel"}
    return {"axis_names": names, "types": types} if is_said else {}


def _sizes(types: list[str] | None, sizes: list[float], ndim: int) -> dict[str, Any]:
    """Return the voxel sizes of the axes z, y, x, of which ``element_size_um`` has one each."""
    if types is None:
        sizes = sizes[-ndim:]
        return {"voxel_size": sizes, "units": ["um"] * len(sizes)}
    if len(sizes) < types.count("space"):
        return {}
    rest = sizes[len(sizes) - types.count("space") :]
    physical = [kind for kind in types if kind != "channel"]
    return {
        "voxel_size": [1 if kind == "time" else rest.pop(0) for kind in physical],
        "units": ["s" if kind == "time" else "um" for kind in physical],
    }


def sizes_um(layout: Layout) -> dict[str, Any]:
    """Return the attribute by which Fiji and ilastik know a voxel size, if there are lengths z, y, x."""
    physical = [kind for kind in layout.types if kind != "channel"]
    space = [k for k, kind in enumerate(physical) if kind == "space"]
    if len(space) != 3 or any(parse_unit(layout.units[k]).quantity != "length" for k in space):
        return {}
    sizes = [convert(Fraction(layout.voxel_size[k]), layout.units[k], "um") for k in space]
    return {"element_size_um": [float(size) for size in sizes]}


def as_attribute(value: Any) -> Any:
    """Return a value as HDF5 holds it: numbers, text and lists of them; the rest as JSON text."""
    if isinstance(value, str | np.ndarray | np.generic):
        return value
    if isinstance(value, list | tuple) and 0 < len(value) <= LIST_MAX:
        kinds = {type(item) for item in value}
        if kinds == {str} or kinds <= {int, float} or kinds == {bool}:
            return list(value)
    if isinstance(value, bool | int | float | complex) and np.asarray(value).dtype.kind in "biufc":
        return value
    return json.dumps(value)


def _as_value(value: Any) -> Any:
    """Return an attribute as Python has it; text that is a JSON object or list is one."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, np.floating) or (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
        # Of a float32, the shortest decimal is meant: 4.6, not 4.599999904632568.
        return np.asarray(value).astype(str).astype(np.float64).tolist()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_as_value(item) for item in value]
    if isinstance(value, str) and (value[:1] in ("{", "[") or value == "null"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value if isinstance(value, bool | int | float | complex | str) else str(value)
