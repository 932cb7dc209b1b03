"""The service over HTTP, with real connections."""

from __future__ import annotations

import hashlib
import hmac
import ssl
import stat
import threading
import urllib.request
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trustme

from bellis.errors import EngineError
from bellis.service.board import Board
from bellis.service.keys import Keys
from bellis.service.messages import Answer, Hello, Join, Joined, Problem, RunStatus, Turn
from bellis.service.token import new_token, read_token, write_private
from bellis.testing.blocks import Belongings, until
from services import RUN_ID, TOKEN, Raw, asking, board_task, lease, request, said, serving

if TYPE_CHECKING:
    from pathlib import Path

    from bellis.service.server import Server

pytestmark = pytest.mark.integration


def join(connection: Raw, **options: Any) -> int:
    status, body = connection.ask("POST", "/v1/workers", Join(**{"name": "host", **options}))
    assert status == 201, body
    return msgspec.json.decode(body, type=Joined).worker_id


def turn(connection: Raw, worker: int, turn: Turn) -> Answer:
    status, body = connection.ask("POST", f"/v1/workers/{worker}/turn", turn)
    assert status == 200, body
    return msgspec.json.decode(body, type=Answer)


def test_it_proves_that_it_knows_the_token_and_does_not_tell_it() -> None:
    nonce = "0123456789abcdef" * 2
    with serving() as server, Raw(server) as connection:
        status, body = connection.ask("GET", f"/v1/hello?nonce={nonce}", headers={"Authorization": None})
    hello = msgspec.json.decode(body, type=Hello)
    said_of_it = f"bellis:{RUN_ID}:{nonce}".encode()
    assert (status, hello.run_id) == (200, RUN_ID)
    assert hello.proof == hmac.new(TOKEN.encode(), said_of_it, hashlib.sha256).hexdigest()
    assert TOKEN.encode() not in body


def test_a_worker_joins_takes_reports_and_leaves() -> None:
    heard = threading.Event()
    with serving(tell=heard.set) as server, Raw(server) as connection:
        worker = join(connection)
        with server.board() as board:
            board.submit(lease(1))
        assert [one.lease_id for one in turn(connection, worker, asking()).leases] == [1]
        status = msgspec.json.decode(connection.ask("GET", "/v1/run")[1], type=RunStatus)
        assert (status.workers, status.tasks[0].leased) == (1, 4)
        heard.clear()
        turn(connection, worker, Turn(reports=[said(1)]))
        assert heard.is_set()
        for _ in range(2):
            assert connection.ask("DELETE", f"/v1/workers/{worker}")[0] == 204
        assert connection.ask("POST", f"/v1/workers/{worker}/turn", asking())[0] == 404
        with server.board() as board:
            assert [event.outcomes for event in board.take_events()] == [b"\1" * 4]


def test_a_worker_that_waits_is_answered_when_a_lease_comes() -> None:
    with serving() as server, Raw(server) as connection:
        worker = join(connection)
        later = threading.Timer(0.1, submit, [server])
        later.start()
        began = monotonic()
        answer = turn(connection, worker, asking(wait_s=10))
        later.join()
        assert [one.lease_id for one in answer.leases] == [1]
        assert monotonic() - began < 5


def submit(server: Server) -> None:
    with server.board() as board:
        board.submit(lease(1))


def test_a_worker_that_waits_in_vain_is_answered_in_time() -> None:
    with serving() as server, Raw(server) as connection:
        worker = join(connection)
        answer = turn(connection, worker, asking(wait_s=0.05))
    assert (answer.state, answer.leases) == ("go", [])


def test_a_lease_does_not_go_to_a_connection_that_was_closed() -> None:
    with serving() as server, Raw(server) as connection:
        worker = join(connection)
        gone = Raw(server)
        ask_and_wait(gone, worker)
        until(lambda: is_waiting(server), "a worker waits")
        gone.socket.close()
        until(lambda: not is_waiting(server), "nobody waits")
        submit(server)
        assert [one.lease_id for one in turn(connection, worker, asking()).leases] == [1]


def test_the_later_of_two_turns_of_a_worker_gets_the_lease() -> None:
    with serving() as server, Raw(server) as first, Raw(server) as second:
        worker = join(first)
        ask_and_wait(first, worker)
        until(lambda: is_waiting(server), "the first waits")
        later = threading.Timer(0.1, submit, [server])
        later.start()
        assert [one.lease_id for one in turn(second, worker, asking(wait_s=10)).leases] == [1]
        later.join()
        assert msgspec.json.decode(first.answer()[1], type=Answer).leases == []


