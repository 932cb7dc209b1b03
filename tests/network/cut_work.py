"""What the hosts of the network tests run: ``python cut_work.py ENGINE BLOCKS FOLDER`` is the driver."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

import bellis
from bellis import Roi, Task
from bellis.runtime.events import Message, WorkerLost

if TYPE_CHECKING:
    from bellis import Block

FOLDER = Path(os.environ["BELLIS_TEST_FOLDER"])
HOST = os.environ.get("BELLIS_TEST_HOST", "nowhere")
BLOCK_S = float(os.environ.get("BELLIS_TEST_BLOCK_S", "0.05"))


def work(block: Block) -> None:
    """Write one number into the output, and who did it into the notes."""
    sleep(BLOCK_S)
    value = (block.write_roi.begin[0] * 2654435761) % 2**61
    output = os.open(FOLDER / "output", os.O_WRONLY)
    os.pwrite(output, value.to_bytes(8, "little"), 8 * block.write_roi.begin[0])
    os.close(output)
    notes = os.open(FOLDER / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(notes, f"{HOST}\n".encode())
    os.close(notes)


class Told:
    """Observer that keeps what users are told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.lost: list[str] = []

    def notify(self, event: Any) -> None:
        if isinstance(event, Message):
            self.messages.append(event.text)
        elif isinstance(event, WorkerLost):
            self.lost.append(f"{event.worker}: {event.reason}")

    def close(self) -> None: ...


def task(blocks: int) -> Task:
    return Task(
        "work", Roi((0,), (blocks,)), Roi((0,), (1,)), Roi((0,), (1,)), work, read_write_conflict=False, num_workers=8
    )


def main(kind: str, blocks: int) -> None:
    with (FOLDER / "output").open("wb") as output:
        output.truncate(8 * blocks)
    told = Told()
    options: dict[str, Any] = {"journal": FOLDER / "journal", "progress": False, "observers": [told]}
    if kind == "service":
        from bellis.service.engine import ServiceEngine

        engine: Any = ServiceEngine("10.77.1.2:8787", token_file=FOLDER / "token")
    elif kind == "dask":
        engine = "dask://10.77.1.2:8786"
    else:
        engine = kind
    report = partial(bellis.run, task(blocks), engine)(**options)
    counts = report.tasks["work"].counts
    (FOLDER / "report.json").write_text(
        json.dumps(
            {
                "ok": report.ok,
                "completed": counts.completed,
                "failures": [failure.error for failure in report.failures],
                "messages": told.messages,
                "lost": told.lost,
            }
        )
    )


if __name__ == "__main__":
    import cut_work  # under its own name, so that workers can import what it runs

    cut_work.main(sys.argv[1], int(sys.argv[2]))
