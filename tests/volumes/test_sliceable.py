"""Arrays at hand as sources."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from bellis.arrays import Array, open_ds, prepare_ds
from bellis.arrays.layout import Layout
from bellis.errors import ArrayError, FetchError
from bellis.geometry import Roi
from bellis.volumes.blocks import slices_of
from bellis.volumes.sliceable import SliceableSource
from volumes.sources_for_tests import random_voxels

if TYPE_CHECKING:
    from pathlib import Path

VOXELS = random_voxels((6, 7, 8), "uint16")
BOX = Roi((1, 2, 3), (4, 3, 5))


def fetched(source: SliceableSource, box: Roi = BOX) -> np.ndarray:
    out = np.zeros(tuple(box.shape), source.dtype)
    source.fetch(box, out, timeout_s=1)
    return out


def test_numpy_and_h5py_are_sources(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        stored = file.create_dataset("raw", data=VOXELS, chunks=(2, 3, 4))
        for data, chunks in ((VOXELS, None), (stored, (2, 3, 4))):
            source = SliceableSource(data, fingerprint={"name": "a"})
            np.testing.assert_array_equal(fetched(source), VOXELS[slices_of(BOX)])
            assert source.domain == Roi((0, 0, 0), VOXELS.shape)
            assert source.axes == ("z", "y", "x")
            assert source.preferred_block == chunks
            assert source.fingerprint == {"name": "a"}
            assert source.is_checked is None


def test_an_array_is_a_source_with_its_place_and_channels() -> None:
    voxels = random_voxels((2, 6, 7), "uint8")
    made = Array(voxels, voxel_size=(40, 4), offset=(80, 8), axis_names=("c^", "y", "x"))
    source = SliceableSource(made, fingerprint={"name": "a"})
    box = Roi((1, 2, 3), (1, 3, 4))
    np.testing.assert_array_equal(fetched(source, box), voxels[slices_of(box)])
    assert source.layout == made.layout
    view = SliceableSource(made[Roi((120, 16), (120, 16))], fingerprint={"name": "a"})
    assert view.domain == Roi((0, 0, 0), (2, 3, 4))
    np.testing.assert_array_equal(fetched(view, Roi((0, 1, 1), (2, 2, 2))), voxels[:, 2:4, 3:5])


def test_an_array_with_a_path_has_a_fingerprint_and_travels(tmp_path: Path) -> None:
    made = prepare_ds(tmp_path / "a.zarr", VOXELS.shape, (4, 4, 4), "uint16", chunk_shape=(3, 3, 3))
    made[made.roi] = VOXELS
    source = pickle.loads(pickle.dumps(SliceableSource(open_ds(tmp_path / "a.zarr"))))
    np.testing.assert_array_equal(fetched(source), VOXELS[slices_of(BOX)])
    assert source.fingerprint["path"] == str(tmp_path / "a.zarr")
    assert source.preferred_block == (3, 3, 3)
    part = SliceableSource(open_ds(tmp_path / "a.zarr")[Roi((4, 4, 4), (8, 8, 8))])
    assert dict(part.fingerprint) != dict(source.fingerprint)


def test_what_can_t_be_told_apart_or_does_not_fit_is_refused() -> None:
    with pytest.raises(ArrayError, match="nothing tells this ndarray from another one: pass fingerprint="):
        SliceableSource(VOXELS)
    with pytest.raises(ArrayError, match="nothing tells this Array"):
        SliceableSource(Array(VOXELS))
    with pytest.raises(ArrayError, match="list has no shape and dtype"):
        SliceableSource([1, 2], fingerprint={})
    with pytest.raises(ArrayError, match=r"the layout has shape \(6, 7\) and dtype uint16, the data has"):
        SliceableSource(VOXELS, Layout.of((6, 7), "uint16"), {"name": "a"})


class Strange:
    shape, dtype = (6, 7, 8), np.dtype("u2")

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __getitem__(self, _: object) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (KeyError("gone"), r"block \[1:5, 2:5, 3:8\] can't be read from Strange: 'gone'"),
        (np.zeros((4, 3, 4), "u2"), r"came with shape \(4, 3, 4\) and dtype uint16: \(4, 3, 5\) and uint16 were asked"),
        (np.zeros((4, 3, 5), "u1"), "dtype uint8"),
    ],
)
def test_data_that_answers_otherwise_is_an_error(answer: Any, text: str) -> None:
    with pytest.raises(FetchError, match=text):
        fetched(SliceableSource(Strange(answer), fingerprint={}))
