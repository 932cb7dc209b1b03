"""Hypothesis strategies for coordinates and rois."""

from hypothesis import strategies as st

from bellis.geometry import Coordinate, Roi

_MAX_DIMS = 4


def _ranks(dims: int | None) -> st.SearchStrategy[int]:
    return st.integers(1, _MAX_DIMS) if dims is None else st.just(dims)


def coordinates(
    dims: int | None = None, *, min_value: int = -100, max_value: int = 100
) -> st.SearchStrategy[Coordinate]:
    """Draw coordinates without ``None``.

    Parameters
    ----------
    dims
        Number of elements; ``None`` draws that too, from 1 to 4.
    min_value, max_value
        Bounds of each element, both included.
    """

    def of_rank(rank: int) -> st.SearchStrategy[Coordinate]:
        elements = [st.integers(min_value, max_value)] * rank
        return st.tuples(*elements).map(Coordinate)

    return _ranks(dims).flatmap(of_rank)


def rois(
    dims: int | None = None,
    *,
    unbounded: bool = False,
    max_offset: int = 100,
    max_extent: int = 100,
) -> st.SearchStrategy[Roi]:
    """Draw rois, empty ones among them.

    Parameters
    ----------
    dims
        Number of dimensions; ``None`` draws that too, from 1 to 4.
    unbounded
        Whether axes without an end, or without beginning and end, are drawn too.
    max_offset, max_extent
        Offsets are from ``-max_offset`` to ``max_offset``, extents from 0 to ``max_extent``.
    """
    offsets = st.integers(-max_offset, max_offset)
    axes: st.SearchStrategy[tuple[int | None, int | None]] = st.tuples(offsets, st.integers(0, max_extent))
    if unbounded:
        axes |= st.tuples(st.none() | offsets, st.none())

    def of_axes(drawn: list[tuple[int | None, int | None]]) -> Roi:
        return Roi((offset for offset, _ in drawn), (extent for _, extent in drawn))

    return _ranks(dims).flatmap(lambda rank: st.lists(axes, min_size=rank, max_size=rank)).map(of_axes)


@st.composite
def boxes(draw: st.DrawFn, roi: Roi, size: Coordinate) -> Roi:
    """Draw a region within ``roi``, of whole voxels of a size, from where ``roi`` begins; it may be empty."""
    voxels = roi.shape // size
    begin = Coordinate([draw(st.integers(0, n)) for n in voxels])
    extent = Coordinate([draw(st.integers(0, n - b)) for n, b in zip(voxels, begin, strict=True)])
    return Roi(roi.begin + begin * size, extent * size)
