"""What others may send: each is refused, hurts nobody else, and nothing of it is taken."""

from __future__ import annotations

import json
import pickle
import resource
import socket
from contextlib import ExitStack
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bellis.runtime.lease import Outcome
from bellis.service import app, protocol
from bellis.service.messages import LARGEST_BODY_BYTES, Answer, Join, Joined, Problem, Turn
from bellis.testing.blocks import until
from services import DEADLINE_S, TOKEN, Raw, asking, lease, request, said, seconds, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bellis.service.server import Server

pytestmark = pytest.mark.integration

GOOD = msgspec.to_builtins(said(1))


def turn_with(**changes: Any) -> bytes:
    return json.dumps({"reports": [{**GOOD, **changes}]}).encode()


def nested(count: int) -> bytes:
    return b"[" * count + b"]" * count


class Explosive:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("it was unpickled",))


class Run:
    """A service with one honest worker, which has a lease."""

    def __init__(self, server: Server) -> None:
        self.server = server
        with server.board() as board:
            board.submit(lease(1))
        self.connection = Raw(server)
        body = self.connection.ask("POST", "/v1/workers", Join(name="honest"))[1]
        self.worker = msgspec.json.decode(body, type=Joined).worker_id
        self.turn(asking())
        self.before = self.state()

    def turn(self, turn: Turn) -> Answer:
        status, body = self.connection.ask("POST", f"/v1/workers/{self.worker}/turn", turn)
        assert status == 200
        return msgspec.json.decode(body, type=Answer)

    def state(self) -> Any:
        with self.server.board() as board:
            return board.status(), board.has_events()

    def is_undisturbed(self) -> None:
        """The honest worker finds everything as it left it, and is answered at once."""
        assert self.state() == self.before
        began = monotonic()
        self.turn(Turn(held=[1]))
        assert monotonic() - began < 2.0


@pytest.fixture
def run() -> Iterator[Run]:
    with serving() as server:
        run = Run(server)
        yield run
        run.connection.socket.close()


