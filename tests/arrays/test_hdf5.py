"""HDF5: read and written by several processes, attributes of others, damaged files."""

from __future__ import annotations

import errno
import json
import os
import pickle
import threading
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from bellis.arrays import hdf5_files, open_ds, prepare_ds
from bellis.arrays.format import NewArray
from bellis.arrays.hdf5 import Hdf5Format
from bellis.arrays.layout import Layout
from bellis.arrays.location import Location
from bellis.errors import ArrayError
from bellis.geometry import Roi
from bellis.testing.arrays import ArrayStoreTests, numbers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class TestHdf5(ArrayStoreTests):
    format_name = "hdf5"
    suffix = ".h5"
    has_write_shape = False

    def write_example(self, path: str, voxels: Any, voxel_size: Any, offset: Any) -> None:
        file, _, name = path.partition(".h5/")
        with h5py.File(f"{file}.h5", "a") as opened:
            dataset = opened.create_dataset(name, data=voxels, chunks=(4,) * voxels.ndim, compression="gzip")
            dataset.attrs["resolution"] = voxel_size
            dataset.attrs["offset"] = offset


def volume(path: Path, **attributes: Any) -> Path:
    """Write a small volume by h5py."""
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("raw", data=numbers((4, 5, 6), "uint8"))
        dataset.attrs.update(attributes)
    return path


def fill(sent: bytes, k: int) -> None:
    """Write a plane of an array that was sent here, several times."""
    array = pickle.loads(sent)
    for _ in range(5):
        array[Roi((k, 0, 0), (1, 8, 8))] = k


