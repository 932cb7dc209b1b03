"""How a store of files is written: what becomes of each chunk that a change touches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from bellis.errors import GraphError, GraphExistsError, GraphMissingError
from bellis.graphs.files import catalogue
from bellis.graphs.files.grid import is_in_box
from bellis.graphs.files.read import check_current
from bellis.graphs.files.rows import Rows, contains, distinct, joined, merged, parted
from bellis.graphs.places import is_inside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from bellis.graphs.attributes import Kind
    from bellis.graphs.backend import Change, Deletion, Policy
    from bellis.graphs.columns import Ids
    from bellis.graphs.files.catalogue import Chunk
    from bellis.graphs.files.grid import Box, Place
    from bellis.graphs.files.rows import Indices
    from bellis.graphs.files.view import View
    from bellis.graphs.metadata import Metadata

    Slots = npt.NDArray[np.int64]
    """Which chunk: an index of `Rewrite.drafts`; 0 is that of what has no place, -1 that of what is not there."""

What: TypeAlias = Literal["nodes", "edges"]


@dataclass(slots=True, eq=False)
class Draft:
    """A chunk, as it was and as it will be."""

    place: Place
    """Where it is."""
    chunk: Chunk | None = None
    """How it was; None if there was none."""
    old_nodes: Rows | None = None
    """Its nodes, as soon as they are needed."""
    old_edges: Rows | None = None
    """Its edges, likewise."""
    new_nodes: Rows | None = None
    """What its nodes become; None if they stay."""
    new_edges: Rows | None = None
    """What its edges become; None if they stay."""
    arrived: list[Ids] = field(default_factory=list)
    """The v of edges that are new here."""
    departed: list[Ids] = field(default_factory=list)
    """Nodes that are here no more."""


class Rewrite:
    """A change, worked out; nothing is written.

    All that is found in the catalogue is asked of the view, which knows at the commit whether it is still so.

    Parameters
    ----------
    view
        Of the store.
    change
        What to write.
    metadata
        As whoever writes knows them.
    """

    def __init__(self, view: View, change: Change, metadata: Metadata) -> None:
        self._view = view
        self._change = change
        self._metadata = view.metadata
        self._slots: dict[Place, int] = {None: 0}
        self.drafts = [Draft(None)]
        self.placed: tuple[Ids, Slots] = np.empty(0, np.uint64), np.empty(0, np.int64)
        """Nodes that are new or come to another chunk, and which."""
        self.removed = np.empty(0, np.uint64)
        """Nodes that are removed."""
        self._check(metadata)
        self._nodes = [Rows.of(group) for group in change.nodes if len(group)]
        self._edges = [Rows.of(group) for group in change.edges if len(group)]
        self._work_out()

    def crossings(self) -> Iterator[tuple[Ids, int]]:
        """Yield ids that may be the v of edges in a chunk and are not its nodes, and that chunk."""
        for slot, draft in enumerate(self.drafts):
            if draft.arrived:
                far = distinct(np.concatenate(draft.arrived))
                yield far[~contains(self._ids(draft), far)], slot
            if draft.departed:
                gone = np.concatenate(draft.departed)
                yield gone[np.isin(gone, self._edges_of(draft).keys[1])], slot

    # Steps -------------------------------------------------------------------------------------------------------

    def _work_out(self) -> None:
        self._ids_written = _keys(self._nodes, 1)
        self._pairs_written = _keys(self._edges, 2)
        before, of_u = self._find()
        _refuse("node", self._change.policy, self._ids_written, before >= 0, self._view)
        moves = self._write_nodes(before)
        self._carry_edges(moves)
        self._write_edges(of_u, moves)
        if self._change.deletion is not None:
            self._delete(self._change.deletion)

    def _find(self) -> tuple[Slots, Slots]:
        """Return the chunks of the nodes that are written, and of the u of edges that are."""
        ids, u = self._ids_written[0], self._pairs_written[0]
        wanted = distinct(np.concatenate([ids, u]))
        view, deletion = self._view, self._change.deletion
        with view.step():
            found = view.ask(catalogue.find, wanted)
            numbers = set(np.unique(found).tolist())
            # Edges of a node that is new may be among those of unknown nodes, and those of unknown nodes go there.
            numbers = numbers - {-1} | ({0} if -1 in numbers else set())
            chunks = [*view.ask(catalogue.by_number, sorted(numbers))]
            if deletion is not None and not (deletion.roi is not None and deletion.roi.empty):
                covered = view.ask(catalogue.in_box, self._box(deletion)) if self._has_places(deletion) else []
                chunks += [chunk for chunk in covered if chunk.number not in numbers]
            self._take(chunks)
        slot_of = {draft.chunk.number: slot for slot, draft in enumerate(self.drafts) if draft.chunk is not None}
        labels, which = np.unique(found, return_inverse=True)
        slots = np.array([slot_of.get(number, -1) for number in labels.tolist()], np.int64)[which.reshape(-1)]
        return slots[np.searchsorted(wanted, ids)], slots[np.searchsorted(wanted, u)]

    def _write_nodes(self, before: Slots) -> _Moves:
        """Put nodes into the chunks where they are now."""
        is_touched = _has_columns(self._nodes) | (before < 0)
        ids, before = self._ids_written[0][is_touched], before[is_touched]
        if not len(ids):
            return _Moves(ids, before, before)
        old, at = self._gather("nodes", (ids,), before)
        if (at < 0)[before >= 0].any():
            raise GraphError(f"{self._view.folder} is damaged: its catalogue has nodes that are not in their files")
        rows = merged(_cut(self._nodes, is_touched), old, at, self._metadata.node_attrs)
        now = self._slots_of(rows)
        self._replace("nodes", (ids,), before, rows, now)
        is_new = now != before
        self.placed = ids[is_new], now[is_new]
        for slot, which in parted(np.where(is_new, before, -1)):
            if slot >= 0:
                self.drafts[slot].departed.append(ids[which])
        order = np.argsort(ids)
        return _Moves(ids[order], np.maximum(before, 0)[order], now[order])

    def _carry_edges(self, moves: _Moves) -> None:
        """Let edges follow their u."""
        is_moved = moves.before != moves.now
        ids, before = moves.ids[is_moved], moves.before[is_moved]
        for slot, which in parted(before):
            edges = self._edges_of(self.drafts[slot])
            goes = contains(ids[which], edges.keys[0])
            if goes.any():
                rows = edges.select(goes)
                here = np.full(len(rows), slot)
                now = moves.look_up(rows.keys[0], here)
                self._replace("edges", rows.keys, here, rows, now)
                self._note_arrivals(rows.keys[1], now)

    def _write_edges(self, of_u: Slots, moves: _Moves) -> None:
        """Put edges into the chunks where their u is now."""
        keys = self._pairs_written
        now = moves.look_up(keys[0], np.maximum(of_u, 0))
        old, at = self._gather("edges", keys, now)
        _refuse("edge", self._change.policy, keys, at >= 0, self._view)
        is_touched = _has_columns(self._edges) | (at < 0)
        if is_touched.any():
            at, now = at[is_touched], now[is_touched]
            rows = merged(_cut(self._edges, is_touched), old, at, self._metadata.edge_attrs)
            self._replace("edges", rows.keys, np.where(at < 0, -1, now), rows, now)
            self._note_arrivals(rows.keys[1][at < 0], now[at < 0])

    def _delete(self, deletion: Deletion) -> None:
        """Remove what is in the region and was not written."""
        written_nodes = np.sort(self._ids_written[0])
        written_edges = Rows(self._pairs_written).sorted()
        gone_nodes, kept_edges = [], []
        box = self._box(deletion) if self._has_places(deletion) else ()
        for draft in list(self.drafts):
            if deletion.roi is not None and (not box or not is_in_box(draft.place, box) or deletion.roi.empty):
                continue
            nodes = self._nodes_of(draft)
            inside = np.ones(len(nodes), np.bool_)
            if deletion.roi is not None:
                inside = is_inside(nodes.attrs, len(nodes), deletion.roi, self._metadata)
            is_gone = inside & ~contains(written_nodes, nodes.keys[0]) & deletion.nodes
            edges = self._edges_of(draft)
            of_gone = contains(nodes.keys[0][is_gone], edges.keys[0])
            in_region = of_gone.copy()
            if deletion.edges:
                in_region |= True if deletion.roi is None else contains(nodes.keys[0][inside], edges.keys[0])
            is_written = written_edges.has(edges.keys)
            stays = ~in_region | is_written
            if draft.place is not None and (of_gone & is_written).any():
                kept_edges.append(edges.select(of_gone & is_written))
                stays &= ~of_gone
            if not stays.all():
                draft.new_edges = edges.select(stays)
            if is_gone.any():
                draft.new_nodes = nodes.select(~is_gone)
                draft.departed.append(nodes.keys[0][is_gone])
                gone_nodes.append(nodes.keys[0][is_gone])
        self.removed = np.concatenate(gone_nodes) if gone_nodes else self.removed
        self._drop_u(kept_edges)

    def _drop_u(self, edges: list[Rows]) -> None:
        """Put edges that were written, but whose u was removed, to those of unknown nodes."""
        if edges:
            with self._view.step():
                self._take(self._view.ask(catalogue.by_number, [0]))
            rows = joined(edges, self._metadata.edge_attrs)
            nowhere = np.full(len(rows), -1)
            self._replace("edges", rows.keys, nowhere, rows, nowhere + 1)
            self.drafts[0].arrived.append(rows.keys[1])

    def _gather(self, what: What, keys: tuple[Ids, ...], slots: Slots) -> tuple[Rows, Indices]:
        """Return the rows that are there, and for each key which of them it has; -1 if it is not there."""
        at = np.full(len(keys[0]), -1, np.intp)
        parts, count = [Rows.empty(len(keys))], 0
        for slot, which in parted(slots):
            table = self._rows(what, self.drafts[slot]) if slot >= 0 else parts[0]
            found = table.find(tuple(key[which] for key in keys))
            is_there = found >= 0
            parts.append(table.select(found[is_there]))
            at[which[is_there]] = count + np.arange(len(parts[-1]))
            count += len(parts[-1])
        return joined(parts, self._kinds(what)), at

    def _replace(self, what: What, keys: tuple[Ids, ...], before: Slots, rows: Rows, now: Slots) -> None:
        """Take keys out of chunks, and put rows into chunks."""
        taken, put = dict(parted(before)), dict(parted(now))
        taken.pop(-1, None)
        for slot in {**taken, **put}:
            draft = self.drafts[slot]
            table = self._rows(what, draft)
            if slot in taken:
                stays = np.ones(len(table), np.bool_)
                stays[table.find(tuple(key[taken[slot]] for key in keys))] = False
                table = table.select(stays)
            if slot in put:
                table = joined([table, rows.select(put[slot])], self._kinds(what)).sorted()
            if what == "nodes":
                draft.new_nodes = table
            else:
                draft.new_edges = table

    def _note_arrivals(self, v: Ids, slots: Slots) -> None:
        for slot, which in parted(slots):
            self.drafts[slot].arrived.append(v[which])

    def _rows(self, what: What, draft: Draft) -> Rows:
        return self._nodes_of(draft) if what == "nodes" else self._edges_of(draft)

    def _kinds(self, what: What) -> Mapping[str, Kind]:
        return self._metadata.node_attrs if what == "nodes" else self._metadata.edge_attrs

    # Chunks ------------------------------------------------------------------------------------------------------

    def _take(self, chunks: Iterable[Chunk]) -> None:
        """Make drafts of chunks, whose files are opened."""
        taken = list(chunks)
        self._view.open(taken)
        for chunk in taken:
            self.drafts[self._slot(chunk.place)].chunk = chunk

    def _slot(self, place: Place) -> int:
        if place not in self._slots:
            self._slots[place] = len(self.drafts)
            self.drafts.append(Draft(place))
        return self._slots[place]

    def _slots_of(self, rows: Rows) -> Slots:
        """Return the chunks in which nodes are by their positions."""
        dims = self._metadata.dims
        if dims is None:
            places: list[Place] = [None]
            which = np.zeros(len(rows), np.int64)
        else:
            places, which = self._view.grid(dims).places(rows.attrs, self._metadata.positions, len(rows))
        unknown = [place for place in places if self.drafts[self._slot(place)].chunk is None]
        with self._view.step():
            self._take(self._view.ask(catalogue.by_place, unknown))
        return np.array([self._slot(place) for place in places], np.int64)[which]

    def _has_places(self, deletion: Deletion) -> bool:
        return deletion.roi is None or self._metadata.dims is not None

    def _box(self, deletion: Deletion) -> Box | None:
        dims = self._metadata.dims
        return None if deletion.roi is None or dims is None else self._view.grid(dims).box(deletion.roi)

    def _nodes_of(self, draft: Draft) -> Rows:
        """Return the nodes of a chunk as they are by now."""
        if draft.new_nodes is not None:
            return draft.new_nodes
        if draft.old_nodes is None:
            name = None if draft.chunk is None else draft.chunk.nodes
            draft.old_nodes = self._view.read(name, ("id",), self._metadata.node_attrs)
        return draft.old_nodes

    def _edges_of(self, draft: Draft) -> Rows:
        """Return the edges of a chunk as they are by now."""
        if draft.new_edges is not None:
            return draft.new_edges
        if draft.old_edges is None:
            name = None if draft.chunk is None else draft.chunk.edges
            draft.old_edges = self._view.read(name, self._metadata.endpoints, self._metadata.edge_attrs)
        return draft.old_edges

    def _ids(self, draft: Draft) -> Ids:
        """Return the ids of a chunk's nodes; their attributes are not read."""
        if draft.new_nodes is not None or draft.old_nodes is not None:
            return self._nodes_of(draft).keys[0]
        return self._view.read(None if draft.chunk is None else draft.chunk.nodes, ("id",), {}).keys[0]

    def _check(self, metadata: Metadata) -> None:
        """Refuse a change that was made for another graph."""
        written = [
            {name: kind for name, kind in kinds.items() if any(name in group.attrs for group in groups)}
            for kinds, groups in (
                (metadata.node_attrs, self._change.nodes),
                (metadata.edge_attrs, self._change.edges),
            )
        ]
        check_current(metadata, written[0], written[1], self._view)


