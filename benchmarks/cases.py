"""What is compared: for each benchmark the sides, their sizes, and the figures to reach."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One participant of a benchmark."""

    label: str
    """As in the table."""
    library: Literal["bellis", "daisy", "peers", "none"]
    """What the work is done with; daisy and the other peers have a Python of their own."""
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


def _operation(
    name: str,
    title: str,
    size: int,
    peers: tuple[Side, ...],
    figures: tuple[Figure, ...],
) -> Case:
    """Return an operation on a cube of voxels, by bellis and by others on the same cube."""
    size_of = {"size": size, "block": 128}
    toy = {"size": 64, "block": 32}
    work = name.partition("_")[0]
    ours = Side(label="bellis", library="bellis", work=f"volumes.{work}_bellis")
    return Case(
        name=name, title=title, figures=figures,
        sides=tuple(
            replace(side, full={**size_of, **side.full}, toy={**toy, **side.toy}, prepare="volumes.prepare")
            for side in (ours, *peers)
        ),
    )  # fmt: skip


def _dask(processes: bool) -> Side:
    kind = {"processes": processes}
    return Side(
        label=f"dask map_overlap, {'processes' if processes else 'threads'}",
        library="peers", work="peers.map_dask", full=kind, toy=kind,
    )  # fmt: skip


_MAPPERS = (
    Side(label="limit: kernel and I/O by tensorstore, over 2 cores", library="none", work="volumes.map_alone"),
    Side(label="two bare processes with tensorstore", library="none", work="volumes.map_pair"),
    _dask(processes=False),
    _dask(processes=True),
    Side(label="cubed, processes", library="peers", work="peers.map_cubed"),
    Side(label="daisy 2 with zarr-python", library="daisy", work="peers.map_daisy"),
)
_WALL = Figure(label="wall time", key="seconds", unit="s")
_PEAK = Figure(label="peak memory of a process", key="peak_mb", unit="MB")


def _elsewhere(name: str, title: str, path: str, latency_s: float, readers: int, peers: tuple[str, ...]) -> Case:
    """Return the reading of what is behind a web server, by bellis and by others; all side by side on one volume."""
    options = {"edge": 128, "path": path, "latency_s": latency_s, "readers": readers}
    full = {"size": 512, "block": 64, **options}
    toy = {"size": 64, "block": 16, **options, "edge": 24}
    labels = {"tensorstore": "tensorstore, keeps nothing", "cloudvolume": "cloud-volume, with its cache"}
    sides = [Side(label="bellis", library="bellis", work="elsewhere.cold_bellis")]
    for peer in peers:
        library: Literal["peers", "none"] = "peers" if peer == "cloudvolume" else "none"
        sides.append(Side(label=labels[peer], library=library, work=f"elsewhere.cold_{peer}"))
    figures = (
        Figure(label="for the first time", key="seconds", unit="s"),
        Figure(label="again", key="again_s", unit="s"),
        Figure(label="peak memory of the process", key="peak_mb", unit="MB"),
    )
    return Case(
        name=name, title=title, figures=figures,
        sides=tuple(replace(side, full=full, toy=toy, prepare="elsewhere.prepare") for side in sides),
    )  # fmt: skip


_DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def _columns(database: str, must: float) -> Case:
    """Return the writing of a graph through columns."""
    figures = (
        Figure(label="nodes", key="nodes_per_s", unit="/s", more_is_better=True, must=must),
        Figure(label="edges", key="edges_per_s", unit="/s", more_is_better=True),
        Figure(label="both", key="rows_per_s", unit="/s", more_is_better=True),
        _PEAK,
    )
    side = Side(
        label="bellis", library="bellis", work="graphs.columns",
        full={"edge": 100, "database": database}, toy={"edge": 6, "database": database},
    )  # fmt: skip
    title = f"10^6 nodes and 3 x 10^6 edges written through columns, {_DATABASES[database]}"
    return Case(name=f"columns_{database}", title=title, figures=figures, sides=(side,))


def _graph(name: str, title: str, figures: tuple[Figure, ...], options: dict[str, Any], **both: Any) -> Case:
    """Return work on a graph, by bellis and by funlib.persistence on the same database."""
    full, toy = options, {**options, **both.pop("toy")}
    ours = Side(label="bellis", library="bellis", full=full, toy=toy, **both)
    theirs = replace(ours, label="funlib.persistence", library="peers", timeout_s=1200)
    return Case(name=name, title=title, figures=figures, sides=(ours, theirs))


