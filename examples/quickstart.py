"""Square four million numbers and sum them in sixteens, block by block, as a daisy script does."""

import tempfile
from pathlib import Path

import numpy as np

import bellis as daisy

shape = 4096000
block_shape = 1024 * 16
store = Path(tempfile.mkdtemp()) / "quickstart.zarr"

# The input is in memory here; the outputs are on disk, where every worker process reaches them.
a = np.arange(shape, dtype=np.int64)
numbers = daisy.Array(a, roi=daisy.Roi((0,), shape), voxel_size=(1,))
squares = daisy.prepare_ds(store, "squares", daisy.Roi((0,), shape), (1,), np.int64, write_size=(block_shape,))
sums = daisy.prepare_ds(store, "sums", daisy.Roi((0,), shape / 16), (1,), np.int64, write_size=(block_shape / 16,))


def square(block):
    """Square the numbers of one block."""
    squares[block.write_roi] = numbers[block.read_roi].to_ndarray() ** 2


def reduce(block):
    """Sum sixteen squares for each element of one block."""
    sixteens = squares[block.read_roi * 16].to_ndarray().reshape(-1, 16)
    sums[block.write_roi] = sixteens.sum(axis=1)


square_task = daisy.Task(
    "square",
    total_roi=daisy.Roi((0,), shape),
    read_roi=daisy.Roi((0,), block_shape),
    write_roi=daisy.Roi((0,), block_shape),
    process_function=square,
    read_write_conflict=False,
    num_workers=2,
)
reduce_task = daisy.Task(
    "reduce",
    total_roi=daisy.Roi((0,), shape / 16),
    read_roi=daisy.Roi((0,), block_shape / 16),
    write_roi=daisy.Roi((0,), block_shape / 16),
    process_function=reduce,
    read_write_conflict=False,
    num_workers=2,
)

assert daisy.run_blockwise([square_task])
assert daisy.run_blockwise([reduce_task])
assert np.array_equal(sums, (a**2).reshape(-1, 16).sum(axis=1))
print(f"the first sums are {sums[daisy.Roi((0,), 4)].to_ndarray()}, in {store}")
