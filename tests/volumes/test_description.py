"""Description files: both schemas of lazyflow and ours, what they say, and every problem in one that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from bellis.errors import DescriptionError
from bellis.volumes.description import parse_description, read_description, write_description
from bellis.volumes.descriptions import (
    Access,
    ChunkedDescription,
    CompositeDescription,
    CutoutDescription,
    FilesetDescription,
    RemoteDescription,
    VolumeDescription,
)
from bellis.volumes.source import Patience

SHARED = Path(__file__).parents[3] / "shared" / "data" / "bock11-description.json"
BOCK11 = """
{
  "_schema_name": "RESTful-blockwise-fileset-description",
  "_schema_version": 1.0,
  "remote_description": {
    "_schema_name": "RESTful-volume-description",
    "_schema_version": 1.0,
    "name": "Bock11-level0",
    "format": "hdf5",
    "axes": "zyx",
    "## NOTE": "the first comment",
    "## NOTE": "another one, of the same name",
    "origin_offset": [2917, 0, 0],
    "bounds": [4150, 135424, 119808],
    "dtype": "numpy.uint8",
    "url_format": "http://127.0.0.1:8000/0/{x_start},{x_stop}/{y_start},{y_stop}/{z_start},{z_stop}/",
    "hdf5_dataset": "cube"
  },
  "local_description": {
    "_schema_name": "blockwise-fileset-description",
    "_schema_version": 1.0,
    "name": "bock11-blocks",
    "format": "hdf5",
    "axes": "zyx",
    "shape": "[ 4150-2917, 135424, 119808 ]",
    "dtype": "numpy.uint8",
    "block_shape": [32, 256, 256],
    "block_file_name_format": "block-{roiString}.h5/cube",
    "dataset_root_dir": "blocks-256x256x32",
    "## NOTE": "a part",
    "view_origin": "[0, 50*1024, 50*1024]",
    "view_shape": "[4150-2917, 10*256, 10*256]"
  }
}
"""
HERE = Path("/data/em")


def fileset(**changes: Any) -> dict[str, Any]:
    """Return a description of block files."""
    return {
        "_schema_name": "blockwise-fileset-description",
        "_schema_version": 1.1,
        "name": "blocks",
        "axes": "zyx",
        "shape": [100, 200, 300],
        "dtype": "uint8",
        "block_shape": [32, 64, 64],
        "block_file_name_format": "block-{roiString}.h5/cube",
        **changes,
    }


def remote(**changes: Any) -> dict[str, Any]:
    """Return a description of a server."""
    return {
        "_schema_name": "RESTful-volume-description",
        "_schema_version": 1.0,
        "name": "server",
        "axes": "zyx",
        "dtype": "uint8",
        "bounds": [100, 200, 300],
        "url_format": "http://host/{x_start}-{x_stop}/{y_start}-{y_stop}/{z_start}-{z_stop}",
        "hdf5_dataset": "/cube/",
        **changes,
    }


def composite(local: dict[str, Any], server: dict[str, Any]) -> dict[str, Any]:
    """Return a description of a server and its blocks."""
    return {
        "_schema_name": "RESTful-blockwise-fileset-description",
        "_schema_version": 1.0,
        "remote_description": server,
        "local_description": local,
    }


def cutout(**changes: Any) -> dict[str, Any]:
    """Return a source that is cut."""
    return {
        "url_format": "https://host/{x_size}_{y_size}_{z_size}/{x_start}_{y_start}_{z_start}",
        "payload": "raw",
        "axes": "zyx",
        "dtype": "uint16",
        "shape": [100, 200, 300],
        **changes,
    }


def volume(source: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a description of our own."""
    return {
        "_schema_name": "bellis-volume-description",
        "_schema_version": 1.0,
        "name": "em",
        "source": source,
        **changes,
    }


