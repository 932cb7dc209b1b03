"""Description files, whatever is in them: written and read again, and never an error of another kind."""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_letters
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellis.arrays.format import DTYPES
from bellis.errors import DescriptionError
from bellis.volumes.description import SCHEMAS, parse_description, read_description, write_description
from bellis.volumes.descriptions import (
    Access,
    CacheDescription,
    ChunkedDescription,
    CompositeDescription,
    CutoutDescription,
    FilesetDescription,
    RemoteDescription,
    VolumeDescription,
)
from bellis.volumes.source import Patience

HERE = Path("/data/em")
dtypes = st.sampled_from(DTYPES).map(np.dtype)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
endings = st.sampled_from(["h5", "hdf5"])
words = st.text(ascii_letters, min_size=1, max_size=8)
variables = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True)


def vectors(ndim: int, least: int = 1, most: int = 10**6) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw one number per axis."""
    return st.tuples(*[st.integers(least, most)] * ndim)


@st.composite
def lazyflow_axes(draw: st.DrawFn) -> str:
    return "".join(draw(st.permutations("tzyxc")))[: draw(st.integers(2, 5))]


@st.composite
def filesets(draw: st.DrawFn, axes: str | None = None, dtype: Any = None, most: Any = None) -> FilesetDescription:
    axes = axes or draw(lazyflow_axes())
    ndim = len(axes)
    parts = draw(vectors(ndim, 1, 50))
    block = tuple(n * draw(st.integers(1, 9)) for n in parts)
    shape = draw(vectors(ndim) if most is None else st.tuples(*[st.integers(1, n) for n in most]))
    origin = tuple(draw(st.integers(0, (n - 1) // size)) * size for n, size in zip(shape, block, strict=True))
    compression = draw(st.sampled_from([None, "gzip", "lzf", "szip"]))
    low, high = sorted(draw(st.tuples(*[st.integers(-9, 9) | st.floats(-1e6, 1e6)] * 2)))
    return FilesetDescription(
        name=draw(names),
        axes=axes,
        shape=shape,
        dtype=dtype or draw(dtypes),
        drange=draw(st.sampled_from([None, (low, high)])),
        chunks=draw(st.none() | vectors(ndim)),
        compression=compression,
        compression_opts=draw(st.integers(0, 9)) if compression == "gzip" else None,
        block_shape=block,
        view_origin=origin,
        view_shape=tuple(draw(st.integers(1, n - at)) for n, at in zip(shape, origin, strict=True)),
        block_file_name_format=f"{draw(words)}-{{roiString}}{draw(words)}.{draw(endings)}/a/cube",
        dataset_root_dir=draw(st.sampled_from([".", "blocks", "../blocks", "/blocks"])),
        hash_id=draw(st.none() | names),
        sub_block_shape=draw(st.sampled_from([None, parts])),
    )


@st.composite
def remotes(draw: st.DrawFn) -> RemoteDescription:
    axes = draw(lazyflow_axes())
    origin, shape = draw(vectors(len(axes), -(10**6))), draw(vectors(len(axes)))
    fields = "/".join(f"{{{axis}_start}}-{{{axis}_stop}}" for axis in axes)
    return RemoteDescription(
        name=draw(names),
        axes=axes,
        dtype=draw(dtypes),
        bounds=tuple(a + b for a, b in zip(origin, shape, strict=True)),
        origin_offset=origin,
        shape=shape,
        url_format=f"{draw(st.sampled_from(['http', 'https']))}://{draw(words)}/{fields}",
        hdf5_dataset=draw(st.sampled_from(["cube", "a/cube"])),
    )


@st.composite
def composites(draw: st.DrawFn) -> CompositeDescription:
    server = draw(remotes())
    local = draw(filesets(axes=server.axes, dtype=server.dtype, most=server.shape))
    return CompositeDescription(remote_description=server, local_description=local)


@st.composite
def cutouts(draw: st.DrawFn) -> CutoutDescription:
    axes = tuple(draw(st.lists(st.sampled_from(["z", "y", "x", "t", "depth"]), min_size=1, unique=True)))
    payload = draw(st.sampled_from(["hdf5", "npy", "npz", "raw", "blosc", "png", "jpeg", "tiff"]))
    dtype = draw(dtypes)
    numbers = st.integers(1, 99) | st.sampled_from([0.5, "4.6", "14/3"])
    place = st.none() | st.tuples(*[numbers] * len(axes))
    return CutoutDescription(
        url_format="https://host/" + "".join(f"{{{axis}_start}},{{{axis}_size}}" for axis in axes),
        payload=payload,  # type: ignore[arg-type]
        axes=axes,
        payload_axes=tuple(draw(st.permutations(axes))),
        dtype=dtype,
        payload_dtype=dtype.newbyteorder(draw(st.sampled_from("<>"))),
        shape=draw(vectors(len(axes))),
        origin_offset=draw(vectors(len(axes), -99, 99)),
        hdf5_dataset="cube" if payload == "hdf5" else None,
        preferred_block=draw(st.none() | vectors(len(axes))),
        is_confirmed=draw(st.booleans()),
        voxel_size=draw(place),
        offset=draw(place),
        units=draw(st.sampled_from([None, "nm", "um"])),
    )


chunked = st.builds(
    ChunkedDescription,
    url=st.sampled_from(["/data/em.zarr", "n5:///em.n5/raw", "https://host/a", "precomputed://gs://b/c"]),
    name=st.sampled_from([None, "raw", "a/b"]),
    format=st.sampled_from([None, "zarr"]),
    voxel_size=st.sampled_from([None, (4, "4.6", 0.5)]),
    offset=st.sampled_from([None, (-4, 0, 1)]),
    units=st.sampled_from([None, "nm", ("nm", "um", "nm")]),
)


@st.composite
def volumes(draw: st.DrawFn) -> VolumeDescription:
    source = draw(cutouts() | chunked)
    shape = source.shape if isinstance(source, CutoutDescription) else (99, 99)
    origin = draw(st.none() | st.tuples(*[st.integers(0, n - 1) for n in shape]))
    rest = [n - at for n, at in zip(shape, origin or (0,) * len(shape), strict=True)]
    seconds = st.integers(1, 999) | st.floats(1e-3, 1e6)
    return VolumeDescription(
        name=draw(names),
        source=source,
        cache=CacheDescription(
            directory=draw(st.sampled_from(["/cache", "/data/em/blocks", "/data/em/..blocks", "/data"])),
            block_shape=draw(st.none() | vectors(len(shape))),
            compression=draw(st.sampled_from(["zstd", "blosc", "none"])),
            max_bytes=draw(st.none() | st.integers(1, 2**50)),
        ),
        view_origin=origin,
        view_shape=draw(st.none() | st.tuples(*[st.integers(1, n) for n in rest])),
        access=Access(
            token_env=draw(st.none() | variables),
            headers_env=draw(st.dictionaries(words, variables, max_size=2)),
            netrc=draw(st.booleans()),
        ),
        patience=Patience(deadline_s=draw(seconds), longest_wait_s=draw(seconds)),
        parallel=draw(st.integers(1, 256)),
        missing=draw(st.sampled_from(["error", "fill"])),
    )


@pytest.mark.slow
@given(filesets() | remotes() | composites() | volumes())
@settings(max_examples=60)
def test_every_description_is_read_as_it_was_written(description: Any) -> None:
    with TemporaryDirectory() as folder:
        write_description(Path(folder) / "em.json", description)
        assert read_description(Path(folder) / "em.json") == description


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["zyx", "[1, 2, 3]", "uint8", "9**9**9", "{roiString}.h5/a", "http://h/{x_start}", "\ud800"])
    | st.lists(st.integers(-1, 99), max_size=4)
)
keys = st.sampled_from(
    [
        *("_schema_name", "_schema_version", "name", "axes", "shape", "dtype", "block_shape", "view_origin", "bounds"),
        *("view_shape", "block_file_name_format", "url_format", "hdf5_dataset", "url", "source", "cache", "view"),
        *("remote_description", "local_description", "payload", "max_bytes", "voxel_size", "units", "patience"),
        *("access", "headers_env", "directory", "origin", "offset", "drange", "chunks", "sub_block_shape", "# note"),
    ]
)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys | st.text(max_size=5), inner, max_size=8),
    max_leaves=15,
)


def refuse_or_read(text: str) -> None:
    """Read a text, which may be wrong, but in one way only."""
    try:
        parse_description(text, where="em.json", folder=HERE)
    except DescriptionError as error:
        str(error).encode()


@pytest.mark.slow
@given(st.sampled_from(SCHEMAS), st.dictionaries(keys, anything, max_size=12), st.booleans())
def test_any_json_is_read_or_refused(schema: str, found: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(
        {"_schema_version": 1.0, **found, "_schema_name": schema}, ensure_ascii=ascii_only, allow_nan=True
    )
    refuse_or_read(text)


@pytest.mark.slow
@given(volumes() | composites(), st.data())
def test_a_sound_file_with_one_wrong_value_is_read_or_refused(description: Any, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "em.json"
        write_description(path, description)
        found = json.loads(path.read_text())
    at = found
    while True:
        key = data.draw(st.sampled_from(sorted(at)))
        if not isinstance(at[key], dict) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(anything)
    refuse_or_read(json.dumps(found))


@pytest.mark.slow
@given(st.binary(max_size=200), st.text(max_size=200))
def test_any_bytes_are_refused(data: bytes, text: str) -> None:
    refuse_or_read(text)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "em.json"
        path.write_bytes(data)
        with pytest.raises(DescriptionError):
            read_description(path)


@pytest.mark.slow
@given(st.data())
def test_a_file_that_ends_early_is_refused(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "em.json"
        write_description(path, data.draw(volumes()))
        whole = path.read_bytes().rstrip()
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(DescriptionError):
            read_description(path)
