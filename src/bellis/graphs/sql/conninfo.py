"""URLs of PostgreSQL, as libpq reads them, and what of them may be shown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from bellis.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCHEME = re.compile("postgres(ql)?://")


def parsed(url: str) -> dict[str, str]:
    """Return the parameters of libpq that a URL gives.

    Raises
    ------
    GraphError
        If libpq can't read it, or would take a part of a password for the host. No part of it is in the message.

    Examples
    --------
    >>> parsed("postgresql://me@%2Ftmp%2Fpg/em?sslmode=disable")
    {'user': 'me', 'dbname': 'em', 'host': '/tmp/pg', 'sslmode': 'disable'}
    """
    found = None
    if _SCHEME.match(url) and not _has_bare_at(url):
        try:
            found = {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
        except (psycopg.Error, ValueError):
            found = None
    if found is None or not re.fullmatch("[0-9]*(,[0-9]*)*", found.get("port", "")):
        raise GraphError(
            "no URL of PostgreSQL: write it like 'postgresql://user:password@host:5432/database'; special characters "
            "of the user and the password are percent-encoded, '@' is '%40', '/' is '%2F', ':' is '%3A'"
        )
    return found


def _has_bare_at(url: str) -> bool:
    """Return whether there is an @ behind the one that ends user and password, where libpq looks for host and database.

    libpq takes the first @ for that, and none if there is a / before it.
    """
    rest = _SCHEME.sub("", url, count=1)
    first = re.search("[@/]", rest)
    if first is not None and first[0] == "@":
        rest = rest[first.end() :]
    return "@" in rest.partition("?")[0]


def shown(conninfo: Mapping[str, str]) -> str:
    """Return the hosts, ports and database of parameters, and nothing else: what else there is may be secret.

    Examples
    --------
    >>> shown({"host": "a,b", "port": "5432,5433", "dbname": "em", "user": "me", "password": "secret"})
    'postgresql://a:5432,b:5433/em'
    """
    hosts = (conninfo.get("host") or conninfo.get("hostaddr", "")).split(",")
    ports = conninfo.get("port", "").split(",")
    if len(ports) < len(hosts):  # one for all
        ports = ports[:1] * len(hosts)
    parts = []
    for host, port in zip(hosts, ports, strict=False):
        name = f"[{host}]" if ":" in host else quote(host, safe="")
        parts.append(f"{name}:{port}" if port else name)
    return f"postgresql://{','.join(parts)}/{quote(conninfo.get('dbname', ''), safe='')}"


def database_of(conninfo: Mapping[str, str]) -> str:
    """Return the database that libpq connects to: by default, one that is called like the user."""
    defaults = {
        option.keyword.decode(): option.val.decode()
        for option in psycopg.pq.Conninfo.get_defaults()
        if option.val is not None
    }
    found = {**defaults, **conninfo}
    return found.get("dbname") or found.get("user", "")
