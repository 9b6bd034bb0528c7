"""Lines against a running server: what docs/stream.md promises, what is refused, and who is slow or gone."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.client import Actor
from tests.support.certificates import Authority
from tests.support.lines_wire import Gone, LineClient, dial
from tests.support.ports import free_port
from tests.support.server import RunningServer, run_server

ROOT = Path(__file__).parents[3]
MEBIBYTE = 1 << 20
# Nobody is ever too slow on this server but where a test wants it.
CONFIG = """\
[cache]
memory_budget_bytes = '8M'

[stream]
lines_port = {port}
lines_tls_port = {tls_port}
silence_timeout_ms = '10m'
"""
LISTENER = "[[listeners]]\nport = 0\ntls_certificate_path = {certificate}\ntls_key_path = {key}\n"


class Lines:
    """A server with both kinds of ports, and somebody with a room."""

    def __init__(self, server: RunningServer, port: int, tls_port: int, authority: Authority) -> None:
        self.server = server
        self.port = port
        self.tls_port = tls_port
        self.authority = authority
        self.alice = Actor(server.url, "alice").register()
        self.bob = Actor(server.url, "bob").register()
        self.room_id = self.new_room()

    def new_room(self) -> str:
        room_id = self.alice.create_room()
        self.bob.call("POST", f"/join/{room_id}", {})
        return room_id

    def memory_bytes(self) -> int:
        """Return what the server has in memory."""
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lines]:
    folder = tmp_path_factory.mktemp("lines")
    authority = Authority(folder / "authority")
    port, tls_port = free_port(), free_port()
    paths = {
        name: json.dumps(str(path))
        for name, path in zip(("certificate", "key"), authority.certificate("127.0.0.1"), strict=True)
    }
    listener = LISTENER.format(**paths)
    more = listener + CONFIG.format(port=port, tls_port=tls_port)
    with run_server(folder / "server", f"sqlite:///{folder / 'a.db'}", more=more) as server:
        yield Lines(server, port, tls_port, authority)
        log = Path(server.folder / "log").read_text(errors="replace")
    assert "Traceback" not in log, log[-8000:]


@pytest.fixture(params=["plain", "tls"])
def connect(request: pytest.FixtureRequest, lines: Lines) -> Iterator[Callable[..., LineClient]]:
    """A function that connects; all is closed at the end."""
    with ExitStack() as stack:

        def connect(**options: Any) -> LineClient:
            if request.param == "plain":
                return stack.enter_context(dial(lines.port, **options))
            return stack.enter_context(dial(lines.tls_port, lines.authority.ca_file, **options))

        yield connect


@pytest.fixture
def line(lines: Lines) -> Iterator[LineClient]:
    """A plain connection on which nothing has been said."""
    with dial(lines.port) as line:
        yield line


def _text(text: str) -> dict[str, str]:
    return {"msgtype": "m.text", "body": text}


def _bodies(events: list[dict[str, Any]]) -> list[str]:
    return [event["content"]["body"] for event in events]


# -- what is promised ------------------------------------------------------------------------------------------------


def test_the_session_of_the_documentation_goes_as_it_says(lines: Lines, line: LineClient) -> None:
    text = (ROOT / "docs/stream.md").read_text()
    block = text[text.index("$ nc localhost") :].partition("```")[0]
    _, *said = block.strip().splitlines()
    token = str(lines.alice.token)
    for each in said:
        if each.startswith('{"id": '):
            line.send_bytes(each.replace("sat_…", token).replace("!…", lines.room_id).encode() + b"\n")
            continue
        expected = json.loads(each.replace("{…}", "{}"))
        heard = line.answer(expected["id"]) if "id" in expected else line.update()
        assert expected.keys() <= heard.keys()
        assert expected.get("result", {}).keys() == heard.get("result", {}).keys()
    assert (
        "hello"
        == lines.bob.call("GET", f"/rooms/{lines.room_id}/messages?dir=b&limit=1")["chunk"][0]["content"]["body"]
    )


def test_what_others_say_arrives_once_and_in_order(lines: Lines, connect: Callable[..., LineClient]) -> None:
    room_id = lines.new_room()
    alice, bob = connect(), connect()
    assert {"user_id": lines.alice.user_id, "device_id": lines.alice.device_id} == alice.auth(lines.alice.token)[
        "result"
    ]
    assert room_id in alice.update()["rooms"]["join"]
    bob.auth(lines.bob.token)
    texts = [f"number {i}" for i in range(50)]
    for number, text in enumerate(texts):
        bob.send(
            {
                "id": number,
                "method": "send",
                "params": {"room_id": room_id, "event_type": "m.room.message", "content": _text(text)},
            }
        )
    events, _ = alice.events(room_id, 50)
    assert texts == _bodies(events)


def test_a_connection_goes_on_where_the_last_one_ended(lines: Lines, connect: Callable[..., LineClient]) -> None:
    room_id = lines.new_room()
    first = connect()
    first.auth(lines.alice.token)
    since = first.update()["next_batch"]
    first.reset()
    for i in range(20):
        lines.bob.say(room_id, f"missed {i}")
    second = connect()
    second.auth(lines.alice.token, since=since)
    events, since = second.events(room_id, 20)
    assert [f"missed {i}" for i in range(20)] == _bodies(events)
    second.reset()
    third = connect()
    third.auth(lines.alice.token, since=since)
    lines.bob.say(room_id, "last")
    assert ["last"] == _bodies(third.events(room_id, 1)[0])


def test_what_is_sent_again_on_the_next_connection_happens_once(
    lines: Lines, connect: Callable[..., LineClient]
) -> None:
    answers = []
    for _ in range(2):
        line = connect()
        line.auth(lines.alice.token)
        params = {"room_id": lines.room_id, "event_type": "m.room.message", "content": _text("once")}
        answers.append(line.call("send", "my-own-id", **params))
        line.reset()
    assert answers[0]["result"]["event_id"] == answers[1]["result"]["event_id"]


def test_lines_may_end_with_cr_lf_and_come_in_any_pieces(lines: Lines, line: LineClient) -> None:
    auth = json.dumps({"id": 1, "method": "auth", "params": {"access_token": lines.alice.token}}).encode()
    line.send_bytes(b"\r\n\n")
    for i in range(len(auth)):
        line.send_bytes(auth[i : i + 1])
    line.send_bytes(b"\r", b'\n{"id":2,"method":"ping"}\r\n{"id":3,"method":"ping"}\n')
    assert [1, 2, 3] == [line.answer(number)["id"] for number in (1, 2, 3)]


def test_a_message_is_one_line_whatever_is_in_it(lines: Lines, line: LineClient) -> None:
    line.auth(lines.alice.token)
    text = "a\nb\r\nc\u2028d\u0085e\u0000"
    event_id = line.call("send", room_id=lines.room_id, event_type="m.room.message", content=_text(text))["result"][
        "event_id"
    ]
    seen = lines.bob.call("GET", f"/rooms/{lines.room_id}/event/{event_id}")
    assert text == seen["content"]["body"]


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code", "errcode"),
    [
        (bytes.fromhex("1603010200010001fc0303") + bytes(505), 4400, "M_NOT_JSON"),
        (b"GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\n\r\n", 4400, "M_NOT_JSON"),
        (b"\0" * 100, 4400, "M_NOT_JSON"),
        ('{"id":1,"method":"auth"}\n'.encode("utf-16"), 4400, "M_NOT_JSON"),
        (b"hello\n", 4400, "M_NOT_JSON"),
        (b"{nonsense\n", 4400, "M_NOT_JSON"),
        (b"[" * 100_000 + b"\n", 4400, "M_NOT_JSON"),
        (b"[1]\n", 4400, "M_BAD_JSON"),
        (b'{"id":1}\n', 4400, "M_MISSING_PARAM"),
        (b'{"id":1,"method":"ping"}\n', 4400, None),
        (b'{"id":1,"method":"auth"}\n', 4400, "M_MISSING_PARAM"),
        (b'{"id":1,"method":"auth","params":{"access_token":7}}\n', 4400, "M_BAD_JSON"),
        (b'{"id":1,"method":"auth","params":{"access_token":"wrong"}}\n', 4401, "M_UNKNOWN_TOKEN"),
        (b'{"id":1,"method":"auth","params":{"access_token":"TOKEN","since":"zzz"}}\n', 4400, None),
        (b'{"id":1,"method":"auth","params":{"access_token":"TOKEN","filter":7}}\n', 4400, "M_BAD_JSON"),
        (b'{"id":1,"method":"auth","params":{"access_token":"\xff"}}\n', 1007, None),
        (b'{"id":"' + b"x" * (300 * 1024) + b'"}\n', 1009, "M_TOO_LARGE"),
        (b'{"id":"' + b"x" * (300 * 1024), 1009, "M_TOO_LARGE"),
    ],
    ids=[
        "tls",
        "http",
        "nul",
        "utf-16",
        "words",
        "nonsense",
        "nested",
        "list",
        "no-method",
        "not-auth",
        "no-token",
        "token-number",
        "token-wrong",
        "since",
        "filter",
        "not-utf8",
        "large",
        "large-without-end",
    ],
)
def test_a_bad_beginning_is_closed_with_a_reason(
    lines: Lines, line: LineClient, data: bytes, code: int, errcode: str | None
) -> None:
    data = data.replace(b"TOKEN", str(lines.alice.token).encode())
    try:
        line.send_bytes(data)
    except ConnectionError:
        pass
    (close,) = line.read().values()
    assert code == close["code"]
    assert errcode is None or errcode == close["errcode"]
    assert close["error"]
    with pytest.raises(Gone):
        line.read()


@pytest.mark.parametrize(
    ("data", "request_id", "errcode"),
    [
        (b"nonsense", None, "M_NOT_JSON"),
        (b'{"id":1,"method":"ping"', None, "M_NOT_JSON"),
        (b'{"id":1}\0', None, "M_NOT_JSON"),
        (b"[" * 100_000, None, "M_NOT_JSON"),
        (b"[]", None, "M_BAD_JSON"),
        (b"7", None, "M_BAD_JSON"),
        (b'{"method":"ping"}', None, None),
        (b'{"id":{},"method":"ping"}', None, None),
        (b'{"id":1.5,"method":"ping"}', None, None),
        (b'{"id":"","method":"ping"}', None, None),
        (b'{"id":"' + b"x" * 256 + b'","method":"ping"}', None, None),
        (b'{"id":"a","method":"fly"}', "a", "M_UNRECOGNIZED"),
        (b'{"id":"a","method":7}', "a", "M_BAD_JSON"),
        (b'{"id":"a","method":"send","params":[]}', "a", "M_BAD_JSON"),
        (b'{"id":"a","method":"send","params":{"room_id":7}}', "a", None),
    ],
    ids=[
        "words",
        "cut",
        "nul",
        "nested",
        "list",
        "number",
        "no-id",
        "id-object",
        "id-fraction",
        "id-empty",
        "id-long",
        "method",
        "method-number",
        "params-list",
        "room-number",
    ],
)
def test_a_bad_message_is_answered_and_the_connection_goes_on(
    lines: Lines, line: LineClient, data: bytes, request_id: str | None, errcode: str | None
) -> None:
    line.auth(lines.alice.token)
    line.send_bytes(data + b"\n")
    error = line.answer(request_id)["error"]
    assert error["errcode"].startswith("M_") and errcode in (None, error["errcode"])
    assert {} == line.call("ping")["result"]


@pytest.mark.parametrize(
    ("data", "code"),
    [(b'{"id":"' + b"x" * MEBIBYTE, 1009), (b'{"id":"\xc3"}\n', 1007)],
    ids=["large", "not-utf8"],
)
def test_what_cannot_be_read_on_is_closed(lines: Lines, line: LineClient, data: bytes, code: int) -> None:
    line.auth(lines.alice.token)
    try:
        line.send_bytes(data)
    except ConnectionError:
        pass
    assert code == line.close_code()


def test_plain_text_on_the_tls_port_hurts_nobody(lines: Lines) -> None:
    for data in (b'{"id":1,"method":"auth"}\n', b"GET / HTTP/1.1\r\n\r\n", bytes(1000), b"\x16\x03\x01\xff\xff" * 99):
        with dial(lines.tls_port) as line:
            line.send_bytes(data)
            line.rest()
    with dial(lines.tls_port, lines.authority.ca_file) as line:
        assert "result" in line.auth(lines.alice.token)


def test_a_logout_ends_the_connection(lines: Lines, connect: Callable[..., LineClient]) -> None:
    carol = Actor(lines.server.url, "carol").register()
    line = connect()
    line.auth(carol.token)
    line.update()
    carol.call("POST", "/logout", {})
    assert 4401 == line.close_code()


# -- who is slow, or gone --------------------------------------------------------------------------------------------


def test_a_slow_reader_costs_no_memory_and_misses_nothing(lines: Lines, connect: Callable[..., LineClient]) -> None:
    room_id = lines.new_room()
    slow, fast = connect(buffer_bytes=8192), connect()
    slow.auth(lines.alice.token, filter={"presence": {"types": []}})
    slow.update()
    fast.auth(lines.bob.token)
    filler = "x" * 40_000
    count, before = 300, 0
    for i in range(count):
        if i == 100:
            # What the server keeps of any messages is there by now.
            before = lines.memory_bytes()
        content = {**_text(f"{i}"), "filler": filler}
        answer = fast.call("send", room_id=room_id, event_type="m.room.message", content=content)
        assert "result" in answer, answer
    assert lines.memory_bytes() - before < 12 * MEBIBYTE
    # The rest is about what comes; with the small buffer it would take many seconds.
    slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MEBIBYTE)
    events, _ = slow.events(room_id, count)
    assert [f"{i}" for i in range(count)] == _bodies(events)
    assert {} == slow.call("ping")["result"]


def test_ten_thousand_requests_whose_answers_nobody_reads_wait(
    lines: Lines, connect: Callable[..., LineClient]
) -> None:
    greedy = connect(buffer_bytes=8192)
    greedy.auth(lines.alice.token)
    request = {"method": "messages", "params": {"room_id": lines.room_id, "dir": "b", "limit": 50}}
    whole = b"".join(json.dumps({"id": i, **request}).encode() + b"\n" for i in range(10_000))
    before = lines.memory_bytes()
    greedy.socket.settimeout(2)
    sent = 0
    try:
        while sent < len(whole):
            sent += greedy.socket.send(whole[sent : sent + 8192])
    except TimeoutError:
        pass
    assert sent < len(whole), "the server goes on reading"
    with connect() as other:
        began = time.monotonic()
        other.auth(lines.bob.token)
        assert {} == other.call("ping")["result"]
        assert time.monotonic() - began < 5
    print("GROWTH", (lines.memory_bytes() - before) / MEBIBYTE)
    assert lines.memory_bytes() - before < 24 * MEBIBYTE
    # Whoever reads again gets an answer to every request that the server has read.
    complete = whole[:sent].count(b"\n")
    numbers = [greedy.answer(i)["id"] for i in range(min(complete, 100))]
    assert list(range(min(complete, 100))) == numbers


def test_tiny_messages_in_one_piece_hold_nobody_up(lines: Lines, line: LineClient) -> None:
    line.auth(lines.alice.token)
    with dial(lines.port) as other:
        other.auth(lines.bob.token)
        other.call("ping")
        line.send_bytes(b"7\n" * 30_000)
        began = time.monotonic()
        other.call("ping")
        assert time.monotonic() - began < 2


def test_a_connection_cut_in_the_middle_of_a_message_is_forgotten(lines: Lines, line: LineClient) -> None:
    line.auth(lines.alice.token)
    line.send_bytes(b'{"id":1,"method":"send","params":{"room_id":"!')
    line.reset()
    with dial(lines.port) as other:
        assert "result" in other.auth(lines.alice.token)


def test_a_new_certificate_is_used_after_a_reload(lines: Lines) -> None:
    def names() -> list[str]:
        with dial(lines.tls_port, lines.authority.ca_file) as line:
            assert isinstance(line.socket, ssl.SSLSocket)
            certificate: Any = line.socket.getpeercert()
            return [name for _, name in certificate["subjectAltName"]]

    assert ["127.0.0.1"] == names()
    mine = lines.authority.certificate("127.0.0.1")
    for path, renewed in zip(mine, lines.authority.certificate("127.0.0.1", "renewed.example"), strict=True):
        path.write_bytes(renewed.read_bytes())
    lines.server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 20
    while len(names()) == 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "renewed.example" in names()