def parsed(found: Any) -> Any:
    """Return what an object says."""
    text = found if isinstance(found, str) else json.dumps(found)
    return parse_description(text, where="em.json", folder=HERE)


def problems_of(found: Any) -> tuple[str, ...]:
    """Return the problems of an object, each of which stands in the message."""
    with pytest.raises(DescriptionError) as caught:
        parsed(found)
    assert all(f"- {problem}" in str(caught.value) for problem in caught.value.problems[:100])
    return caught.value.problems


def without(found: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Return an object without some of its keys."""
    return {key: value for key, value in found.items() if key not in keys}


def check_bock11(found: Any) -> None:
    """Compare with what the file is known to say."""
    assert isinstance(found, CompositeDescription)
    server, local = found.remote_description, found.local_description
    assert (server.name, server.axes, server.dtype, server.format) == ("Bock11-level0", "zyx", np.uint8, "hdf5")
    assert (server.bounds, server.origin_offset) == ((4150, 135424, 119808), (2917, 0, 0))
    assert server.shape == local.shape == (1233, 135424, 119808)
    assert server.hdf5_dataset == "cube"
    assert (local.block_shape, local.dtype) == ((32, 256, 256), np.uint8)
    assert (local.view_origin, local.view_shape) == ((0, 51200, 51200), (1233, 2560, 2560))
    assert local.block_file_name_format == "block-{roiString}.h5/cube"
    assert local.dataset_root_dir == "blocks-256x256x32"
    assert (local.drange, local.chunks, local.compression, local.hash_id, local.sub_block_shape) == (None,) * 5


def test_a_composite_description_with_comments_and_arithmetic_is_read() -> None:
    check_bock11(parsed(BOCK11))


@pytest.mark.skipif(not SHARED.exists(), reason="the folder with shared data is not here")
def test_the_description_of_a_real_volume_is_read() -> None:
    check_bock11(read_description(SHARED))


def test_what_is_not_said_of_block_files_is_filled_in() -> None:
    found = parsed(fileset(view_origin=[32, 64, 0]))
    assert isinstance(found, FilesetDescription)
    assert (found.view_origin, found.view_shape) == ((32, 64, 0), (68, 136, 300))
    assert (found.dataset_root_dir, found.format) == (".", "hdf5")
    assert parsed(fileset()).view_shape == (100, 200, 300)


def test_all_fields_of_block_files_are_read() -> None:
    found = parsed(
        fileset(
            drange="(0.0, 1.0)",
            dtype="numpy.float32",
            chunks="[8]*3",
            compression="gzip",
            compression_opts=4,
            sub_block_shape=[16, 32, 64],
            hash_id="abc",
            dataset_root_dir="../blocks",
            view_shape=[40, 200, 10],
            _schema_version=1,
        )
    )
    assert found.drange == (0.0, 1.0)
    assert found.dtype == np.float32
    assert (found.chunks, found.compression, found.compression_opts) == ((8, 8, 8), "gzip", 4)
    assert (found.sub_block_shape, found.hash_id, found.view_shape) == ((16, 32, 64), "abc", (40, 200, 10))


def test_null_means_that_an_optional_field_is_not_given() -> None:
    assert parsed(fileset(chunks=None, view_origin=None, compression_opts=None)) == parsed(fileset())
    assert problems_of(fileset(shape=None)) == ("shape: found null, a value is due",)


def test_the_shape_of_a_server_is_computed_and_may_be_said() -> None:
    found = parsed(remote(origin_offset=[10, 0, 0]))
    assert isinstance(found, RemoteDescription)
    assert (found.shape, found.hdf5_dataset) == ((90, 200, 300), "cube")
    assert parsed(remote(shape=[100, 200, 300])) == parsed(remote())
    assert "bounds - origin_offset is due: [100, 200, 300]" in problems_of(remote(shape=[100, 200, 299]))[0]


def test_time_and_channels_need_not_be_in_a_url() -> None:
    url = "http://host/{x_start}-{x_stop}/{y_start}-{y_stop}/{z_start}-{z_stop}"
    assert parsed(remote(axes="tzyxc", bounds=[1, 9, 9, 9, 3], url_format=url)).shape == (1, 9, 9, 9, 3)
    assert parsed(remote(axes="tzyx", bounds=[1, 9, 9, 9], url_format=url + "/{t_start}/{t_stop}")).axes == "tzyx"


def test_our_own_schema_needs_a_name_and_a_source() -> None:
    found = parsed(volume({"url": "precomputed://https://host/em"}))
    assert isinstance(found, VolumeDescription)
    assert found.source == ChunkedDescription(url="precomputed://https://host/em")
    assert (found.cache.directory, found.cache.compression) == ("/data/em/em-blocks", "zstd")
    assert (found.access, found.patience, found.parallel, found.missing) == (Access(), Patience(), 32, "error")


@pytest.mark.parametrize(
    ("url", "due"),
    [
        ("raw.zarr/em", "/data/em/raw.zarr/em"),
        ("/other/raw.zarr", "/other/raw.zarr"),
        ("n5://../em.n5/raw", "n5:///data/em.n5/raw"),
        ("file:///other/raw.zarr", "/other/raw.zarr"),
        ("s3://bucket/raw.zarr", "s3://bucket/raw.zarr"),
        ("zarr://gs://bucket/raw", "zarr://gs://bucket/raw"),
    ],
)
def test_relative_paths_begin_at_the_description(url: str, due: str) -> None:
    assert parsed(volume({"url": url})).source.url == due
    assert parsed(volume({"url": url}, cache={"directory": "../kept"})).cache.directory == "/data/kept"


def test_all_fields_of_a_cut_source_are_read() -> None:
    source = cutout(
        payload="hdf5",
        payload_axes=["x", "y", "z"],
        byte_order="big",
        shape="[10*10, 200, 300]",
        origin_offset=[-5, 0, "2**3"],
        hdf5_dataset="/a/cube",
        preferred_block="[64]*3",
        confirm=True,
        voxel_size=[40, "4.6", 4.6],
        offset=[0, 0, 0],
        units="nm",
    )
    found = parsed(volume(source)).source
    assert isinstance(found, CutoutDescription)
    assert (found.axes, found.payload_axes) == (("z", "y", "x"), ("x", "y", "z"))
    assert (found.dtype, found.payload_dtype) == (np.dtype("uint16"), np.dtype(">u2"))
    assert found.dtype.isnative
    assert (found.shape, found.origin_offset, found.preferred_block) == ((100, 200, 300), (-5, 0, 8), (64, 64, 64))
    assert (found.hdf5_dataset, found.is_confirmed) == ("a/cube", True)
    assert (found.voxel_size, found.units) == ((40, "4.6", 4.6), "nm")


def test_the_byte_order_may_stand_in_the_data_type() -> None:
    assert parsed(volume(cutout(dtype=">u2"))).source.payload_dtype == np.dtype(">u2")
    assert parsed(volume(cutout(dtype=">u2"))).source.dtype == np.dtype("uint16")
    assert "say it once" in problems_of(volume(cutout(dtype=">u2", byte_order="little")))[0]


@pytest.mark.parametrize(
    ("text", "due"),
    [("20GB", 20 * 10**9), ("1.5 GiB", 3 * 2**29), ("7B", 7), ("10*2**20", 10 << 20), (5, 5), ("2kB", 2000)],
)
def test_bytes_may_have_a_unit(text: Any, due: int) -> None:
    assert parsed(volume(cutout(), cache={"max_bytes": text})).cache.max_bytes == due


def test_the_rest_of_our_schema_is_read() -> None:
    found = parsed(
        volume(
            cutout(),
            view={"origin": [1, 2, 3], "shape": "[9, 9, 9]"},
            cache={"directory": "/kept", "block_shape": [32, 32, 32], "compression": "none"},
            access={"token_env": "TOKEN", "headers_env": {"X-Key": "KEY"}, "netrc": True},
            patience={"deadline_s": "10*60", "stall_s": 2.5},
            parallel=4,
            missing="fill",
        )
    )
    assert (found.view_origin, found.view_shape) == ((1, 2, 3), (9, 9, 9))
    assert (found.cache.directory, found.cache.block_shape) == ("/kept", (32, 32, 32))
    assert found.access == Access(token_env="TOKEN", headers_env={"X-Key": "KEY"}, netrc=True)
    assert found.patience == Patience(deadline_s=600, stall_s=2.5)
    assert (found.parallel, found.missing) == (4, "fill")


@pytest.mark.parametrize(
    ("found", "due"),
    [
        (fileset(shpae=[1]), ["shpae: is not known: is 'shape' meant?"]),
        (fileset(colour="red"), ["colour: is not known, known are name, format, axes"]),
        (without(fileset(), "shape", "name"), ["name: is missing", "shape: is missing"]),
        (fileset(axes="zzy"), ["axes: found 'zzy', one letter per axis is due"]),
        (fileset(axes=5), ["axes: found 5, text is due"]),
        (fileset(axes="c", shape=[1], block_shape=[1]), ["axes: found 'c'"]),
        (fileset(block_shape=[32, 64]), ["block_shape: found [32, 64], one entry per axis is due, 3: z, y, x"]),
        (fileset(block_shape=[0, 1, 1]), ["block_shape: found [0, 1, 1], a list of whole numbers from 1 is due"]),
        (fileset(block_shape=[True, 1, 1]), ["block_shape: found [True, 1, 1]"]),
        (fileset(block_shape=[1.5, 1, 1]), ["block_shape: found [1.5, 1, 1]"]),
        (fileset(shape="[1, 2, len('abc')]"), ["shape: \"[1, 2, len('abc')]\": \"len('abc')\" is not arithmetic"]),
        (fileset(view_origin=[32, 65, 0]), ["view_origin: found [32, 65, 0], a multiple of block_shape [32, 64, 64]"]),
        (fileset(view_origin=[128, 0, 0]), ["view_origin: found [128, 0, 0], a voxel of the shape [100, 200, 300]"]),
        (fileset(view_origin=[96, 0, 0], view_shape=[5, 1, 1]), ["view_shape: found [5, 1, 1], at most [4, 200, 300]"]),
        (fileset(dtype="object"), ["dtype: 'object' is no name of a data type"]),
        (fileset(drange=[1, 0]), ["drange: found [1, 0], the least value must come first"]),
        (fileset(drange=[1]), ["drange: found [1], least and largest value are due"]),
        (fileset(block_file_name_format="block.h5/cube"), ["block_file_name_format: found 'block.h5/cube', the field"]),
        (
            fileset(block_file_name_format="{roiString}.h5"),
            ["block_file_name_format: found '{roiString}.h5', a file that"],
        ),
        (
            fileset(block_file_name_format="{roiString}.tif/x"),
            ["block_file_name_format: found '{roiString}.tif/x', a file"],
        ),
        (fileset(block_file_name_format="{roiString.x}.h5/x"), ["block_file_name_format: "]),
        (fileset(block_file_name_format="../{roiString}.h5/x"), ["block_file_name_format: "]),
        (fileset(compression="zstd"), ["compression: found 'zstd', 'gzip' or 'lzf' or 'szip' is due"]),
        (fileset(compression_opts=3), ["compression_opts: found 3, compression is None, only 'gzip' has options"]),
        (fileset(compression="lzf", compression_opts=3), ["compression_opts: found 3, compression is 'lzf'"]),
        (fileset(sub_block_shape=[32, 64, 63]), ["sub_block_shape: found [32, 64, 63], a divisor of block_shape"]),
        (fileset(format="tiff"), ["format: found 'tiff', 'hdf5' is due"]),
        (fileset(_schema_version=1.2), ["_schema_version: found 1.2, which is newer than 1.1"]),
        (fileset(_schema_version=2.0), ["_schema_version: found 2.0, 1.x is due"]),
        (fileset(_schema_version="1.0"), ["_schema_version: found '1.0', a number is due"]),
        (without(fileset(), "_schema_version"), ["_schema_version: found None, a number is due"]),
        (fileset(_schema_name="fileset"), ["_schema_name: found 'fileset', one of 'blockwise-fileset-description', "]),
        ([], ["description: found [], an object with the key '_schema_name' is due"]),
        (remote(bounds=[0, 200, 300]), ["bounds: found [0, 200, 300], more than origin_offset [0, 0, 0] is due"]),
        (
            remote(url_format="http://h/{x_start}{x_stop}{y_start}{y_stop}{z_start}"),
            ["url_format: {z_stop} or {z_size}"],
        ),
        (remote(url_format="ftp://host"), ["url_format: found 'ftp://host', a URL that begins with http"]),
        (remote(url_format="http://[x/{x_start"), ["url_format: found 'http://[x/{x_start', a URL is due"]),
        (remote(hdf5_dataset="/"), ["hdf5_dataset: found '/', a path"]),
        (composite(fileset(axes="xyz"), remote()), ["local_description.axes: found 'xyz', 'zyx' is due"]),
        (composite(fileset(dtype="int8"), remote()), ["local_description.dtype: found 'int8', 'uint8' is due"]),
        (
            composite(fileset(shape=[101, 9, 9]), remote()),
            ["local_description.shape: found [101, 9, 9], at most [100, "],
        ),
        (
            composite(fileset(), remote(hdf5_dataset="a/cube")),
            ["local_description.block_file_name_format: found 'block-"],
        ),
        (composite(remote(), remote()), ["local_description._schema_name: found 'RESTful-volume-description', 'block"]),
        (composite(5, remote()), ["local_description: found 5, an object with keys is due"]),  # type: ignore[arg-type]
        (volume({}), ["source: 'url' of an array, or 'url_format' of a server that cuts, is due: neither is there"]),
        (volume({"url": "a", "url_format": "b"}), ["source: 'url' of an array, or 'url_format' of a server"]),
        (volume({"url": "a"}, parallel="0"), ["parallel: found '0', a whole number from 1 to 256 is due"]),
        (volume(cutout(url_format="https://h/{x_start:3}")), ["source.url_format: {x_start} has a format"]),
        (volume(cutout(url_format="https://h/{x_strat}")), ["source.url_format: {x_strat} is not known: is 'x_"]),
        (volume(cutout(axes="zyz")), ["source.axes: found 'zyz', the name of each axis is due"]),
        (volume(cutout(payload_axes="zy")), ["source.payload_axes: found ['z', 'y'], the names of axes are due"]),
        (volume(cutout(payload="hdf5")), ["source.hdf5_dataset: is missing"]),
        (volume(cutout(hdf5_dataset="x")), ["source.hdf5_dataset: found 'x', payload is 'raw': leave it out"]),
        (volume(cutout(payload="gzip")), ["source.payload: found 'gzip', 'hdf5' or 'npy'"]),
        (volume(cutout(voxel_size=[1, 2])), ["source.voxel_size: found [1, 2], one entry per axis is due, 3"]),
        (volume(cutout(units=["nm"])), ["source: voxel_size, offset, units and axes do not fit: units"]),
        (
            volume(cutout(voxel_size=["1e999999999", 1, 1])),
            ["source.voxel_size: found '1e999999999', a number or text"],
        ),
        (volume(cutout(units="1m")), ["source.units: found '1m', a unit like 'nm' is due"]),
        (volume(cutout(), view={"origin": [100, 0, 0]}), ["view.origin: found [100, 0, 0], a voxel of the shape"]),
        (volume(cutout(), view={"shape": [101, 1, 1]}), ["view.shape: found [101, 1, 1], at most [100, 200, 300]"]),
        (volume(cutout(), cache={"block_shape": [1]}), ["cache.block_shape: found [1], one entry per axis is due, 3"]),
        (volume(cutout(), cache={"max_bytes": "20 cubits"}), ["cache.max_bytes: '20 cubits' is not arithmetic"]),
        (volume(cutout(), cache={"max_bytes": 0}), ["cache.max_bytes: found 0, a whole number from 1 is due"]),
        (volume(cutout(), patience={"stall_s": -1}), ["patience: stall_s must be seconds > 0, not -1"]),
        (volume(cutout(), missing="ignore"), ["missing: found 'ignore', 'error' or 'fill' is due"]),
        (volume(cutout(), cache=3), ["cache: found 3, an object with keys is due"]),
    ],
)
def test_a_problem_has_its_path_what_is_found_and_what_is_due(found: Any, due: list[str]) -> None:
    problems = problems_of(found)
    for begin in due:
        assert any(problem.startswith(begin) for problem in problems), problems


def test_all_problems_are_found_at_once() -> None:
    bad = composite(
        {**without(fileset(), "name"), "view_orign": [0, 0, 0], "block_shape": "[32, f(), 1]", "format": 3},
        {**remote(), "dtype": "numpy.object", "url_format": "http://me:secret@host/{q}", "_schema_version": 7.5},
    )
    text = json.dumps(bad).replace('"axes": "zyx"', '"axes": "zyx", "axes": "zyx"')
    problems = problems_of(text)
    places = sorted(problem.partition(":")[0] for problem in problems)
    assert places == [
        "local_description.axes",
        "local_description.block_shape",
        "local_description.format",
        "local_description.name",
        "local_description.view_orign",
        "remote_description._schema_version",
        "remote_description.axes",
        "remote_description.dtype",
        "remote_description.url_format",
    ]
    assert "secret" not in "\n".join(problems)


@pytest.mark.parametrize(
    "found",
    [
        volume({"url": "https://me:hunter2@host/em.zarr"}),
        volume({"url": "precomputed://https://me:hunter2@host/em"}),
        volume({"url": "s3://hunter2@bucket/em.zarr"}),
        volume(cutout(url_format="https://me:hunter2@host/{x_start}")),
        volume(cutout(), access={"token_env": "Bearer hunter2"}),
        volume(cutout(), access={"headers_env": {"X-Key": "hunter2 and more"}}),
        remote(url_format="https://me:hunter2@host/{x_start}"),
    ],
)
def test_secrets_are_refused_and_not_shown(found: Any) -> None:
    problems = problems_of(found)
    assert problems
    assert "hunter2" not in "\n".join(problems)


def test_a_secret_is_not_shown_by_an_error_of_syntax() -> None:
    with pytest.raises(DescriptionError) as caught:
        parsed('{"url": "https://me:hunter2@host" "x": 1}')
    assert "hunter2" not in str(caught.value)


def test_comments_may_be_anything_and_repeat_at_any_depth() -> None:
    text = json.dumps(volume(cutout(), cache={})).replace("{", '{"#": [1, {"a": 1, "a": 2}], "#": null, ', 1)
    text = text.replace('"cache": {', '"cache": {"# x": 1, "# x": "y"')
    assert parsed(text) == parsed(volume(cutout()))


def test_an_error_of_syntax_shows_the_line() -> None:
    with pytest.raises(DescriptionError, match=r"em\.json is not JSON: line 2, column 7: .*: '\"b\": }'"):
        parsed('{"a": 1,\n "b": }')


@pytest.mark.slow
@pytest.mark.parametrize(
    "found",
    [
        {f"key{k}": k for k in range(20_000)},
        {"url_format": "http://h/" + "{a}" * 100_000},
        {"block_file_name_format": ".h5/" * 100_000},
        {"shape": "[" * 15 + "0" + "]*60" * 15, "drange": "[" * 15 + "0" + "]*60" * 15},
        {"axes": ["z"] * 100_000, "bounds": [0] * 100_000},
    ],
)
def test_large_nonsense_is_refused_soon(found: dict[str, Any]) -> None:
    for base in (fileset(), remote(), volume(cutout())):
        begun = perf_counter()
        problems_of({**base, **found})
        problems_of({**base, "source": {**cutout(), **found}})
        assert perf_counter() - begun < 5


@pytest.mark.parametrize(
    "text",
    [
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": ' + "9" * 5000 + "}",
        "[" * 100_000,
        '{"a":' * 5000,
        "[" * 40 + "]" * 40,
        "",
        '"\\ud800"',
        '{"a\\ud800": "\\ud800"}',
        "\0",
    ],
)
def test_what_is_not_json_or_too_deep_is_one_error(text: str) -> None:
    with pytest.raises(DescriptionError) as caught:
        parsed(text)
    assert len(str(caught.value)) < 2000


def test_a_file_that_is_none_is_one_error(tmp_path: Path) -> None:
    large, binary, folder = tmp_path / "large.json", tmp_path / "binary.json", tmp_path / "folder.json"
    large.write_bytes(b" " * (1 << 20) + b"{}")
    binary.write_bytes(b"\xff\xfe{}")
    folder.mkdir()
    for path, why in [
        (large, "larger than"),
        (binary, "not UTF-8"),
        (folder, "not a file"),
        (tmp_path / "none.json", "not there"),
    ]:
        with pytest.raises(DescriptionError, match=why):
            read_description(path)


def test_a_device_is_not_read() -> None:
    with pytest.raises(DescriptionError, match="is not a file"):
        read_description("/dev/zero")


@pytest.mark.parametrize(
    "found",
    [BOCK11, fileset(), remote(), volume(cutout(dtype=">f4")), volume({"url": "a.zarr"}, cache={"directory": "/b"})],
)
def test_what_is_written_is_read_again(tmp_path: Path, found: Any) -> None:
    text = found if isinstance(found, str) else json.dumps(found)
    description = parse_description(text, where="em.json", folder=tmp_path)
    path = tmp_path / "em.json"
    path.write_text("before")
    write_description(path, description)
    assert read_description(path) == description
    assert [entry.name for entry in tmp_path.iterdir()] == ["em.json"]


def test_a_cache_beside_the_file_moves_with_it(tmp_path: Path) -> None:
    description = parse_description(json.dumps(volume(cutout())), where="em.json", folder=tmp_path)
    write_description(tmp_path / "em.json", description)
    assert json.loads((tmp_path / "em.json").read_text())["cache"]["directory"] == "em-blocks"


def test_what_lazyflow_is_to_read_says_names_that_it_knows(tmp_path: Path) -> None:
    write_description(tmp_path / "em.json", parsed(fileset()))
    found = json.loads((tmp_path / "em.json").read_text())
    assert (found["dtype"], found["_schema_version"]) == ("numpy.uint8", 1.0)
    write_description(tmp_path / "em.json", parsed(fileset(sub_block_shape=[32, 64, 64])))
    assert json.loads((tmp_path / "em.json").read_text())["_schema_version"] == 1.1


def test_a_description_that_would_not_be_read_is_not_written(tmp_path: Path) -> None:
    description = FilesetDescription(
        name="x",
        axes="zyx",
        shape=(1, 1),
        dtype=np.dtype("uint8"),
        block_shape=(1, 1, 1),
        view_origin=(0, 0, 0),
        view_shape=(1, 1, 1),
        block_file_name_format="{roiString}.h5/x",
    )
    with pytest.raises(DescriptionError, match="shape: found"):
        write_description(tmp_path / "em.json", description)
    assert not list(tmp_path.iterdir())