def ask_and_wait(connection: Raw, worker: int) -> None:
    connection.send(request("POST", f"/v1/workers/{worker}/turn", asking(wait_s=10)))


def is_waiting(server: Server) -> bool:
    with server.board() as board:
        return bool(board._waiting)


def test_when_it_ends_waiting_workers_hear_of_it_and_nothing_is_left() -> None:
    before = Belongings()
    with serving() as server:
        connections = [Raw(server) for _ in range(5)]
        for connection in connections:
            ask_and_wait(connection, join(connection))
        idle = [Raw(server) for _ in range(5)]
        with server.board() as board:
            board.close()
        for connection in connections:
            assert msgspec.json.decode(connection.answer()[1], type=Answer).state == "leave"
    assert all(connection.is_closed() for connection in (*connections, *idle))
    for connection in (*connections, *idle):
        connection.socket.close()
    with pytest.raises(ConnectionRefusedError):
        Raw(server)
    assert Belongings().since(before) == []


def test_a_port_that_is_taken_is_said() -> None:
    with serving() as server:
        expected = pytest.raises(EngineError, match=f"can't listen on 127.0.0.1:{server.port}.*pass an address")
        with expected, serving(port=server.port):
            raise AssertionError("two listen at the same port")


def test_silent_workers_are_given_up() -> None:
    board = Board(RUN_ID, [board_task()], silence_s=0.1)
    with serving(board) as server, Raw(server) as connection:
        worker = join(connection)
        until(lambda: server.status().workers == 0, "the worker is lost")
        assert connection.ask("POST", f"/v1/workers/{worker}/turn", asking())[0] == 404


def test_with_a_certificate_connections_are_encrypted(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with serving(certificate=tmp_path / "certificate.pem", key=tmp_path / "key.pem") as server:
        url = f"https://127.0.0.1:{server.port}/v1/hello?nonce={'0' * 32}"
        with urllib.request.urlopen(url, context=context) as answer:
            assert msgspec.json.decode(answer.read(), type=Hello).run_id == RUN_ID
        with Raw(server) as plain:
            assert plain.ask("GET", "/v1/run") == (0, b"")


def test_a_certificate_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "certificate.pem").write_text("none")
    with (
        pytest.raises(EngineError, match=r"certificate\.pem can't be used"),
        serving(certificate=tmp_path / "certificate.pem"),
    ):
        raise AssertionError("it started")


# The token -----------------------------------------------------------------------------------------------------------


def test_a_token_is_written_for_its_owner_only_and_read_again(tmp_path: Path) -> None:
    path, token = tmp_path / "deep" / "token", new_token()
    write_private(path, token + "\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert read_token(path) == token
    assert [each.name for each in path.parent.iterdir()] == ["token"]


@pytest.mark.parametrize(
    ("content", "mode", "complaint"),
    [
        ("0123456789abcdef", 0o640, "chmod 600"),
        ("short", 0o600, "no token"),
        ("", 0o600, "no token"),
        ("two words which are long enough", 0o600, "no token"),
    ],
)
def test_a_file_that_holds_no_private_token_is_refused(tmp_path: Path, content: str, mode: int, complaint: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(EngineError, match=complaint):
        read_token(path)


def test_a_run_that_goes_on_has_the_keys_of_the_interrupted_one(tmp_path: Path) -> None:
    first = Keys.of("first", tmp_path, None)
    assert first.port is None
    first.keep(4711)
    again = Keys.of("second", tmp_path, None)
    assert (again.run_id, again.token, again.port) == ("first", first.token, 4711)
    again.remove()
    assert list(tmp_path.iterdir()) == []
    anew = Keys.of("third", tmp_path, None)
    assert anew.run_id == "third"
    assert anew.token != first.token


def test_a_damaged_note_of_an_earlier_run_is_no_obstacle(tmp_path: Path) -> None:
    Keys.of("first", tmp_path, None).keep(4711)
    (tmp_path / "service" / "run.json").write_bytes(b"\0")
    assert Keys.of("second", tmp_path, None).run_id == "second"


def test_a_token_file_that_the_user_made_is_used_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    write_private(path, "0123456789abcdef")
    keys = Keys.of("run", None, path)
    assert keys.token == "0123456789abcdef"
    keys.remove()
    assert path.exists()
    assert not keys.folder.exists()


def test_problems_are_said_in_json() -> None:
    with serving() as server, Raw(server) as connection:
        for method, path, expected in (("GET", "/", 404), ("PUT", "/v1/run", 405), ("GET", "/v1/workers/1", 405)):
            status, body = connection.ask(method, path)
            assert status == expected
            assert msgspec.json.decode(body, type=Problem).error
