"""Run a function of NumPy arrays over blocks: what it gives is what it would give for the whole array."""

from __future__ import annotations

import functools
import inspect
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from bellis.arrays import Array
from bellis.arrays.layout import parse_dtype, scalar_as
from bellis.arrays.location import Location
from bellis.errors import ArrayError, FunctionError, TaskError
from bellis.ops.blocks import Limits, Source, as_input, as_output, block_task, check_survives, planned
from bellis.ops.frame import extent_of, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from bellis.geometry import CoordinateLike, Roi
    from bellis.tasks import Block, Task

Edge: TypeAlias = Literal["shrink", "reflect", "nearest", "constant"]
"""What a block reads where its context ends beyond the array."""

DType: TypeAlias = "str | type[Any] | np.dtype[Any]"
"""What names the data type of a voxel."""

DTypes: TypeAlias = list[DType] | tuple[DType, ...]
"""One for each output."""

_PAD: dict[str, Any] = {"reflect": "symmetric", "nearest": "edge", "constant": "constant"}
_LAZY = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)


def map(  # noqa: A001  # used as ops.map
    fn: Callable[..., Any],
    inputs: Source | Sequence[Source],
    output: Source | Sequence[Source],
    *,
    block_shape: CoordinateLike | None = None,
    context: CoordinateLike = 0,
    edge: Edge = "shrink",
    constant: complex = 0,
    dtype: DType | DTypes | None = None,
    name: str | None = None,
    overwrite: bool = False,
    limits: Limits | None = None,
) -> Task:
    """Make the task that reads inputs with context, calls ``fn``, crops what it returns, and writes it.

    Blocks cover the first output. With a context that is as large as what ``fn`` looks at around a voxel, the result
    is that of ``fn`` on the whole array.

    Parameters
    ----------
    fn
        ``fn(*arrays) -> array``, or a tuple of arrays for several outputs. It is given one NumPy array per input, to
        keep and change: the same world region of each, channels included. It returns, for each output, voxels of the
        region that was read (they are cropped) or of the region to be written, with all channels of the output and of
        a dtype that the output's holds.
    inputs
        Arrays or paths, which contain the first output's region; their voxel sizes may differ.
    output
        An array, or a path; or several. At a path, an OME-Zarr image is made that has the region, voxels and channels
        of the first input.
    block_shape
        Voxels of the first output that a block writes, one number or one per physical axis; picked if not given.
    context
        Voxels of the first output that a block reads around what it writes.
    edge
        What is read beyond an input's end. ``"shrink"``: nothing, arrays are smaller there, and the edge mode of
        ``fn`` itself does what it does on the whole array (except for one that wraps around). In SciPy's words,
        ``"reflect"`` (d c b a | a b c d), ``"nearest"`` (a a a a | a b c d), or ``"constant"``.
    constant
        The voxels beyond the end, with ``edge="constant"``.
    dtype
        Of a new output, or one for each; the first input's if not given.
    name
        Id of the task; the function's name if not given.
    overwrite
        Replace an output that is there and has another region, voxel size, dtype or chunks; else that is an error.
    limits
        What it may use.

    Raises
    ------
    FunctionError
        If ``fn`` can't be called with as many arrays as there are inputs.
    TaskError
        If regions, voxels, chunks or memory do not allow it; see `block_task`.
    ArrayError
        If an input can't be opened or an output can't be made.

    Examples
    --------
    >>> import numpy as np
    >>> import bellis
    >>> from bellis import Array, ops
    >>> steps = Array(np.arange(10) ** 2)
    >>> slope = Array(np.zeros(10))
    >>> task = ops.map(np.gradient, steps, slope, block_shape=4, context=2)
    >>> bellis.run(task, "inline", progress=False).ok
    True
    >>> slope.data
    array([ 1.,  2.,  4.,  6.,  8., 10., 12., 14., 16., 17.])
    """
    sources = [as_input(source) for source in _sequence(inputs)]
    targets = _sequence(output)
    if not sources or not targets:
        raise TaskError(f"map needs an input and an output, but has {len(sources)} and {len(targets)}")
    _check_function(fn, len(sources))
    if edge not in get_args(Edge):
        raise TaskError(f"edge is {edge!r}, must be one of {', '.join(get_args(Edge))}")
    if edge == "constant":
        for source in sources:
            scalar_as(constant, source.dtype)
    like = sources[0]
    write_size = extent_of(block_shape, targets[0] if isinstance(targets[0], Array) else like)
    for target, source in product(targets if overwrite else (), sources):
        if not isinstance(target, Array):
            check_survives(Location.of(target), source)
    with_dtypes = list(zip(targets, _dtypes(dtype, like.dtype, len(targets)), strict=True))
    task = functools.partial(
        _task,
        name or _name_of_function(fn),
        fn,
        sources,
        block_shape=block_shape,
        context=context,
        edge=edge,
        constant=constant,
        limits=limits,
    )
    task([planned(target, like, kind) for target, kind in with_dtypes])  # is refused before anything is replaced
    return task(
        [as_output(target, like, kind, write_size=write_size, overwrite=overwrite) for target, kind in with_dtypes]
    )


