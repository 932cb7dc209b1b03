"""Defects that are known of funlib.persistence, none of which bellis has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bellis.arrays import Array, open_ds, prepare_ds
from bellis.errors import ArrayError
from bellis.geometry import Coordinate, Roi

if TYPE_CHECKING:
    from pathlib import Path

ROI = Roi((10, 0), (40, 20))


def _zarr2(path: Path, shape: tuple[int, ...], attributes: dict[str, object]) -> Path:
    path.mkdir()
    metadata = {
        "zarr_format": 2,
        "shape": shape,
        "dtype": "|u1",
        "chunks": shape,
        "order": "C",
        "compressor": None,
        "fill_value": 0,
        "filters": None,
    }
    (path / ".zarray").write_text(json.dumps(metadata))
    (path / ".zattrs").write_text(json.dumps(attributes))
    return path


def test_a_write_through_a_view_does_not_land_at_the_begin_of_the_array(tmp_path: Path) -> None:
    array = prepare_ds(tmp_path / "a.zarr", ROI, (10, 5), "u1")
    view = array[Roi((20, 5), (20, 10))]
    view[Roi((30, 10), (10, 5))] = 1
    expected = np.zeros((4, 4), np.uint8)
    expected[2, 2] = 1
    np.testing.assert_array_equal(open_ds(tmp_path / "a.zarr").to_ndarray(), expected)


@pytest.mark.parametrize("names", ["cyx", "yxc", "ycx"])
def test_a_channel_axis_is_where_it_is_first_or_last(names: str, tmp_path: Path) -> None:
    shape = [3 if name == "c" else 4 for name in names]
    array = prepare_ds(
        tmp_path / "a.zarr", shape=shape, voxel_size=(10, 5), dtype="u1", offset=(10, 0), axis_names=names
    )
    assert array.roi == ROI
    array[Roi((20, 5), (10, 10))] = np.array([[1, 2]], np.uint8)
    found = open_ds(tmp_path / "a.zarr")
    assert found.axis_names == tuple(names)
    assert found.roi == ROI
    for channel in range(3):
        plane = np.take(found.to_ndarray(), channel, axis=names.index("c"))
        assert plane[1].tolist() == [0, 1, 2, 0]
        assert plane.sum() == 3
    assert found[Coordinate(20, 10)].tolist() == [2, 2, 2]


def test_a_voxel_size_of_4_6_nm_is_neither_4_nor_5(tmp_path: Path) -> None:
    array = Array(np.zeros((10, 10)), voxel_size=(50, 4.6))
    assert array.voxel_size == (50_000, 4600)
    assert array.units == ("pm", "pm")
    found = open_ds(_zarr2(tmp_path / "a.zarr", (10, 10), {"resolution": [50, 4.6], "offset": [100, 9.2]}))
    assert found.roi == Roi((100_000, 9200), (500_000, 46_000))
    assert found.units == ("pm", "pm")


def test_a_voxel_size_below_1_is_not_0(tmp_path: Path) -> None:
    attributes = {"voxel_size": [0.05, 0.0046], "units": ["um", "um"]}
    found = open_ds(_zarr2(tmp_path / "a.zarr", (10, 10), attributes))
    assert found.voxel_size == (50_000, 4600)
    assert Array(np.zeros((2, 2)), voxel_size=(1 / 3, 1 / 3)).units == ("nm/3", "nm/3")


def test_a_fraction_beside_a_region_is_refused_not_rounded() -> None:
    with pytest.raises(ArrayError, match=r"pass voxel_size=\(50000, 4600\), units='pm'"):
        Array(np.zeros((2, 2)), Roi((0, 0), (100, 9)), (50, 4.6))


@pytest.mark.parametrize(
    ("to", "value"),
    [
        ("u1", np.array([256, 1], np.uint16)),
        ("u1", np.array([-1, 1], np.int8)),
        ("f4", np.array([0.1, 1], np.float64)),
        ("u1", np.array([0.5, 1], np.float32)),
        ("f8", np.array([2**53 + 1, 1], np.uint64)),
        ("u1", 300),
        ("u1", -1),
        ("i4", 0.5),
        ("f4", 2**24 + 1),
    ],
)
def test_nothing_is_cast_down_in_silence(to: str, value: object) -> None:
    array = Array(np.zeros(2, to))
    with pytest.raises(ArrayError, match="does not hold"):
        array[array.roi] = value  # type: ignore[assignment]
    assert array.to_ndarray().tolist() == [0, 0]


def test_a_region_off_the_grid_is_an_error_that_shows_both() -> None:
    array = Array(np.zeros((4, 4)), offset=(10, 0), voxel_size=(10, 5))
    with pytest.raises(ArrayError) as refused:
        array[Roi((12, 0), (10, 5))]
    for part in ("Roi((12, 0), (10, 5))", str(array.roi), "(10, 5)", "Roi((10, 0), (20, 5))"):
        assert part in str(refused.value)
    assert array.to_ndarray(Roi((12, 0), (10, 5)), snap="grow").shape == (2, 1)


def test_a_region_outside_is_an_error_that_shows_both() -> None:
    array = Array(np.zeros((4, 4)), offset=(10, 0), voxel_size=(10, 5))
    outside = Roi((0, 0), (20, 5))
    for use in (lambda: array[outside], lambda: array.to_ndarray(outside), lambda: array.__setitem__(outside, 1)):
        with pytest.raises(ArrayError) as refused:
            use()
        assert str(outside) in str(refused.value)
        assert str(array.roi) in str(refused.value)
    assert array.to_ndarray(outside, fill_value=7).tolist() == [[7], [0]]


def test_values_of_another_shape_are_not_broadcast_in_silence() -> None:
    array = Array(np.zeros((3, 4, 4)), voxel_size=(1, 1))
    for shape in ((1,), (4, 1), (3, 1, 1), (3, 4), (4, 4, 3)):
        with pytest.raises(ArrayError, match=r"value has shape .*\(c, y, x\), or \(4, 4\) for all channels"):
            array[array.roi] = np.zeros(shape)


def test_an_offset_that_is_no_multiple_of_the_voxel_size_is_kept(tmp_path: Path) -> None:
    array = prepare_ds(tmp_path / "a.zarr", Roi((3, 1), (40, 20)), (10, 5), "u1")
    assert array.roi == Roi((3, 1), (40, 20))
    array[Roi((13, 6), (10, 5))] = 1
    assert open_ds(tmp_path / "a.zarr").to_ndarray()[1, 1] == 1


def test_a_view_of_a_numpy_array_that_is_materialized_is_a_copy() -> None:
    data = np.zeros((4, 4))
    Array(data)[Roi((1, 1), (2, 2))].materialize()[Roi((1, 1), (1, 1))] = 1
    assert data.sum() == 0
