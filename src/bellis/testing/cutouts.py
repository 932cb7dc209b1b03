"""A server on this machine that cuts regions out of a volume, and goes wrong when it is told to."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import signal
import tempfile
import threading
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

import click
import numpy as np

from bellis.geometry import Roi
from bellis.testing.described import DATASET, ORDER, Facts, cutout_description, described, legacy_description
from bellis.testing.faults import Answer, Fault, Faults
from bellis.testing.payloads import IMAGES, PAYLOADS, encode
from bellis.testing.stored import StoredVolume, is_chunk
from bellis.testing.wire import Request, Server

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from bellis.volumes.descriptions import Payload

_CUTOUT = re.compile(r"/cutout/(\w+)/([-\d/]+)")
_SPAN = re.compile(r"(-?\d+)-(-?\d+)")


class VolumeServer:
    """A server, as a test sees it; see `volume_server`.

    Attributes
    ----------
    url
        Of the server, without a slash at its end.
    token
        Bearer token without which it answers 401.
    latency_s
        Seconds before each answer.
    checksums
        Name of a header with a checksum of each cut-out, ``"Content-MD5"`` or ``"Repr-Digest"``; empty for none.
    """

    def __init__(
        self,
        volume: npt.NDArray[Any],
        axes: str,
        payloads: Iterable[Payload],
        origin: Sequence[int] | None,
        stored: StoredVolume,
    ) -> None:
        self.url = ""
        self.token: str | None = None
        self.latency_s = 0.0
        self.checksums = ""
        self.volume = volume
        self.axes = axes
        self.origin = tuple(origin or (0,) * volume.ndim)
        self._payloads = tuple(payloads)
        self._stored = stored
        self._faults = Faults()
        self._requests: list[Request] = []
        self._lock = threading.Lock()

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What goes wrong; may be set at any time, which begins to count anew."""
        return self._faults.all

    @faults.setter
    def faults(self, faults: Iterable[Fault]) -> None:
        self._faults = Faults(faults)

    @property
    def requests(self) -> tuple[Request, ...]:
        """All that was asked for so far, in order."""
        with self._lock:
            return tuple(self._requests)

    @property
    def num_requests(self) -> int:
        """How many there were."""
        return len(self._requests)

    def requests_of(self, what: Roi | str) -> tuple[Request, ...]:
        """Return the requests for a cut-out of just these voxels, or those with a text in their path."""
        if isinstance(what, str):
            return tuple(request for request in self.requests if what in request.path)
        return tuple(request for request in self.requests if request.box == what)

    def clear(self) -> None:
        """Forget the requests."""
        with self._lock:
            self._requests.clear()

    # Descriptions ------------------------------------------------------------------------------------------------

    def description(
        self, payload: Payload = "raw", *, payload_axes: str | None = None, byte_order: str | None = None, **more: Any
    ) -> dict[str, Any]:
        """Return a description of this volume, as JSON.

        Parameters
        ----------
        payload
            What the server is to send.
        payload_axes, byte_order
            How; as the volume is, and little, if not said.
        more
            Fields of the source, of the cache (``block_shape``, ``directory``, ``compression``, ``max_bytes``), or of
            the description itself.
        """
        return cutout_description(self._facts, payload, payload_axes, byte_order, more)

    def chunked_description(self, format: str = "zarr", **more: Any) -> dict[str, Any]:
        """Return a description of this volume in a chunked format: one of `bellis.testing.stored.FORMATS`."""
        self._stored.prepare(format)
        return described({"url": f"{self.url}/stored/{format}"}, more)

    def legacy_description(
        self, *, view_origin: Sequence[int] | None = None, view_shape: Sequence[int] | None = None, **more: Any
    ) -> dict[str, Any]:
        """Return a description as lazyflow has it: of the server, and of a tree of block files.

        Parameters
        ----------
        view_origin, view_shape
            Part of the volume; all of it if not given.
        more
            Fields of the local description.
        """
        facts = self._facts
        return legacy_description(facts, view_origin=view_origin, view_shape=view_shape, more=more)

    @property
    def _facts(self) -> Facts:
        return Facts(self.url, self.axes, self.volume.shape, self.volume.dtype, self.origin)

    # Answers -----------------------------------------------------------------------------------------------------

    def note(self, path: str, headers: Mapping[str, str]) -> Request:
        """Remember a request."""
        request = Request(path, headers, monotonic(), self._box(path))
        with self._lock:
            self._requests.append(request)
        return request

    def fault_of(self, request: Request) -> tuple[Fault, int] | None:
        """Return what is to go wrong with the answer, and for the how-manieth time."""
        path = request.path
        is_data = request.box is not None or (path.startswith("/stored/") and is_chunk(path))
        return self._faults.due(path, is_data=is_data)

    def answer(self, request: Request, change: str = "") -> Answer:
        """Return a sound answer, or one of another shape or dtype."""
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            return Answer(HTTPStatus.UNAUTHORIZED, headers={"WWW-Authenticate": "Bearer"})
        place = unquote(request.path.partition("?")[0])
        if request.box is not None:
            return self._cutout(request, request.box, change)
        if place.startswith("/stored/"):
            place = place.removeprefix("/stored/")
            if change:
                return Answer(HTTPStatus.OK, self._stored.any_chunk(f"{place.partition('/')[0]}~{change}"))
            return self._stored.answer(place, request.headers)
        kind = place.removeprefix("/description/")
        if not place.startswith("/description/"):
            return Answer(HTTPStatus.NOT_FOUND)
        said = self.legacy_description() if kind == "legacy" else None
        said = said or (self.description(kind) if kind in PAYLOADS else self.chunked_description(kind))
        return Answer(HTTPStatus.OK, json.dumps(said, indent=1).encode(), {"Content-Type": "application/json"})

    def _box(self, path: str) -> Roi | None:
        found = _CUTOUT.fullmatch(path.partition("?")[0])
        spans = [_SPAN.fullmatch(part) for part in found[2].split("/")] if found else []
        names = [axis for axis in ORDER if axis in self.axes]
        if found is None or found[1] not in self._payloads or len(spans) != len(names) or None in spans:
            return None
        ends = {axis: (int(span[1]), int(span[2])) for axis, span in zip(names, spans, strict=True) if span}
        begin = [ends[axis][0] - at for axis, at in zip(self.axes, self.origin, strict=True)]
        return Roi(begin, [max(0, ends[axis][1] - ends[axis][0]) for axis in self.axes])

    def _cutout(self, request: Request, box: Roi, change: str) -> Answer:
        if not Roi((0,) * self.volume.ndim, self.volume.shape).contains(box) or box.empty:
            return Answer(HTTPStatus.BAD_REQUEST, b"outside of the volume\n")
        payload: Any = request.path.split("/")[2]
        query = parse_qs(request.path.partition("?")[2])
        order = query.get("axes", [self.axes])[0]
        voxels = self.volume[tuple([slice(a, b) for a, b in zip(box.begin, box.end, strict=True)])]
        voxels = voxels.transpose([self.axes.index(axis) for axis in order])
        if change == "shape":
            voxels = voxels[..., :-1] if voxels.shape[-1] > 1 else voxels.repeat(2, axis=-1)
        if change == "dtype":
            voxels = voxels.astype("u2" if payload in IMAGES and voxels.dtype != "u2" else "f8")
        elif query.get("order", ["little"])[0] == "big":
            voxels = voxels.astype(voxels.dtype.newbyteorder(">"))
        if change == "dtype" and payload == "jpeg":
            payload = "png"  # a JPEG has 8 bits
        body = encode(voxels, payload, hdf5_dataset=DATASET)
        return Answer(HTTPStatus.OK, body, {"Content-Type": "application/octet-stream", **self._checksum(body)})

    def _checksum(self, body: bytes) -> dict[str, str]:
        if not self.checksums:
            return {}
        is_md5 = self.checksums == "Content-MD5"
        digest = hashlib.md5(body, usedforsecurity=False) if is_md5 else hashlib.sha256(body)
        said = base64.b64encode(digest.digest()).decode()
        return {self.checksums: said if is_md5 else f"sha-256=:{said}:"}