def _task(
    name: str,
    fn: Callable[..., Any],
    inputs: Sequence[Array],
    outputs: Sequence[Array],
    *,
    block_shape: CoordinateLike | None,
    context: CoordinateLike,
    edge: Edge,
    constant: complex,
    limits: Limits | None,
) -> Task:
    _check_regions(name, inputs, outputs)
    shared = functools.reduce(lambda roi, array: roi.intersect(array.roi), inputs, inputs[0].roi)
    function = functools.partial(
        _map_block,
        fn=fn,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        edge=edge,
        constant=constant,
        within=shared if edge == "shrink" else None,
    )
    return block_task(
        name,
        function,
        reads=inputs,
        writes=outputs,
        block_shape=block_shape,
        context=context,
        limits=limits,
        version=f"map, edge {edge}" + (f" {constant!r}" if edge == "constant" else ""),
    )


def _map_block(
    block: Block,
    *,
    fn: Callable[..., Any],
    inputs: tuple[Array, ...],
    outputs: tuple[Array, ...],
    edge: Edge,
    constant: complex,
    within: Roi | None,
) -> None:
    read = block.read_roi if within is None else block.read_roi.intersect(within)
    # No name holds on to what is read, so that it is gone when the result is written.
    values = fn(*[_read(array, read, edge, constant) for array in inputs])
    if not isinstance(values, tuple):
        values = (values,)
    if len(values) != len(outputs):
        raise ArrayError(f"{_name_of_function(fn)} returned {len(values)} arrays, but there are {len(outputs)} outputs")
    for output, value in zip(outputs, values, strict=True):
        region = output.snap(block.write_roi)
        output[region] = _fitting(fn, value, output, read, region)


def _read(array: Array, roi: Roi, edge: Edge, constant: complex) -> npt.NDArray[Any]:
    wanted = array.snap(roi)
    inside = wanted.intersect(array.roi)
    voxels = array.to_ndarray(inside)
    if inside == wanted:
        return voxels
    widths = [(part.start, n - part.stop) for part, n in _part_of(array, inside, wanted)]
    options = {"constant_values": constant} if edge == "constant" else {}
    return np.pad(voxels, widths, _PAD[edge], **options)


def _part_of(array: Array, inside: Roi, wanted: Roi) -> list[tuple[slice, int]]:
    """Return, per axis of the data, which voxels of a region another one within it is, and how many there are."""
    shape = array.layout.shape_of(wanted)
    parts = zip(array.layout.slices(inside, wanted.begin), shape, strict=True)
    return [(slice(*part.indices(n)), n) for part, n in parts]


def _fitting(fn: Callable[..., Any], value: Any, output: Array, read: Roi, write: Roi) -> npt.NDArray[Any]:
    """Return the voxels to be written, cropped from what ``fn`` returned; a view of it.

    Raises
    ------
    ArrayError
        If it has another shape or dtype than it should.
    """
    name = _name_of_function(fn)
    if not hasattr(value, "__array__"):
        raise ArrayError(f"{name} returned {type(value).__name__} for output {name_of(output)}: return a NumPy array")
    voxels = np.asarray(value)
    written = output.layout.shape_of(write)
    if voxels.shape != written:
        whole = output.layout.shape_of(read) if output.snap(read) == read else None
        if voxels.shape != whole:
            either = f" (the region that was read) or {written}" if whole not in (None, written) else ""
            raise ArrayError(
                f"{name} returned an array of shape {voxels.shape} for output {name_of(output)} with the axes "
                f"{', '.join(output.axis_names)}: it must be {whole or written}{either} (the region to be written)"
            )
        voxels = voxels[output.layout.slices(write, read.begin)]
    if not np.can_cast(voxels.dtype, output.dtype, "safe"):
        raise ArrayError(
            f"{name} returned {voxels.dtype}, which output {name_of(output)} of {output.dtype} does not hold: return "
            f"value.astype({output.dtype.name!r}), or make an output with dtype={voxels.dtype.name!r}"
        )
    return voxels


def _check_function(fn: Callable[..., Any], arguments: int) -> None:
    if not callable(fn):
        raise FunctionError(f"fn is {fn!r}, which can't be called")
    if any(is_lazy(fn) for is_lazy in _LAZY):
        raise FunctionError(
            f"{_name_of_function(fn)} is a generator or a coroutine: pass a function that returns arrays"
        )
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some builtins have none; they are tried as they are
        return
    try:
        signature.bind(*[None] * arguments)
    except TypeError as error:
        raise FunctionError(
            f"{_name_of_function(fn)} takes {signature}, but would be called with {arguments} arrays, one for each "
            "input: pass inputs to suit, and bind other parameters with functools.partial"
        ) from error


def _check_regions(name: str, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
    region = outputs[0].roi
    for array, what in [*((array, "input") for array in inputs), *((array, "output") for array in outputs[1:])]:
        if array.dims == region.dims and not array.roi.contains(array.snap(region)):
            raise TaskError(
                f"task {name!r}: the first output covers {region}, but {what} {name_of(array)} only {array.roi}: pass "
                "the view of the output that all have in common, output[roi]"
            )


def _dtypes(asked: DType | DTypes | None, default: np.dtype[Any], outputs: int) -> list[np.dtype[Any]]:
    if isinstance(asked, list | tuple):
        if len(asked) != outputs:
            raise TaskError(
                f"dtype has {len(asked)} entries, but there are {outputs} outputs: pass one, or one for each"
            )
        return [parse_dtype(one) for one in asked]
    return [default if asked is None else parse_dtype(asked)] * outputs


def _sequence(given: Source | Sequence[Source]) -> list[Source]:
    return list(given) if isinstance(given, list | tuple) else [given]  # type: ignore[list-item]


def _name_of_function(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", type(fn).__name__)
    return "map" if name == "<lambda>" else str(name)