TURN = "/v1/workers/1/turn"


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "expected"),
    [
        pytest.param("POST", TURN, turn_with(), {"Authorization": None}, 401, id="no token"),
        pytest.param("POST", TURN, turn_with(), {"Authorization": "Bearer "}, 401, id="empty token"),
        pytest.param("POST", TURN, turn_with(), {"Authorization": f"Bearer {TOKEN[:-1]}"}, 401, id="part of the token"),
        pytest.param("POST", TURN, turn_with(), {"Authorization": f"Bearer {TOKEN}x"}, 401, id="token and more"),
        pytest.param("POST", TURN, turn_with(), {"Authorization": f"Basic {TOKEN}"}, 401, id="wrong scheme"),
        pytest.param("POST", TURN, turn_with(), {"Authorization": "Bearer \xe9\xff"}, 401, id="token of other letters"),
        pytest.param("DELETE", "/v1/workers/1", b"", {"Authorization": None}, 401, id="sends others away"),
        pytest.param("GET", "/v1/run", b"", {"Authorization": None}, 401, id="looks without token"),
        pytest.param("POST", TURN, turn_with(), {"Bellis-Run": "another"}, 409, id="another run"),
        pytest.param("POST", TURN, turn_with(), {"Bellis-Run": None}, 422, id="no run"),
        pytest.param("POST", "/v1/workers", b'{"name": "x", "task_id": "other"}', {}, 422, id="unknown task"),
        pytest.param("POST", "/v1/workers", b'{"name": "x", "slots": 0}', {}, 422, id="no slots"),
        pytest.param("POST", "/v1/workers", b'{"name": "x", "slots": 1e99}', {}, 422, id="slots without end"),
        pytest.param("POST", "/v1/workers", json.dumps({"name": "x" * 201}).encode(), {}, 422, id="long name"),
        pytest.param("POST", "/v1/workers/2/turn", turn_with(), {}, 404, id="unknown worker"),
        pytest.param("POST", "/v1/workers/-1/turn", turn_with(), {}, 404, id="negative worker"),
        pytest.param("POST", f"/v1/workers/{10**40}/turn", turn_with(), {}, 404, id="large worker"),
        pytest.param("POST", "/v1/workers/x/turn", turn_with(), {}, 404, id="worker that is no number"),
        pytest.param("POST", TURN, turn_with(begin=2), {}, 422, id="blocks beyond the lease"),
        pytest.param("POST", TURN, turn_with(begin=-1), {}, 422, id="negative block"),
        pytest.param("POST", TURN, turn_with(outcomes="CQkJCQ=="), {}, 422, id="unknown outcome"),
        pytest.param("POST", TURN, turn_with(outcomes="%%"), {}, 422, id="outcomes that are no base64"),
        pytest.param("POST", TURN, turn_with(errors={"7": "x"}), {}, 422, id="error of a foreign block"),
        pytest.param("POST", TURN, turn_with(write_roi=[0, 9]), {}, 422, id="altered region"),
        pytest.param("POST", TURN, turn_with(results={"0": "gASVAA=="}), {}, 422, id="result that nobody asked for"),
        pytest.param("POST", TURN, b'{"refused": {"other": "x"}}', {}, 422, id="refuses an unknown task"),
        pytest.param("POST", TURN, b"", {}, 422, id="no body"),
        pytest.param("POST", TURN, b"{", {}, 422, id="half a body"),
        pytest.param("POST", TURN, b"\xff\xfe\x00", {}, 422, id="no text"),
        pytest.param("POST", TURN, pickle.dumps(Explosive()), {}, 422, id="pickle"),
        pytest.param("POST", TURN, nested(10_000), {}, 422, id="brackets"),
        pytest.param("POST", TURN, b'{"held": ' + nested(10_000) + b"}", {}, 422, id="brackets within"),
        pytest.param("POST", TURN, b'{"x": ' + nested(10_000) + b"}", {}, 422, id="brackets in an unknown field"),
        pytest.param("POST", TURN, json.dumps({"held": [0] * 20_000}).encode(), {}, 422, id="too many"),
        pytest.param("POST", TURN, b'{"wait_s": NaN}', {}, 422, id="no number"),
        pytest.param("POST", TURN, b'{"wait_s": 1e300}', {}, 422, id="waits for ever"),
        pytest.param("POST", TURN, turn_with(), {"Content-Length": str(2**30)}, 413, id="announces 1 GB"),
        pytest.param("POST", TURN, b"", {"Content-Length": "9" * 30}, 400, id="announces more than there is"),
        pytest.param("POST", TURN, b"", {"Content-Length": "-5"}, 400, id="announces less than nothing"),
        pytest.param("GET", "/v1/hello", b"", {}, 422, id="no nonce"),
        pytest.param("GET", "/v1/hello?nonce=xyz", b"", {}, 422, id="nonce that is none"),
        pytest.param("GET", f"/v1/hello?nonce={'0' * 65}", b"", {}, 422, id="long nonce"),
        pytest.param("GET", "/etc/passwd", b"", {}, 404, id="unknown path"),
        pytest.param("PATCH", "/v1/run", b"", {}, 405, id="unknown method"),
    ],
)
def test_it_is_refused_and_changes_nothing(
    run: Run, method: str, path: str, body: bytes, headers: dict[str, str | None], expected: int
) -> None:
    with Raw(run.server) as hostile:
        hostile.send(request(method, path, body, headers).decode("latin-1").encode("latin-1"))
        status, answer = hostile.answer()
    assert status == expected
    if status != 400:
        assert msgspec.json.decode(answer, type=Problem).error
    run.is_undisturbed()


@pytest.mark.parametrize(
    "reports",
    [
        pytest.param([said(77)], id="unknown lease"),
        pytest.param([said(1)], id="another worker's lease"),
        pytest.param([said(1), said(1), said(1, 0, 0)], id="again and again"),
    ],
)
def test_reports_on_what_is_not_ones_own_are_dropped(run: Run, reports: list[Any]) -> None:
    with Raw(run.server) as hostile:
        body = hostile.ask("POST", "/v1/workers", Join(name="thief"))[1]
        worker = msgspec.json.decode(body, type=Joined).worker_id
        status, body = hostile.ask("POST", f"/v1/workers/{worker}/turn", Turn(reports=reports))
        assert status == 200
        assert msgspec.json.decode(body, type=Answer).lost == sorted({report.lease_id for report in reports})
        hostile.ask("DELETE", f"/v1/workers/{worker}")
    with run.server.board() as board:
        assert board.take_late() > 0
    run.is_undisturbed()


