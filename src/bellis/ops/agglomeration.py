"""Average linkage on a graph of regions, by rounds in which many pairs of regions are joined at once."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Ids = npt.NDArray[np.uint64]
    Places = npt.NDArray[np.int64]
    Values = npt.NDArray[np.float64]

PER_ROUND = 1000
"""A round that looks at so many links for one that it joins is not worth it: the rest is done one by one."""

_SHUFFLE = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio, and odd."""


class Links(NamedTuple):
    """Contacts of regions; each pair is there once, and ``u < v``."""

    u: Places
    """The region with the smaller number."""
    v: Places
    """The other one."""
    total: Values
    """Sum of the boundary over the contact: mean times weight."""
    weight: Values
    """Size of the contact."""

    def select(self, rows: npt.NDArray[np.bool_] | Places) -> Links:
        """Return some of them."""
        return Links(self.u[rows], self.v[rows], self.total[rows], self.weight[rows])


def merged(ids: Ids, u: Places, v: Places, score: Values, weight: Values, threshold: float) -> Places:
    """Join regions until no two that touch have a mean boundary below a threshold.

    The two regions with the least mean are joined, and what both touch gets the mean over both contacts, weighted by
    their sizes. A mean of two contacts is never below both, so that pairs of regions, each of which is the nearest to
    the other, will be joined whatever happens elsewhere; all such pairs are joined in one round. That is the
    same as one by one, and needs a few dozen rounds of NumPy.

    Parameters
    ----------
    ids
        Names of the regions, each once.
    u, v
        Regions that touch, by their places in ``ids``, shape (n,); pairs in any order, also more than once.
    score
        Mean boundary over the contact, shape (n,).
    weight
        Size of the contact, shape (n,), > 0.
    threshold
        Regions with a mean of this or more stay apart.

    Returns
    -------
    numpy.ndarray
        For each region, the first one of those that it is joined with; of the shape of ``ids``, int64. Which of two
        pairs with the same mean is joined first depends on the names of their first regions and on nothing else: what
        happens in one part of a graph is the same whatever there is in others.

    References
    ----------
    J. P. Benzécri, Les cahiers de l'analyse des données 7 (1982) 209; F. Murtagh, The Computer Journal 26 (1983) 354.

    Examples
    --------
    >>> ids, u, v = np.array([7, 8, 9], "uint64"), np.array([0, 1, 0]), np.array([1, 2, 2])
    >>> merged(ids, u, v, np.array([0.1, 0.8, 0.3]), np.array([1.0, 1.0, 4.0]), threshold=0.5)
    array([0, 0, 0])
    >>> merged(ids, u, v, np.array([0.1, 0.8, 0.3]), np.array([1.0, 4.0, 1.0]), threshold=0.5)
    array([0, 0, 2])
    """
    count = len(ids)
    parent = np.arange(count, dtype=np.int64)
    low, high = np.minimum(u, v).astype(np.int64), np.maximum(u, v).astype(np.int64)
    weights = weight.astype(np.float64)
    links = _summed(Links(low, high, score * weights, weights).select(low != high), count)
    names = _shuffled(ids.astype(np.uint64))
    least, first = np.full(count, np.inf), np.zeros(count, np.uint64)
    is_joined = np.zeros(count, bool)
    while True:
        mean = links.total / links.weight
        near = np.flatnonzero(mean < threshold)
        if not len(near):
            return _roots(parent)
        nearest = _nearest(links, mean, near, names, least, first)
        if len(nearest) * PER_ROUND < len(links.u):
            _one_by_one(links, parent, threshold)
            return _roots(parent)
        into, gone = links.u[nearest], links.v[nearest]
        parent[gone] = into
        # A region without a contact below the threshold will never have one, because means do not get less.
        is_open = np.zeros(count, bool)
        is_open[links.u[near]] = is_open[links.v[near]] = True
        links = links.select(is_open[links.u] & is_open[links.v])
        is_joined[into] = is_joined[gone] = True
        touched = is_joined[links.u] | is_joined[links.v]
        is_joined[into] = is_joined[gone] = False
        links = _rejoined(links, touched, parent, count)


