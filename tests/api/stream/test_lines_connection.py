"""One connection of lines: what it gives the session, how it is stopped, what it says at the end, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from api.stream.lines import CLOSE_S, MAX_BEGUN_BYTES, LinesConnection, LinesFactory
from api.stream.session import Ending
from homeserver.errors import LimitExceeded
from homeserver.runtime.clock import ManualClock

LAST = Ending(4401, "M_UNKNOWN_TOKEN", "Logged out")


class PlayedSession:
    """Remembers what a connection tells its session."""

    def __init__(self, connection: LinesConnection) -> None:
        self.connection = connection
        self.messages: list[bytes] = []
        self.told: list[str] = []
        self.heard_count = 0
        self.react: Callable[[bytes], None] = lambda message: None

    def received(self, message: bytes) -> None:
        self.messages.append(message)
        self.react(message)

    def begun(self) -> None:
        self.told.append("begun")

    def heard(self) -> None:
        self.heard_count += 1

    def clogged(self) -> None:
        self.told.append("clogged")

    def drained(self) -> None:
        self.told.append("drained")

    def lost(self) -> None:
        self.told.append("lost")


class PlayedDoor:
    """Lets everybody in, or nobody."""

    def __init__(self) -> None:
        self.limit: LimitExceeded | None = None
        self.wait: float | LimitExceeded = 0.0
        self.sessions: list[PlayedSession] = []

    def refusal(self, client_ip: str) -> LimitExceeded | None:
        return self.limit

    def wait_s(self) -> float:
        if isinstance(self.wait, LimitExceeded):
            raise self.wait
        return self.wait

    def begin(self, connection: LinesConnection) -> PlayedSession:
        self.sessions.append(PlayedSession(connection))
        return self.sessions[-1]


class Transport(StringTransport):
    """A transport that can be aborted, and closed in one direction."""

    def abortConnection(self) -> None:
        self.aborting = True
        self.disconnecting = True

    def loseWriteConnection(self) -> None:
        self.disconnecting = True

    aborting = False


class Line:
    """A connection from both ends."""

    def __init__(self, factory: LinesFactory) -> None:
        self.transport: Any = Transport(peerAddress=IPv4Address("TCP", "192.0.2.7", 4242))
        self.connection = factory.buildProtocol(None)
        self.connection.makeConnection(self.transport)
        self._door: Any = factory.door

    @property
    def session(self) -> PlayedSession:
        """The session of this connection; there must be one."""
        found: list[PlayedSession] = [each for each in self._door.sessions if each.connection is self.connection]
        return found[0]

    def send(self, *pieces: bytes) -> Line:
        for piece in pieces:
            if self.transport.producerState == "producing":
                self.connection.dataReceived(piece)
        return self

    def lose(self) -> None:
        self.connection.connectionLost(Failure(ConnectionDone()))

    @property
    def sent(self) -> list[Any]:
        """What came from the server, taken."""
        data = self.transport.value()
        self.transport.clear()
        assert not data or data.endswith(b"\n")
        return [orjson.loads(line) for line in data.splitlines()]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def door() -> PlayedDoor:
    return PlayedDoor()


@pytest.fixture
def factory(clock: ManualClock, door: PlayedDoor) -> LinesFactory:
    played: Any = door
    return LinesFactory(played, 1024, clock)


@pytest.fixture
def line(factory: LinesFactory) -> Line:
    return Line(factory)


def _close(code: int, errcode: str | None, error: str) -> list[dict[str, Any]]:
    named = {} if errcode is None else {"errcode": errcode}
    return [{"close": {"code": code, **named, "error": error}}]


# -- what comes in ---------------------------------------------------------------------------------------------------


def test_messages_are_delivered_in_order(line: Line) -> None:
    line.send(b'{"a":1}\r\n\n{"b', b'":2}\n{"c":3}', b"\n")
    assert [b'{"a":1}', b'{"b":2}', b'{"c":3}'] == line.session.messages
    assert ("192.0.2.7", None) == (line.connection.client_ip, line.connection.user_agent)


@pytest.mark.parametrize("piece", [b"{", b"\n", b" \r\n"], ids=["part", "empty", "blank"])
def test_whatever_comes_is_a_sign_of_life(line: Line, piece: bytes) -> None:
    line.send(piece)
    assert (1, []) == (line.session.heard_count, line.session.messages)


def test_ten_thousand_lines_in_one_piece_do_not_recurse(line: Line) -> None:
    """Though the session stops and starts reading at each of them."""

    def stop_and_go(_: bytes) -> None:
        line.connection.pause()
        line.connection.resume()

    line.session.react = stop_and_go
    line.send(b"{}\n" * 10_000)
    assert 10_000 == len(line.session.messages)
    assert "producing" == line.transport.producerState


def test_while_reading_is_stopped_the_rest_of_the_piece_waits(line: Line) -> None:
    line.session.react = lambda message: line.connection.pause()
    line.send(b"{}\n[]\n3\n{")
    assert [b"{}"] == line.session.messages
    assert "paused" == line.transport.producerState
    line.connection.resume()
    assert [b"{}", b"[]"] == line.session.messages
    assert "paused" == line.transport.producerState
    line.session.react = lambda message: None
    line.connection.resume()
    assert [b"{}", b"[]", b"3"] == line.session.messages
    assert "producing" == line.transport.producerState
    line.send(b"}\n")
    assert b"{}" == line.session.messages[-1]


def test_what_tls_still_delivers_while_reading_is_stopped_is_kept(line: Line) -> None:
    line.send(b"{}\n")
    line.connection.pause()
    line.connection.dataReceived(b"[]\n{")
    line.connection.dataReceived(b"}\n")
    assert [b"{}"] == line.session.messages
    line.connection.resume()
    assert [b"{}", b"[]", b"{}"] == line.session.messages


def test_the_session_is_told_when_a_message_has_begun(line: Line) -> None:
    line.send(b"{}\n")
    assert [] == line.session.told
    line.send(b"\r", b"\n", b"  ")
    assert [] == line.session.told
    line.send(b"{}\n{", b" ")
    assert ["begun", "begun"] == line.session.told


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code", "errcode", "words"),
    [
        (bytes.fromhex("16030100c8010000c40303"), 4400, "M_NOT_JSON", "This is TLS"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 4400, "M_NOT_JSON", "no HTTP port"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 4400, "M_NOT_JSON", "no HTTP port"),
        (b"\0\0\0\0", 4400, "M_NOT_JSON", "NUL"),
        ('{"id":1}\n'.encode("utf-16-le"), 4400, "M_NOT_JSON", "NUL"),
        (b"hello\n", 4400, "M_NOT_JSON", "a JSON object"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 4400, "M_NOT_JSON", "a JSON object"),
        (b"\xff\xfe", 4400, "M_NOT_JSON", "a JSON object"),
        (b'{"\xff"}\n', 1007, None, "UTF-8"),
        (b"{" + b" " * 1024 + b"\n", 1009, "M_TOO_LARGE", "1024 bytes"),
        (b"{" + b" " * 1026, 1009, "M_TOO_LARGE", "1024 bytes"),
    ],
    ids=["tls", "http", "http2", "nul", "utf-16", "words", "ssh", "bom", "not-utf8", "long", "long-without-end"],
)
def test_what_is_no_line_of_json_is_told_once_and_closed(
    line: Line, data: bytes, code: int, errcode: str | None, words: str
) -> None:
    line.send(b"\r\n", data, data)
    (said,) = line.sent
    assert (code, errcode) == (said["close"]["code"], said["close"].get("errcode"))
    assert words in said["close"]["error"]
    assert [] == line.session.messages
    assert ["lost"] == line.session.told[-1:]
    assert line.transport.disconnecting


def test_what_begins_like_json_is_for_the_session_to_judge(factory: LinesFactory) -> None:
    for text in (b"[1]", b'"a"', b"12", b"true", b"{nonsense"):
        assert [text] == Line(factory).send(text + b"\n").session.messages


def test_a_later_message_that_is_not_utf8_ends_the_session_once(line: Line) -> None:
    line.send(b"{}\n\xc3\n{}\n")
    assert _close(1007, None, "A message is not UTF-8") == line.sent
    assert [b"{}"] == line.session.messages
    line.lose()
    assert ["lost"] == line.session.told


@pytest.mark.parametrize("where", ["limit", "wait"])
def test_who_is_not_let_in_is_told(factory: LinesFactory, door: PlayedDoor, where: str) -> None:
    setattr(door, where, LimitExceeded(1000, "Too many connections"))
    line = Line(factory)
    said = line.send(b"{}\n").sent
    line.lose()
    assert _close(4429, "M_LIMIT_EXCEEDED", "Too many connections") == said
    assert [] == door.sessions


def test_where_many_come_at_once_one_waits_unread(factory: LinesFactory, door: PlayedDoor, clock: ManualClock) -> None:
    door.wait = 2.0
    line, gone = Line(factory), Line(factory)
    assert "paused" == line.transport.producerState
    gone.lose()
    clock.advance(1.9)
    assert [] == door.sessions
    clock.advance(0.2)
    assert "producing" == line.transport.producerState
    line.send(b"{}\n")
    assert [[b"{}"]] == [session.messages for session in door.sessions]


def test_who_has_waited_may_still_find_no_room(factory: LinesFactory, door: PlayedDoor, clock: ManualClock) -> None:
    door.wait = 2.0
    line = Line(factory)
    door.limit = LimitExceeded(1000, "Too many connections")
    clock.advance(2.1)
    assert (_close(4429, "M_LIMIT_EXCEEDED", "Too many connections"), []) == (line.sent, door.sessions)


# -- what goes out, and the end --------------------------------------------------------------------------------------


def test_each_message_is_a_line(line: Line, clock: ManualClock) -> None:
    line.connection.send(b'{"next_batch":"s1"}')
    line.connection.ping()
    # What is said in one turn of the reactor goes out together.
    assert [] == line.sent
    clock.advance(0)
    assert [{"next_batch": "s1"}, {"method": "ping"}] == line.sent
    assert not line.connection.has_pings


def test_the_session_is_told_when_the_peer_does_not_read(line: Line) -> None:
    assert line.transport.producer is line.connection
    line.connection.pauseProducing()
    line.connection.resumeProducing()
    assert ["clogged", "drained"] == line.session.told


def test_the_last_line_says_why(line: Line, clock: ManualClock) -> None:
    line.connection.close(LAST)
    line.connection.close(Ending(1001, None, "never told"))
    line.connection.send(b"never told")
    line.send(b"{}\n")
    assert _close(4401, "M_UNKNOWN_TOKEN", "Logged out") == line.sent
    assert line.transport.disconnecting
    assert line.transport.producer is None
    line.lose()
    clock.advance(2 * CLOSE_S)
    assert not line.transport.aborting
    assert [] == clock.twisted.getDelayedCalls()
    assert ([], ["lost"]) == (line.session.messages, line.session.told)


def test_an_end_may_come_in_the_middle_of_a_piece(line: Line) -> None:
    line.session.react = lambda message: line.connection.close(LAST)
    line.send(b"{}\n{}\n{")
    assert [b"{}"] == line.session.messages


def test_a_peer_that_does_not_read_the_last_line_is_cut_off(line: Line, clock: ManualClock) -> None:
    line.connection.pause()
    line.connection.close(LAST)
    assert "producing" == line.transport.producerState
    clock.advance(CLOSE_S - 1)
    assert not line.transport.aborting
    clock.advance(2)
    assert line.transport.aborting


def test_after_the_loss_nothing_is_sent(line: Line) -> None:
    line.lose()
    line.connection.send(b"{}")
    line.connection.close(LAST)
    line.connection.pause()
    line.connection.resume()
    line.connection.abort()
    assert line.connection.untaken_bytes() is None
    assert ([], ["lost"]) == (line.sent, line.session.told)


# -- memory ----------------------------------------------------------------------------------------------------------


def test_unfinished_messages_of_strangers_have_half_the_room(clock: ManualClock, door: PlayedDoor) -> None:
    played: Any = door
    factory = LinesFactory(played, 1 << 24, clock)
    piece = b"{" + b" " * (1 << 20)
    strangers = [Line(factory).send(piece) for _ in range(MAX_BEGUN_BYTES // len(piece))]
    let_in = [line for line in strangers if not line.transport.disconnecting]
    assert MAX_BEGUN_BYTES // 2 // len(piece) == len(let_in)
    assert _close(4429, "M_LIMIT_EXCEEDED", "The server has too many unfinished messages at once") == strangers[-1].sent
    known = Line(factory).send(b"{}\n", piece)
    assert not known.transport.disconnecting
    # What fits into the buffers that everybody has is let pass all the same.
    assert not Line(factory).send(b"{").transport.disconnecting
    for line in [known, *let_in]:
        line.send(b"}\n") if line is known else line.lose()
    assert 0 == factory.room.memory_bytes


def test_what_waits_uncut_is_counted(line: Line, factory: LinesFactory) -> None:
    line.session.react = lambda message: line.connection.pause()
    line.send(b"{}\n" * 10_000)
    assert 30_000 == factory.room.memory_bytes
    line.connection.close(LAST)
    assert 0 == factory.room.memory_bytes


def test_a_connection_has_no_dictionary(line: Line) -> None:
    assert not hasattr(line.connection, "__dict__")
