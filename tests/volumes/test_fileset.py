"""A volume as one file per block: read, write, status, export; alone, by threads and by processes."""

from __future__ import annotations

import os
import pickle
import resource
import signal
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellis.errors import (
    ArrayError,
    ArrayExistsError,
    BlockNotReadyError,
    DamagedBlockError,
    DescriptionError,
    VolumeError,
)
from bellis.geometry import Coordinate, Roi
from bellis.volumes.description import write_description
from bellis.volumes.descriptions import FilesetDescription, RemoteDescription
from bellis.volumes.fileset import BlockwiseFileset

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

SHAPE, BLOCK = (20, 21, 22), (8, 8, 8)


def description(**changes: Any) -> FilesetDescription:
    """Return a small volume of 3 x 3 x 3 blocks, of which the last ones are clipped."""
    shape = changes.get("shape", SHAPE)
    origin = changes.get("view_origin", (0,) * len(shape))
    given = {
        "name": "em",
        "axes": "tzyxc"[4 - len(shape) : 4],
        "shape": shape,
        "dtype": np.dtype("uint16"),
        "block_shape": BLOCK,
        "view_origin": origin,
        "view_shape": tuple(n - at for n, at in zip(shape, origin, strict=True)),
        "block_file_name_format": "block-{roiString}.h5/volume/cube",
        "dataset_root_dir": "blocks",
    }
    return FilesetDescription(**{**given, **changes})


def numbers(shape: tuple[int, ...], dtype: Any = "uint16") -> npt.NDArray[Any]:
    """Return voxels that differ."""
    return np.arange(1, 1 + int(np.prod(shape))).reshape(shape).astype(dtype)


def opened(folder: Path, **changes: Any) -> BlockwiseFileset:
    """Return a file set to write, that is not there yet."""
    return BlockwiseFileset(folder / "em.json", "r+", description(**changes))


@pytest.fixture
def full(tmp_path: Path) -> BlockwiseFileset:
    """Return a file set of which all blocks are available."""
    fileset = opened(tmp_path)
    fileset[:, :, :] = numbers(SHAPE)
    return fileset


def whole(fileset: BlockwiseFileset) -> npt.NDArray[Any]:
    """Read the whole view."""
    return fileset.read_data(((0,) * len(fileset.shape), fileset.shape))


