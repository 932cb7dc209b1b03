"""Other names for labels."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from bellis.errors import TaskError
from bellis.ops.blocks import as_input, as_output, block_task, name_of
from bellis.ops.frame import extent_of
from bellis.ops.steps import check_integers, check_same_voxels

if TYPE_CHECKING:
    import numpy.typing as npt

    from bellis.arrays import Array
    from bellis.geometry import CoordinateLike
    from bellis.ops.blocks import Limits, Source
    from bellis.tasks import Block, Task

    Integers: TypeAlias = npt.NDArray[np.integer[Any]]
    Table: TypeAlias = tuple[Integers | None, Integers]
    Lut: TypeAlias = Mapping[int, int] | tuple[npt.ArrayLike, npt.ArrayLike] | npt.NDArray[Any] | str | os.PathLike[str]

TABLE_SUFFIXES = (".parquet", ".pq")
"""How the path of a lookup table ends."""

Missing: TypeAlias = Literal["keep", "zero", "error"]
"""What becomes of labels that a lookup table does not have."""


def relabel(
    labels: Source,
    output: Source,
    lut: Lut,
    *,
    missing: Missing = "keep",
    block_shape: CoordinateLike | None = None,
    dtype: npt.DTypeLike | None = None,
    name: str = "relabel",
    overwrite: bool = False,
    limits: Limits | None = None,
) -> Task:
    """Replace labels as a lookup table says.

    Parameters
    ----------
    labels
        Array of integers, or the path of one.
    output
        Array of integers with the voxels of ``labels``, or the path of one to make.
    lut
        Old label -> new label: a mapping, a pair of arrays ``(old, new)``, or one array that is indexed by the label.
        It travels to every worker. Or the path of a Parquet file whose first two columns are old and new labels, as
        `agglomerate` writes it: workers read it when they need it, so that it need not be there yet.
    missing
        What becomes of labels that ``lut`` does not have: they are kept, become 0, or are an error. 0 stays 0 in any
        case, unless ``lut`` says otherwise.
    block_shape
        Voxels of a block: one number for all or one per axis. Picked if not given: whole chunks of the output, about
        128^3 voxels.
    dtype
        Integer type of a new output; that of ``labels`` if not given.
    name
        Id of the task.
    overwrite
        Replace an output that is there and has another region, voxel size, dtype or chunks; else that is an error.
    limits
        Workers, memory, retries.

    Raises
    ------
    ArrayError
        If an array can't be opened, or the output does not have the voxels of ``labels``.
    TaskError
        If ``lut`` is none, or the output's dtype does not hold its new labels.

    Examples
    --------
    >>> import bellis, numpy as np
    >>> from bellis import Array, ops
    >>> old, new = Array(np.array([0, 3, 7, 9])), Array(np.zeros(4, int))
    >>> bellis.run(ops.relabel(old, new, {3: 1, 7: 2}), "inline", progress=False).ok
    True
    >>> new.to_ndarray()
    array([0, 1, 2, 9])
    """
    source = as_input(labels)
    check_integers(f"task {name!r}", source)
    if missing not in get_args(Missing):
        raise TaskError(f"task {name!r}: missing is {missing!r}, must be one of {', '.join(get_args(Missing))}")
    size = extent_of(block_shape, source)
    target = as_output(output, source, dtype or source.dtype, write_size=size, overwrite=overwrite)
    check_integers(f"task {name!r}", target)
    check_same_voxels(f"task {name!r}", source, target)
    table: Table | Path
    if isinstance(lut, str | os.PathLike) and Path(lut).suffix.lower() in TABLE_SUFFIXES:
        table = Path(lut).absolute()
        digest = str(table)
    else:
        table = parse_lut(name, lut, source.dtype, target.dtype)
        digest = sha256(b"".join(b"" if column is None else column.tobytes() for column in table)).hexdigest()[:16]
    function = functools.partial(relabel_block, labels=source, output=target, lut=table, missing=missing)
    return block_task(
        name,
        function,
        reads=[source],
        writes=[target],
        block_shape=block_shape,
        limits=limits,
        version=f"lut {digest}, missing {missing}",
        total=source.roi,
    )


def relabel_block(block: Block, *, labels: Array, output: Array, lut: Table | Path, missing: Missing) -> None:
    """Write one block."""
    if isinstance(lut, Path):
        written = lut.stat().st_mtime_ns if lut.exists() else 0
        old, new = _stored_lut(block.task_id, lut, written, labels.dtype, output.dtype)
    else:
        old, new = lut
    ids, dense = compact(labels.to_ndarray(block.write_roi))
    renamed, is_known = look_up(ids, old, new)
    is_lost = ~is_known & (ids != 0)
    if missing == "error" and is_lost.any():
        few = ", ".join(map(str, np.sort(ids[is_lost])[:5].tolist()))
        raise TaskError(
            f"{block} has {is_lost.sum()} labels that lut does not have, {few}: pass missing='keep' or 'zero'"
        )
    if missing == "keep" and is_lost.any():
        kept = ids[is_lost]
        check_range(f"{block}: kept labels", int(kept.min()), int(kept.max()), output)
        renamed[is_lost] = kept.astype(output.dtype)
    output[block.write_roi] = renamed[dense]


def compact(labels: npt.NDArray[Any]) -> tuple[Integers, npt.NDArray[Any]]:
    """Return the labels that there are, each once and in any order, and an array of indices into them.

    Examples
    --------
    >>> ids, dense = compact(np.array([[7, 7], [0, 2**40]]))
    >>> ids[dense]
    array([[            7,             7],
           [            0, 1099511627776]])
    """
    import fastremap

    unsigned = np.ascontiguousarray(labels).view(f"u{labels.dtype.itemsize}")
    dense, names = fastremap.renumber(unsigned, start=0, preserve_zero=False)
    ids = np.empty(len(names), unsigned.dtype)
    ids[np.fromiter(names.values(), np.intp, len(names))] = np.fromiter(names.keys(), unsigned.dtype, len(names))
    return ids.view(labels.dtype), dense


def look_up(ids: Integers, old: Integers | None, new: Integers) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Return the new names of ``ids``, 0 for those that a table does not have, and which it has.

    Parameters
    ----------
    ids
        Labels.
    old
        Sorted labels of the same dtype; None if ``new`` is indexed by the label.
    new
        Their new names.
    """
    if not len(new):
        return np.zeros(len(ids), new.dtype), np.zeros(len(ids), bool)
    if old is None:
        is_known = (ids >= 0) & (ids < len(new))
        at = np.where(is_known, ids, 0).astype(np.intp)
    else:
        at = np.minimum(np.searchsorted(old, ids), len(old) - 1)
        is_known = old[at] == ids
    return np.where(is_known, new[at], new.dtype.type(0)), is_known