def _regions(database: str, must_s: float) -> Case:
    """Return the reading of small regions of a large graph."""
    return _graph(
        f"regions_{database}", f"the 1,000 nodes of a region out of 10^7, {_DATABASES[database]}",
        (Figure(label="median of a read", key="seconds", unit="s", must=must_s),),
        {"edge": 216, "database": database, "reads": 100}, toy={"edge": 12, "reads": 2},
        work="graphs.regions", prepare="graphs.fill",
    )  # fmt: skip


def _networkx(database: str) -> Case:
    """Return the writing and reading of a networkx graph."""
    return _graph(
        f"networkx_{database}", f"networkx graph of 10^5 nodes and 3 x 10^5 edges, {_DATABASES[database]}",
        (
            Figure(label="written", key="write_s", unit="s"),
            Figure(label="read", key="read_s", unit="s"),
            Figure(label="read, of the time to build it from lists", key="of_networkx", unit="%", must=1.3),
        ),
        {"edge": 46, "database": database}, toy={"edge": 5}, work="graphs.networkx_graph",
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
    *(
        _operation(
            f"map_{size}", f"Gaussian of {size}^3 uint8 voxels, sigma 2, blocks of 128^3", size, _MAPPERS,
            (_WALL, replace(_PEAK, must=3 * (144**3 + 128**3) / 1e6 + 150)),
        )
        for size in (512, 1024)
    ),
    _operation(
        "label_512", "connected components of 512^3 voxels, 26 neighbours, blocks of 128^3", 512,
        (
            Side(label="cc3d, whole array", library="none", work="volumes.label_cc3d"),
            Side(
                label="dask-image", library="peers", work="peers.label_dask_image", rounds=1, timeout_s=120,
            ),
        ),
        (replace(_WALL, must=4), _PEAK),
    ),
    _operation(
        "downscale_512", "means of 2^3 voxels of 512^3", 512,
        (
            Side(label="dask coarsen, threads", library="peers", work="peers.downscale_dask"),
            Side(label="ome-zarr local mean, threads", library="peers", work="peers.downscale_ome_zarr"),
        ),
        (_WALL, _PEAK),
    ),
    Case(
        name="reads", title="unaligned regions of 128^3 voxels",
        figures=(_WALL, Figure(label="of bare tensorstore", key="of_bare", unit="%", must=1.1)),
        sides=(
            Side(
                label="bellis", library="bellis", work="volumes.reads_bellis", prepare="volumes.prepare",
                full={"size": 512, "block": 128, "regions": 100}, toy={"size": 64, "block": 32, "regions": 4},
            ),
        ),
    ),
    Case(
        name="kept", title="unaligned regions of 128^3 voxels from a full cache, blocks of 64^3, checksums",
        figures=(
            Figure(label="wall time", key="seconds", unit="s"),
            Figure(
                label="of the throughput of bare tensorstore", key="of_bare", unit="%", more_is_better=True, must=0.9
            ),
        ),
        sides=(
            Side(
                label="bellis", library="bellis", work="elsewhere.kept_bellis", prepare="elsewhere.prepare",
                full={"size": 512, "block": 64, "edge": 128, "rounds": 9},
                toy={"size": 64, "block": 16, "edge": 24, "rounds": 2},
            ),
        ),
    ),
    _elsewhere(
        "cold", "27 unaligned regions of 128^3 voxels over HTTP, chunks of 64^3, one reader",
        "remote.zarr", 0.0, 1, ("tensorstore",),
    ),
    _elsewhere(
        "far", "the same, each request takes 30 ms more, one reader", "remote.zarr", 0.03, 1, ("tensorstore",)
    ),
    _elsewhere(
        "far_8", "the same, each request takes 30 ms more, eight readers", "remote.zarr", 0.03, 8, ("tensorstore",)
    ),
    _elsewhere(
        "layer", "27 unaligned regions of 128^3 voxels of a precomputed layer over HTTP, one reader",
        "layer", 0.0, 1, ("cloudvolume", "tensorstore"),
    ),
    _columns("sqlite", 300_000),
    _columns("postgresql", 200_000),
    _regions("sqlite", 0.003),
    _regions("postgresql", 0.005),
    _networkx("sqlite"),
    _networkx("postgresql"),
    Case(
        name="segment", title="segmentation of 20 x 2048^2 voxels, blocks of 10 x 256 x 256",
        figures=(_WALL, Figure(label="share outside kernels", key="outside", unit="%", must=0.1)),
        sides=tuple(
            Side(
                label=label, library="bellis", work=f"segmentation.{work}", prepare="segmentation.prepare",
                full={"edge": 2048, "block": 256}, toy={"edge": 64, "block": 32}, rounds=3,
            )
            for label, work in (("bellis", "segment_bellis"), ("limit: kernels alone, over 2 cores", "kernels_alone"))
        ),
    ),
    Case(
        name="dask_null", title="10^6 null blocks on a Dask cluster of two worker processes",
        figures=(
            Figure(label="blocks", key="blocks_per_s", unit="/s", more_is_better=True, must=100_000),
            Figure(label="of client.map in the same cluster", key="of_map", unit="", more_is_better=True, must=50),
        ),
        sides=(
            Side(
                label="bellis", library="bellis", work="dask.null",
                full={"blocks": 1_000_000}, toy={"blocks": 300},
            ),
            Side(
                label="Dask, client.map", library="none", work="dask.mapped",
                full={"blocks": 5000}, toy={"blocks": 100}, note="5,000 calls",
            ),
        ),
    ),
    Case(
        name="dask_sleep", title="2,000 blocks that sleep 20 ms, on a Dask cluster of two worker processes",
        figures=(
            Figure(label="of ideal", key="efficiency", unit="%", more_is_better=True, must=0.97),
            Figure(label="from first block to last", key="without_start", unit="%", more_is_better=True),
        ),
        sides=(
            Side(
                label="bellis", library="bellis", work="dask.efficiency",
                full={"blocks": 2000, "busy": False}, toy={"blocks": 12, "busy": False},
            ),
        ),
    ),
    Case(
        name="service_null", title="10^6 null blocks, two clients in groups of 256",
        figures=(Figure(label="blocks", key="blocks_per_s", unit="/s", more_is_better=True, must=100_000),),
        sides=(
            Side(
                label="bellis", library="bellis", work="service.null",
                full={"blocks": 1_000_000, "at_once": 256}, toy={"blocks": 300, "at_once": 16},
            ),
        ),
    ),
    Case(
        name="service_acquire", title="10^6 null blocks, two clients, each block by acquire_block",
        figures=(Figure(label="blocks", key="blocks_per_s", unit="/s", more_is_better=True, must=30_000),),
        sides=(
            Side(
                label="bellis", library="bellis", work="service.null",
                full={"blocks": 1_000_000, "at_once": 1}, toy={"blocks": 300, "at_once": 1},
            ),
            Side(
                label="daisy 2", library="daisy", work="service.null",
                full={"blocks": 20_000, "at_once": 1}, toy={"blocks": 30, "at_once": 1}, note="20,000 blocks",
            ),
        ),
    ),
    Case(
        name="service_sleep", title="2,000 blocks that sleep 20 ms, two clients",
        figures=(
            Figure(label="of ideal", key="efficiency", unit="%", more_is_better=True, must=0.97),
            Figure(label="from first block to last", key="without_start", unit="%", more_is_better=True),
        ),
        sides=(
            Side(
                label="bellis", library="bellis", work="service.efficiency",
                full={"blocks": 2000, "busy": False}, toy={"blocks": 12, "busy": False},
            ),
        ),
    ),
    Case(
        name="service_crowd", title="1,000 light workers, 4 x 10^5 blocks of 100 ms: 10,000 blocks/s are ideal",
        figures=(
            Figure(label="blocks", key="blocks_per_s", unit="/s", more_is_better=True, must=10_000),
            Figure(label="of ideal", key="of_ideal", unit="%", more_is_better=True),
            Figure(label="answer to a turn, median", key="p50_s", unit="s"),
            Figure(label="answer to a turn, 99th percentile", key="p99_s", unit="s"),
            Figure(label="share of the time in which the parent computes", key="parent_share", unit="%"),
        ),
        sides=(
            Side(
                label="bellis", library="bellis", work="service.crowd",
                full={"workers": 1000, "blocks": 400_000, "block_s": 0.1},
                toy={"workers": 10, "blocks": 100, "block_s": 0.01},
            ),
        ),
    ),
    Case(
        name="service_idle", title="1,000 idle workers",
        figures=(
            Figure(label="memory per worker", key="bytes_per_worker", unit="bytes", must=100_000),
        ),
        sides=(
            Side(label="bellis", library="bellis", work="service.idle", full={"workers": 1000}, toy={"workers": 10}),
        ),
    ),
)  # fmt: skip