def descriptors() -> int:
    """Count the open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def in_child(work: Callable[[], object]) -> int:
    """Run something in a forked process and return its exit code."""
    process = get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode or 0


def test_what_is_written_is_read(full: BlockwiseFileset) -> None:
    assert np.array_equal(whole(full), numbers(SHAPE))
    assert np.array_equal(full.read_data(((3, 7, 8), (17, 9, 22))), numbers(SHAPE)[3:17, 7:9, 8:22])
    assert np.array_equal(full.read_data(Roi((3, 7, 8), (1, 1, 1))), numbers(SHAPE)[3:4, 7:8, 8:9])
    assert np.array_equal(full[3:4, 5:5, :], np.empty((1, 0, 22)))


def test_a_description_file_makes_a_file_set(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match="not there"):
        BlockwiseFileset(tmp_path / "em.json", "r+")
    BlockwiseFileset.write_description(tmp_path / "em.json", description())
    with BlockwiseFileset(str(tmp_path / "em.json"), "r+") as fileset:
        fileset[:, :, :] = numbers(SHAPE)
        assert fileset.description == description() == BlockwiseFileset.readDescription(tmp_path / "em.json")
    with BlockwiseFileset(tmp_path / "em.json") as fileset:
        assert np.array_equal(whole(fileset), numbers(SHAPE))


def test_a_description_that_was_made_by_hand_is_checked(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match=r"view_origin: found \[1, 0, 0\], a multiple of block_shape"):
        opened(tmp_path, view_origin=(1, 0, 0))
    server = RemoteDescription(
        name="",
        axes="x",
        dtype=np.dtype("u1"),
        bounds=(1,),
        origin_offset=(0,),
        shape=(1,),
        url_format="",
        hdf5_dataset="",
    )
    with pytest.raises(DescriptionError, match="is a RemoteDescription, block files are due"):
        BlockwiseFileset(tmp_path / "em.json", preparsed_description=server)


def test_names_are_those_of_lazyflow(full: BlockwiseFileset, tmp_path: Path) -> None:
    place = full.get_dataset_path_components((8, 16, 0))
    folder = tmp_path / "blocks" / "z_00000008" / "y_00000016" / "x_00000000"
    assert place.externalDirectory == place.external_directory == str(folder)
    assert place.externalPath == str(folder / "block-([8, 16, 0], [16, 21, 8]).h5")
    assert place.internalPath == "/volume/cube"
    assert place.totalPath() == place.total_path() == f"{place.external_path}/volume/cube"
    assert sorted(entry.name for entry in folder.iterdir()) == ["STATUS.txt", Path(place.external_path).name]
    for old, new in [
        ("readData", "read_data"),
        ("writeData", "write_data"),
        ("getBlockStatus", "get_block_status"),
        ("setBlockStatus", "set_block_status"),
        ("getEntireBlockRoi", "get_entire_block_roi"),
        ("getAllBlockRois", "get_all_block_rois"),
        ("getDatasetPathComponents", "get_dataset_path_components"),
        ("purgeAllLocks", "purge_all_locks"),
        ("exportRoiToHdf5", "export_roi_to_hdf5"),
        ("exportSubset", "export_subset"),
        ("readDescription", "read_description"),
        ("writeDescription", "write_description"),
    ]:
        assert getattr(BlockwiseFileset, old) is getattr(BlockwiseFileset, new)


def test_blocks_are_clipped_by_the_view(tmp_path: Path) -> None:
    fileset = opened(tmp_path, view_origin=(8, 16, 0), view_shape=(10, 5, 9))
    assert fileset.get_all_block_rois() == [
        ((0, 0, 0), (8, 5, 8)),
        ((0, 0, 8), (8, 5, 9)),
        ((8, 0, 0), (10, 5, 8)),
        ((8, 0, 8), (10, 5, 9)),
    ]
    assert fileset.get_entire_block_roi((8, 0, 8)) == ((8, 0, 8), (10, 5, 9))
    for start in [(1, 0, 0), (0, 8, 0), (16, 0, 0), (-8, 0, 0), (0, 0)]:
        with pytest.raises(ArrayError, match="begins at"):
            fileset.get_entire_block_roi(start)


def test_a_block_is_read_when_it_is_available(tmp_path: Path) -> None:
    fileset = opened(tmp_path)
    assert fileset.get_block_status((0, 0, 0)) == BlockwiseFileset.BLOCK_NOT_AVAILABLE
    fileset.write_data(((0, 0, 0), BLOCK), numbers(BLOCK))
    with pytest.raises(BlockNotReadyError, match=r"touches 1 blocks that are not available, the first at \(0, 0, 0\)"):
        fileset.read_data(((0, 0, 0), BLOCK))
    fileset.set_block_status((0, 0, 0), BlockwiseFileset.BLOCK_AVAILABLE)
    assert np.array_equal(fileset.read_data(((0, 0, 0), BLOCK)), numbers(BLOCK))
    with pytest.raises(BlockwiseFileset.BlockNotReadyError, match="touches 2 blocks"):
        fileset.read_data(((0, 0, 0), (8, 8, 20)))
    fileset.write_data(((0, 0, 0), (1, 1, 1)), numbers((1, 1, 1)))
    assert fileset.get_block_status((0, 0, 0)) == BlockwiseFileset.BLOCK_NOT_AVAILABLE
    fileset.set_block_status((0, 0, 0), 1)
    fileset.set_block_status((0, 0, 0), 0)
    assert fileset.get_block_status((0, 0, 0)) == 0


def test_a_block_without_a_sound_file_does_not_become_available(tmp_path: Path) -> None:
    fileset = opened(tmp_path)
    with pytest.raises(BlockNotReadyError, match="has no file"):
        fileset.set_block_status((0, 0, 0), 1)
    fileset.write_data(((0, 0, 0), BLOCK), numbers(BLOCK))
    Path(fileset.get_dataset_path_components((0, 0, 0)).external_path).write_bytes(b"<html>")
    with pytest.raises(DamagedBlockError, match="is damaged"):
        fileset.set_block_status((0, 0, 0), 1)
    with pytest.raises(VolumeError, match="neither BLOCK_AVAILABLE"):
        fileset.set_block_status((0, 0, 0), 2)
    assert fileset.get_block_status((0, 0, 0)) == 0


def test_assigned_blocks_are_available_if_they_are_whole(tmp_path: Path) -> None:
    fileset = opened(tmp_path)
    fileset[0:8, 0:8, 0:12] = numbers((8, 8, 12))
    assert [fileset.get_block_status((0, 0, x)) for x in (0, 8, 16)] == [1, 0, 0]
    fileset[0:8, 0:8, 12:16] = numbers((8, 8, 4))
    assert fileset.get_block_status((0, 0, 8)) == 0  # that both parts make a whole is not kept in mind
    fileset[1:2, 1:2, 1:2] = numbers((1, 1, 1))
    assert fileset.get_block_status((0, 0, 0)) == 1
    fileset.set_block_status((0, 0, 8), 1)
    due = np.concatenate([numbers((8, 8, 12)), numbers((8, 8, 4))], axis=2)
    due[1, 1, 1] = 1
    assert np.array_equal(fileset[0:8, 0:8, 0:16], due)


def test_out_array_is_filled_or_refused(full: BlockwiseFileset) -> None:
    out = np.zeros((2, 3, 4), "uint16")
    assert full.read_data(((7, 7, 7), (9, 10, 11)), out) is out
    assert np.array_equal(out, numbers(SHAPE)[7:9, 7:10, 7:11])
    for wrong in (np.zeros((2, 3, 5), "uint16"), np.zeros((2, 3, 4), "uint8"), np.zeros((2, 3, 4), "float64")):
        with pytest.raises(VolumeError, match=r"out_array is .*, uint16 of shape \(2, 3, 4\) is due"):
            full.read_data(((7, 7, 7), (9, 10, 11)), wrong)


@pytest.mark.parametrize(
    "roi", [((0, 0, 0), (21, 1, 1)), ((-1, 0, 0), (1, 1, 1)), ((0, 0), (1, 1)), ((1, 1, 1), (1, 2, 2)), (1, 2, 3)]
)
def test_a_region_that_is_not_in_the_view_is_refused(full: BlockwiseFileset, roi: Any) -> None:
    with pytest.raises(ArrayError, match="roi"):
        full.read_data(roi)
    with pytest.raises(ArrayError, match="roi"):
        full.write_data(roi, numbers((1, 1, 1)))


def test_voxels_that_do_not_fit_are_refused_before_anything_changes(full: BlockwiseFileset) -> None:
    for data in (numbers((2, 2, 1)), numbers((2, 2, 2), "int32"), numbers((2, 2, 2), "float32"), [["a"]]):
        with pytest.raises(VolumeError, match=r"uint16 of shape \(2, 2, 2\) is due"):
            full.write_data(((0, 0, 0), (2, 2, 2)), data)  # type: ignore[arg-type]
    assert np.array_equal(whole(full), numbers(SHAPE))
    full.write_data(((0, 0, 0), (2, 2, 2)), numbers((2, 2, 2), "uint8"))


def test_a_file_set_is_only_written_if_that_was_asked(full: BlockwiseFileset) -> None:
    full.reopen("r")
    assert not full.is_writeable
    for write in (
        lambda: full.write_data(((0, 0, 0), (1, 1, 1)), numbers((1, 1, 1))),
        lambda: full.set_block_status((0, 0, 0), 0),
        lambda: full.__setitem__((slice(0, 1),) * 3, numbers((1, 1, 1))),
    ):
        with pytest.raises(VolumeError, match="open to read only"):
            write()
    full.close()
    with pytest.raises(VolumeError, match=r"is closed: call reopen\('r'\)"):
        whole(full)
    full.reopen("r+")
    full[0:1, 0:1, 0:1] = numbers((1, 1, 1))
    with pytest.raises(VolumeError, match="mode 'w' is not one of 'r', 'r\\+'"):
        full.reopen("w")


def test_it_is_an_array_in_the_coordinates_of_the_volume(full: BlockwiseFileset, tmp_path: Path) -> None:
    view = BlockwiseFileset(tmp_path / "em.json", "r+", description(view_origin=(8, 0, 16), view_shape=(9, 21, 6)))
    array = view.array
    assert (array.roi, array.axis_names) == (Roi((8, 0, 16), (9, 21, 6)), ("z", "y", "x"))
    assert (view.chunk_shape, view.write_shape, view.layout.shape) == (BLOCK, BLOCK, (9, 21, 6))
    region = Roi((9, 7, 16), (4, 4, 4))
    assert np.array_equal(array.to_ndarray(region), numbers(SHAPE)[9:13, 7:11, 16:20])
    array[region] = 7
    assert (full.read_data(((9, 7, 16), (13, 11, 20))) == 7).all()
    assert "em.json" in repr(array)


def test_channels_and_time_are_axes_too(tmp_path: Path) -> None:
    fileset = BlockwiseFileset(
        tmp_path / "em.json",
        "r+",
        description(axes="tzyxc", shape=(2, 5, 6, 7, 3), block_shape=(1, 4, 4, 4, 3), view_origin=(1, 4, 0, 0, 0)),
    )
    fileset[:, :, :, :, :] = numbers(fileset.shape)
    assert fileset.layout.types == ("time", "space", "space", "space", "channel")
    assert fileset.array.roi == Roi((1, 4, 0, 0), (1, 1, 6, 7))
    assert np.array_equal(fileset.array.to_ndarray(), numbers(fileset.shape))


def test_options_of_the_description_are_those_of_the_files(tmp_path: Path) -> None:
    fileset = opened(tmp_path, compression="gzip", compression_opts=3, chunks=(4, 4, 100), drange=(0, 255))
    fileset[:, :, :] = numbers(SHAPE)
    place = fileset.get_dataset_path_components((0, 0, 16))
    with h5py.File(place.external_path) as file:
        dataset = file[place.internal_path]
        assert (dataset.shape, dataset.chunks, dataset.dtype) == ((8, 8, 6), (4, 4, 6), np.uint16)
        assert (dataset.compression, dataset.compression_opts) == ("gzip", 3)
        assert tuple(dataset.attrs["drange"]) == (0, 255)


def test_it_travels_as_a_description(full: BlockwiseFileset) -> None:
    sent = pickle.loads(pickle.dumps(full))
    assert len(pickle.dumps(full)) < 4000
    assert np.array_equal(whole(sent), numbers(SHAPE))
    assert sent.is_writeable


def test_a_region_is_exported_to_one_file(full: BlockwiseFileset, tmp_path: Path) -> None:
    path = full.export_roi_to_hdf5(((1, 2, 3), (17, 9, 22)), tmp_path / "a" / "b")
    assert path == f"{tmp_path}/a/b/block-([1, 2, 3], [17, 9, 22]).h5/volume/cube"
    with h5py.File(path.removesuffix("/volume/cube")) as file:
        assert np.array_equal(file["volume/cube"][()], numbers(SHAPE)[1:17, 2:9, 3:22])
    view = BlockwiseFileset(tmp_path / "em.json", "r", description(view_origin=(8, 8, 8)))
    for roi, is_in_view in [(((1, 1, 1), (3, 3, 3)), True), (((9, 9, 9), (11, 11, 11)), False)]:
        path = view.export_roi_to_hdf5(roi, tmp_path / "c", use_view_coordinates=is_in_view)
        assert path == f"{tmp_path}/c/block-([9, 9, 9], [11, 11, 11]).h5/volume/cube"
        with h5py.File(path.removesuffix("/volume/cube")) as file:
            assert np.array_equal(file["volume/cube"][()], numbers(SHAPE)[9:11, 9:11, 9:11])
    with pytest.raises(ArrayError, match="not inside of the view"):
        view.export_roi_to_hdf5(((1, 1, 1), (3, 3, 3)), tmp_path / "c", use_view_coordinates=False)
    assert [entry.name for entry in (tmp_path / "c").iterdir()] == ["block-([9, 9, 9], [11, 11, 11]).h5"]


def test_a_subset_is_a_file_set_of_its_own(full: BlockwiseFileset, tmp_path: Path) -> None:
    path = full.export_subset(((8, 0, 8), (20, 16, 16)), tmp_path / "part")
    assert path == str(tmp_path / "part" / "em.json")
    part = BlockwiseFileset(path)
    assert (part.description.view_origin, part.shape) == ((8, 0, 8), (12, 16, 8))
    assert np.array_equal(whole(part), numbers(SHAPE)[8:20, 0:16, 8:16])
    with pytest.raises(ArrayExistsError, match="pass another directory"):
        full.export_subset(((8, 0, 8), (20, 16, 16)), tmp_path / "part")
    with pytest.raises(VolumeError, match="does not begin and end where blocks"):
        full.export_subset(((8, 0, 8), (19, 16, 16)), tmp_path / "other")
    full.set_block_status((8, 0, 8), 0)
    with pytest.raises(BlockNotReadyError):
        full.export_subset(((8, 0, 8), (20, 16, 16)), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_open_file_leak(full: BlockwiseFileset) -> None:
    whole(full)
    before = descriptors()
    for _ in range(5):
        whole(full)
        full[1:2, 1:2, 1:2] = numbers((1, 1, 1))
    Path(full.get_dataset_path_components((0, 0, 0)).external_path).write_bytes(b"no HDF5")
    for _ in range(5):
        with pytest.raises(DamagedBlockError):
            whole(full)
    assert descriptors() == before


def test_a_flipped_bit_is_not_served_as_data(full: BlockwiseFileset) -> None:
    place = full.get_dataset_path_components((8, 8, 8))
    with h5py.File(place.external_path) as file:
        info = file[place.internal_path].id.get_chunk_info(0)
    with Path(place.external_path).open("r+b") as raw:
        raw.seek(info.byte_offset + 7)
        byte = raw.read(1)[0]
        raw.seek(info.byte_offset + 7)
        raw.write(bytes([byte ^ 16]))
    with pytest.raises(DamagedBlockError, match="is damaged"):
        full.read_data(((8, 8, 8), (16, 16, 16)))
    with pytest.raises(DamagedBlockError, match="is damaged"):
        full[8:9, 8:9, 8:9] = numbers((1, 1, 1))  # the rest of the block would be lost
    full[8:16, 8:16, 8:16] = numbers(BLOCK)
    assert np.array_equal(full.read_data(((8, 8, 8), (16, 16, 16))), numbers(BLOCK))


def test_a_damaged_block_is_replaced_as_a_whole_through_any_view(full: BlockwiseFileset, tmp_path: Path) -> None:
    Path(full.get_dataset_path_components((0, 0, 0)).external_path).write_bytes(b"no HDF5")
    narrow = BlockwiseFileset(tmp_path / "em.json", "r+", description(view_shape=(8, 8, 5)))
    narrow[:, :, :] = numbers((8, 8, 5))
    assert np.array_equal(whole(narrow), numbers((8, 8, 5)))
    with pytest.raises(BlockNotReadyError, match="clipped by a narrower view"):
        whole(full)


def test_a_truncated_file_is_refused_by_its_name(full: BlockwiseFileset) -> None:
    path = Path(full.get_dataset_path_components((0, 0, 0)).external_path)
    data = path.read_bytes()
    for length in (0, 7, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(DamagedBlockError) as caught:
            whole(full)
        assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(DamagedBlockError, match="is not there, though its block is noted as available"):
        whole(full)


@pytest.mark.integration
def test_a_write_that_fails_leaves_what_was_there(full: BlockwiseFileset) -> None:
    path = Path(full.get_dataset_path_components((0, 0, 0)).external_path)
    before = path.read_bytes()

    def write() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # as a disk that is full
        with pytest.raises(VolumeError, match="can't be written"):
            full[0:8, 0:8, 0:8] = numbers(BLOCK)

    assert in_child(write) == 0
    assert path.read_bytes() == before
    assert sorted(entry.suffix for entry in path.parent.iterdir()) == [".h5", ".txt"]
    assert np.array_equal(whole(full), numbers(SHAPE))


@pytest.mark.integration
@pytest.mark.slow
def test_threads_write_parts_of_the_same_blocks(tmp_path: Path) -> None:
    fileset = opened(tmp_path)
    due = numbers(SHAPE)
    planes = [(slice(k, k + 1), slice(None), slice(None)) for k in range(SHAPE[0])]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: fileset.__setitem__(at, due[at]), planes))
    for start, _ in fileset.get_all_block_rois():
        fileset.set_block_status(start, 1)
    assert np.array_equal(whole(fileset), due)


@pytest.mark.integration
@pytest.mark.slow
def test_processes_write_parts_of_the_same_block(tmp_path: Path) -> None:
    fileset = opened(tmp_path)
    due = numbers(BLOCK)

    def write(k: int) -> None:
        for row in range(8):
            fileset.write_data(((k, row, 0), (k + 1, row + 1, 8)), due[k : k + 1, row : row + 1])

    processes = [get_context("fork").Process(target=write, args=(k,)) for k in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    fileset.set_block_status((0, 0, 0), 1)
    assert np.array_equal(fileset.read_data(((0, 0, 0), (4, 8, 8))), due[:4])


@pytest.mark.integration
@pytest.mark.slow
def test_readers_see_the_block_before_or_after_a_write(tmp_path: Path) -> None:
    fileset = opened(tmp_path)
    fileset[0:8, 0:8, 0:8] = np.zeros(BLOCK, "uint16")

    def write() -> None:
        for k in range(60):
            fileset[0:8, 0:8, 0:8] = np.full(BLOCK, k, "uint16")

    process = get_context("fork").Process(target=write)
    process.start()
    while process.is_alive():
        assert len(np.unique(fileset[0:8, 0:8, 0:8])) == 1
    assert process.exitcode == 0


@pytest.mark.integration
def test_a_writer_that_is_killed_leaves_nothing_to_clean_up(full: BlockwiseFileset) -> None:
    folder = Path(full.get_dataset_path_components((0, 0, 0)).external_directory)

    def die() -> None:
        import bellis.volumes.block_files as block_files

        def killed(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        block_files.make_dataset = killed  # type: ignore[assignment]
        full.write_data(((0, 0, 0), (1, 1, 1)), numbers((1, 1, 1)))

    assert in_child(die) == -signal.SIGKILL
    assert [entry.suffix for entry in folder.iterdir() if entry.suffix == ".partial"] == [".partial"]
    with pytest.raises(BlockNotReadyError):
        full[0:1, 0:1, 0:1]
    full.set_block_status((0, 0, 0), 1)
    assert np.array_equal(whole(full), numbers(SHAPE))
    full[0:1, 0:1, 0:1] = numbers((1, 1, 1))
    assert sorted(entry.suffix for entry in folder.iterdir()) == [".h5", ".txt"]


@st.composite
def volumes(draw: st.DrawFn) -> FilesetDescription:
    """Draw a volume of one to three axes, with a view that may cut blocks."""
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(ndim))
    block = tuple(draw(st.integers(1, 5)) for _ in range(ndim))
    origin = tuple(draw(st.integers(0, (n - 1) // size)) * size for n, size in zip(shape, block, strict=True))
    view = tuple(draw(st.integers(1, n - at)) for n, at in zip(shape, origin, strict=True))
    return description(shape=shape, block_shape=block, view_origin=origin, view_shape=view)


def regions(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[slice, ...]]:
    """Draw a region that is not empty."""
    spans = [st.tuples(st.integers(0, n - 1), st.integers(1, n)).map(sorted) for n in shape]
    return st.tuples(*[span.map(lambda ends: slice(ends[0], ends[1] + (ends[0] == ends[1]))) for span in spans])


@pytest.mark.slow
@given(volumes(), st.data())
@settings(max_examples=40)
def test_block_by_block_equals_numpy(drawn: FilesetDescription, data: st.DataObject) -> None:
    due = numbers(drawn.view_shape)
    with TemporaryDirectory() as folder:
        fileset = BlockwiseFileset(Path(folder) / "em.json", "r+", drawn)
        for start, stop in fileset.get_all_block_rois():
            at = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
            fileset.write_data((start, stop), due[at])
            fileset.set_block_status(start, 1)
        for _ in range(4):
            at = data.draw(regions(drawn.view_shape))
            if data.draw(st.booleans()):
                due[at] = data.draw(st.integers(0, 65535))
                fileset[at] = due[at]
            at = data.draw(regions(drawn.view_shape))
            assert np.array_equal(fileset[at], due[at])
        assert np.array_equal(whole(fileset), due)


@pytest.mark.slow
@given(volumes(), st.data())
@settings(max_examples=40)
def test_reading_through_several_views_is_never_silently_wrong(drawn: FilesetDescription, data: st.DataObject) -> None:
    everything = description(shape=drawn.shape, block_shape=drawn.block_shape)
    extents = data.draw(st.tuples(*[st.integers(1, n) for n in drawn.shape]))
    other = description(shape=drawn.shape, block_shape=drawn.block_shape, view_shape=extents)
    due = np.zeros(drawn.shape, "uint16")
    is_written = np.zeros(drawn.shape, bool)
    with TemporaryDirectory() as folder:
        views = [BlockwiseFileset(Path(folder) / "em.json", "r+", each) for each in (drawn, other, everything)]
        for value in range(1, data.draw(st.integers(2, 7))):
            fileset = data.draw(st.sampled_from(views))
            at = data.draw(regions(fileset.shape))
            fileset[at] = np.full([part.stop - part.start for part in at], value, "uint16")
            begins = fileset.description.view_origin
            place = tuple(slice(part.start + a, part.stop + a) for part, a in zip(at, begins, strict=True))
            due[place], is_written[place] = value, True
        for fileset in views:
            for start, stop in fileset.get_all_block_rois():
                begins = Coordinate(fileset.description.view_origin)
                place = (Roi(begins + start, Coordinate(stop) - start)).to_slices()
                try:
                    found = fileset.read_data((start, stop))
                except BlockNotReadyError:
                    continue
                assert is_written[place].all()
                assert np.array_equal(found, due[place])


def test_all_blocks_are_there_once(tmp_path: Path) -> None:
    fileset = opened(tmp_path, view_origin=(8, 8, 8))
    counts = np.zeros(fileset.shape, int)
    for start, stop in fileset.get_all_block_rois():
        counts[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] += 1
    assert (counts == 1).all()
    assert [start for start, _ in fileset.get_all_block_rois()] == list(product((0, 8), repeat=3))


def test_a_composite_description_gives_its_block_files(tmp_path: Path) -> None:
    from bellis.volumes.descriptions import CompositeDescription

    server = RemoteDescription(
        name="server",
        axes="zyx",
        dtype=np.dtype("uint16"),
        bounds=SHAPE,
        origin_offset=(0, 0, 0),
        shape=SHAPE,
        url_format="http://host/{x_start}{x_stop}{y_start}{y_stop}{z_start}{z_stop}",
        hdf5_dataset="cube",
    )
    both = CompositeDescription(remote_description=server, local_description=description())
    write_description(tmp_path / "em.json", both)
    assert BlockwiseFileset(tmp_path / "em.json").description == description()
