"""What every format of arrays must do: a suite of tests to subclass."""

# ruff: noqa: D102, S101  # the name of a test says what it does; a test asserts

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bellis.arrays import Array, open_ds, prepare_ds
from bellis.arrays.format import DTYPES
from bellis.errors import ArrayError
from bellis.geometry import Coordinate, Roi
from bellis.testing.strategies import boxes
from bellis.testing.voxels import fill_block, numbers, prepare_and_describe, processes, read_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

_EXAMPLES = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


class ArrayStoreTests:
    """What every format of arrays must do.

    Subclass it, name the format, and say in the class attributes what it can't do::

        class TestMyFormat(ArrayStoreTests):
            format_name = "mine"
            suffix = ".mine"

    A format that is only read, or one that other libraries write as well, has a method `write_example`.
    """

    format_name: ClassVar[str] = ""
    """As in ``format=``."""
    suffix: ClassVar[str] = ""
    """Ending of a container, by which the format is known."""
    is_read_only: ClassVar[bool] = False
    """Whether arrays are made by other libraries alone; then, `write_example` is due."""
    dtypes: ClassVar[tuple[str, ...]] = DTYPES
    """Names of the data types that it stores."""
    ndims: ClassVar[tuple[int, ...]] = (1, 2, 3)
    """Numbers of physical axes that it stores, among 1, 2 and 3."""
    num_channels: ClassVar[tuple[int | None, ...]] = (None, 1, 3)
    """Lengths of a channel axis that it stores; None for no such axis."""
    has_names: ClassVar[bool] = True
    """Whether a container holds several arrays, with names."""
    has_fill_values: ClassVar[bool] = True
    """Whether voxels that were never written can be anything but 0."""
    has_any_offset: ClassVar[bool] = True
    """Whether offsets need not be whole voxels."""
    has_attributes: ClassVar[bool] = True
    """Whether other units than nm, names of axes, and attributes of the user are stored."""
    has_places: ClassVar[bool] = True
    """Whether it stores voxel sizes and offsets; of a format that is only read, what `write_example` is given."""
    has_write_shape: ClassVar[bool] = True
    """Whether parts of an array are not to be written at the same time; else, ``write_shape`` is None."""
    reaches_processes: ClassVar[bool] = True
    """Whether other processes can open an array."""

    def location(self, folder: Path, container: str = "a", name: str = "raw") -> str:
        """Return the path of an array in ``folder``, a new directory."""
        return f"{folder / container}{self.suffix}" + (f"/{name}" if self.has_names else "")

    def storage(self, ndim: int) -> dict[str, Any]:
        """Return how arrays of ``ndim`` axes are stored: more arguments of `prepare_ds`."""
        return {"chunk_shape": (4,) * ndim}

    def write_example(
        self, path: str, voxels: npt.NDArray[Any], voxel_size: Sequence[int], offset: Sequence[int]
    ) -> None:
        """Make an array by another library, axes z, y, x, with sizes in nm."""
        pytest.skip("no other library writes this format here")

    def prepare(self, path: str, shape: Sequence[int], dtype: Any = "uint16", **options: Any) -> Array:
        """Make an array by bellis."""
        self.needs(ability=not self.is_read_only)
        ndim = len(shape) + ("num_channels" in options and options["num_channels"] is not None)
        return prepare_ds(path, tuple(shape), dtype=dtype, format=self.format_name, **{**self.storage(ndim), **options})

    def example(self, path: str, voxels: npt.NDArray[Any], voxel_size: Sequence[int], offset: Sequence[int]) -> None:
        """Make an array that holds ``voxels``, by bellis if it can."""
        if self.is_read_only:
            self.write_example(path, voxels, voxel_size, offset)
            return
        array = self.prepare(path, voxels.shape, voxels.dtype, voxel_size=voxel_size, offset=offset)
        array[array.roi] = voxels

    def shape(self, *extents: int) -> tuple[int, ...]:
        """Return the last of the extents, as many as the format has axes at most."""
        return extents[-max(self.ndims) :]

    def needs(self, *, ability: bool) -> None:
        """Skip a test of what the format can't do."""
        if not ability:
            pytest.skip("this format can't do that, and says so")

    # What is stored comes back -----------------------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_voxels_of_every_dtype_come_back(self, tmp_path: Path, dtype: str) -> None:
        self.needs(ability=dtype in self.dtypes)
        voxels = numbers(self.shape(3, 5, 7), dtype)
        path = self.location(tmp_path)
        self.example(path, voxels, (1,) * voxels.ndim, (0,) * voxels.ndim)
        array = open_ds(path)
        assert array.dtype == np.dtype(dtype)
        assert array.shape == voxels.shape
        found = array.to_ndarray()
        assert found.dtype == voxels.dtype
        assert found.dtype.isnative
        np.testing.assert_array_equal(found, voxels)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_dtype_that_is_not_stored_is_refused_before_anything_is_made(self, tmp_path: Path, dtype: str) -> None:
        self.needs(ability=not self.is_read_only and dtype not in self.dtypes)
        path = self.location(tmp_path)
        with pytest.raises(ArrayError, match=dtype):
            self.prepare(path, self.shape(3, 5, 7), dtype)
        with pytest.raises(ArrayError, match="no array"):
            open_ds(path, format=self.format_name)

    def test_world_units_come_back(self, tmp_path: Path) -> None:
        self.needs(ability=self.has_places)
        size, offset = self.shape(40, 4, 5), self.shape(400, -8, 15)
        path = self.location(tmp_path)
        self.example(path, numbers(self.shape(3, 5, 7), "uint8"), size, offset)
        array = open_ds(path)
        assert array.voxel_size == size
        assert array.roi == Roi(offset, Coordinate(size) * Coordinate(self.shape(3, 5, 7)))
        assert set(array.units) == {"nm"}
        assert array.axis_names == ("z", "y", "x")[-array.dims :]

    def test_an_offset_need_not_be_whole_voxels(self, tmp_path: Path) -> None:
        self.needs(ability=self.has_places and self.has_any_offset)
        path = self.location(tmp_path)
        self.example(path, numbers(self.shape(3, 5, 7), "uint8"), self.shape(40, 4, 5), self.shape(1, -2, 3))
        assert open_ds(path).roi.begin == self.shape(1, -2, 3)

    def test_axes_units_and_attributes_come_back(self, tmp_path: Path) -> None:
        self.needs(ability=self.has_attributes and not self.is_read_only)
        path, shape = self.location(tmp_path), self.shape(3, 5, 7)
        names = tuple("abd")[-len(shape) :]
        self.prepare(path, shape, axis_names=names, units="um", attrs={"stain": "DAPI", "list": [1, {"two": 2.5}]})
        array = open_ds(path)
        assert array.axis_names == names
        assert set(array.units) == {"um"}
        assert array.attrs["stain"] == "DAPI"
        assert array.attrs["list"] == [1, {"two": 2.5}]

    def test_channels_come_first(self, tmp_path: Path) -> None:
        self.needs(ability=3 in self.num_channels)
        shape = self.shape(3, 5, 7)
        array = self.prepare(self.location(tmp_path), shape, num_channels=3)
        voxels = numbers((3, *shape), "uint16")
        array[array.roi] = voxels
        found = open_ds(self.location(tmp_path))
        assert found.shape == (3, *shape)
        assert found.types[0] == "channel"
        assert found.dims == len(shape)
        np.testing.assert_array_equal(found, voxels)

    def test_chunks_are_told(self, tmp_path: Path) -> None:
        shape = self.shape(9, 9, 9)
        array = self.prepare(self.location(tmp_path), shape)
        asked = self.storage(len(shape))
        assert array.chunk_shape == asked.get("chunk_shape")
        due = asked.get("shard_shape", asked.get("chunk_shape"))
        assert array.write_shape == (due if self.has_write_shape else None)

    def test_what_other_libraries_write_is_read(self, tmp_path: Path) -> None:
        voxels = numbers(self.shape(6, 5, 7), "uint16")
        path = self.location(tmp_path)
        self.write_example(path, voxels, self.shape(40, 4, 5), self.shape(400, -8, 15))
        array = open_ds(path)
        np.testing.assert_array_equal(array, voxels)
        if self.has_places:
            assert array.roi.begin == self.shape(400, -8, 15)
            assert array.voxel_size == self.shape(40, 4, 5)

    # Regions -----------------------------------------------------------------------------------------------------

    @_EXAMPLES
    @given(data=st.data())
    def test_any_region_is_what_numpy_slices(self, data: st.DataObject) -> None:
        shape = tuple(data.draw(st.integers(1, 11)) for _ in range(max(self.ndims)))
        size = Coordinate(data.draw(st.integers(1, 9)) for _ in shape)
        voxels = numbers(shape, "uint16")
        with tempfile.TemporaryDirectory() as folder:
            path = self.location(Path(folder))
            self.example(path, voxels, size, (0,) * len(shape))
            array = open_ds(path, voxel_size=size, offset=(0,) * len(shape))
            for _ in range(3):
                roi = data.draw(boxes(array.roi, size))
                inside = tuple(map(slice, roi.begin // size, roi.end // size))
                np.testing.assert_array_equal(array[roi].to_ndarray(), voxels[inside])
                np.testing.assert_array_equal(array.to_ndarray(roi), voxels[inside])

    @_EXAMPLES
    @given(data=st.data())
    def test_writes_in_any_order_leave_what_they_leave_in_memory(self, data: st.DataObject) -> None:
        """The same writes, through the same views, leave the same voxels."""
        self.needs(ability=not self.is_read_only)
        dims = data.draw(st.sampled_from(self.ndims))
        channels = data.draw(st.sampled_from(self.num_channels))
        size = Coordinate(data.draw(st.integers(1, 9)) for _ in range(dims))
        steps = (1,) * dims if self.has_any_offset else size
        offset = Coordinate(data.draw(st.integers(-50, 50)) * step for step in steps)
        shape = tuple(data.draw(st.integers(1, 11)) for _ in range(dims))
        fill_value = 3 if self.has_fill_values else 0
        with tempfile.TemporaryDirectory() as folder:
            path = self.location(Path(folder))
            stored = self.prepare(
                path, shape, "int16",
                voxel_size=size, offset=offset, num_channels=channels, fill_value=fill_value,
            )  # fmt: skip
            roi = Roi(offset, size * Coordinate(shape))
            memory = Array(np.full(stored.shape, fill_value, np.int16), roi, size)
            for k in range(3):
                outer = data.draw(boxes(roi, size))
                inner = data.draw(boxes(outer, size))
                value = numbers(stored[inner].shape, "int16") + np.int16(100 * k)
                stored[outer][inner] = value
                memory[outer][inner] = value
                np.testing.assert_array_equal(stored[outer], memory[outer])
            again = open_ds(path)
            assert (again.roi, again.voxel_size, again.dtype.name) == (roi, size, "int16")
            np.testing.assert_array_equal(again, memory)
            around = roi.grow(size, size)
            np.testing.assert_array_equal(
                again.to_ndarray(around, fill_value=-1), memory.to_ndarray(around, fill_value=-1)
            )

    def test_what_was_never_written_is_the_fill_value(self, tmp_path: Path) -> None:
        value = 7 if self.has_fill_values else 0
        shape = self.shape(9, 9, 9)
        array = self.prepare(self.location(tmp_path), shape, "float32", fill_value=value)
        np.testing.assert_array_equal(array, np.full(shape, value, np.float32))
        array[Roi(array.roi.begin, (1,) * array.dims)] = 1
        assert array.to_ndarray().sum() == 1 + value * (9 ** len(shape) - 1)

    def test_a_fill_value_that_is_not_stored_is_refused(self, tmp_path: Path) -> None:
        self.needs(ability=not self.has_fill_values and not self.is_read_only)
        with pytest.raises(ArrayError, match="fill"):
            self.prepare(self.location(tmp_path), self.shape(3, 5, 7), fill_value=7)

    def test_a_region_that_does_not_fit_is_refused(self, tmp_path: Path) -> None:
        path = self.location(tmp_path)
        shape = self.shape(4, 5, 7)
        self.example(path, numbers(shape, "uint8"), (1,) * len(shape), (0,) * len(shape))
        array = open_ds(path, voxel_size=(2,) * len(shape), offset=(0,) * len(shape))
        for match, roi in {
            "outside": Roi((2,) * len(shape), (20,) * len(shape)),
            "voxels of size": Roi((1,) * len(shape), (2,) * len(shape)),
            "dimensions": Roi((0,) * (len(shape) + 1), (2,) * (len(shape) + 1)),
        }.items():
            with pytest.raises(ArrayError, match=match):
                array.to_ndarray(roi)

    # Processes ---------------------------------------------------------------------------------------------------

    @pytest.mark.slow
    @pytest.mark.integration
    def test_it_travels_to_a_fresh_process(self, tmp_path: Path) -> None:
        self.needs(ability=self.reaches_processes)
        path, voxels = self.location(tmp_path), numbers(self.shape(4, 5, 7), "uint16")
        self.example(path, voxels, (1,) * voxels.ndim, (0,) * voxels.ndim)
        array = open_ds(path)
        np.testing.assert_array_equal(array, voxels)  # so that it is open here
        sent = pickle.dumps(array)
        assert len(sent) < 4_000
        with processes(1) as pool:
            pid, found = pool.submit(read_all, sent).result()
        assert pid != os.getpid()
        np.testing.assert_array_equal(found, voxels)

    @pytest.mark.slow
    @pytest.mark.integration
    def test_processes_write_into_the_same_array(self, tmp_path: Path) -> None:
        """Each opens it for itself; here it is open as well, and what they write is seen."""
        self.needs(ability=self.reaches_processes)
        shape = self.shape(16, 8, 8)
        array = self.prepare(self.location(tmp_path), shape)
        array[array.roi] = 99
        step = array.write_shape[0] if array.write_shape is not None else 3
        blocks = [Roi((k, *array.roi.begin[1:]), (step, *array.roi.shape[1:])) for k in range(0, shape[0], step)]
        blocks[-1] = array.roi.intersect(blocks[-1])
        sent = pickle.dumps(array)
        with processes(2) as pool:
            pids = list(pool.map(fill_block, [sent] * len(blocks), blocks, range(1, len(blocks) + 1)))
        assert os.getpid() not in pids
        expected = np.repeat(np.arange(1, len(blocks) + 1), step)[: shape[0]].reshape(-1, *(1,) * (len(shape) - 1))
        np.testing.assert_array_equal(array, np.broadcast_to(expected, shape))

    @pytest.mark.slow
    @pytest.mark.integration
    def test_processes_prepare_the_same_array(self, tmp_path: Path) -> None:
        """As workers do that are started at the same time, none of them before the others."""
        self.needs(ability=self.reaches_processes and not self.is_read_only)
        path, shape = self.location(tmp_path), self.shape(16, 8, 8)
        options = {"format": self.format_name, **self.storage(len(shape))}
        with processes(2) as pool:
            found = list(pool.map(prepare_and_describe, [path] * 6, [shape] * 6, [options] * 6))
        assert found == [(shape, "uint16")] * 6

    def test_what_is_in_the_memory_of_one_process_does_not_travel(self, tmp_path: Path) -> None:
        self.needs(ability=not self.reaches_processes)
        array = self.prepare(self.location(tmp_path), self.shape(4, 5, 7))
        with pytest.raises(ArrayError, match="can't travel"):
            pickle.dumps(array)

    # What is there, and what is not ------------------------------------------------------------------------------

    def test_a_missing_array_is_an_error_with_its_path(self, tmp_path: Path) -> None:
        with pytest.raises(ArrayError, match="no array"):
            open_ds(self.location(tmp_path, "nowhere"), format=self.format_name)

    def test_arrays_have_names(self, tmp_path: Path) -> None:
        self.needs(ability=self.has_names and not self.is_read_only)
        for name in ("raw", "volumes/fine", "volumes/labels/coarse"):
            self.prepare(self.location(tmp_path, name=name), self.shape(3, 5, 7))
        container = self.location(tmp_path, name="")
        with pytest.raises(ArrayError, match=r"arrays in .*: raw, volumes/fine, volumes/labels/coarse"):
            open_ds(container, "raww")
        assert open_ds(container, "volumes/fine").shape == self.shape(3, 5, 7)

    def test_an_array_that_is_as_asked_is_kept(self, tmp_path: Path) -> None:
        path, shape = self.location(tmp_path), self.shape(3, 5, 7)
        self.prepare(path, shape)[Roi((0,) * len(shape), shape)] = 7
        np.testing.assert_array_equal(self.prepare(path, shape), np.full(shape, 7))

    def test_an_array_is_replaced_if_that_is_asked(self, tmp_path: Path) -> None:
        path, shape = self.location(tmp_path), self.shape(3, 5, 7)
        other = self.location(tmp_path, name="other") if self.has_names else None
        for made in filter(None, (path, other)):
            self.prepare(made, shape)[Roi((0,) * len(shape), shape)] = 7
        with pytest.raises(ArrayError, match="dtype: asked float32, found uint16"):
            self.prepare(path, shape, "float32")
        replaced = self.prepare(path, shape, "float32", mode="w")
        np.testing.assert_array_equal(replaced, np.zeros(shape))
        if other is not None:
            np.testing.assert_array_equal(open_ds(other), np.full(shape, 7))

    def test_differences_are_listed(self, tmp_path: Path) -> None:
        path, shape = self.location(tmp_path), self.shape(3, 5, 7)
        self.prepare(path, shape, voxel_size=(2,) * len(shape))
        larger = (*shape[:-1], 12)
        with pytest.raises(ArrayError) as refused:
            self.prepare(path, larger, "uint8", voxel_size=(3,) * len(shape))
        for line in (f"shape: asked {larger}, found {shape}", "dtype: asked uint8", "voxel_size: asked (3"):
            assert line in str(refused.value)

    def test_an_array_that_was_opened_to_read_is_not_written(self, tmp_path: Path) -> None:
        path, voxels = self.location(tmp_path), numbers(self.shape(4, 5, 7), "uint16")
        self.example(path, voxels, (1,) * voxels.ndim, (0,) * voxels.ndim)
        array = open_ds(path)
        assert not array.is_writeable
        with pytest.raises(ArrayError, match="read"):
            array[array.roi] = 1
        np.testing.assert_array_equal(open_ds(path), voxels)

    def test_a_format_that_is_only_read_is_neither_made_nor_written(self, tmp_path: Path) -> None:
        self.needs(ability=self.is_read_only)
        path, voxels = self.location(tmp_path), numbers(self.shape(4, 5, 7), "uint16")
        with pytest.raises(ArrayError, match="read"):
            prepare_ds(path, voxels.shape, dtype="uint16", format=self.format_name)
        self.example(path, voxels, (1,) * voxels.ndim, (0,) * voxels.ndim)
        with pytest.raises(ArrayError, match="read"):
            open_ds(path, mode="r+")
