"""What ``bellis volume`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from bellis.cli.volume_report import VolumeStatus
    from bellis.cli.volume_work import Verified
    from bellis.volumes import CachedVolume

MOST_SHOWN = 20
"""So many blocks are named."""
UNKNOWN = "was not tried, or its error was not kept"


def status_lines(found: VolumeStatus) -> Iterator[str]:
    """Yield what people want to know; what is not there, or zero, is left out."""
    yield f"{found.name} ({found.kind})"
    for title, value in _rows(found):
        if value:
            yield f"  {title:12} {value}"


def download_lines(
    volume: CachedVolume,
    num_before: int,
    absent: npt.NDArray[np.int64],
    reasons: Mapping[tuple[int, ...], str],
    errors: Sequence[str] = (),
) -> Iterator[str]:
    """Yield how many blocks came, and which did not, the first of them by name."""
    yield (
        f"{volume.name}: {_blocks(num_before - len(absent))} fetched, {len(absent)} missing; "
        f"{human(volume.cache.usage(volume.view).num_bytes)} in {volume.path}"
    )
    indices = [tuple(index) for index in absent[:MOST_SHOWN].tolist()]
    bound = volume.cache.max_bytes
    why = UNKNOWN if bound is None else f"is not there; the cache keeps at most {human(bound)}, by its max_bytes"
    others = [tuple(volume.blocks.box(index).begin) for index in indices]
    failed = {at: reason for at, reason in reasons.items() if not volume.cache.has(volume.blocks.index_of(at))}
    rest = [(at, why) for at in others if at not in failed]
    yield from _named("missing", sorted(failed.items()) + rest, len(absent))
    for error in errors[:MOST_SHOWN]:
        yield f"  failed: {error}"


def verify_lines(volume: CachedVolume, found: Verified) -> Iterator[str]:
    """Yield how many blocks are sound, and which are not."""
    yield (
        f"{volume.name}: {_blocks(found.num_read)} read, {len(found.damaged)} damaged, {found.num_absent} missing"
        + ("; `bellis volume repair` fetches damaged ones again" if found.damaged else "")
    )
    yield from _problems(volume, found)


def repair_lines(volume: CachedVolume, found: Verified) -> Iterator[str]:
    """Yield what was mended, and what could not be."""
    left = "; leftovers of killed processes were removed" if found.has_left else ""
    yield (
        f"{volume.name}: {_blocks(found.num_read)} read, {found.num_mended} fetched again, {len(found.damaged)} could "
        f"not be, {found.num_absent} missing{left}"
    )
    if found.num_absent:
        yield "`bellis volume download` fetches what is missing"
    yield from _problems(volume, found)


def human(size: float) -> str:
    """Return bytes for people.

    >>> human(12), human(3_456_000)
    ('12 bytes', '3.46 MB')
    """
    units = ("kB", "MB", "GB", "TB")
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in units:
        size /= 1000
        if size < 1000 or unit == units[-1]:
            break
    return f"{size:.3g} {unit}"


def _rows(found: VolumeStatus) -> Iterable[tuple[str, str | None]]:
    bound = f" of at most {human(found.max_bytes)}" if found.max_bytes else ""
    hint = "; nobody waits for them, `bellis volume repair` removes them"
    checked = {True: "has a checksum", False: "has no checksum", None: "is not known to have a checksum"}
    rows: list[tuple[str, str | None]] = [
        ("source", found.source),
        ("kept in", found.folder),
        ("shape", f"{_by(found.shape)}, {found.dtype}" if found.shape else "not known before the first read"),
        ("view", f"{_by(found.view_shape)} at {_list(found.view_begin)}" if found.view_shape else None),
    ]
    if found.kind == "remote":
        return [*rows, ("blocks", "none are kept: the description says of no folder")]
    if found.num_blocks is not None:
        share = 100 * found.num_present // max(1, found.num_blocks)
        numbers = f"{found.num_present} of {found.num_blocks} in the view are there ({share} %)"
        rows.append(("blocks", f"of {_by(found.block_shape)}: {numbers}, {found.num_missing} missing"))
    rows.append(("on disk", f"{human(found.num_bytes)}{bound}"))
    rows.append(("quarantine", f"{found.num_quarantined} damaged blocks" if found.num_quarantined else None))
    rows.append(("fetched now", f"{found.num_leases} blocks" if found.num_leases else None))
    left = {"leases": found.num_stale_leases, "files": found.num_partials, "locks of lazyflow": found.num_locks}
    left_over = ", ".join(f"{count} {what}" for what, count in left.items() if count)
    rows.append(("left over", f"{left_over}{hint}" if left_over else None))
    rows.append(("lazyflow", f"{found.num_legacy} blocks, taken over when read" if found.num_legacy else None))
    rows.append(("in transit", checked[found.is_checked] if found.kind == "cached" else None))
    return rows


def _problems(volume: CachedVolume, found: Verified) -> Iterator[str]:
    damaged = [(tuple(volume.blocks.box(index).begin), reason) for index, reason in sorted(found.damaged.items())]
    yield from _named("damaged", damaged, len(damaged))
    for error in found.errors[:MOST_SHOWN]:
        yield f"  not verified: {error}"


def _named(what: str, blocks: Sequence[tuple[tuple[int, ...], str]], count: int) -> Iterator[str]:
    for begin, reason in blocks[:MOST_SHOWN]:
        yield f"  {what}: block at {begin}: {reason}"
    if (more := count - min(len(blocks), MOST_SHOWN)) > 0:
        yield f"  {what}: {more} more"


def _blocks(count: int) -> str:
    return "1 block" if count == 1 else f"{count} blocks"


def _by(values: Iterable[int] | None) -> str:
    return " x ".join(map(str, values or ()))


def _list(values: Iterable[int] | None) -> str:
    return f"({', '.join(map(str, values or ()))})"
