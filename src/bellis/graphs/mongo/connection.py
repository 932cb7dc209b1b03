"""Connections to MongoDB: one client per process, transactions where the server has them, errors that say where."""

from __future__ import annotations

import os
import random
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar
from urllib.parse import parse_qsl

import pymongo
from bson.errors import BSONError
from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    InvalidURI,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern

from bellis.errors import GraphError, GraphServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    Document: TypeAlias = dict[str, Any]
    Client: TypeAlias = MongoClient[Document]

Result = TypeVar("Result")

DURABLE = WriteConcern(w="majority", j=True, wtimeout=60_000)
"""A write is acknowledged when most members of the replica set have it in their journals."""
DEFAULTS = {"serverSelectionTimeoutMS": 10_000, "connectTimeoutMS": 10_000, "socketTimeoutMS": 120_000}
"""Options of the client that the URL does not give."""
BUSY_S = 120.0
"""How long a transaction is tried again while others write the same; a server keeps that of a dead one for 60 s."""
_TOO_LONG = {50, 251, 290}
"""MaxTimeMSExpired, NoSuchTransaction, TransactionExceededLifetimeLimitSeconds."""
_MAX_RACES = 20
_HOST = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^:\[\]/?@]+)(:[0-9]+)?")
"""A name or an address, and a port."""


class RaceError(Exception):
    """Another writer made a document that was just seen not to be there; asked again, the answer is another."""


