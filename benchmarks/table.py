"""Samples to medians, ratios and a Markdown table."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.cases import CASES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.cases import Case, Figure

Samples = list[dict[str, Any]]

_HEAD = ("benchmark", "figure", "must", "bellis", "", "peer", "peer's", "bellis is better by")


def render(results: dict[str, Any]) -> str:
    """Return the results of `benchmarks`, as its JSON file has them, as Markdown."""
    lines = [f"- {name}: {value}" for name, value in results["machine"].items()]
    lines += _disturbance(results["cases"])
    rows = [row for case in CASES if case.name in results["cases"] for row in _rows(case, results["cases"][case.name])]
    return "\n".join([*lines, "", *_aligned([_HEAD, *rows])])


def _disturbance(cases: dict[str, dict[str, Samples]]) -> Iterator[str]:
    every = [sample.get("others") for sides in cases.values() for samples in sides.values() for sample in samples]
    known = sorted(share for share in every if share is not None)
    if known:
        shown = f"{100 * median(known):.0f} %, at times {100 * known[-1]:.0f} %"
        yield f"- other processes used: {shown} of the machine"


def _rows(case: Case, samples: dict[str, Samples]) -> Iterator[tuple[str, ...]]:
    ours, *peers = case.sides
    title = case.title
    for figure in case.figures:
        own = samples.get(ours.label, [])
        mine, spread = _cell(figure, own), _spread(figure, own)
        first = (title, figure.label, _must(figure), mine + spread, _verdict(figure, own))
        shown = [peer for peer in peers if samples.get(peer.label)]
        for peer in shown:
            theirs = samples[peer.label]
            label = f"{peer.label} ({peer.note})" if peer.note else peer.label
            yield (*first, label, _cell(figure, theirs), _ratio(figure, own, theirs))
            first = ("", "", "", "", "")
        if not shown:
            yield (*first, "", "", "")
        title = ""


def _value(figure: Figure, samples: Samples) -> float | None:
    values = [sample[figure.key] for sample in samples if figure.key in sample]
    return median(values) if values else None


def _cell(figure: Figure, samples: Samples) -> str:
    value = _value(figure, samples)
    if value is not None:
        return written(value, figure.unit)
    waited_s = next((sample["timeout_s"] for sample in samples if "timeout_s" in sample), None)
    if waited_s is not None:
        return f"> {waited_s:g} s" if figure.unit == "s" else f"not in {waited_s:g} s"
    return "failed" if any("error" in sample for sample in samples) else ""


def _spread(figure: Figure, samples: Samples) -> str:
    values = [sample[figure.key] for sample in samples if figure.key in sample]
    if len(values) < 2 or min(values) == max(values):
        return ""
    return f" ({written(min(values), figure.unit)} to {written(max(values), figure.unit)})"


def _must(figure: Figure) -> str:
    if figure.must is None:
        return ""
    return f"{'>=' if figure.more_is_better else '<='} {written(figure.must, figure.unit)}"


def _verdict(figure: Figure, samples: Samples) -> str:
    value = _value(figure, samples)
    if figure.must is None or value is None:
        return ""
    is_reached = value >= figure.must if figure.more_is_better else value <= figure.must
    return "yes" if is_reached else "**no**"


def _ratio(figure: Figure, ours: Samples, theirs: Samples) -> str:
    mine, other = _value(figure, ours), _value(figure, theirs)
    if mine is None or figure.unit == "" or figure.key == "parent_share":
        return ""
    sign = ""
    if other is None and figure.unit == "s":
        other, sign = next((sample["timeout_s"] for sample in theirs if "timeout_s" in sample), None), "> "
    if other is None:
        return ""
    above, below = (mine, other) if figure.more_is_better else (other, mine)
    return f"{sign}{above / below:.3g} x" if below > 0 else ""


def written(value: float, unit: str) -> str:
    """Write a figure with about three digits and its unit."""
    if unit == "%":
        return f"{100 * value:.1f} %"
    if unit in {"/s", ""}:
        digits = max(0, len(str(int(value))) - 3)
        return f"{round(value, -digits):,.0f}{' ' + unit if unit else ''}"
    return f"{value:.3g} {unit}" if abs(value) < 100 else f"{value:,.0f} {unit}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        if number == 0:
            yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"
