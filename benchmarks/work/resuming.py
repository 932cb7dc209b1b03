"""Starting a run again of which every block is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.work.blocks import touch
from benchmarks.work.measure import Watch, peak_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.work.libraries import Library


def prepare(library: Library, blocks: int) -> dict[str, float]:
    """Leave a finished journal in the working directory.

    bellis runs all the blocks. daisy would need a quarter of an hour for 10^7: it makes its store, a Zarr array of one
    byte per block, in a run that it abandons, and then all blocks are marked there.
    """
    if library.name == "bellis":
        with Watch() as watch:
            library.complete(_task(library, blocks), _journal())
        return {"seconds": watch.seconds}
    library.run(_task(library, blocks, refuse, max_retries=0, max_worker_restarts=1), _journal())
    for chunk in (_journal() / "done" / "c").iterdir():
        chunk.write_bytes(b"\1" * chunk.stat().st_size)
    return {}


def refuse(block: Any) -> None:
    """Fail."""
    raise ValueError(block)


def resume(library: Library, blocks: int) -> dict[str, float]:
    """Run again."""
    task = _task(library, blocks)
    with Watch() as watch:
        library.complete(task, _journal(), resumed=True)
    return {"seconds": watch.seconds, "peak_mb": peak_bytes() / 1e6}


def _journal() -> Path:
    return Path("journal").absolute()


def _task(library: Library, blocks: int, function: Callable[[Any], None] = touch, **options: Any) -> Any:
    if library.name == "daisy":
        options["tracking_path"] = str(_journal())
    return library.task("resumed", (blocks,), function, **options)