def parse_lut(name: str, lut: Any, source: np.dtype[Any], target: np.dtype[Any]) -> tuple[Integers | None, Integers]:
    """Return old labels, sorted, of dtype ``source``, or None if the table is indexed by the label; and new ones.

    Raises
    ------
    TaskError
        If it is no table of integers, says two things of one label, or ``target`` does not hold the new labels.
    """
    if isinstance(lut, Mapping):
        return _pairs(name, list(lut.keys()), list(lut.values()), source, target)
    if isinstance(lut, tuple) and len(lut) == 2:
        return _pairs(name, lut[0], lut[1], source, target)
    if isinstance(lut, np.ndarray) and lut.ndim == 1:
        return None, _integers(name, lut, target)
    found = f"{type(lut).__name__} {lut!r}" if isinstance(lut, str) else type(lut).__name__
    raise TaskError(
        f"task {name!r}: lut must be a mapping, a pair of arrays (old, new), an array that is indexed by the label, or "
        f"the path of a table that ends with .parquet, not {found}"
    )


@functools.lru_cache(maxsize=1)  # one table is read once, not for each block
def _stored_lut(name: str, path: Path, written: int, source: np.dtype[Any], target: np.dtype[Any]) -> Table:
    """Read a table of labels; as `parse_lut`."""
    import pyarrow as pa
    from pyarrow import parquet

    del written  # that a later table in the same place is another one
    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise TaskError(f"task {name!r}: lut {path} can't be read: {error}") from error
    kinds = [str(kind) for kind in table.schema.types[:2]]
    if len(kinds) < 2 or not all(pa.types.is_integer(kind) for kind in table.schema.types[:2]):
        raise TaskError(
            f"task {name!r}: lut {path} has the columns {', '.join(table.column_names)} of {', '.join(kinds)}: its "
            "first two must be integers, old and new labels"
        )
    old, new = (table.column(k).to_numpy() for k in range(2))
    return parse_lut(name, (old, new), source, target)


def _pairs(name: str, old: Any, new: Any, source: np.dtype[Any], target: np.dtype[Any]) -> tuple[Integers, Integers]:
    if len(old) != len(new):
        raise TaskError(f"task {name!r}: lut has {len(old)} old labels and {len(new)} new ones")
    is_signed = bool(len(old)) and np.min(np.asarray(old, None if isinstance(old, np.ndarray) else object)) < 0
    wide = np.dtype(np.int64 if is_signed else np.uint64)
    before, after = _integers(name, old, wide), _integers(name, new, target)
    limits = np.iinfo(source)
    # What the labels' dtype does not hold can't occur.
    can_be = (before >= max(limits.min, np.iinfo(wide).min)) & (before <= min(limits.max, np.iinfo(wide).max))
    before, after = before[can_be].astype(source), after[can_be]
    order = np.argsort(before, kind="stable")
    before, after = before[order], after[order]
    twice = np.flatnonzero((before[1:] == before[:-1]) & (after[1:] != after[:-1]))
    if len(twice):
        raise TaskError(f"task {name!r}: lut has two new labels for {before[twice[0]]}")
    return before, after


def _integers(name: str, values: npt.ArrayLike | Sequence[int], dtype: np.dtype[Any]) -> Integers:
    if not isinstance(values, np.ndarray):
        values = np.array(values, dtype=object)
    if values.ndim != 1 or values.dtype.kind not in "iubO":
        raise TaskError(f"task {name!r}: lut must be of integers in one dimension, not {values.dtype}{values.shape}")
    if not len(values):
        return np.empty(0, dtype)
    if values.dtype.kind == "O" and not all(isinstance(v, int | np.integer) for v in values):
        raise TaskError(f"task {name!r}: lut must be of integers")
    low, high = int(values.min()), int(values.max())
    limits = np.iinfo(dtype)
    if low < limits.min or high > limits.max:
        raise TaskError(f"task {name!r}: lut has values from {low} to {high}, which {dtype} does not hold: pass dtype=")
    return values.astype(dtype)


def check_range(what: str, low: int, high: int, output: Array) -> None:
    """Refuse labels that an output does not hold.

    Raises
    ------
    TaskError
        With the labels and the output's dtype.
    """
    limits = np.iinfo(output.dtype)
    if low < limits.min or high > limits.max:
        raise TaskError(
            f"{what} are from {low} to {high}, which {name_of(output)} of dtype {output.dtype} does not "
            "hold: pass dtype="
        )
