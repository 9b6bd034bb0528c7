"""Lines against servers that have little patience or little room, that stop, or that cannot start."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.hostile.client import Actor
from tests.support.certificates import Authority
from tests.support.lines_wire import dial
from tests.support.ports import free_port
from tests.support.server import ServerFailed, run_server

pytestmark = pytest.mark.slow

QUICK = """
[stream]
lines_port = {port}
auth_timeout_ms = 1000
message_timeout_ms = 2000
ping_interval_ms = 1000
silence_timeout_ms = 4000
sessions_per_user = 3
"""


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """The port of a server that has little patience."""
    folder = tmp_path_factory.mktemp("quick")
    port = free_port()
    with run_server(folder / "server", f"sqlite:///{folder / 'a.db'}", more=QUICK.format(port=port)) as server:
        yield port, server.url


@pytest.fixture
def dora(quick: tuple[int, str]) -> Actor:
    """Somebody with an account, and no connections left over from another test."""
    return Actor(quick[1], "dora").register()


def test_who_does_not_authenticate_in_time_is_closed(quick: tuple[int, str]) -> None:
    with dial(quick[0]) as line:
        assert 4408 == line.close_code()


def test_a_message_that_is_not_ended_in_time_is_closed(quick: tuple[int, str], dora: Actor) -> None:
    with dial(quick[0]) as line:
        line.auth(dora.token)
        line.send_bytes(b'{"id":')
        began = time.monotonic()
        while time.monotonic() - began < 20:
            try:
                line.send_bytes(b" ")
                if "close" in (message := line.read(0.2)):
                    break
            except TimeoutError:
                continue
        assert 4408 == message["close"]["code"]


def test_no_time_runs_for_a_message_while_the_server_does_not_read(quick: tuple[int, str], dora: Actor) -> None:
    """A slow reader cannot end a message that the server does not read on for its sake."""
    room_id = dora.create_room()
    for i in range(12):
        dora.call("PUT", f"/rooms/{room_id}/send/m.room.message/long{i}", {"body": "x" * 50_000})
    since = dora.sync()["next_batch"]
    with dial(quick[0], buffer_bytes=8192) as line:
        line.auth(dora.token, since=since)
        params = {"room_id": room_id, "dir": "b", "limit": 12}
        line.send(*({"id": i, "method": "messages", "params": params} for i in range(10)))
        line.send_bytes(b'{"id":"late","meth')
        line.socket.settimeout(10)
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            line.take(2000)
            time.sleep(0.1)
        assert list(range(10)) == [line.answer(i)["id"] for i in range(10)]
        line.send_bytes(b'od":"ping"}\n')
        assert {} == line.answer("late")["result"]


def test_who_answers_pings_stays_and_who_does_not_goes(quick: tuple[int, str], dora: Actor) -> None:
    with dial(quick[0]) as alive, dial(quick[0]) as silent:
        for line in (alive, silent):
            line.auth(dora.token)
        deadline = time.monotonic() + 10
        pings = 0
        while time.monotonic() < deadline:
            try:
                message = alive.read(0.5)
            except TimeoutError:
                continue
            if message.get("method") == "ping":
                pings += 1
                alive.send({"method": "pong"})
        assert pings > 1
        assert {} == alive.call("ping")["result"]
        said = []
        while "close" not in (message := silent.read(10)):
            said.append(message.get("method"))
        assert 4408 == message["close"]["code"]
        assert "ping" in said


def test_a_user_may_have_so_many_connections_and_no_more(quick: tuple[int, str], dora: Actor) -> None:
    with ExitStack() as stack:
        opened = [stack.enter_context(dial(quick[0])) for _ in range(4)]
        said = [line.auth(dora.token) for line in opened]
        assert ["result"] * 3 == [next(iter(each.keys() - {"id"})) for each in said[:3]]
        assert (4429, "M_LIMIT_EXCEEDED") == (said[3]["close"]["code"], said[3]["close"]["errcode"])


def test_a_stop_says_so_and_after_it_nothing_is_missing(tmp_path: Path) -> None:
    port = free_port()
    more = f"[stream]\nlines_port = {port}\n"
    with run_server(tmp_path, f"sqlite:///{tmp_path / 'a.db'}", more=more) as server:
        alice = Actor(server.url, "alice").register()
        room_id = alice.create_room()
        line = dial(port)
        line.auth(alice.token)
        since = line.update()["next_batch"]
        line.send({"id": "t", "method": "ping"})
        line.answer("t")
    assert 1001 == line.close_code()
    with run_server(tmp_path, f"sqlite:///{tmp_path / 'a.db'}", more=more) as server:
        alice.url, alice._connection = server.url, None
        alice.say(room_id, "while away")
        with dial(port) as line:
            line.auth(alice.token, since=since)
            assert "while away" == line.events(room_id, 1)[0][0]["content"]["body"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("lines_port = {taken}\n", "Stop that program, or set another port under [stream]."),
        ("lines_port = 0\nlines_bind = ['192.0.2.1']\n", "Correct `lines_bind` under [stream]."),
    ],
    ids=["taken", "address"],
)
def test_a_port_that_cannot_be_opened_is_told(tmp_path: Path, more: str, words: str) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    more = "[stream]\n" + more.format(taken=taken.getsockname()[1])
    running = run_server(tmp_path, f"sqlite:///{tmp_path / 'a.db'}", more=more)
    with taken, pytest.raises(ServerFailed, match=re.escape(words)), running:
        pass


# One connection in four seconds: the first comes in at once, the second waits, the third would have to for too long.
NARROW = """
[[listeners]]
port = 0
tls_certificate_path = "{certificate}"
tls_key_path = "{key}"
[limits.connections]
per_second = 0.25
burst_count = 1
[stream]
lines_port = {port}
lines_tls_port = {tls_port}
"""


def test_where_many_come_at_once_some_wait_and_the_rest_are_sent_away(tmp_path: Path) -> None:
    port, tls_port = free_port(), free_port()
    certificate, key = Authority(tmp_path / "authority").certificate("127.0.0.1")
    more = NARROW.format(port=port, tls_port=tls_port, certificate=certificate, key=key)
    with run_server(tmp_path, f"sqlite:///{tmp_path / 'a.db'}", more=more) as server, ExitStack() as stack:
        frank = Actor(server.url, "frank").register()
        began = time.monotonic()
        first, second, third = (stack.enter_context(dial(port)) for _ in range(3))
        assert 4429 == third.close_code()
        # Over TLS without a word, which would be as much work as letting it in.
        with suppress(ConnectionResetError):
            assert b"" == stack.enter_context(dial(tls_port)).rest()
        assert "result" in first.auth(frank.token)
        assert "result" in second.auth(frank.token)
        assert time.monotonic() - began > 3