@contextmanager
def volume_server(
    volume: npt.NDArray[Any],
    *,
    axes: str | None = None,
    payloads: Iterable[Payload] = PAYLOADS,
    origin: Sequence[int] | None = None,
    chunk_shape: Sequence[int] | None = None,
    latency_s: float = 0.0,
    token: str | None = None,
    checksums: bool | str = False,
    folder: Path | None = None,
    faults: Iterable[Fault] = (),
    port: int = 0,
) -> Iterator[VolumeServer]:
    """Serve a volume on this machine, as cut-outs and in chunked formats, until the context ends.

    Cut-outs are at ``/cutout/{payload}/{x_start}-{x_stop}/{y_start}-{y_stop}/{z_start}-{z_stop}``, followed by those
    of t and c if the volume has them; arrays at ``/stored/zarr`` and so on; descriptions at ``/description/raw``,
    ``/description/zarr``, ``/description/legacy``.

    Parameters
    ----------
    volume
        Voxels; not copied.
    axes
        One letter per axis, of t, c, z, y, x; the last ones of tczyx if not given.
    payloads
        As what it sends cut-outs.
    origin
        Where the volume begins in the server's coordinates; 0 if not given.
    chunk_shape
        Voxels of a chunk in chunked formats; 64 along each axis if not given.
    latency_s
        Seconds to wait before each answer.
    token
        Bearer token that is asked for.
    checksums
        Whether each cut-out comes with a checksum in a header, or in which: ``"Content-MD5"``, ``"Repr-Digest"``.
    folder
        Where chunked formats are written; a temporary one if not given.
    faults
        What goes wrong from the start.
    port
        Where to listen; any free one if 0.
    """
    axes = axes or "tczyx"[-volume.ndim :]
    if len(axes) != volume.ndim or len(set(axes)) != len(axes) or set(axes) - set(ORDER):
        raise ValueError(f"axes {axes!r} are not one letter of t, c, z, y, x for each of {volume.ndim} axes")
    chunks = tuple(chunk_shape or [min(n, 64) for n in volume.shape])
    with tempfile.TemporaryDirectory() as own:
        stored = StoredVolume(volume, axes, chunks, folder or Path(own))
        served = VolumeServer(volume, axes, payloads, origin, stored)
        served.token, served.latency_s, served.faults = token, latency_s, faults
        served.checksums = "Repr-Digest" if checksums is True else checksums or ""
        server = Server(served, port)
        served.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield served
        finally:
            server.end()
            thread.join()
            server.server_close()


