"""Trees that lazyflow left on disk, and what went wrong with it: each by its name, and refused or read right here."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellis.errors import BlockNotReadyError, DamagedBlockError, DescriptionError, VolumeError
from bellis.volumes.description import read_description
from bellis.volumes.fileset import BlockwiseFileset

SPELLINGS = {
    "plain": lambda numbers: "[" + ", ".join(str(n) for n in numbers) + "]",
    "numpy": lambda numbers: "[" + ", ".join(f"np.int64({n})" for n in numbers) + "]",
    "python2": lambda numbers: "[" + ", ".join(f"{n}L" for n in numbers) + "]",
}


def described(shape: tuple[int, ...], block: tuple[int, ...], /, **changes: Any) -> dict[str, Any]:
    """Return what lazyflow's description file says."""
    return {
        "_schema_name": "blockwise-fileset-description",
        "_schema_version": 1.0,
        "name": "old",
        "format": "hdf5",
        "axes": "zyx"[-len(shape) :],
        "shape": str(list(shape)),
        "dtype": "numpy.uint8",
        "# note": "by hand",
        "block_shape": list(block),
        "block_file_name_format": "cube-{roiString}.h5/cube",
        "dataset_root_dir": "old-blocks",
        **changes,
    }


def write_tree(
    folder: Path,
    voxels: Any,
    block: tuple[int, ...],
    *,
    view: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
    spelling: str = "plain",
) -> list[Path]:
    """Write a tree as lazyflow does, with nothing but h5py: the blocks of a view, each clipped by it."""
    shape = voxels.shape
    start, stop = view or ((0,) * len(shape), shape)
    files = []
    for index in np.ndindex(*[-(-(b - a) // size) for a, b, size in zip(start, stop, block, strict=True)]):
        begin = tuple(a + k * size for a, k, size in zip(start, index, block, strict=True))
        end = tuple(min(a + size, n) for a, size, n in zip(begin, block, shape, strict=True))
        axes = "zyx"[-len(shape) :]
        directory = folder / "old-blocks"
        for axis, at in zip(axes, begin, strict=True):
            directory = directory / f"{axis}_{at:08d}"
        directory.mkdir(parents=True)
        spelt = SPELLINGS[spelling]
        files.append(directory / f"cube-({spelt(begin)}, {SPELLINGS['plain'](end)}).h5")
        seen = tuple(slice(a, min(b, last)) for a, b, last in zip(begin, end, stop, strict=True))
        with h5py.File(files[-1], "w") as file:
            file.create_dataset("cube", data=voxels[seen])
        (directory / "STATUS.txt").write_text("1")
    return files


def described_file(folder: Path, *of: Any, **changes: Any) -> Path:
    """Write a description file."""
    path = folder / "old.json"
    path.write_text(json.dumps(described(*of, **changes)))
    return path


def numbers(*shape: int) -> Any:
    """Return voxels that differ from their neighbours."""
    return (np.arange(1, 1 + np.prod(shape)) % 251).astype("uint8").reshape(shape)


def damaged(folder: Path, **changes: Any) -> tuple[BlockwiseFileset, Path]:
    """Return a tree of one block, and its file, to be made wrong."""
    (file,) = write_tree(folder, numbers(4, 4), (4, 4))
    return BlockwiseFileset(described_file(folder, (4, 4), (4, 4), **changes), "r+"), file


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_trees_are_read_in_every_spelling(tmp_path: Path, spelling: str) -> None:
    voxels = numbers(10, 11, 12)
    write_tree(tmp_path, voxels, (4, 8, 8), spelling=spelling)
    fileset = BlockwiseFileset(described_file(tmp_path, (10, 11, 12), (4, 8, 8)))
    assert np.array_equal(fileset.read_data(((0, 0, 0), (10, 11, 12))), voxels)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_block_keeps_the_spelling_of_its_file(tmp_path: Path, spelling: str) -> None:
    files = write_tree(tmp_path, numbers(8, 8), (4, 4), spelling=spelling)
    fileset = BlockwiseFileset(described_file(tmp_path, (8, 8), (4, 4)), "r+")
    assert fileset.get_dataset_path_components((4, 0)).external_path == str(files[2])
    fileset[5:6, 0:4] = np.full((1, 4), 9, "uint8")
    due = numbers(8, 8)
    due[5, 0:4] = 9
    assert np.array_equal(fileset[:, :], due)
    assert sorted(tmp_path.rglob("*.h5")) == sorted(files)


@st.composite
def trees(draw: st.DrawFn) -> Any:
    """Draw shape, blocks, a view, and a spelling."""
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 8)) for _ in range(ndim))
    block = tuple(draw(st.integers(1, 5)) for _ in range(ndim))
    start = tuple(draw(st.integers(0, (n - 1) // size)) * size for n, size in zip(shape, block, strict=True))
    stop = tuple(draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    return shape, block, (start, stop), draw(st.sampled_from(sorted(SPELLINGS)))


@pytest.mark.slow
@given(trees())
@settings(max_examples=40)
def test_what_lazyflow_wrote_through_a_view_is_read_through_it(tree: Any) -> None:
    shape, block, (start, stop), spelling = tree
    voxels = numbers(*shape)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_tree(folder, voxels, block, view=(start, stop), spelling=spelling)
        extent = [b - a for a, b in zip(start, stop, strict=True)]
        path = described_file(folder, shape, block, view_origin=list(start), view_shape=extent)
        fileset = BlockwiseFileset(path)
        due = voxels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        assert np.array_equal(fileset.read_data(((0,) * len(shape), extent)), due)
        # Through a wider view, each block is read right, or refused.
        wider = BlockwiseFileset(described_file(folder, shape, block))
        for begin, end in wider.get_all_block_rois():
            if wider.get_block_status(begin):
                is_cut = any(b > last for b, last in zip(end, stop, strict=True))
                if is_cut:
                    with pytest.raises(BlockNotReadyError, match="clipped by a narrower view"):
                        wider.read_data((begin, end))
                else:
                    at = tuple(slice(a, b) for a, b in zip(begin, end, strict=True))
                    assert np.array_equal(wider.read_data((begin, end)), voxels[at])


def test_a_clipped_edge_block_stored_under_the_full_blocks_name(tmp_path: Path) -> None:
    voxels = numbers(8, 8)
    files = write_tree(tmp_path, voxels, (4, 4), view=((0, 0), (8, 6)))
    narrow = BlockwiseFileset(described_file(tmp_path, (8, 8), (4, 4), view_shape=[8, 6]))
    assert np.array_equal(narrow[:, :], voxels[:, :6])
    wide = BlockwiseFileset(described_file(tmp_path, (8, 8), (4, 4)), "r+")
    with pytest.raises(BlockNotReadyError, match=r"clipped by a narrower view: it holds \(4, 2\) voxels") as caught:
        wide.read_data(((0, 4), (4, 8)))
    assert str(files[1]) in str(caught.value)
    assert np.array_equal(wide.read_data(((0, 0), (8, 4))), voxels[:, :4])
    with pytest.raises(BlockNotReadyError, match="clipped"):
        wide.set_block_status((0, 4), 1)
    # What is missing is written, and the rest kept: then both views have it.
    wide.write_data(((0, 6), (4, 8)), voxels[0:4, 6:8])
    wide.set_block_status((0, 4), 1)
    assert np.array_equal(wide.read_data(((0, 4), (4, 8))), voxels[0:4, 4:8])
    assert np.array_equal(narrow[0:4, 4:6], voxels[0:4, 4:6])


def test_a_narrow_view_does_not_cut_what_a_wider_one_has(tmp_path: Path) -> None:
    voxels = numbers(8, 8)
    write_tree(tmp_path, voxels, (4, 4))
    narrow = BlockwiseFileset(described_file(tmp_path, (8, 8), (4, 4), view_shape=[8, 6]), "r+")
    narrow[0:4, 4:6] = np.full((4, 2), 7, "uint8")
    wide = BlockwiseFileset(described_file(tmp_path, (8, 8), (4, 4)))
    voxels[0:4, 4:6] = 7
    assert np.array_equal(wide[:, :], voxels)


@pytest.mark.parametrize("code", ["__import__('os').system('touch {0}')", "open('{0}','w')", "[1, open('{0}','w')]"])
@pytest.mark.parametrize("key", ["shape", "block_shape", "dtype", "view_origin", "drange", "compression_opts"])
def test_eval_of_the_configuration(tmp_path: Path, code: str, key: str) -> None:
    trap = tmp_path / "trap"
    path = described_file(tmp_path, (4, 4), (4, 4), **{key: code.format(trap)})
    with pytest.raises(DescriptionError) as caught:
        read_description(path)
    assert [problem for problem in caught.value.problems if problem.startswith(f"{key}: ")]
    assert not trap.exists()


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def test_unpickling_of_object_arrays(tmp_path: Path) -> None:
    fileset, file = damaged(tmp_path)
    trap = tmp_path / "trap"
    code = np.frombuffer(pickle.dumps(Trap(str(trap))), "uint8")
    with h5py.File(file, "w") as opened:
        objects = opened.create_dataset("cube", (4, 4), dtype=h5py.vlen_dtype(np.uint8))
        for index in np.ndindex(4, 4):
            objects[index] = code
    for read in (lambda: fileset[:, :], lambda: fileset.set_block_status((0, 0), 1)):
        with pytest.raises(DamagedBlockError, match="objects are not read") as caught:
            read()
        assert str(file) in str(caught.value)
    assert not trap.exists()
    with pytest.raises(DescriptionError, match="'object' is no name of a data type"):
        read_description(described_file(tmp_path, (4, 4), (4, 4), dtype="object"))


BAD = {
    "view_origin": [1, 0],
    "block_shape": [4],
    "block_file_name_format": "cube.h5/cube",
    "_schema_version": 3.0,
    "format": "tiff",
    "axes": "qq",
}
CHECK = """
import sys
import numpy as np
from bellis.errors import ArrayError
from bellis.volumes.fileset import BlockwiseFileset

found = []
for path in sys.argv[2:]:
    try:
        BlockwiseFileset(path)
    except ArrayError as error:
        found.append(type(error).__name__)
fileset = BlockwiseFileset(sys.argv[1], "r+")
voxel = np.zeros((1, 1), "uint8")
for call in (
    lambda: fileset.read_data(((0, 0), (9, 9))),
    lambda: fileset.read_data(((0, 0), (1, 1)), np.zeros((2, 2), "uint8")),
    lambda: fileset.write_data(((0, 0), (2, 2)), voxel),
    lambda: fileset.get_block_status((1, 1)),
    lambda: fileset.set_block_status((0, 0), 5),
    lambda: fileset.export_subset(((1, 1), (2, 2)), "nowhere"),
):
    try:
        call()
    except ArrayError as error:
        found.append(type(error).__name__)
print(__debug__, *found)
"""


@pytest.mark.integration
@pytest.mark.slow
def test_validation_by_assert(tmp_path: Path) -> None:
    write_tree(tmp_path, numbers(4, 4), (4, 4))
    good = described_file(tmp_path, (4, 4), (4, 4))
    bad = []
    for key, value in BAD.items():
        bad.append(tmp_path / f"{key}.json")
        bad[-1].write_text(json.dumps(described((4, 4), (4, 4), **{key: value})))
    said = [
        subprocess.run(
            [sys.executable, *flags, "-c", CHECK, str(good), *map(str, bad)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.split()
        for flags in ([], ["-O"])
    ]
    assert (said[0][0], said[1][0]) == ("True", "False")
    assert said[0][1:] == said[1][1:]
    assert said[1][1 : 1 + len(BAD)] == ["DescriptionError"] * len(BAD)
    assert len(said[1]) == 1 + len(BAD) + 6


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_leftover_lock_after_a_crash_hangs_a_reader_for_ever(tmp_path: Path, spelling: str) -> None:
    voxels = numbers(8, 8)
    files = write_tree(tmp_path, voxels, (4, 4), spelling=spelling)
    lock = files[1].with_name(f"{files[1].name}.lock")
    lock.write_text("")
    fileset = BlockwiseFileset(described_file(tmp_path, (8, 8), (4, 4)), "r+")
    assert np.array_equal(fileset[:, :], voxels)
    assert fileset.locked_blocks() == [lock]
    before = files[1].read_bytes(), files[0].read_bytes()
    for write in (
        lambda: fileset.write_data(((0, 0), (8, 8)), numbers(8, 8)),
        lambda: fileset.__setitem__((slice(0, 1), slice(4, 5)), numbers(1, 1)),
    ):
        with pytest.raises(VolumeError, match=r"call purge_all_locks\(\)") as caught:
            write()
        assert str(lock) in str(caught.value)
    assert (files[1].read_bytes(), files[0].read_bytes()) == before
    assert fileset.get_block_status((0, 4)) == 1
    assert fileset.purge_all_locks() is True
    assert fileset.purge_all_locks() is False
    assert fileset.locked_blocks() == []
    fileset[0:1, 4:5] = numbers(1, 1)


def test_only_locks_of_blocks_are_purged(tmp_path: Path) -> None:
    files = write_tree(tmp_path, numbers(8, 8), (4, 4))
    others = [
        tmp_path / "poetry.lock",
        tmp_path / "old-blocks" / "a.lock",
        files[0].with_name("other.h5.lock"),
        files[0].parent / "cube-([0, 0], [4, 4]).h5.lock.txt",
        tmp_path / "old-blocks" / "other" / files[0].name,
    ]
    others[-1].parent.mkdir()
    for other in others:
        other.write_text("")
    fileset = BlockwiseFileset(described_file(tmp_path, (8, 8), (4, 4)))
    assert not fileset.purge_all_locks()
    assert all(other.exists() for other in others)


@pytest.mark.parametrize(
    ("voxels", "why"),
    [
        (numbers(4, 5), r"of shape \(4, 5\) in 'cube', uint8 of shape \(4, 4\) is due"),
        (numbers(4), r"of shape \(4,\)"),
        (numbers(4, 4).astype("uint16"), "holds uint16"),
        (numbers(4, 4).astype("float32"), "holds float32"),
        (np.zeros((4, 4), "S4"), "objects are not read"),
    ],
)
def test_a_file_of_another_shape_or_dtype_is_refused(tmp_path: Path, voxels: Any, why: str) -> None:
    fileset, file = damaged(tmp_path)
    with h5py.File(file, "w") as opened:
        opened["cube"] = voxels
    with pytest.raises(DamagedBlockError, match=why):
        fileset.read_data(((0, 0), (1, 1)))


@pytest.mark.parametrize("kind", ["html", "empty", "folder", "other name", "group"])
def test_a_file_that_is_no_block_is_refused_by_its_name(tmp_path: Path, kind: str) -> None:
    fileset, file = damaged(tmp_path)
    file.unlink()
    if kind == "html":
        file.write_text("<html>502 Bad Gateway</html>")
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "folder":
        file.mkdir()
    else:
        with h5py.File(file, "w") as opened:
            opened.create_group("cube" if kind == "group" else "other")
    with pytest.raises(VolumeError) as caught:
        fileset[:, :]
    assert str(file) in str(caught.value)
    assert isinstance(caught.value, DamagedBlockError) or kind == "folder"


def test_voxels_in_another_byte_order_are_read(tmp_path: Path) -> None:
    fileset, file = damaged(tmp_path, dtype="uint16")
    with h5py.File(file, "w") as opened:
        opened["cube"] = numbers(4, 4).astype(">u2")
    assert fileset[:, :].dtype == np.dtype("uint16")
    assert np.array_equal(fileset[:, :], numbers(4, 4))