def in_child(work: Callable[[], bool]) -> bool:
    """Return whether something is so in a forked process."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_voxel_size_that_is_no_integer_is_exact(tmp_path: Path) -> None:
    array = open_ds(volume(tmp_path / "a.h5", resolution=[50, 4.6, 4.6]), "raw")
    assert array.voxel_size == (50_000, 4_600, 4_600)
    assert set(array.units) == {"pm"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_element_size_of_fiji_and_ilastik_is_read(tmp_path: Path, dtype: str) -> None:
    array = open_ds(volume(tmp_path / "a.h5", element_size_um=np.array([0.05, 0.0046, 0.0046], dtype)), "raw")
    assert array.voxel_size == (50_000, 4_600, 4_600)
    assert set(array.units) == {"pm"}


def test_an_element_size_is_written_for_fiji_and_ilastik(tmp_path: Path) -> None:
    array = prepare_ds(tmp_path / "a.h5/raw", (4, 5, 6), (50_000, 4_600, 4_600), "uint8", units="pm")
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["raw"].attrs["element_size_um"], [0.05, 0.0046, 0.0046])
    assert "element_size_um" not in array.attrs


def test_axes_are_named_by_the_labels_of_the_dimensions(tmp_path: Path) -> None:
    with h5py.File(volume(tmp_path / "a.h5", voxel_size=[4, 5]), "r+") as file:
        for axis, label in enumerate("yxc"):
            file["raw"].dims[axis].label = label
    array = open_ds(tmp_path / "a.h5", "raw")
    assert array.axis_names == ("y", "x", "c")
    assert array.types == ("space", "space", "channel")
    assert array.voxel_size == (4, 5)


def test_axes_are_named_by_the_axistags_of_ilastik(tmp_path: Path) -> None:
    tags = json.dumps({"axes": [{"key": "t"}, {"key": "y"}, {"key": "x"}]})
    array = open_ds(volume(tmp_path / "a.h5", axistags=tags, element_size_um=[1.0, 0.5, 0.5]), "raw")
    assert array.axis_names == ("t", "y", "x")
    assert array.types == ("time", "space", "space")
    assert array.voxel_size[1:] == (500, 500)
    assert array.units[1:] == ("nm", "nm")


@pytest.mark.parametrize("labels", [("a", "", "b"), ("a", "a", "a"), ("c", "channel", "c")])
def test_labels_that_name_no_axes_are_passed_over(tmp_path: Path, labels: tuple[str, ...]) -> None:
    with h5py.File(volume(tmp_path / "a.h5"), "r+") as file:
        for axis, label in enumerate(labels):
            file["raw"].dims[axis].label = label
    assert open_ds(tmp_path / "a.h5", "raw").axis_names == ("z", "y", "x")


def test_attributes_of_any_kind_come_back(tmp_path: Path) -> None:
    attrs = {
        "none": None, "text": "b\u00e9la", "number": 4.6, "yes": True, "empty": [], "words": ["a", "b"],
        "mixed": [1, "a", None], "nested": {"a": [{"b": 2.5}]}, "bracket": "[not JSON",
        "long": list(range(20_000)), "text of many letters": "x" * 100_000,
    }  # fmt: skip
    array = prepare_ds(tmp_path / "a.h5/raw", (4, 5, 6), dtype="uint8", attrs=attrs)
    assert {key: array.attrs[key] for key in attrs} == attrs


def test_attributes_that_can_not_be_stored_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ArrayError, match=r"can't make .*a\.h5/raw"):
        prepare_ds(tmp_path / "a.h5/raw", (4, 5, 6), dtype="uint8", attrs={"odd": {1, 2}})
    assert Hdf5Format().datasets(Location.of(tmp_path / "a.h5")) == []


def test_voxels_are_read_in_native_byte_order(tmp_path: Path) -> None:
    voxels = numbers((4, 5, 6), ">u4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = voxels
    array = open_ds(tmp_path / "a.h5", "raw", mode="r+")
    assert array.to_ndarray().dtype.isnative
    array[Roi((0, 0, 0), (1, 1, 1))] = np.uint32(70_000)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["raw"].dtype == ">u4"
        assert file["raw"][0, 0, 0] == 70_000


def test_only_arrays_of_numbers_are_listed_and_opened(tmp_path: Path) -> None:
    with h5py.File(volume(tmp_path / "a.h5"), "r+") as file:
        file["words"] = ["a", "b"]
        file["pairs"] = np.zeros(3, dtype=[("a", "i4"), ("b", "f4")])
        file["scalar"] = 5
        file["deep/er"] = np.zeros((2, 2))
    with pytest.raises(ArrayError, match=r"arrays in it: deep/er, raw$"):
        open_ds(tmp_path / "a.h5")
    for name in ("words", "pairs", "scalar"):
        with pytest.raises(ArrayError, match="only arrays of numbers"):
            open_ds(tmp_path / "a.h5", name)


def test_a_file_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    volume(tmp_path / "a.data")
    assert open_ds(tmp_path / "a.data", "raw").format == "hdf5"


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.97])
def test_a_file_that_was_cut_off_is_an_error_with_its_path(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("raw", data=np.random.default_rng(1).integers(0, 99, (40, 40, 40)), chunks=(8, 8, 8))
    os.truncate(path, int(path.stat().st_size * kept))
    with pytest.raises(ArrayError, match=r"a\.h5"):
        open_ds(path, "raw").to_ndarray()


def test_a_chunk_that_is_damaged_is_an_error_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("raw", data=numbers((8, 8, 8), "uint8"), chunks=(8, 8, 8), compression="gzip")
        place = dataset.id.get_chunk_info(0).byte_offset
    with path.open("r+b") as raw:
        raw.seek(place)
        raw.write(b"\xff" * 16)
    with pytest.raises(ArrayError, match=r"can't read .* of .*a\.h5/raw"):
        open_ds(path, "raw").to_ndarray()


def test_what_is_not_hdf5_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"nothing of the kind")
    with pytest.raises(ArrayError, match=r"can't open .*a\.h5/raw: .*signature"):
        open_ds(tmp_path / "a.h5", "raw")


def test_a_url_is_refused() -> None:
    with pytest.raises(ArrayError, match="local files"):
        open_ds("https://example.org/a.h5", "raw")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"compressor": "blosc"}, "gzip, lzf or None"),
        ({"compressor": {"id": "gzip", "clevel": 3}}, "no options clevel"),
        ({"shard_shape": (4, 4, 4)}, "no shards"),
    ],
)
def test_what_hdf5_has_not_is_refused(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ArrayError, match=match):
        prepare_ds(tmp_path / "a.h5/raw", (4, 4, 4), dtype="uint8", **options)


def test_an_array_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(ArrayError, match="by name"):
        prepare_ds(tmp_path / "a.h5", (4, 4, 4), dtype="uint8")


@pytest.mark.parametrize(("compressor", "found"), [("default", "gzip"), ("lzf", "lzf"), (None, None)])
def test_compressors_are_those_of_hdf5(tmp_path: Path, compressor: Any, found: str | None) -> None:
    prepare_ds(tmp_path / "a.h5/raw", (4, 4, 4), dtype="uint16", compressor=compressor)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["raw"].compression == found


def test_the_level_of_gzip_is_an_option(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.h5/raw", (4, 4, 4), dtype="uint16", compressor={"id": "gzip", "level": 7})
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["raw"].compression_opts == 7


def test_a_different_array_that_was_made_meanwhile_is_refused(tmp_path: Path) -> None:
    """As when two processes make it at the same time, and do not agree."""
    location, format = Location.of(tmp_path / "a.h5/raw"), Hdf5Format()
    format.create(location, NewArray(layout=Layout.of((4, 4), "uint8"), chunk_shape=(2, 2)))
    format.create(location, NewArray(layout=Layout.of((4, 4), "uint8"), chunk_shape=(2, 2)))
    with pytest.raises(ArrayError, match="exists"):
        format.create(location, NewArray(layout=Layout.of((4, 5), "uint8"), chunk_shape=(2, 2)))


def test_a_file_goes_with_its_last_array_and_not_before(tmp_path: Path) -> None:
    format = Hdf5Format()
    for name in ("a/b", "c"):
        prepare_ds(tmp_path / "a.h5", name, (4, 4), (1, 1), dtype="uint8")
    format.delete(Location.of(tmp_path / "a.h5/a/b"))
    assert format.datasets(Location.of(tmp_path / "a.h5")) == ["c"]
    format.delete(Location.of(tmp_path / "a.h5/c"))
    assert not (tmp_path / "a.h5").exists()
    format.delete(Location.of(tmp_path / "a.h5/c"))


def test_a_file_with_attributes_of_the_user_stays(tmp_path: Path) -> None:
    prepare_ds(tmp_path / "a.h5/g/raw", (4, 4), dtype="uint8")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["g"].attrs["who"] = "me"
    Hdf5Format().delete(Location.of(tmp_path / "a.h5/g/raw"))
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["g"].attrs["who"] == "me"


def test_an_array_that_was_replaced_by_another_is_not_mistaken(tmp_path: Path) -> None:
    array = open_ds(volume(tmp_path / "a.h5"), "raw")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = np.zeros((3, 3, 3))
    with pytest.raises(ArrayError, match="was changed"):
        array.to_ndarray()


# Other processes, threads and handles --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.integration
def test_processes_write_parts_of_the_same_chunk(tmp_path: Path) -> None:
    array = prepare_ds(tmp_path / "a.h5/raw", (8, 8, 8), dtype="uint8", chunk_shape=(8, 8, 8))
    assert array.write_shape is None
    sent = pickle.dumps(array)
    context = get_context("spawn")
    workers = [context.Process(target=fill, args=(sent, k)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    expected = np.broadcast_to(np.array([0, 1, 2, 3, 0, 0, 0, 0])[:, None, None], (8, 8, 8))
    np.testing.assert_array_equal(array, expected)


def test_threads_read_and_write_at_the_same_time(tmp_path: Path) -> None:
    array = prepare_ds(tmp_path / "a.h5/raw", (8, 8), dtype="uint8", chunk_shape=(8, 8))
    failed: list[BaseException] = []

    def work(k: int) -> None:
        try:
            for value in range(1, 5):
                array[Roi((k, 0), (1, 8))] = value
                assert (array.to_ndarray(Roi((k, 0), (1, 8))) == value).all()
        except Exception as error:  # noqa: BLE001  # of a thread, for the test
            failed.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert (array.to_ndarray()[:4] == 4).all()


def test_what_others_write_is_seen_at_once(tmp_path: Path) -> None:
    array = open_ds(volume(tmp_path / "a.h5"), "raw")
    for value in range(3):
        with h5py.File(tmp_path / "a.h5", "r+") as file:
            file["raw"][:] = value
        assert (array.to_ndarray() == value).all()


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_reads_and_writes(tmp_path: Path) -> None:
    array = prepare_ds(tmp_path / "a.h5/raw", (8, 8), dtype="uint8")
    array[array.roi] = 1

    def work() -> bool:
        array[Roi((0, 0), (1, 8))] = 5
        return int(array.to_ndarray().sum()) == 8 * 5 + 56

    assert in_child(work)
    assert array.to_ndarray().sum() == 8 * 5 + 56


def test_no_file_stays_open(tmp_path: Path) -> None:
    array = prepare_ds(tmp_path / "a.h5/raw", (8, 8), dtype="uint8")
    array.to_ndarray()
    with h5py.File(tmp_path / "a.h5", "r+") as file:  # h5py's own lock, which would be refused
        file["raw"][:] = 3
    assert array.to_ndarray().sum() == 3 * 64


def test_a_file_that_is_open_in_h5py_to_read_is_read(tmp_path: Path) -> None:
    with h5py.File(volume(tmp_path / "a.h5"), "r") as file:
        dataset = file["raw"]
        np.testing.assert_array_equal(open_ds(tmp_path / "a.h5", "raw"), dataset[:])
        np.testing.assert_array_equal(dataset[:], numbers((4, 5, 6), "uint8"))


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_file_that_is_open_in_h5py_here_is_not_written(tmp_path: Path, mode: str) -> None:
    """At once, as waiting for its lock would be for ever."""
    array = open_ds(volume(tmp_path / "a.h5"), "raw", mode="r+")
    with h5py.File(tmp_path / "a.h5", mode), pytest.raises(ArrayError, match="open in this process"):
        array[array.roi] = 1


def test_a_lock_that_another_keeps_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = open_ds(volume(tmp_path / "a.h5"), "raw")
    monkeypatch.setattr(hdf5_files, "LOCK_WAIT_S", 0.01)
    with (tmp_path / "a.h5").open("rb") as held:
        hdf5_files.fcntl.flock(held, hdf5_files.fcntl.LOCK_EX)
        with pytest.raises(ArrayError, match="locked for"):
            array.to_ndarray()


def test_without_locks_a_file_is_read_but_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems."""

    def refused(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    array = open_ds(volume(tmp_path / "a.h5"), "raw", mode="r+")
    monkeypatch.setattr(hdf5_files.fcntl, "flock", refused)
    np.testing.assert_array_equal(array, numbers((4, 5, 6), "uint8"))
    with pytest.raises(ArrayError, match="without locks"):
        array[array.roi] = 1


def test_a_file_that_is_replaced_while_its_lock_is_waited_for_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = open_ds(volume(tmp_path / "a.h5"), "raw")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["raw"] = np.full((4, 5, 6), 9, "uint8")
    lock = hdf5_files.Turns._lock

    def replacing(self: Any, *args: Any, **options: Any) -> None:
        if (tmp_path / "b.h5").exists():
            (tmp_path / "b.h5").rename(tmp_path / "a.h5")
        lock(self, *args, **options)

    monkeypatch.setattr(hdf5_files.Turns, "_lock", replacing)
    assert (array.to_ndarray() == 9).all()
