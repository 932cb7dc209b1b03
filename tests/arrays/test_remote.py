"""Arrays behind URLs: web servers, object stores, and the memory of this process."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorstore
import zarr

from bellis.arrays import open_ds, prepare_ds
from bellis.arrays import tensorstore as arrays_tensorstore
from bellis.errors import ArrayError
from bellis.geometry import Roi
from bellis.testing.servers import http_server, s3_server
from bellis.testing.voxels import numbers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration
VOXELS = numbers((20, 30), "uint16")


@pytest.fixture
def website(tmp_path: Path) -> Iterator[str]:
    with http_server(tmp_path) as url:
        yield url


def stored(path: Path, **options: Any) -> None:
    array = prepare_ds(path, VOXELS.shape, (8, 4), VOXELS.dtype, offset=(80, 0), chunk_shape=(5, 5), **options)
    array[array.roi] = VOXELS


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("shard_shape", [None, (10, 10)])
def test_what_a_web_server_has_is_read(tmp_path: Path, website: str, version: int, shard_shape: Any) -> None:
    if version == 2:
        zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
        shard_shape = None
    stored(tmp_path / "a.zarr/em/raw", shard_shape=shard_shape)
    for array in (open_ds(f"{website}/a.zarr/em/raw"), open_ds(f"{website}/a.zarr", "em/raw")):
        assert array.roi == Roi((80, 0), (160, 120))
        np.testing.assert_array_equal(array, VOXELS)
        np.testing.assert_array_equal(array[Roi((96, 12), (40, 40))], VOXELS[2:7, 3:13])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(array)), VOXELS)


def test_a_url_may_be_quoted_or_not(tmp_path: Path, website: str) -> None:
    stored(tmp_path / "a b.zarr" / "x#y")
    for path in ("a b.zarr/x#y", "a%20b.zarr/x%23y"):
        np.testing.assert_array_equal(open_ds(f"{website}/{path}"), VOXELS)


@pytest.mark.parametrize("format", ["zarr", "n5", "precomputed"])
def test_the_format_of_what_a_web_server_has_is_found_out(tmp_path: Path, website: str, format: str) -> None:
    voxels = numbers((4, 5, 6), "uint16")
    array = prepare_ds(tmp_path / "plain", voxels.shape, (4, 4, 4), "uint16", format=format)
    array[array.roi] = voxels
    for path in (f"{website}/plain", f"{format}://{website}/plain"):
        found = open_ds(path)
        assert (found.format or "").startswith(format)
        assert found.roi == array.roi
        np.testing.assert_array_equal(found, voxels)


def test_a_web_server_is_only_read(tmp_path: Path, website: str) -> None:
    stored(tmp_path / "a.zarr")
    with pytest.raises(ArrayError, match="behind a web server, which is only read"):
        open_ds(f"{website}/a.zarr", mode="r+")
    with pytest.raises(ArrayError, match="behind a web server, which is only read"):
        prepare_ds(f"{website}/b.zarr", VOXELS.shape, dtype="u1")
    with pytest.raises(ArrayError, match="behind a web server, which is only read"):
        prepare_ds(f"{website}/a.zarr", VOXELS.shape, dtype="u1", mode="w")
    np.testing.assert_array_equal(open_ds(tmp_path / "a.zarr"), VOXELS)


def test_a_chunk_that_a_server_has_not_is_an_error(tmp_path: Path, website: str) -> None:
    stored(tmp_path / "a.zarr")
    shutil.rmtree(tmp_path / "a.zarr" / "c" / "1")
    array = open_ds(f"{website}/a.zarr")
    np.testing.assert_array_equal(array[Roi((80, 0), (40, 120))], VOXELS[:5])
    with pytest.raises(ArrayError, match=r"can't read voxels \[5:10, 0:30\] of http:.*/a.zarr: .*missing='fill'"):
        array.to_ndarray(Roi((120, 0), (40, 120)))
    assert (open_ds(f"{website}/a.zarr", missing="fill").to_ndarray()[5:10] == 0).all()
    assert (open_ds(tmp_path / "a.zarr").to_ndarray()[5:10] == 0).all()


def test_what_is_not_on_a_server_is_an_error_with_its_url(tmp_path: Path, website: str) -> None:
    stored(tmp_path / "a.zarr" / "raw")
    for path in ("a.zarr/mask", "b.zarr", "plain"):
        with pytest.raises(ArrayError, match=f"there is no array {website}/{path}, or it may not be read"):
            open_ds(f"{website}/{path}")


def test_what_consolidated_metadata_lists_is_told(tmp_path: Path, website: str) -> None:
    stored(tmp_path / "a.zarr" / "raw")
    metadata = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())
    metadata["attributes"] = {}
    listed = {"raw": {"node_type": "array"}, "more": {"node_type": "group"}, "more/mask": {"node_type": "array"}}
    metadata["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": listed}
    (tmp_path / "a.zarr" / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(ArrayError, match="is a group, not an array; arrays in it: more/mask, raw"):
        open_ds(f"{website}/a.zarr")
    with pytest.raises(ArrayError, match=r"arrays in .*: more/mask, raw"):
        open_ds(f"{website}/a.zarr/row")


def test_the_finest_level_of_an_image_on_a_server_is_opened(tmp_path: Path, website: str) -> None:
    stored(tmp_path / "em.zarr" / "s0")
    array = open_ds(f"{website}/em.zarr")
    assert array.path == f"{website}/em.zarr/s0"
    np.testing.assert_array_equal(array, VOXELS)


def test_a_server_that_refuses_is_an_error_with_its_answer(tmp_path: Path) -> None:
    stored(tmp_path / "a.zarr")

    def refuse(path: str) -> int | None:
        return 403 if "/c/" in path else None

    with http_server(tmp_path, refuse) as url:
        array = open_ds(f"{url}/a.zarr")
        with pytest.raises(ArrayError, match=r"can't read voxels .* of http.*PERMISSION_DENIED"):
            array.to_ndarray()
    with http_server(tmp_path, lambda _: 403) as url, pytest.raises(ArrayError, match="or it may not be read"):
        open_ds(f"{url}/a.zarr")


def test_a_server_that_is_not_there_is_an_error_and_no_long_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    options = arrays_tensorstore._CONTEXT
    assert options["http_request_retries"] == {"max_retries": 5, "initial_delay": "250ms", "max_delay": "4s"}  # 8 s
    soon = {**options, "http_request_retries": {"max_retries": 5, "initial_delay": "1ms", "max_delay": "1ms"}}
    monkeypatch.setattr("bellis.arrays.keyvalue.library", lambda: (tensorstore, tensorstore.Context(soon)))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening: nobody answers here
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ArrayError, match=f"can't read {url}/plain/zarr.json: .*All 5 retry.*[Cc]onnect"):
            open_ds(f"{url}/plain")


def test_a_server_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bellis.arrays.keyvalue.TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ArrayError, match=f"can't read {url}/a.zarr/zarr.json: no answer within 0.1 s"):
            open_ds(f"{url}/a.zarr")


def test_a_server_that_keeps_a_chunk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bellis.arrays.tensorstore.SERVER_TIMEOUT_S", 0.2)
    stored(tmp_path / "a.zarr")
    ended = threading.Event()

    def refuse(path: str) -> int | None:
        return 500 if "/c/" in path and ended.wait(20) else None

    with http_server(tmp_path, refuse) as url:
        array = open_ds(f"{url}/a.zarr")
        try:
            with pytest.raises(ArrayError, match=r"can't read voxels .* the server did not answer within 0.2 s"):
                array.to_ndarray()
        finally:
            ended.set()


# Object stores ---------------------------------------------------------------------------------------------------


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    kept: dict[str, bytes] = {}
    with s3_server(kept) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "yes")
        yield kept


@pytest.mark.parametrize("shard_shape", [None, (10, 10)])
def test_an_array_is_made_written_and_read_in_an_object_store(objects: dict[str, bytes], shard_shape: Any) -> None:
    path = "s3://bucket/deep/a.zarr/em/raw"
    array = prepare_ds(path, VOXELS.shape, (8, 4), "uint16", chunk_shape=(5, 5), shard_shape=shard_shape)
    array[array.roi] = VOXELS
    array[Roi((16, 12), (40, 40))] = 7
    expected = VOXELS.copy()
    expected[2:7, 3:13] = 7
    np.testing.assert_array_equal(open_ds(path), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(array)), expected)
    assert {"bucket/deep/a.zarr/zarr.json", "bucket/deep/a.zarr/em/zarr.json"} < objects.keys()
    attributes = json.loads(objects["bucket/deep/a.zarr/em/zarr.json"])["attributes"]
    assert attributes["ome"]["multiscales"][0]["name"] == "raw"
    assert prepare_ds(path, VOXELS.shape, (8, 4), "uint16").roi == array.roi


def test_zeros_that_were_written_are_no_missing_chunks(objects: dict[str, bytes]) -> None:
    array = prepare_ds("s3://bucket/a.zarr", (10, 10), dtype="u1", chunk_shape=(5, 5))
    array[Roi((0, 0), (5, 10))] = 0
    assert (open_ds("s3://bucket/a.zarr")[Roi((0, 0), (5, 10))].to_ndarray() == 0).all()
    with pytest.raises(ArrayError, match="missing='fill'"):
        open_ds("s3://bucket/a.zarr").to_ndarray()
    assert (open_ds("s3://bucket/a.zarr", missing="fill").to_ndarray() == 0).all()


def test_an_array_in_an_object_store_is_replaced(objects: dict[str, bytes]) -> None:
    prepare_ds("s3://bucket/a.zarr/raw", (10, 10), dtype="u1", chunk_shape=(5, 5))[Roi((0, 0), (10, 10))] = 3
    prepare_ds("s3://bucket/a.zarr/mask", (10, 10), dtype="u1", chunk_shape=(5, 5))[Roi((0, 0), (10, 10))] = 4
    with pytest.raises(ArrayError, match="shape: asked"):
        prepare_ds("s3://bucket/a.zarr/raw", (20, 20), dtype="u1")
    prepare_ds("s3://bucket/a.zarr/raw", (20, 20), dtype="u1", mode="w")
    assert (open_ds("s3://bucket/a.zarr/raw", missing="fill").to_ndarray() == 0).all()
    assert (open_ds("s3://bucket/a.zarr/mask").to_ndarray() == 4).all()


# The memory of this process --------------------------------------------------------------------------------------


def test_memory_is_shared_by_all_that_is_opened_in_a_process(tmp_path: Path) -> None:
    path = f"memory:/{tmp_path}/a.zarr/raw"
    array = prepare_ds(path, VOXELS.shape, dtype="uint16")
    array[array.roi] = VOXELS
    np.testing.assert_array_equal(open_ds(path), VOXELS)
    with pytest.raises(ArrayError, match=r"is in the memory of this process .* and can't travel"):
        pickle.dumps(open_ds(path))