def test_a_block_that_is_reported_twice_counts_once(run: Run) -> None:
    run.turn(Turn(reports=[said(1, 0, 2, finished=False)] * 5, held=[1]))
    run.turn(Turn(reports=[said(1, 0, 2, finished=False, outcomes=bytes([Outcome.FAILED] * 2))], held=[1]))
    with run.server.board() as board:
        reports = board.take_events()
    assert [(report.outcomes, report.seconds) for report in reports if report.outcomes] == [(b"\1\1", seconds(2))]


def test_a_body_of_a_gigabyte_is_not_read(run: Run) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Raw(run.server) as hostile:
        head = request("POST", TURN, b"", {"Transfer-Encoding": "chunked", "Content-Length": None})
        hostile.send(head)
        chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
        sent = 0
        try:
            while sent < 2**30:
                hostile.send(chunk)
                sent += 2**20
        except OSError:
            pass  # it has hung up
    assert sent < 2 * LARGEST_BODY_BYTES
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4 * LARGEST_BODY_BYTES / 1024
    run.is_undisturbed()


def test_without_the_token_no_body_is_read(run: Run) -> None:
    with Raw(run.server) as hostile:
        hostile.send(request("POST", TURN, b"", {"Authorization": None, "Content-Length": str(LARGEST_BODY_BYTES)}))
        assert hostile.answer()[0] == 401
        assert hostile.is_closed()
    run.is_undisturbed()


def test_a_slow_body_is_given_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BODY_S", 0.2)
    with Raw(run.server) as hostile:
        hostile.send(request("POST", TURN, b"{", {"Content-Length": "100"}))
        assert hostile.answer()[0] == 408
        assert hostile.is_closed()
    run.is_undisturbed()


@pytest.mark.parametrize("begin", [b"", b"P", b"POST /v1/workers HTTP/1.1\r\nHost: run\r\nX-A: "])
def test_a_slow_head_is_given_up(begin: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.2)
    with serving() as server:
        run = Run(server)
        with Raw(server) as hostile:
            hostile.send(begin)
            assert hostile.is_closed()
        run.is_undisturbed()
        run.connection.socket.close()


def test_a_head_without_end_is_given_up(run: Run) -> None:
    with Raw(run.server) as hostile:
        hostile.send(b"GET /v1/run HTTP/1.1\r\n")
        try:
            for _ in range(1000):
                hostile.send(b"X: " + b"x" * 1000 + b"\r\n")
        except OSError:
            pass  # it has hung up
        assert hostile.is_closed()
    run.is_undisturbed()


def test_a_thousand_idle_connections_do_not_keep_workers_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MOST_STRANGERS", 800)
    with ExitStack() as stack:
        idle = [stack.enter_context(Raw(run.server)) for _ in range(1000)]
        run.is_undisturbed()
        until(lambda: sum(is_hung_up(connection) for connection in idle) >= 200, "the oldest are closed")
        with Raw(run.server) as late:
            assert late.ask("GET", "/v1/run")[0] == 200
        run.is_undisturbed()


def is_hung_up(connection: Raw) -> bool:
    connection.socket.setblocking(False)
    try:
        return connection.socket.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_many_requests_at_once_on_one_connection_are_answered_in_order(run: Run) -> None:
    with Raw(run.server) as hostile:
        hostile.send(request("GET", "/v1/run") * 200)
        received = b""
        while received.count(b"HTTP/1.1 200 OK") < 200:
            received += hostile.socket.recv(65536)
    run.is_undisturbed()


@pytest.fixture(scope="module")
def shared_run() -> Iterator[Run]:
    with serving() as server:
        run = Run(server)
        yield run
        run.connection.socket.close()


