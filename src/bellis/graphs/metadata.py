"""What a store knows of its graph: written when it is made, compared when it is opened."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from bellis.errors import BellisError, GraphError, GraphMismatchError
from bellis.geometry import Roi
from bellis.graphs.attributes import Kind, check_name

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1


class _Stored(msgspec.Struct, kw_only=True):
    """As in a store: JSON."""

    version: int
    directed: bool
    total_roi: tuple[list[int | None], list[int | None]] | None
    position: str | list[str]
    endpoints: tuple[str, str]
    node_attrs: dict[str, str]
    edge_attrs: dict[str, str]
    is_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a store knows of its graph."""

    directed: bool = False
    """Whether (u, v) and (v, u) are two edges; if not, they are stored once, the smaller id first."""
    total_roi: Roi | None = None
    """Region of the whole graph, if it is known; for those who read it, nothing is refused outside."""
    position: str | tuple[str, ...] = "position"
    """The attribute that is a node's position: a vector, or one number in one dimension; or one attribute per axis."""
    endpoints: tuple[str, str] = ("u", "v")
    """What the ends of an edge are called where edges are records or columns."""
    node_attrs: Mapping[str, Kind] = field(default_factory=dict)
    """Attributes of nodes, positions included."""
    edge_attrs: Mapping[str, Kind] = field(default_factory=dict)
    """Attributes of edges."""
    is_open: bool = True
    """Whether attributes that are new join as they are written; else they are an error."""

    def __post_init__(self) -> None:
        for name in (*self.positions, *self.endpoints):
            check_name(name)
        if len(set(self.positions)) < len(self.positions) or not self.positions:
            raise GraphError(f"position attributes are {self.position!r}: each axis needs one of its own")
        if self.endpoints[0] == self.endpoints[1]:
            raise GraphError(f"both ends of an edge are called {self.endpoints[0]!r}")
        for name in {"id"} & set(self.node_attrs) | set(self.endpoints) & set(self.edge_attrs):
            raise GraphError(f"{name!r} is a key of the graph, so that no attribute can be called so")
        for name in self.positions:
            kind = self.node_attrs.get(name)
            if kind is not None and (kind.base not in ("int", "float") or (self.is_split and kind.size is not None)):
                raise GraphError(f"position attribute {name!r} has the type {kind}: positions are int or float")
        if self.total_roi is not None and self.dims not in (None, self.total_roi.dims):
            raise GraphError(
                f"total_roi {self.total_roi} has {self.total_roi.dims} axes, but positions have {self.dims}"
            )

    @property
    def is_split(self) -> bool:
        """Whether each axis of the position is an attribute of its own."""
        return not isinstance(self.position, str)

    @property
    def positions(self) -> tuple[str, ...]:
        """Names of the attributes that make a position."""
        return (self.position,) if isinstance(self.position, str) else self.position

    @property
    def dims(self) -> int | None:
        """Number of axes of a position; None if that is not known yet."""
        if not isinstance(self.position, str):
            return len(self.position)
        kind = self.node_attrs.get(self.position)
        if kind is not None:
            return 1 if kind.size is None else kind.size
        return None if self.total_roi is None else self.total_roi.dims

    def extended(self, node_attrs: Mapping[str, Kind], edge_attrs: Mapping[str, Kind]) -> Metadata:
        """Return metadata that also have these attributes.

        Raises
        ------
        GraphMismatchError
            If one is there and has another type, or new ones may not join.
        """
        return replace(
            self,
            node_attrs=self._joined("node", self.node_attrs, node_attrs),
            edge_attrs=self._joined("edge", self.edge_attrs, edge_attrs),
        )

    def _joined(self, what: str, known: Mapping[str, Kind], more: Mapping[str, Kind]) -> dict[str, Kind]:
        for name, kind in more.items():
            if name in known and known[name] != kind:
                raise GraphMismatchError(
                    f"{what} attribute {name!r} is {known[name]} in this graph, but {kind} is given"
                )
            if name not in known and not self.is_open:
                raise GraphMismatchError(
                    f"this graph has no {what} attribute {name!r}, its attributes were declared when it was made: "
                    f"{', '.join(known) or 'none'}"
                )
        return {**known, **more}

    def differences(self, asked: Mapping[str, Any]) -> list[str]:
        """Return in what these metadata are not as asked, as lines that show both; None is not asked for.

        Parameters
        ----------
        asked
            Values by the names of fields; of ``node_attrs`` and ``edge_attrs``, only those given are compared.
        """
        found = []
        for name in ("directed", "total_roi", "position", "endpoints"):
            value = asked.get(name)
            if value is not None and value != getattr(self, name):
                found.append(f"{name}: stored {_shown(getattr(self, name))}, asked for {_shown(value)}")
        for name in ("node_attrs", "edge_attrs"):
            known: Mapping[str, Kind] = getattr(self, name)
            for attr, kind in (asked.get(name) or {}).items():
                if attr not in known:
                    if not self.is_open:
                        found.append(f"{name}: stored no {attr!r}, asked for {kind}")
                elif known[attr] != kind:
                    found.append(f"{name} {attr!r}: stored {known[attr]}, asked for {kind}")
        return found

    def check(self, asked: Mapping[str, Any], *, where: str) -> None:
        """Refuse a store that is not as asked.

        Raises
        ------
        GraphMismatchError
            With every difference.
        """
        found = self.differences(asked)
        if found:
            raise GraphMismatchError(
                f"the graph in {where} is not as asked:\n  "
                + "\n  ".join(found)
                + "\nleave the argument out to take what is stored, or pass mode='w' to replace the graph"
            )

    def encode(self) -> str:
        """Return JSON."""
        roi = self.total_roi
        stored = _Stored(
            version=VERSION,
            directed=self.directed,
            total_roi=None if roi is None else (list(roi.offset), list(roi.shape)),
            position=self.position if isinstance(self.position, str) else list(self.position),
            endpoints=self.endpoints,
            node_attrs={name: str(kind) for name, kind in self.node_attrs.items()},
            edge_attrs={name: str(kind) for name, kind in self.edge_attrs.items()},
            is_open=self.is_open,
        )
        return msgspec.json.encode(stored).decode()

    @classmethod
    def decode(cls, text: str | bytes, *, where: str) -> Metadata:
        """Parse JSON; nothing is evaluated.

        Raises
        ------
        GraphError
            If they are damaged, or of a later version.
        """
        try:
            stored = msgspec.json.decode(text, type=_Stored)
            if stored.version != VERSION:
                raise GraphError(f"version {stored.version} is not {VERSION}: it was made by a later bellis")
            return cls(
                directed=stored.directed,
                total_roi=None if stored.total_roi is None else Roi(*map(tuple, stored.total_roi)),
                position=stored.position if isinstance(stored.position, str) else tuple(stored.position),
                endpoints=stored.endpoints,
                node_attrs={name: Kind.parse(kind) for name, kind in stored.node_attrs.items()},
                edge_attrs={name: Kind.parse(kind) for name, kind in stored.edge_attrs.items()},
                is_open=stored.is_open,
            )
        except (msgspec.DecodeError, BellisError, UnicodeDecodeError) as error:
            raise GraphError(f"the metadata of the graph in {where} can't be read: {error}") from error


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, Roi) else repr(value)