def simulated(size: int, seed: int = 1) -> npt.NDArray[np.uint8]:
    """Return a cube of smooth structures under noise, which compresses about as microscopy does."""
    rng = np.random.default_rng(seed)
    z, y, x = (np.sin(np.arange(size) / period) for period in (17.0, 11.0, 13.0))
    plane = y[:, None] + x[None, :]
    voxels = np.empty((size, size, size), np.uint8)
    for k in range(size):
        voxels[k] = 128 + 25 * (plane + z[k]) + rng.integers(-8, 8, (size, size))
    return voxels


@click.command()
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False))
@click.option("--simulated", "size", type=click.IntRange(1, 2048), help="Voxels along each side of a simulated volume.")
@click.option("--latency", "latency_s", default=0.0, help="Seconds to wait before each answer.")
@click.option("--chunk", default=64, help="Voxels along each side of a chunk.")
@click.option("--checksums/--no-checksums", default=False, help="Send a checksum with each cut-out.")
@click.option("--port", default=0, help="Where to listen; any free one by default.")
def main(file: str | None, size: int | None, latency_s: float, chunk: int, *, checksums: bool, port: int) -> None:
    """Serve the volume in FILE, a .npy, or a simulated one, until it is terminated; print the URL."""
    if (file is None) == (size is None):
        raise click.UsageError("pass one of FILE and --simulated")
    volume = simulated(size) if size else np.load(str(file), mmap_mode="r", allow_pickle=False)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    chunks = [min(n, chunk) for n in volume.shape]
    with volume_server(volume, chunk_shape=chunks, latency_s=latency_s, checksums=checksums, port=port) as server:
        click.echo(server.url)
        ended.wait()


if __name__ == "__main__":
    main()
