"""Voxels behind tensorstore: arrangement of axes, and what is said when it fails."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tensorstore
from hypothesis import given
from hypothesis import strategies as st

from bellis.arrays.location import Location
from bellis.arrays.tensorstore import TensorStoreData, cause, create, kvstore_of, library, spec_of
from bellis.errors import ArrayError
from bellis.testing.voxels import numbers

if TYPE_CHECKING:
    from pathlib import Path


def made(place: Location, shape: tuple[int, ...]) -> dict[str, Any]:
    """Make a dataset of uint16, with axes as tensorstore has them; return its spec."""
    spec = spec_of("zarr", place, "fill")
    create(spec, {"metadata": {"shape": list(shape), "chunks": [2] * len(shape), "dtype": "<u2"}}, place.url)
    return spec


def data_of(spec: dict[str, Any], shape: tuple[int, ...], **options: Any) -> TensorStoreData:
    return TensorStoreData(
        spec,
        path="here",
        shape=shape,
        dtype=np.dtype("u2"),
        chunk_shape=None,
        write_shape=None,
        **{"is_writeable": True, **options},
    )


@given(st.permutations(range(4)), st.integers(0, 2), st.data())
def test_axes_are_presented_in_any_order_and_those_of_length_1_dropped(
    order: list[int], num_dropped: int, data: st.DataObject
) -> None:
    place = Location(f"memory://order/{order}/{num_dropped}/{data.draw(st.integers(0, 10**9))}")
    dropped, kept = tuple(order[:num_dropped]), tuple(order[num_dropped:])
    shape = tuple(1 if k in dropped else k + 2 for k in range(4))
    spec = made(place, shape)
    presented = tuple(shape[k] for k in kept)
    voxels = data_of(spec, presented, order=kept, dropped=dropped)

    everything = tuple(slice(0, n) for n in presented)
    voxels[everything] = numbers(presented, "u2")
    begin = tuple(data.draw(st.integers(0, n)) for n in presented)
    part = tuple(slice(b, data.draw(st.integers(b, n))) for b, n in zip(begin, presented, strict=True))

    np.testing.assert_array_equal(voxels[part], numbers(presented, "u2")[part])
    stored = tensorstore.open(spec, context=library()[1]).result().read().result()
    np.testing.assert_array_equal(stored.transpose(*kept, *dropped).reshape(presented), numbers(presented, "u2"))


def test_indices_begin_at_0_wherever_those_of_the_store_do(tmp_path: Path) -> None:
    store = tensorstore.open(
        {"driver": "n5", "kvstore": f"file://{tmp_path}/a/"},
        create=True, dtype=tensorstore.uint16, shape=[6, 4],
    ).result()  # fmt: skip
    data = TensorStoreData.of_handle(store.translate_by[10, -3])
    data[slice(0, 6), slice(0, 4)] = numbers((6, 4), "u2")
    np.testing.assert_array_equal(data[slice(2, 4), slice(1, 2)], numbers((6, 4), "u2")[2:4, 1:2])
    np.testing.assert_array_equal(store.read().result(), numbers((6, 4), "u2"))
    travelled = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(travelled[slice(2, 4), slice(1, 2)], numbers((6, 4), "u2")[2:4, 1:2])


def test_the_chunks_of_a_store_are_asked_of_it(tmp_path: Path) -> None:
    store = tensorstore.open(
        {
            "driver": "zarr3",
            "kvstore": f"file://{tmp_path}/a/",
            "schema": {"chunk_layout": {"write_chunk": {"shape": [8, 8]}, "read_chunk": {"shape": [4, 2]}}},
        },
        create=True, dtype=tensorstore.uint16, shape=[32, 32],
    ).result()  # fmt: skip
    data = TensorStoreData.of_handle(store)
    assert (data.chunk_shape, data.write_shape) == ((4, 2), (8, 8))


def test_what_is_only_read_is_not_written(tmp_path: Path) -> None:
    spec = made(Location(str(tmp_path / "a")), (3, 4))
    data = data_of(spec, (3, 4), is_writeable=False)
    with pytest.raises(ArrayError, match=r"here was opened to read: open_ds\(..., mode='r\+'\)"):
        data[slice(0, 1), slice(0, 1)] = np.ones((1, 1), np.uint16)


@pytest.mark.parametrize(
    ("slices", "match"),
    [
        ((slice(0, 9), slice(0, 2)), r"can't read voxels \[0:9, 0:2\] of here: OUT_OF_RANGE"),
        ((slice(0, 2), slice(0, 2), slice(0, 2)), r"can't read voxels \[0:2, 0:2, 0:2\] of here: "),
    ],
)
def test_a_region_that_is_not_there_is_named(tmp_path: Path, slices: Any, match: str) -> None:
    data = data_of(made(Location(str(tmp_path / "a")), (3, 4)), (3, 4))
    with pytest.raises(ArrayError, match=match) as failed:
        data[slices]
    assert "transform=" not in str(failed.value)


def test_voxels_of_another_shape_are_refused(tmp_path: Path) -> None:
    data = data_of(made(Location(str(tmp_path / "a")), (3, 4)), (3, 4))
    with pytest.raises(ArrayError, match=r"can't write voxels \[0:3, 0:2\] of here: .* mismatch"):
        data[slice(0, 3), slice(0, 2)] = np.ones((2, 2), np.uint16)


def test_a_dataset_that_can_not_be_made_is_an_error_with_its_path(tmp_path: Path) -> None:
    place = Location(str(tmp_path / "a"))
    made(place, (3, 4))
    made(place, (3, 4))
    with pytest.raises(ArrayError, match=f"tensorstore can't make {tmp_path}/a: .*shape"):
        made(place, (3, 5))
    assert "spec=" not in cause(ValueError("NOT_FOUND: gone [tensorstore_spec='{}'] [source locations='a.cc:1']"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/x/a.zarr", {"driver": "file", "path": "/x/a.zarr/"}),
        ("memory://x/a", {"driver": "memory", "path": "x/a/"}),
        ("https://host:80/a%20b/c", {"driver": "http", "base_url": "https://host:80", "path": "/a b/c/"}),
        ("gs://bucket/a", {"driver": "gcs", "bucket": "bucket", "path": "a/"}),
        ("s3://bucket", {"driver": "s3", "bucket": "bucket", "path": ""}),
    ],
)
def test_a_location_is_where_tensorstore_looks(
    url: str, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_NO_SIGN_REQUEST"):
        monkeypatch.delenv(name, raising=False)
    assert kvstore_of(Location(url)) == expected