def _nearest(links: Links, mean: Values, near: Places, names: Ids, least: Values, first: Ids) -> Places:
    """Return the links whose two regions are the nearest to each other.

    ``least`` and ``first`` are room for a number per region.
    """
    u, v, mean = links.u[near], links.v[near], mean[near]
    least[u] = least[v] = np.inf
    np.minimum.at(least, u, mean)
    np.minimum.at(least, v, mean)
    rows = np.flatnonzero((mean == least[u]) | (mean == least[v]))
    u, v, mean = u[rows], v[rows], mean[rows]
    # In the order of names, equals would be joined one after the other; in a random one, many at once.
    keys = _shuffled(names[u] * _SHUFFLE + names[v])
    first[u] = first[v] = np.iinfo(np.uint64).max
    for ends in (u, v):
        is_least = mean == least[ends]
        np.minimum.at(first, ends[is_least], keys[is_least])
    answer: Places = near[rows[(first[u] == keys) & (first[v] == keys)]]
    return answer


def _rejoined(links: Links, touched: npt.NDArray[np.bool_], parent: Places, count: int) -> Links:
    """Let links end at what their regions were joined to, and add up those that are parallel now."""
    some = links.select(touched)
    u, v = parent[some.u], parent[some.v]
    ends = Links(np.minimum(u, v), np.maximum(u, v), some.total, some.weight)
    summed = _summed(ends.select(u != v), count)
    rest = links.select(~touched)
    return Links(
        np.concatenate([rest.u, summed.u]),
        np.concatenate([rest.v, summed.v]),
        np.concatenate([rest.total, summed.total]),
        np.concatenate([rest.weight, summed.weight]),
    )


def _summed(links: Links, count: int) -> Links:
    """Add up links of the same regions; in an order that only they decide."""
    keys = links.u * count + links.v
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    firsts = order[starts]
    total, weight = (np.add.reduceat(column[order], starts) if len(starts) else column for column in links[2:])
    return Links(links.u[firsts], links.v[firsts], total, weight)


def _one_by_one(links: Links, parent: Places, threshold: float) -> None:
    """Join the rest with a heap: where a large region takes up its neighbours, each of them would be a round."""
    contacts: dict[int, dict[int, tuple[float, float]]] = {}
    heap = []
    for u, v, total, weight in zip(*(column.tolist() for column in links), strict=True):
        contacts.setdefault(u, {})[v] = contacts.setdefault(v, {})[u] = (total, weight)
        if total / weight < threshold:
            heap.append((total / weight, u, v))
    heapq.heapify(heap)
    smallest: dict[int, int] = {}
    while heap:
        mean, u, v = heapq.heappop(heap)
        contact = contacts[u].get(v) if u in contacts else None
        if contact is None or contact[0] / contact[1] != mean:
            continue  # one of them is gone, or the contact has grown since
        # The one with fewer contacts is taken up, whatever its number: so no contact moves more than a few times.
        into, gone = (u, v) if len(contacts[u]) >= len(contacts[v]) else (v, u)
        low, high = sorted((smallest.get(u, u), smallest.get(v, v)))
        parent[high] = smallest[into] = low
        near = contacts[into]
        del near[gone]
        for other, (total, weight) in contacts.pop(gone).items():
            if other == into:
                continue
            known = near.get(other, (0.0, 0.0))
            joint = (known[0] + total, known[1] + weight)
            near[other] = contacts[other][into] = joint
            del contacts[other][gone]
            if joint[0] / joint[1] < threshold:
                heapq.heappush(heap, (joint[0] / joint[1], min(into, other), max(into, other)))


def _shuffled(numbers: Ids) -> Ids:
    """Return other numbers, one to one, that look random.

    References
    ----------
    D. Stafford's mix 13, as in ``java.util.SplittableRandom``.
    """
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(31))


def _roots(parent: Places) -> Places:
    """Follow what each region was joined to until the end."""
    while True:
        further = parent[parent]
        if np.array_equal(further, parent):
            return parent
        parent = further
