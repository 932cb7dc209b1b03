"""Description files of a volume that a test server has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from bellis.volumes.descriptions import Payload

DATASET = "cutout"
"""Path of the voxels in the HDF5 files that are sent."""
ORDER = "xyztc"
"""Order of axes in a URL."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a description is made of."""

    url: str
    """Of the server."""
    axes: str
    """One letter per axis."""
    shape: tuple[int, ...]
    """Voxels per axis."""
    dtype: np.dtype[Any]
    """Data type of a voxel."""
    origin: tuple[int, ...]
    """Where the volume begins in the server's coordinates."""

    def template(self, payload: str) -> str:
        """Return the URL of a cut-out, with fields."""
        spans = [f"{{{axis}_start}}-{{{axis}_stop}}" for axis in ORDER if axis in self.axes]
        return f"{self.url}/cutout/{payload}/{'/'.join(spans)}"


def cutout_description(
    facts: Facts, payload: Payload, payload_axes: str | None, byte_order: str | None, more: dict[str, Any]
) -> dict[str, Any]:
    """Return a description of cut-outs."""
    query = f"?axes={payload_axes or facts.axes}&order={byte_order or 'little'}"
    source = {
        "url_format": facts.template(payload) + (query if payload_axes or byte_order else ""),
        "payload": payload,
        "axes": list(facts.axes),
        "payload_axes": list(payload_axes or facts.axes),
        "dtype": facts.dtype.name,
        "shape": list(facts.shape),
        "origin_offset": list(facts.origin),
        **({"byte_order": byte_order} if byte_order else {}),
        **({"hdf5_dataset": DATASET} if payload == "hdf5" else {}),
    }
    return described(source, more)


def legacy_description(
    facts: Facts, *, view_origin: Sequence[int] | None, view_shape: Sequence[int] | None, more: dict[str, Any]
) -> dict[str, Any]:
    """Return a description as lazyflow has it."""
    bounds = [a + n for a, n in zip(facts.origin, facts.shape, strict=True)]
    dtype = f"numpy.{facts.dtype.name}"
    local = {
        "shape": list(facts.shape),
        "block_shape": [min(n, 64) for n in facts.shape],
        "block_file_name_format": f"block-{{roiString}}.h5/{DATASET}",
        "dataset_root_dir": "blocks",
        **({"view_origin": list(view_origin)} if view_origin else {}),
        **({"view_shape": list(view_shape)} if view_shape else {}),
    }
    common = {"_schema_version": 1.0, "name": "simulated", "format": "hdf5", "axes": facts.axes, "dtype": dtype}
    return {
        "_schema_name": "RESTful-blockwise-fileset-description",
        "_schema_version": 1.0,
        "remote_description": {
            "_schema_name": "RESTful-volume-description",
            **common,
            "bounds": bounds,
            "origin_offset": list(facts.origin),
            "url_format": facts.template("hdf5"),
            "hdf5_dataset": DATASET,
        },
        "local_description": {"_schema_name": "blockwise-fileset-description", **common, **local, **more},
    }


def described(source: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return a description; more fields go where they belong."""
    cache = {"directory": "blocks"}
    said: dict[str, Any] = {}
    for name, value in more.items():
        if name in ("directory", "block_shape", "compression", "max_bytes"):
            cache[name] = value
        elif name in ("view", "access", "patience", "parallel", "missing", "name"):
            said[name] = value
        else:
            source[name] = value
    return {
        "_schema_name": "bellis-volume-description",
        "_schema_version": 1.0,
        "name": "simulated",
        "source": source,
        "cache": cache,
        **said,
    }
