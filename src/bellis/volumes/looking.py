"""What the metadata of a remote array says, in time."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from bellis.arrays import keyvalue
from bellis.arrays.location import Location
from bellis.arrays.open import find, overridden, what_is_there
from bellis.arrays.tensorstore import TensorStoreData, kvstore_of
from bellis.errors import AccessError, ArrayError, FetchError, MissingBlockError, TransientError
from bellis.volumes import snapshot
from bellis.volumes.access import public
from bellis.volumes.chunk_errors import explained_metadata, has_checksum

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bellis.arrays.format import Stored
    from bellis.arrays.layout import Layout
    from bellis.volumes.descriptions import ChunkedDescription
    from bellis.volumes.http import HttpClient

_DOCUMENTS = {
    "zarr3": ("zarr.json",),
    "zarr": (".zarray",),
    "n5": ("attributes.json",),
    "neuroglancer_precomputed": ("info",),
}


@dataclass(frozen=True, slots=True)
class Found:
    """What the metadata says."""

    data: TensorStoreData
    """How its axes are presented; for http(s), what it is of is gone, and ``spec`` is what to open."""
    layout: Layout
    spec: Mapping[str, Any]
    """For tensorstore; without credentials."""
    fingerprint: Mapping[str, Any]
    is_checked: bool


def look(
    location: Location, description: ChunkedDescription, client: HttpClient, stall_s: float, deadline: float
) -> Found:
    """Return what the metadata at a location says: one attempt, which ends at ``deadline`` (of the monotonic clock).

    Raises
    ------
    TransientError
        If it may succeed another time.
    AccessError, FetchError
        If it will not.
    """
    if is_http(location):
        return _behind_http(location, description, client, stall_s, deadline)
    return _within(deadline, location, description)


def is_http(location: Location) -> bool:
    """Return whether a web server is asked."""
    return location.root.startswith(("http://", "https://"))


def _within(deadline: float, location: Location, description: ChunkedDescription) -> Found:
    """Look from another thread: requests for metadata have time-outs of their own, longer than ours."""
    found: list[Found | Exception] = []

    def work() -> None:
        try:
            found.append(_elsewhere(location, description))
        except ArrayError as error:
            found.append(explained_metadata(error))
        except Exception as error:  # noqa: BLE001  (a format's, which may be a plugin)
            found.append(error)

    thread = threading.Thread(target=work, daemon=True, name="bellis-metadata")
    thread.start()
    thread.join(max(0.0, deadline - monotonic()))
    if not found:
        raise TransientError(f"{public(location.url)}: its metadata did not come in time")
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def _elsewhere(location: Location, description: ChunkedDescription) -> Found:
    """Look at what is in a bucket or on a disk."""
    stored = find(location, is_writeable=False, missing="error")
    if stored is None:
        raise FetchError(what_is_there(location))
    data = stored.data
    if not isinstance(data, TensorStoreData) or data.spec.get("driver") not in _DOCUMENTS:
        raise FetchError(f"{location} is of format {stored.format}: pass zarr, n5 or precomputed")
    where = Location.of(data.path)
    documents: dict[str, Any] = {}
    for folder in (where, where.parent, location):  # a scale of a precomputed volume has its document above
        for key in _DOCUMENTS[data.spec["driver"]]:
            found = keyvalue.read_json(folder, key) if folder is not None else None
            if found is not None:
                documents.setdefault(key, found)
    return _made(description, stored, data, data.spec, documents, None)


def _behind_http(
    location: Location, description: ChunkedDescription, client: HttpClient, stall_s: float, deadline: float
) -> Found:
    """Look at what is behind a web server."""
    etags: dict[str, str] = {}
    refusals: list[AccessError] = []
    parts = urlsplit(location.root)

    def read(key: str) -> bytes | None:
        url = f"{parts.scheme}://{parts.netloc}{quote(unquote(f'{parts.path}/{key}'))}"
        try:
            answer = client.get(url, timeout_s=max(0.001, deadline - monotonic()), stall_s=stall_s)
        except MissingBlockError:
            return None
        except AccessError as error:  # of what is not there, a bucket that may not be listed says the same
            refusals.append(error)
            return None
        if etag := answer.headers.get("etag"):
            etags[key] = etag
        return answer.body

    taken = _taken(location, client, read, refusals)
    spec = {**taken.data.spec, "kvstore": kvstore_of(Location(location.root, taken.place))}
    names = [f"{taken.place}/{key}".strip("/") for key in _DOCUMENTS[spec["driver"]]]
    documents = {name: taken.documents[name] for name in names if name in taken.documents}
    etag = next((etags[name] for name in names if name in etags), None)
    return _made(description, taken.stored, taken.data, spec, documents, etag)


def _taken(
    location: Location, client: HttpClient, read: Callable[[str], bytes | None], refusals: list[AccessError]
) -> snapshot.Snapshot:
    """Return what the metadata says; a message that quotes it is shown without our secrets."""
    failure: FetchError
    try:
        return snapshot.take(location, read)
    except FetchError as error:
        if isinstance(error, TransientError | AccessError):
            raise
        failure = refusals[0] if refusals else FetchError(client.shown(str(error), location.url))
    raise failure


def _made(
    said: ChunkedDescription,
    stored: Stored,
    data: TensorStoreData,
    spec: Mapping[str, Any],
    documents: Mapping[str, Any],
    etag: str | None,
) -> Found:
    layout = stored.layout
    if not (said.voxel_size is said.offset is said.units is None):
        layout = overridden(layout, voxel_size=said.voxel_size, offset=said.offset, units=said.units)
    text = json.dumps(documents, sort_keys=True)
    fingerprint = {
        "url": public(said.url),
        "name": said.name,
        "metadata": hashlib.sha256(text.encode()).hexdigest(),
        **({"etag": etag} if etag else {}),
    }
    return Found(data, layout, spec, fingerprint, has_checksum(documents, spec))