class Connection:
    """A database of a server of MongoDB; connected when it is first used, in each process by itself."""

    def __init__(self, url: str, db_name: str) -> None:
        self.url, self.db_name = url, db_name
        self._address = Address.parse(url)
        self.where = f"{without_credentials(url)}/{db_name}"
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._pid = os.getpid()
        self._inherited: list[Client] = []
        self._is_transactional: bool | None = None

    def __getstate__(self) -> tuple[str, str]:
        return self.url, self.db_name

    def __setstate__(self, state: tuple[str, str]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def database(self) -> Database[Document]:
        """Return the database, connected by this process."""
        if self._pid != os.getpid():
            inherited = self._client  # kept, for it must neither be used nor closed here: its sockets are the parent's
            self._reset()
            self._inherited = [inherited] if inherited is not None else []
        with self._lock:
            if self._client is None:
                self._client = self._connected()
            return self._client.get_database(
                self.db_name, write_concern=DURABLE, read_preference=ReadPreference.PRIMARY
            )

    def _connected(self) -> Client:
        given = {name.lower() for name, _ in parse_qsl(self._address.options)}
        options: dict[str, Any] = {name: value for name, value in DEFAULTS.items() if name.lower() not in given}
        try:
            return pymongo.MongoClient(self.url, **options)
        except ValueError as error:  # of which bad ports are some, beside the driver's own errors
            raise ConfigurationError(str(error)) from error

    def close(self) -> None:
        """Close the connections of this process."""
        if self._pid == os.getpid():
            with self._lock:
                client, self._client = self._client, None
            if client is not None:
                client.close()

    def has_transactions(self) -> bool:
        """Return whether the server has transactions: members of replica sets and routers do."""
        if self._is_transactional is None:
            hello = self.database().client.admin.command("hello")
            self._is_transactional = "setName" in hello or hello.get("msg") == "isdbgrid"
        return self._is_transactional

    def transact(self, work: Callable[[Database[Document], ClientSession | None], Result]) -> Result:
        """Run ``work`` in a transaction, which sees the database as it was at one moment, if there are any.

        Raises
        ------
        GraphServerError
            If the server can't be reached, goes away, or stays busy.
        """
        with self.answering():
            for _ in range(_MAX_RACES):
                try:
                    return self._attempt(work)
                except RaceError:
                    continue
        raise GraphServerError(f"{self.where} stays busy: other writers made the same nodes {_MAX_RACES} times")

    def _attempt(self, work: Callable[[Database[Document], ClientSession | None], Result]) -> Result:
        database = self.database()
        if not self.has_transactions():
            return work(database, None)
        deadline, pause_s = monotonic() + BUSY_S, 0.001
        with database.client.start_session() as session:
            while True:
                try:
                    session.start_transaction(read_concern=ReadConcern("snapshot"), write_concern=DURABLE)
                    result = work(database, session)
                    _commit(session, deadline)
                except PyMongoError as error:
                    if not _is_worth_another_try(error, "TransientTransactionError", deadline):
                        raise
                else:
                    return result
                finally:
                    if session.in_transaction:
                        session.abort_transaction()
                sleep(random.uniform(0, pause_s))  # noqa: S311  # so that those who met do not meet again
                pause_s = min(2 * pause_s, 0.1)

    @contextmanager
    def answering(self) -> Iterator[Self]:
        """Raise errors of the driver as ours, with the server's name and without who we are."""
        try:
            yield self
        except (ConfigurationError, InvalidURI) as error:
            cause = error if self._told(error) == str(error) else None  # else it tells who we are
            raise GraphError(f"the URL of {self.where} can't be used: {self._told(error)}") from cause
        except ServerSelectionTimeoutError as error:
            raise GraphServerError(
                f"no server of MongoDB answers at {self.where}: {self._told(error)}; is it running, is the URL right?"
            ) from error
        except ConnectionFailure as error:
            raise GraphServerError(
                f"the connection to {self.where} was lost: {self._told(error)}; what was not acknowledged has to be "
                "written again"
            ) from error
        except (DocumentTooLarge, BSONError) as error:
            raise GraphError(f"{self.where} can't hold this: {self._told(error)}") from error
        except OperationFailure as error:
            raise GraphServerError(self._refusal(error)) from error
        except PyMongoError as error:
            raise GraphServerError(f"{self.where} failed: {self._told(error)}") from error

    def _refusal(self, error: OperationFailure) -> str:
        if error.code in _TOO_LONG:
            return (
                f"{self.where} ended a transaction that took too long: {self._told(error)}; read or write less at a "
                "time, or raise the server's transactionLifetimeLimitSeconds"
            )
        if error.has_error_label("TransientTransactionError"):
            return f"{self.where} stays busy, others write the same nodes or edges: {self._told(error)}"
        return f"{self.where} refused: {self._told(error)}"

    def _told(self, error: PyMongoError | BSONError) -> str:
        """Return what an error says, in one line of the length of one, and without credentials."""
        text = str(error)
        if isinstance(error, OperationFailure) and error.details:
            failed = error.details.get("writeErrors") or error.details.get("writeConcernErrors") or [error.details]
            text = str(failed[0].get("errmsg", text))
        if self._address.who:
            text = text.replace(f"//{self._address.who}@", "//***@")
        return text if len(text) < 400 else f"{text[:400]}..."


def _commit(session: ClientSession, deadline: float) -> None:
    """Commit; ask again where the answer was lost, which commits once."""
    while True:
        try:
            session.commit_transaction()
        except PyMongoError as error:
            if not _is_worth_another_try(error, "UnknownTransactionCommitResult", deadline):
                raise
        else:
            return


def _is_worth_another_try(error: PyMongoError, label: str, deadline: float) -> bool:
    """Return whether a transaction may succeed if it is tried again.

    ``with_transaction`` of the driver does so for 120 s even where no server answers any more.
    """
    is_silent = isinstance(error, NetworkTimeout | ServerSelectionTimeoutError)
    return error.has_error_label(label) and not is_silent and monotonic() < deadline


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a URL, as they are written there."""

    scheme: str
    who: str
    """Name and password, and the colon between them; empty if there are none."""
    hosts: str
    path: str
    """Name of the database; empty if there is none."""
    options: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Return the parts.

        Raises
        ------
        GraphError
            If it can't be told what is a password and what is not. Nothing of the URL is shown then.
        """
        scheme, _, rest = url.partition("://")
        before, _, options = rest.partition("?")
        authority, slash, path = before.partition("/")
        who, _, hosts = authority.rpartition("@")
        is_clear = "@" not in who and who.count(":") < 2 and "@" not in path and "/" not in path
        if "@" in options:  # of an option, or what follows a password with a question mark
            is_clear = is_clear and bool(slash) and all("=" in option for option in options.split("&"))
        has_hosts = all(map(_HOST.fullmatch, hosts.split(",")))
        if scheme not in ("mongodb", "mongodb+srv") or not is_clear or not has_hosts:
            raise GraphError(
                "the URL of MongoDB can't be read: write it like 'mongodb://user:password@host:27017/database'; "
                "special characters in the name, the password and the database are percent-encoded, as "
                "urllib.parse.quote(password, safe='') does"
            )
        return cls(scheme, who, hosts, path, options)


def without_credentials(url: str) -> str:
    """Return a URL without a name, a password and options.

    Examples
    --------
    >>> without_credentials("mongodb://me:secret@host:27017,other/db?authSource=admin")
    'mongodb://host:27017,other'
    """
    address = Address.parse(url)
    return f"{address.scheme}://{address.hosts}"
