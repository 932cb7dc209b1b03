"""Graph stores by the names, and with the arguments, that they have in daisy and in funlib.persistence."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from bellis.errors import GraphError
from bellis.geometry import Coordinate
from bellis.graphs.open import load_backend
from bellis.graphs.store import GraphStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bellis.geometry import CoordinateLike, Roi
    from bellis.graphs.attributes import AttributeType

MONGODB = "mongodb://localhost:27017"
"""Where a database is if no host is given."""


class SQLiteGraphDataBase(GraphStore):
    """A graph in a file of SQLite; see `GraphStore`.

    Parameters
    ----------
    db_file
        Path of the file.
    nodes_table, edges_table
        Names of the tables.
    """

    def __init__(
        self,
        db_file: str | os.PathLike[str],
        position_attribute: str | Sequence[str] | None = None,
        mode: str = "r+",
        directed: bool | None = None,
        total_roi: Roi | None = None,
        nodes_table: str = "nodes",
        edges_table: str = "edges",
        endpoint_names: Sequence[str] | None = None,
        node_attrs: Mapping[str, AttributeType] | None = None,
        edge_attrs: Mapping[str, AttributeType] | None = None,
    ) -> None:
        backend = load_backend("sqlite")(db_file, nodes=nodes_table, edges=edges_table)
        super().__init__(
            backend,
            mode,
            directed=directed,
            total_roi=total_roi,
            position_attribute=position_attribute,
            endpoint_names=endpoint_names,
            node_attrs=node_attrs,
            edge_attrs=edge_attrs,
        )


class PgSQLGraphDatabase(GraphStore):
    """A graph in a database of PostgreSQL, which mode ``"w"`` makes if it is missing; see `GraphStore`.

    Parameters
    ----------
    db_name
        Name of the database.
    db_host, db_port
        Where the server listens: a host, or the folder of its socket. As PostgreSQL's environment variables say, or
        else the socket or host that its library takes, if None.
    db_user, db_password
        Who is there; as PostgreSQL's environment variables and password file say if not given.
    nodes_table, edges_table
        Names of the tables.
    """

    def __init__(
        self,
        position_attribute: str | Sequence[str] | None,
        db_name: str,
        db_host: str | None = "localhost",
        db_user: str | None = None,
        db_password: str | None = None,
        db_port: int | None = None,
        mode: str = "r+",
        directed: bool | None = None,
        total_roi: Roi | None = None,
        nodes_table: str = "nodes",
        edges_table: str = "edges",
        endpoint_names: Sequence[str] | None = None,
        node_attrs: Mapping[str, AttributeType] | None = None,
        edge_attrs: Mapping[str, AttributeType] | None = None,
    ) -> None:
        url = postgresql_url(db_name, db_host, user=db_user, password=db_password, port=db_port)
        backend = load_backend("postgresql")(url, nodes=nodes_table, edges=edges_table)
        if mode == "w":
            backend.create_database()
        super().__init__(
            backend,
            mode,
            directed=directed,
            total_roi=total_roi,
            position_attribute=position_attribute,
            endpoint_names=endpoint_names,
            node_attrs=node_attrs,
            edge_attrs=edge_attrs,
        )


class MongoDbGraphProvider(GraphStore):
    """A graph in a database of MongoDB; see `GraphStore`.

    Parameters
    ----------
    db_name
        Name of the database.
    host
        A host, ``host:port``, or a URL that begins with ``mongodb://``; this machine if not given.
    nodes_collection, edges_collection, meta_collection
        Names of the collections.
    """

    def __init__(
        self,
        db_name: str,
        host: str | None = None,
        mode: str = "r+",
        directed: bool | None = None,
        total_roi: Roi | None = None,
        nodes_collection: str = "nodes",
        edges_collection: str = "edges",
        endpoint_names: Sequence[str] | None = None,
        meta_collection: str = "meta",
        position_attribute: str | Sequence[str] | None = None,
        *,
        node_attrs: Mapping[str, AttributeType] | None = None,
        edge_attrs: Mapping[str, AttributeType] | None = None,
    ) -> None:
        backend = load_backend("mongodb")(
            mongodb_url(host), db_name, nodes=nodes_collection, edges=edges_collection, meta=meta_collection
        )
        super().__init__(
            backend,
            mode,
            directed=directed,
            total_roi=total_roi,
            position_attribute=position_attribute,
            endpoint_names=endpoint_names,
            node_attrs=node_attrs,
            edge_attrs=edge_attrs,
        )


class FileGraphProvider(GraphStore):
    """A graph in a folder, with a file per block of space; see `GraphStore`.

    Parameters
    ----------
    directory
        The folder.
    chunk_size
        Extent of a block in each axis, in the units of positions.
    nodes_collection, edges_collection
        With other names than these, another graph in the same folder.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        chunk_size: CoordinateLike,
        mode: str = "r+",
        directed: bool | None = None,
        total_roi: Roi | None = None,
        nodes_collection: str = "nodes",
        edges_collection: str = "edges",
        position_attribute: str | Sequence[str] | None = None,
        *,
        endpoint_names: Sequence[str] | None = None,
        node_attrs: Mapping[str, AttributeType] | None = None,
        edge_attrs: Mapping[str, AttributeType] | None = None,
    ) -> None:
        backend = load_backend("files").at(
            os.fspath(directory), nodes=nodes_collection, edges=edges_collection, chunk_size=Coordinate(chunk_size)
        )
        super().__init__(
            backend,
            mode,
            directed=directed,
            total_roi=total_roi,
            position_attribute=position_attribute,
            endpoint_names=endpoint_names,
            node_attrs=node_attrs,
            edge_attrs=edge_attrs,
        )


def postgresql_url(
    name: str, host: str | None = None, *, user: str | None = None, password: str | None = None, port: int | None = None
) -> str:
    """Return the URL of a database, with all that is not a letter or digit quoted.

    Raises
    ------
    GraphError
        If there is a password for nobody.

    Examples
    --------
    >>> postgresql_url("em", "db.lab", user="me@lab", password="a/b:c", port=5433)
    'postgresql://me%40lab:a%2Fb%3Ac@db.lab:5433/em'
    >>> postgresql_url("em", "/var/run/postgresql")
    'postgresql:///em?host=%2Fvar%2Frun%2Fpostgresql'
    """
    if password is not None and user is None:
        raise GraphError(f"a password is given for database {name!r}, but no user: pass db_user too")
    who = "" if user is None else quote(user, safe="")
    if password is not None:
        who += ":" + quote(password, safe="")
    at = "@" if who else ""
    database = quote(name, safe="")
    if not host or host.startswith(("/", "@")):  # a folder, or a socket without one: no host that a URL can have
        options = {"host": host} if host else {}
        options |= {} if port is None else {"port": str(port)}
        return f"postgresql://{who}{at}/{database}{'?' if options else ''}{urlencode(options, quote_via=quote)}"
    is_v6 = ":" in host and not host.startswith("[")
    where = f"[{host}]" if is_v6 else host if host.startswith("[") else quote(host, safe="")
    return f"postgresql://{who}{at}{where}{'' if port is None else f':{port}'}/{database}"


def mongodb_url(host: str | None) -> str:
    """Return the URL of a server of MongoDB.

    Examples
    --------
    >>> mongodb_url("db.lab")
    'mongodb://db.lab'
    """
    if host is None:
        return MONGODB
    return host if "://" in host else f"mongodb://{host}"
