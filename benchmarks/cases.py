"""What is compared: for each benchmark the sides, their sizes, and the figures to reach."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One participant of a benchmark."""

    label: str
    """As in the table."""
    library: Literal["bellis", "daisy", "none"]
    """What the work is done with; daisy is run by the peers' Python."""
    work: str
    """``module.function`` in `benchmarks.work`."""
    full: dict[str, Any] = field(default_factory=dict)
    """Parameters of the work."""
    toy: dict[str, Any] = field(default_factory=dict)
    """Parameters of the work at toy size."""
    prepare: str | None = None
    """Work done once before the first round, with the same parameters; all rounds then share its directory."""
    rounds: int | None = None
    """At most so many rounds."""
    timeout_s: float = 300.0
    """Give up after this time."""
    note: str = ""
    """What a reader of the figures must know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure that a benchmark gives for each side."""

    label: str
    """As in the table."""
    key: str
    """Its name in what the work returns; ``process_s`` is the wall time of the whole process."""
    unit: Literal["/s", "s", "MB", "bytes", "%", ""]
    """How it is written."""
    more_is_better: bool = False
    """Whether a larger one is better."""
    must: float | None = None
    """What bellis must reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One benchmark."""

    name: str
    """To be chosen by."""
    title: str
    """As in the table."""
    figures: tuple[Figure, ...]
    """What it gives."""
    sides: tuple[Side, ...]
    """Who takes part, bellis first."""


def _pair(
    work: str,
    full: dict[str, Any],
    toy: dict[str, Any],
    daisy: dict[str, Any] | None = None,
    note: str = "",
    **options: Any,
) -> tuple[Side, Side]:
    """Return bellis and daisy; ``daisy`` has the parameters that differ for it."""
    ours = Side(label="bellis", library="bellis", work=work, full=full, toy=toy, prepare=options.get("prepare"))
    theirs = Side(
        label="daisy 2", library="daisy", work=work, full={**full, **(daisy or {})}, toy=toy, note=note, **options
    )
    return ours, theirs


def _rate(must: float) -> tuple[Figure, ...]:
    return (
        Figure(label="blocks", key="blocks_per_s", unit="/s", more_is_better=True, must=must),
        Figure(label="share of the time in which the parent computes", key="parent_share", unit="%"),
    )


def _pool(chunksize: int, calls: int) -> Side:
    return Side(
        label=f"Pool, chunksize {chunksize}", library="none", work="pool.imap", note=f"{calls:,} calls",
        full={"blocks": calls, "chunksize": chunksize}, toy={"blocks": 1000, "chunksize": chunksize},
    )  # fmt: skip


CASES = (
    Case(
        name="null", title="10^6 null blocks, no conflicts", figures=_rate(400_000),
        sides=(
            *_pair("blocks.null", {"counts": [1_000_000]}, {"counts": [300]}, {"counts": [40_000]}, "40,000 blocks"),
            _pool(1, 200_000), _pool(64, 1_000_000),
        ),
    ),
    Case(
        name="journal", title="10^6 null blocks, with a journal", figures=_rate(400_000),
        sides=_pair(
            "blocks.null", {"counts": [1_000_000], "journal": True}, {"counts": [300], "journal": True},
            {"counts": [40_000]}, "40,000 blocks",
        ),
    ),
    Case(
        name="conflict", title="10^6 null blocks, 3-D, conflicts, context of 1 block", figures=_rate(200_000),
        sides=_pair(
            "blocks.null", {"counts": [100] * 3, "context": 1, "conflict": True},
            {"counts": [6] * 3, "context": 1, "conflict": True}, {"counts": [30] * 3}, "27,000 blocks",
        ),
    ),
    Case(
        name="chain", title="10^6 null blocks, chain of 3 tasks, 3-D, context of 1 block", figures=_rate(150_000),
        sides=_pair("blocks.chain", {"count": 68}, {"count": 4}, {"count": 20}, "32,000 blocks"),
    ),
    Case(
        name="chain_conflict", title="the same chain, conflicts within each task too", figures=_rate(150_000),
        sides=_pair(
            "blocks.chain", {"count": 68, "conflict": True}, {"count": 4, "conflict": True}, {"count": 20},
            "32,000 blocks",
        ),
    ),
    Case(
        name="one", title="one block, whole process, import included",
        figures=(Figure(label="wall time", key="process_s", unit="s", must=0.5),),
        sides=_pair("blocks.one", {}, {}),
    ),
    *(
        Case(
            name=f"plan_{dims}d", title=f"plan and scheduler for 10^9 blocks, {dims}-D",
            figures=(
                Figure(label="time", key="seconds", unit="s", must=0.1),
                Figure(label="memory of the process", key="peak_mb", unit="MB", must=200),
            ),
            sides=_pair("scheduling.planned", {"counts": counts}, {"counts": [10] * dims}),
        )
        for dims, counts in ((3, [1000] * 3), (1, [10**9]))
    ),
    Case(
        name="scheduler", title="scheduler alone, 8 M blocks, 3-D, conflicts",
        figures=(
            Figure(label="memory per block", key="bytes_per_block", unit="bytes", must=2),
            Figure(label="blocks", key="blocks_per_s", unit="/s", more_is_better=True),
        ),
        sides=_pair("scheduling.memory", {"count": 200}, {"count": 8}, {"count": 100}, "10^6 blocks"),
    ),
    Case(
        name="memory", title="run of 8 M null blocks, 3-D, conflicts",
        figures=(
            Figure(label="memory of the parent per block", key="bytes_per_block", unit="bytes", must=2),
            Figure(label="blocks", key="blocks_per_s", unit="/s", more_is_better=True),
        ),
        sides=_pair("blocks.run_memory", {"count": 200}, {"count": 6}, {"count": 50}, "125,000 blocks", rounds=1),
    ),
    Case(
        name="fan_in", title="reduce: one block reads 20,000",
        figures=(Figure(label="wall time of the run", key="seconds", unit="s", must=1.0),),
        sides=_pair("blocks.fan_in", {"blocks": 20_000}, {"blocks": 200}, rounds=1, timeout_s=60.0),
    ),
    Case(
        name="resume", title="resume, 10^7 blocks done",
        figures=(
            Figure(label="wall time of the run", key="seconds", unit="s", must=0.5),
            Figure(label="wall time of the process", key="process_s", unit="s"),
            Figure(label="memory of the process", key="peak_mb", unit="MB"),
        ),
        sides=_pair("resuming.resume", {"blocks": 10**7}, {"blocks": 1000}, prepare="resuming.prepare"),
    ),
    *(
        Case(
            name=name, title=title,
            figures=(
                Figure(label="of ideal", key="efficiency", unit="%", more_is_better=True, must=0.98),
                Figure(label="from first block to last", key="without_start", unit="%", more_is_better=True),
            ),
            sides=_pair("waiting.efficiency", {"blocks": 1000, "busy": busy}, {"blocks": 12, "busy": busy}),
        )
        for name, title, busy in (
            ("sleep", "1,000 blocks that sleep 20 ms", False),
            ("busy", "1,000 blocks that compute 20 ms", True),
        )
    ),
    *(
        Case(
            name=f"failing_{percent}", title=f"512 blocks of which {percent} % always fail",
            figures=(
                Figure(label="done", key="done", unit="", more_is_better=True),
                Figure(label="good blocks not done", key="left", unit="", must=0),
            ),
            sides=_pair(
                "blocks.failing", {"blocks": 512, "percent": percent}, {"blocks": 100, "percent": percent}, rounds=1
            ),
        )
        for percent in (1, 5)
    ),
)  # fmt: skip
