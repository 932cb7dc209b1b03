"""Measurements of labels are those of NumPy and SciPy on the whole array, whatever the blocks are."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyarrow import parquet
from scipy import ndimage

import bellis
from bellis import Array
from bellis.errors import ArrayError, TaskError
from bellis.ops.measure import measure
from bellis.ops.sums import exact, parts_for, square_sums_by, sums_by

if TYPE_CHECKING:
    from pathlib import Path

anywhere = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
IDS = st.sampled_from([0, 1, 2, 5, 2**40, 2**64 - 1])
INTEGERS = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64]


def measured(labels: Array, folder: Path, **options: Any) -> dict[str, list[Any]]:
    path = folder / "table.parquet"
    report = bellis.run(measure(labels, path, scratch=folder, **options), "inline", progress=False)
    assert report.ok, report.failures[0].error
    table = parquet.read_table(path).to_pydict()
    assert report.value("measure") == len(table["label"])
    return table


@st.composite
def volumes(draw: st.DrawFn) -> tuple[Array, tuple[int, ...]]:
    labels = draw(hnp.arrays(np.uint64, hnp.array_shapes(max_dims=4, max_side=6), elements=IDS))
    size = draw(st.tuples(*[st.integers(1, 9)] * labels.ndim))
    offset = draw(st.tuples(*[st.integers(-(10**6), 10**6)] * labels.ndim))
    blocks = tuple(draw(st.integers(1, n)) for n in labels.shape)
    return Array(labels, voxel_size=size, offset=offset), blocks


@pytest.mark.slow
@anywhere
@given(volumes())
def test_sizes_boxes_and_centroids_are_those_of_the_whole_array(
    tmp_path: Path, volume: tuple[Array, tuple[int, ...]]
) -> None:
    labels, blocks = volume
    table = measured(labels, tmp_path, block_shape=blocks)
    voxels = labels.to_ndarray()
    assert table["label"] == [i for i in np.unique(voxels).tolist() if i]
    for row, number in enumerate(table["label"]):
        at = np.argwhere(voxels == number)
        assert table["size"][row] == len(at)
        for axis, name in enumerate(labels.axis_names):
            step, first = labels.voxel_size[axis], labels.roi.begin[axis]
            assert table[f"begin_{name}"][row] == first + step * at[:, axis].min()
            assert table[f"end_{name}"][row] == first + step * (at[:, axis].max() + 1)
            centre = first + step * (Fraction(int(at[:, axis].sum()), len(at)) + Fraction(1, 2))
            assert table[f"centroid_{name}"][row] == float(centre)


@pytest.mark.slow
@anywhere
@given(st.data())
def test_intensities_of_integers_are_exact(tmp_path: Path, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(INTEGERS))
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=6))
    image = data.draw(hnp.arrays(dtype, shape))
    labels = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 3)))
    table = measured(Array(labels), tmp_path, intensity=Array(image), block_shape=data.draw(st.integers(1, 6)))
    for row, number in enumerate(table["label"]):
        values = image[labels == number].tolist()
        mean = Fraction(sum(values), len(values))
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        assert table["intensity_count"][row] == len(values)
        assert table["intensity_mean"][row] == float(mean)
        assert table["intensity_std"][row] == math.sqrt(float(variance))
        assert table["intensity_min"][row] == min(values)
        assert table["intensity_max"][row] == max(values)


@pytest.mark.slow
@anywhere
@given(st.data())
def test_intensities_of_floats_are_those_of_numpy_without_nan(tmp_path: Path, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=6))
    values = st.floats(-1000, 1000, width=32) | st.just(np.nan)
    image = data.draw(hnp.arrays(dtype, shape, elements=values))
    labels = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 3)))
    table = measured(Array(labels), tmp_path, intensity=Array(image), block_shape=data.draw(st.integers(1, 6)))
    for row, number in enumerate(table["label"]):
        known = image[(labels == number) & ~np.isnan(image)].astype(float)
        expected = [np.nan] * 4 if not len(known) else [known.mean(), known.std(), known.min(), known.max()]
        found = [table[f"intensity_{name}"][row] for name in ("mean", "std", "min", "max")]
        assert table["intensity_count"][row] == len(known)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@given(
    hnp.arrays(np.uint64, st.integers(1, 40), elements=st.integers(0, 2**64 - 1)),
    st.integers(1, 4),
    st.sampled_from([8, 16, 32, 64]),
)
def test_sums_are_exact(values: np.ndarray, count: int, bits: int) -> None:
    values >>= np.uint64(64 - bits)
    places = np.arange(len(values)) % count
    sums, squares = sums_by(places, count, values, bits), square_sums_by(places, count, values, bits)
    assert sums.shape == (count, parts_for(bits))
    assert sums.max() < 2**32
    for place in range(count):
        mine = values[places == place].tolist()
        assert exact(sums)[place] == sum(mine)
        assert exact(squares)[place] == sum(v * v for v in mine)


@pytest.mark.integration
@pytest.mark.slow
def test_several_workers_measure_a_volume_of_many_blocks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels, count = ndimage.label(ndimage.gaussian_filter(rng.random((40, 40, 40)), 1) > 0.53)
    image = rng.integers(0, 2**16, labels.shape).astype(np.uint16)
    place = {"voxel_size": (40, 4, 4), "offset": (-80, 8, 0)}
    source, path = Array(labels, **place), tmp_path / "new" / "cells.parquet"
    pipeline = measure(source, path, intensity=Array(image, **place), block_shape=7)
    assert "measure/combine-1" in [task.task_id for task in pipeline.tasks]
    report = bellis.run(pipeline, workers=2, progress=False, log_dir=tmp_path / "logs")
    assert report.ok, report
    table = parquet.read_table(path)
    numbers = np.arange(1, count + 1)
    assert table["label"].to_pylist() == numbers.tolist()
    np.testing.assert_array_equal(table["size"], np.bincount(labels.ravel())[1:])
    np.testing.assert_allclose(table["intensity_mean"], ndimage.mean(image, labels, numbers))
    np.testing.assert_allclose(table["intensity_std"], ndimage.standard_deviation(image, labels, numbers))
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, numbers))
    np.testing.assert_allclose(table["centroid_z"], -80 + 40 * (centres[:, 0] + 0.5))
    boxes = ndimage.find_objects(labels)
    assert table["begin_y"].to_pylist() == [8 + 4 * box[1].start for box in boxes]
    assert table["end_x"].to_pylist() == [4 * box[2].stop for box in boxes]
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".bellis", "cells.parquet"]


def test_the_files_metadata_say_units_and_voxel_size(tmp_path: Path) -> None:
    labels = Array(np.ones((2, 3), np.int16), voxel_size=(50, 4), offset=(100, 0), units="pm")
    assert bellis.run(measure(labels, tmp_path / "t.parquet"), "inline", progress=False).ok
    schema = parquet.read_schema(tmp_path / "t.parquet")
    assert json.loads(schema.metadata[b"bellis"]) == {
        "axis_names": ["y", "x"],
        "voxel_size": [50, 4],
        "offset": [100, 0],
        "units": ["pm", "pm"],
        "background": 0,
    }
    assert str(schema.field("label").type) == "int16"


@pytest.mark.parametrize("intensity", [None, np.zeros((3, 3), np.uint8), np.zeros((3, 3))])
def test_without_labels_the_table_has_its_columns_and_no_rows(tmp_path: Path, intensity: np.ndarray | None) -> None:
    image = None if intensity is None else Array(intensity)
    table = measured(Array(np.zeros((3, 3), np.uint8)), tmp_path, intensity=image, block_shape=2)
    columns = ["label", "size", "begin_y", "end_y", "begin_x", "end_x", "centroid_y", "centroid_x"]
    if image is not None:
        columns += [f"intensity_{name}" for name in ("count", "mean", "std", "min", "max")]
    assert table == {name: [] for name in columns}


@pytest.mark.parametrize("value", [True, False])
def test_a_mask_has_intensities_too(tmp_path: Path, value: bool) -> None:
    table = measured(Array(np.ones((2, 3), np.uint8)), tmp_path, intensity=Array(np.full((2, 3), value)))
    assert (table["intensity_mean"], table["intensity_min"]) == ([float(value)], [value])


def test_a_table_that_is_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "table.parquet").write_text("something else")
    assert measured(Array(np.ones(3, np.uint8)), tmp_path)["size"] == [3]


def test_what_can_not_be_measured_is_refused(tmp_path: Path) -> None:
    labels = Array(np.zeros((4, 4), np.uint8))
    with pytest.raises(TaskError, match="must be the path of a Parquet file"):
        measure(labels, tmp_path)
    with pytest.raises(TaskError, match="must be the path of a Parquet file"):
        measure(labels, "s3://bucket/table.parquet")
    with pytest.raises(ArrayError, match="does not have the voxels of"):
        measure(labels, tmp_path / "t", intensity=Array(np.zeros((4, 4)), voxel_size=(2, 2)))
    with pytest.raises(ArrayError, match="intensities are integers or floats"):
        measure(labels, tmp_path / "t", intensity=Array(np.zeros((4, 4), complex)))
    with pytest.raises(ArrayError, match="labels are integers"):
        measure(Array(np.zeros((4, 4))), tmp_path / "t")


def test_blocks_that_need_too_much_memory_are_refused(tmp_path: Path) -> None:
    labels = Array(np.zeros((100, 100, 100), np.uint8))
    limits = bellis.ops.Limits(max_memory=200_000_000)
    with pytest.raises(TaskError, match=r"a worker would need about 229 MB .* pass block_shape="):
        measure(labels, tmp_path / "t", block_shape=100, limits=limits)
    assert measure(labels, tmp_path / "t", block_shape=80, limits=limits).tasks


def test_a_table_in_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="must be the path of a Parquet file"):
        measure(Array(np.zeros(4, np.uint8)), tmp_path / "cells.csv")