@dataclass(frozen=True, slots=True, eq=False)
class _Moves:
    """Nodes that are written: where they were, and where they are now."""

    ids: Ids
    """Sorted."""
    before: Slots
    """Where edges of which they are u were."""
    now: Slots
    """Where they are now."""

    def look_up(self, ids: Ids, otherwise: Slots) -> Slots:
        """Return where nodes are now; ``otherwise`` for those that are not written."""
        at = Rows((self.ids,)).find((ids,))
        return np.where(at >= 0, self.now[at], otherwise) if len(self.ids) else otherwise


def _keys(groups: Sequence[Rows], count: int) -> tuple[Ids, ...]:
    if len(groups) == 1:
        return groups[0].keys
    return tuple(np.concatenate([group.keys[k] for group in groups] or [np.empty(0, np.uint64)]) for k in range(count))


def _has_columns(groups: Sequence[Rows]) -> npt.NDArray[np.bool_]:
    """Return for each row whether anything but its key is written."""
    return np.repeat([bool(group.attrs) for group in groups], [len(group) for group in groups]).astype(np.bool_)


def _cut(groups: Sequence[Rows], keep: npt.NDArray[np.bool_]) -> list[Rows]:
    """Return those rows of groups that are kept, without empty groups."""
    parts, begin = [], 0
    for group in groups:
        mine = keep[begin : begin + len(group)]
        begin += len(group)
        if mine.any():
            parts.append(group if mine.all() else group.select(mine))
    return parts


def _refuse(what: str, policy: Policy, keys: tuple[Ids, ...], is_known: npt.NDArray[np.bool_], view: View) -> None:
    """Refuse rows that are there, or are not, if the policy forbids it."""
    wrong = np.flatnonzero(is_known if policy == "insert" else ~is_known)
    if policy == "upsert" or not len(wrong):
        return
    some = [tuple(int(key[row]) for key in keys) for row in wrong[:5]]
    shown = ", ".join(str(key[0] if len(key) == 1 else key) for key in some) + (", ..." if len(wrong) > 5 else "")
    if policy == "insert":
        raise GraphExistsError(f"{len(wrong)} {what}s are in {view.folder} already: {shown}; nothing was written")
    raise GraphMissingError(f"{len(wrong)} {what}s are not in {view.folder}: {shown}; nothing was written")