@given(data=st.binary(max_size=300))
@example(data=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
@example(data=b"CONNECT a:1 HTTP/1.1\r\n\r\n")
@example(data=b"GET /\xff HTTP/1.1\r\n\r\n")
@example(data=b"GET http://[ HTTP/1.1\r\n\r\n")
@example(data=b"GET /v1/run HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
@settings(max_examples=60)
def test_bytes_that_are_no_request_hurt_only_their_sender(shared_run: Run, data: bytes) -> None:
    with Raw(shared_run.server) as hostile:
        hostile.send(data)
        hostile.socket.shutdown(socket.SHUT_WR)
        hostile.socket.settimeout(DEADLINE_S)
        if data.endswith(b"\r\n\r\n"):
            assert hostile.answer()[0] in {0, 400, 401, 404, 405, 501}
    shared_run.is_undisturbed()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
_FIELDS = st.sampled_from(
    ["reports", "running", "held", "wants", "wait_s", "refused", "ended", "lease_id", "begin", "outcomes", "errors"]
)


@given(body=st.binary(max_size=200) | st.dictionaries(_FIELDS, _JSON, max_size=5).map(lambda x: json.dumps(x).encode()))
@settings(max_examples=150)
def test_whatever_a_turn_says_it_is_answered_or_refused(shared_run: Run, body: bytes) -> None:
    with Raw(shared_run.server) as hostile:
        status, answer = hostile.ask("POST", "/v1/workers/999/turn", body)
    assert status in {404, 422}, answer
    shared_run.is_undisturbed()


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize("worker", ["9" * 4301, "9" * 20_000, "٣", "1.5", "%31%32x"], ids=lambda text: text[:8])
def test_an_id_that_no_worker_can_have_is_unknown(run: Run, method: str, worker: str) -> None:
    path = f"/v1/workers/{worker}" + ("/turn" if method == "POST" else "")
    path = quote(path, safe="/%")
    for token, expected in ((None, 401), (f"Bearer {TOKEN}", 404)):
        with Raw(run.server) as hostile:
            status, answer = hostile.ask(
                method, path, turn_with() if method == "POST" else b"", {"Authorization": token}
            )
        assert status == expected
        assert msgspec.json.decode(answer, type=Problem).error
    run.is_undisturbed()


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        pytest.param(b"1;", b"x" * 2**20, id="extension of a chunk"),
        pytest.param(b"", b"1;" + b"x" * 1000 + b"\r\n \r\n", id="extensions of many chunks"),
        pytest.param(b"1\r\n{\r\n0\r\n", b"X: " + b"x" * 1000 + b"\r\n", id="trailers"),
    ],
)
@pytest.mark.parametrize("path", [TURN, "/v1/hello?nonce=" + "0" * 32], ids=["turn", "hello"])
def test_what_is_around_a_body_is_counted(run: Run, path: str, begin: bytes, again: bytes) -> None:
    again = again * (2**20 // len(again))
    sent = 0
    with Raw(run.server) as hostile:
        method = "POST" if path == TURN else "GET"
        hostile.send(request(method, path, b"", {"Transfer-Encoding": "chunked", "Content-Length": None}) + begin)
        try:
            while sent < 2**30:
                hostile.send(again)
                sent += len(again)
        except OSError:
            pass  # it has hung up
    assert sent < 2 * LARGEST_BODY_BYTES
    run.is_undisturbed()


def test_what_follows_a_body_is_no_part_of_the_head(run: Run) -> None:
    headers = {"Transfer-Encoding": "chunked", "Content-Length": None, "Authorization": None}
    late = f"2\r\n{{}}\r\n0\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    with Raw(run.server) as hostile:
        hostile.send(request("POST", TURN, b"", headers) + late)
        assert hostile.answer()[0] == 401
    run.is_undisturbed()


def test_whoever_asks_first_is_told_to_go_on(run: Run) -> None:
    body = b"{}"
    with Raw(run.server) as careful:
        careful.send(request("POST", TURN, b"", {"Content-Length": str(len(body)), "Expect": "100-continue"}))
        assert careful.answer()[0] == 100
        careful.send(body)
        assert careful.answer()[0] == 200
    with Raw(run.server) as careful:
        headers = {"Content-Length": str(len(body)), "Expect": "100-continue", "Authorization": None}
        careful.send(request("POST", TURN, b"", headers))
        assert careful.answer()[0] == 401
