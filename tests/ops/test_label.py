"""Connected components across blocks: on disk, by several workers, on real data, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import bellis
from bellis import Array, Roi, open_ds, prepare_ds
from bellis.errors import ArrayError, TaskError
from bellis.ops.label import label
from objects import assert_same_objects

MITOCHONDRIA = Path(__file__).parents[2] / ".." / "shared" / "data" / "vnc_stack1_mitochondria.tif"


def blobs(shape: tuple[int, ...], seed: int = 0, fraction: float = 0.3) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape, np.float32), 1.5)
    return smooth > np.quantile(smooth, 1 - fraction)


def stored(path: Path, voxels: np.ndarray, **options: object) -> Array:
    array = prepare_ds(path, shape=voxels.shape, dtype=voxels.dtype, **options)
    array[array.roi] = voxels
    return array


@pytest.mark.integration
@pytest.mark.slow
def test_workers_label_an_array_on_disk_and_leave_nothing_but_a_note(tmp_path: Path) -> None:
    mask = blobs((40, 50, 60))
    options = {"voxel_size": (40, 4, 4), "offset": (400, 8, -4), "chunk_shape": (16, 16, 16)}
    source = stored(tmp_path / "in.zarr" / "mask", mask, **options)
    output = prepare_ds(tmp_path / "out.zarr" / "labels", shape=mask.shape, dtype="uint64", **options)
    report = bellis.run(label(source, output, block_shape=16), workers=2, progress=False, log_dir=tmp_path / "logs")
    assert report.ok, report
    expected, count = ndimage.label(mask)
    assert report.value("label") == count
    assert_same_objects(open_ds(tmp_path / "out.zarr" / "labels").to_ndarray(), expected)
    assert [path.suffix for path in (tmp_path / ".bellis" / "scratch").iterdir()] == [".done"]


def test_an_output_is_made_at_a_path(tmp_path: Path) -> None:
    mask = Array(blobs((20, 20)), offset=(100, 0), voxel_size=(10, 5))
    path = tmp_path / "labels.zarr"
    assert bellis.run(label(mask, path, block_shape=8, dtype="uint32"), "inline", progress=False).ok
    found = open_ds(path)
    assert (found.roi, found.voxel_size, found.dtype) == (mask.roi, mask.voxel_size, np.uint32)
    assert_same_objects(found.to_ndarray(), ndimage.label(mask.to_ndarray())[0])


def test_a_part_of_a_larger_output_is_written_and_the_rest_left(tmp_path: Path) -> None:
    mask = blobs((12, 12))
    output = Array(np.full((20, 20), 99, np.uint16))
    part = Array(mask, offset=(4, 4))
    assert bellis.run(label(part, output, block_shape=5, scratch=tmp_path), "inline", progress=False).ok
    found = output.to_ndarray()
    assert_same_objects(found[4:16, 4:16], ndimage.label(mask)[0])
    found[4:16, 4:16] = 99
    assert (found == 99).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.uint64])
def test_voxels_other_than_0_are_foreground_whatever_their_values_are(tmp_path: Path, dtype: type) -> None:
    values = (np.random.default_rng(1).random((20, 20)) * 3).astype(dtype)
    output = Array(np.zeros(values.shape, np.uint32))
    assert bellis.run(label(Array(values), output, block_shape=6, scratch=tmp_path), "inline", progress=False).ok
    assert_same_objects(output.to_ndarray(), ndimage.label(values != 0)[0])


def test_more_components_than_the_output_holds_are_an_error_that_says_so(tmp_path: Path) -> None:
    mask = np.zeros((40, 40), bool)
    mask[::2, ::2] = True
    output = Array(np.zeros(mask.shape, np.uint8))
    report = bellis.run(label(Array(mask), output, block_shape=16, scratch=tmp_path), "inline", progress=False)
    assert not report.ok
    assert "there are 400 components, more than uint8 holds" in report.failures[0].error
    assert not output.to_ndarray().any()


def test_a_mask_that_changes_while_it_is_labelled_is_an_error(tmp_path: Path) -> None:
    voxels = blobs((16, 16))
    output = Array(np.zeros(voxels.shape, np.uint32))
    pipeline = label(Array(voxels), output, block_shape=8, scratch=tmp_path)
    tasks = {task.task_id: task for task in pipeline.tasks}
    before = bellis.Pipeline([tasks["label/prepare"], tasks["label/blocks"], tasks["label/merge"]], pipeline.edges[:2])
    assert bellis.run(before, "inline", progress=False).ok
    voxels[:] = np.indices(voxels.shape).sum(0) % 2
    report = bellis.run(tasks["label/relabel"], "inline", progress=False)
    assert "the mask was changed while it was labelled" in report.failures[0].error


def test_what_can_not_be_labelled_is_refused_before_the_first_block() -> None:
    mask, output = Array(np.ones((4, 4), bool)), Array(np.zeros((4, 4), np.uint32))
    with pytest.raises(TaskError, match="connectivity is 3, must be from 1 to the 2 axes"):
        label(mask, output, connectivity=3)
    with pytest.raises(TaskError, match="labels are unsigned integers, but the output has dtype float32"):
        label(mask, Array(np.zeros((4, 4), np.float32)))
    with pytest.raises(ArrayError, match="does not have the voxels of"):
        label(mask, Array(np.zeros((4, 4), np.uint32), voxel_size=(2, 2)))
    with pytest.raises(ArrayError, match=r"covers .* but .* reaches over"):
        label(mask, Array(np.zeros((3, 4), np.uint32)))
    with pytest.raises(ArrayError, match="has channels"):
        label(Array(np.ones((2, 4, 4), bool), voxel_size=(1, 1)), output)


def test_blocks_that_would_write_the_same_chunk_are_refused(tmp_path: Path) -> None:
    output = prepare_ds(tmp_path / "out.zarr", shape=(20, 20), dtype="uint32", chunk_shape=(8, 8))
    with pytest.raises(TaskError, match="same chunk"):
        label(Array(np.ones((20, 20), bool)), output, block_shape=6)


@pytest.mark.slow
@pytest.mark.skipif(not MITOCHONDRIA.exists(), reason="the stack of the ventral nerve cord is not there")
def test_mitochondria_of_a_real_stack_are_those_of_the_whole_stack(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    mask = Array(tifffile.imread(MITOCHONDRIA) > 0, voxel_size=(45, 5, 5))
    output = Array(np.zeros(mask.shape, np.uint32), voxel_size=mask.voxel_size)
    report = bellis.run(label(mask, output, block_shape=(7, 200, 300), scratch=tmp_path), "inline", progress=False)
    assert report.ok, report
    expected, count = ndimage.label(mask.to_ndarray())
    found = output.to_ndarray()
    assert report.value("label") == count > 10
    assert_same_objects(found, expected)
    assert sorted(np.bincount(found.ravel())) == sorted(np.bincount(expected.ravel()))
    assert mask.roi == Roi((0, 0, 0), output.roi.shape)


@pytest.mark.parametrize("teeth", [255, 256, 512])
def test_two_objects_that_touch_in_very_many_places_are_one(tmp_path: Path, teeth: int) -> None:
    # 256 times the same pair: more than a byte counts.
    mask = np.zeros((4, 2 * teeth), bool)
    mask[[0, 3]] = True
    mask[:, ::2] = True
    output = Array(np.zeros(mask.shape, np.uint32))
    report = bellis.run(
        label(Array(mask), output, block_shape=(2, 2 * teeth), scratch=tmp_path), "inline", progress=False
    )
    assert report.value("label") == 1
    np.testing.assert_array_equal(output.to_ndarray(), mask)
