"""The client over real sockets, against a server that does what a test says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, gatherResults

from homeserver.streamclient import StreamClient, StreamEnded, StreamError, invited_rooms, to_device_messages
from homeserver.streamclient.inbox import CUT_UPDATES, FULL_UPDATES
from homeserver.streamclient.requests import IN_FLIGHT
from tests.support.played_server import until
from tests.support.server import ROOT

from .played_stream import Connection, Hurried, Played, update, within

NewClient = Callable[..., StreamClient]


def go(work: Any) -> Deferred[Any]:
    return Deferred.fromCoroutine(work)


async def begin(client: StreamClient, played: Played) -> Connection:
    """Start the client and return its connection."""
    started = go(client.start())
    connection = await played.connection()
    await within(started)
    return connection


async def read(client: StreamClient, number: int) -> list[str]:
    """Return the bodies of the next events, all of them dealt with but the last."""
    bodies: list[str] = []
    async for event in client.events(history=True):
        bodies.append(event["content"]["body"])
        if len(bodies) == number:
            break
    return bodies


# -- the manual ------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_bot_of_the_manual_outlives_what_people_send(played: Played, hurried: Hurried) -> None:
    manual = (ROOT / "docs" / "stream.md").read_text()
    program = re.findall(r"```python\n(.*?)```", manual.partition("## From Python")[2], re.DOTALL)[0]
    names: dict[str, Any] = {"token": "sat_token"}
    exec(program.replace("http://127.0.0.1:8008", played.url), names)
    running = go(names["main"](hurried))
    connection = await played.connection()
    connection.update(1)
    contents: list[dict[str, Any]] = [{}, {"msgtype": "m.text"}, {"msgtype": "m.notice", "body": "no"}, {"msgtype": 3}]
    events = [
        {"type": "m.room.message", "event_id": f"${number}", "sender": "@bob:x", "content": content}
        for number, content in enumerate([*contents, {"msgtype": "m.text", "body": "hello"}])
    ]
    connection.say(update(2) | {"rooms": {"join": {"!room": {"timeline": {"events": events}}}}})
    request = await connection.request("send")
    connection.refuse(request, "M_LIMIT_EXCEEDED", retry_after_ms=100)
    for number, told in ((1, None), (4, "hello")):
        request = await connection.request("send")
        assert (f"reply-${number}", f"you said: {told}") == (request["id"], request["params"]["content"]["body"])
        assert "m.notice" == request["params"]["content"]["msgtype"]
        connection.answer(request, {"event_id": f"$answer{number}"})
    connection.close(4401, "M_UNKNOWN_TOKEN: Logged out")
    with pytest.raises(StreamEnded):
        await within(running)


# -- opening ---------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_first_message_says_all_that_the_query_would(played: Played, new_client: NewClient) -> None:
    client = new_client(played, since="s7", filter={"room": {}}, set_presence="offline", use_state_after=True)
    connection = await begin(client, played)
    assert {
        "access_token": "sat_token",
        "since": "s7",
        "filter": {"room": {}},
        "set_presence": "offline",
        "use_state_after": True,
    } == connection.auth
    assert ("@alice:test.example", "ABC", "s7") == (client.user_id, client.device_id, client.since)


@pytest_twisted.ensureDeferred
async def test_first_message_leaves_out_what_is_not_said(played: Played, new_client: NewClient) -> None:
    assert {"access_token": "sat_token"} == (await begin(new_client(played), played)).auth


@pytest_twisted.ensureDeferred
async def test_token_is_not_in_the_request(websocket: Played, new_client: NewClient) -> None:
    await begin(new_client(websocket, user_agent="a bot"), websocket)
    (headers,) = websocket.seen
    assert "a bot" == headers["user-agent"]
    assert f"127.0.0.1:{websocket.url.rpartition(':')[2]}" == headers["host"]
    assert "sat_token" not in str(websocket.seen)


@pytest_twisted.ensureDeferred
async def test_start_waits_for_a_server_that_is_not_there_yet(
    played: Played, new_client: NewClient, hurried: Hurried
) -> None:
    await played.stop()
    started: Deferred[None] = go(new_client(played).start())
    await until(lambda: len(hurried.waits) > 10)
    played.listen()
    await played.connection()
    await within(started)


@pytest_twisted.ensureDeferred
async def test_client_that_was_not_started_refuses_requests(played: Played, new_client: NewClient) -> None:
    with pytest.raises(RuntimeError):
        await new_client(played).ping()


@pytest.mark.parametrize("url", ["example.org", "ftp://example.org", "tcp://example.org", "https://", "http://a/?b=c"])
def test_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        StreamClient(url, "token", reactor=object())


# -- what comes ------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_events_come_once_and_in_order(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    for number in range(1, 30):
        connection.update(number)
    assert [str(number) for number in range(1, 30)] == await read(client, 29)


@pytest_twisted.ensureDeferred
async def test_event_names_its_room(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    (await begin(client, played)).update(1)
    event = await anext(client.events(history=True))
    assert ("!room", "$1") == (event["room_id"], event["event_id"])


@pytest_twisted.ensureDeferred
async def test_loop_that_was_left_goes_on_in_the_next(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    events = [{"content": {"body": str(number)}} for number in range(4)]
    connection.say({"next_batch": "s1", "rooms": {"join": {"!room": {"timeline": {"events": events}}}}})
    assert ["0", "1"] == await read(client, 2)
    assert ["2", "3"] == await read(client, 2)


@pytest_twisted.ensureDeferred
async def test_place_moves_on_when_the_next_update_is_asked_for(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    connection.update(1)
    connection.update(2)
    updates = client.updates()
    assert "s1" == (await anext(updates))["next_batch"]
    assert client.since is None
    assert "s2" == (await anext(updates))["next_batch"]
    assert "s1" == client.since


@pytest_twisted.ensureDeferred
async def test_two_readers_at_once_are_refused(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    await begin(client, played)
    first = go(client.updates().__anext__())
    with pytest.raises(RuntimeError):
        await anext(client.updates())
    first.cancel()
    with pytest.raises(CancelledError):
        await first


@pytest_twisted.ensureDeferred
async def test_reader_may_stop_waiting_and_come_back(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    waiting = go(client.updates().__anext__())
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    connection.update(1)
    assert ["1"] == await read(client, 1)


@pytest_twisted.ensureDeferred
async def test_update_with_messages_to_the_device_is_acknowledged_when_it_was_dealt_with(
    played: Played, new_client: NewClient
) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    connection.update(1)
    connection.update(2, to_device={"events": [{"type": "m.dummy"}]})
    connection.update(3)
    updates = client.updates()
    await anext(updates)
    assert [{"type": "m.dummy"}] == to_device_messages(await anext(updates))
    asked: Deferred[None] = go(client.ping())
    # Not before the next one is asked for.
    connection.answer(await connection.request("ping"), {})
    await within(asked)
    await anext(updates)
    assert {"next_batch": "s2"} == (await connection.request("ack"))["params"]


def test_invitations_are_found() -> None:
    assert {"!a": {}} == invited_rooms({"next_batch": "s1", "rooms": {"invite": {"!a": {}}}})
    assert {} == invited_rooms({"next_batch": "s1"})


@pytest_twisted.ensureDeferred
async def test_unknown_messages_and_members_are_ignored(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    for message in ({}, {"news": 1}, {"id": None, "error": {}}, {"id": "other", "result": {}}, {"method": "dance"}):
        connection.say(message)
    connection.update(1, **{"org.example.more": 1})
    assert ["1"] == await read(client, 1)


@pytest.mark.parametrize("rubbish", [b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"id":' + b"9" * 5000 + b"}"])
@pytest_twisted.ensureDeferred
async def test_after_rubbish_the_client_connects_again(played: Played, new_client: NewClient, rubbish: bytes) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    connection.update(1)
    connection.say(rubbish)
    again = await played.connection()
    assert "s1" == again.auth["since"]
    again.update(2)
    assert ["1", "2"] == await read(client, 2)


@pytest_twisted.ensureDeferred
async def test_update_after_rubbish_is_not_taken_in(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    for message in (b"{", update(2)):
        connection.say(message)
    again = await played.connection()
    assert "since" not in again.auth


@pytest_twisted.ensureDeferred
async def test_ping_over_lines_is_answered(lines: Played, new_client: NewClient) -> None:
    connection = await begin(new_client(lines), lines)
    connection.say({"method": "ping"})
    assert {"method": "pong"} == await connection.request()


# -- what goes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "method", "params", "result", "expected"),
    [
        pytest.param(
            lambda client: client.send("!r", "hello"),
            "send",
            {"room_id": "!r", "event_type": "m.room.message", "content": {"msgtype": "m.text", "body": "hello"}},
            {"event_id": "$1"},
            "$1",
            id="text",
        ),
        pytest.param(
            lambda client: client.send("!r", {"a": 1}, event_type="m.thing"),
            "send",
            {"room_id": "!r", "event_type": "m.thing", "content": {"a": 1}},
            {"event_id": "$1"},
            "$1",
            id="content",
        ),
        pytest.param(
            lambda client: client.state("!r", "m.room.topic", {"topic": "t"}),
            "state",
            {"room_id": "!r", "event_type": "m.room.topic", "state_key": "", "content": {"topic": "t"}},
            {"event_id": "$1"},
            "$1",
            id="state",
        ),
        pytest.param(
            lambda client: client.redact("!r", "$e", "spam"),
            "redact",
            {"room_id": "!r", "event_id": "$e", "reason": "spam"},
            {"event_id": "$1"},
            "$1",
            id="redact",
        ),
        pytest.param(
            lambda client: client.typing("!r"),
            "typing",
            {"room_id": "!r", "typing": True, "timeout": 30_000},
            {},
            None,
            id="typing",
        ),
        pytest.param(
            lambda client: client.typing("!r", False),
            "typing",
            {"room_id": "!r", "typing": False},
            {},
            None,
            id="typing no longer",
        ),
        pytest.param(
            lambda client: client.receipt("!r", "$e", thread_id="main"),
            "receipt",
            {"room_id": "!r", "event_id": "$e", "receipt_type": "m.read", "thread_id": "main"},
            {},
            None,
            id="receipt",
        ),
        pytest.param(
            lambda client: client.read_markers("!r", fully_read="$a", read_private="$b"),
            "read_markers",
            {"room_id": "!r", "m.fully_read": "$a", "m.read.private": "$b"},
            {},
            None,
            id="read markers",
        ),
        pytest.param(
            lambda client: client.presence("online", "here"),
            "presence",
            {"presence": "online", "status_msg": "here"},
            {},
            None,
            id="presence",
        ),
        pytest.param(
            lambda client: client.messages("!r", limit=5),
            "messages",
            {"room_id": "!r", "dir": "b", "limit": 5},
            {"chunk": [], "start": "t1"},
            {"chunk": [], "start": "t1"},
            id="messages",
        ),
        pytest.param(
            lambda client: client.to_device("m.dummy", {"@b:c": {"*": {}}}),
            "to_device",
            {"event_type": "m.dummy", "messages": {"@b:c": {"*": {}}}},
            {},
            None,
            id="to device",
        ),
        pytest.param(lambda client: client.set_filter(None), "sync", {"filter": None}, {}, None, id="filter"),
        pytest.param(
            lambda client: client.set_presence("offline"),
            "sync",
            {"set_presence": "offline"},
            {},
            None,
            id="set presence",
        ),
        pytest.param(lambda client: client.ping(), "ping", None, {}, None, id="ping"),
        pytest.param(
            lambda client: client.request("org.example.new", {"a": 1}),
            "org.example.new",
            {"a": 1},
            {"b": 2},
            {"b": 2},
            id="any",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_requests(
    websocket: Played, new_client: NewClient, call: Any, method: str, params: Any, result: Any, expected: Any
) -> None:
    client = new_client(websocket)
    connection = await begin(client, websocket)
    asked: Deferred[Any] = go(call(client))
    request = await connection.request(method)
    assert params == request.get("params")
    connection.answer(request, result)
    assert expected == await within(asked)


@pytest_twisted.ensureDeferred
async def test_refusal_is_raised_with_all_that_was_said(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    asked: Deferred[str] = go(client.send("!r", "hello"))
    connection.refuse(await connection.request(), "M_LIMIT_EXCEEDED", retry_after_ms=1500, more=1)
    with pytest.raises(StreamError) as refusal:
        await within(asked)
    error = refusal.value
    assert ("M_LIMIT_EXCEEDED", "No", 1500, 1) == (
        error.errcode,
        error.message,
        error.retry_after_ms,
        error.body["more"],
    )


@pytest.mark.parametrize("answer", [{}, {"result": 1}, {"error": "no"}, {"error": {"errcode": 1}}, {"error": None}])
@pytest_twisted.ensureDeferred
async def test_answer_that_is_none_is_an_error(played: Played, new_client: NewClient, answer: Any) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    asked: Deferred[None] = go(client.ping())
    connection.say({"id": (await connection.request())["id"], **answer})
    with pytest.raises(StreamError, match="M_UNKNOWN"):
        await within(asked)


@pytest_twisted.ensureDeferred
async def test_answers_may_come_in_another_order(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    asked: list[Deferred[str]] = [go(client.send("!r", str(number))) for number in range(10)]
    for request in reversed(await connection.requests(10)):
        connection.answer(request, {"event_id": "$" + request["params"]["content"]["body"]})
    assert [f"${number}" for number in range(10)] == await within(gatherResults(asked))


@pytest_twisted.ensureDeferred
async def test_no_more_requests_are_made_at_once_than_the_server_reads(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    asked: list[Deferred[str]] = [go(client.send("!r", str(number))) for number in range(IN_FLIGHT + 5)]
    first = await connection.requests(IN_FLIGHT)
    assert [] == connection.said.pending
    connection.answer(first[3], {"event_id": "$3"})
    assert str(IN_FLIGHT) == (await connection.request())["params"]["content"]["body"]
    assert [] == connection.said.pending
    for each in asked:
        each.addErrback(lambda _: None)


@pytest_twisted.ensureDeferred
async def test_request_that_is_too_large_is_not_sent(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    with pytest.raises(StreamError, match="M_TOO_LARGE"):
        await client.send("!r", "x" * 300_000)
    assert not connection.is_gone


@pytest_twisted.ensureDeferred
async def test_request_that_the_server_finds_too_large_is_not_made_again(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    small, large = go(client.send("!r", "small")), go(client.send("!r", "large" * 1000))
    await connection.requests(2)
    connection.close(1009, "M_TOO_LARGE: over 1 KiB")
    with pytest.raises(StreamError, match="M_TOO_LARGE"):
        await within(large)
    again = await played.connection()
    request = await again.request("send")
    assert "small" == request["params"]["content"]["body"]
    again.answer(request, {"event_id": "$1"})
    assert "$1" == await within(small)


@pytest_twisted.ensureDeferred
async def test_first_message_that_is_too_large_is_the_end(played: Played, new_client: NewClient) -> None:
    started: Deferred[None] = go(new_client(played).start())
    connection = await played.raw_connection()
    connection.close(1009, "M_TOO_LARGE: over 256 KiB")
    with pytest.raises(StreamEnded, match="M_TOO_LARGE"):
        await within(started)


@pytest_twisted.ensureDeferred
async def test_given_transaction_id_is_the_id_of_the_request(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    sent: Deferred[str] = go(client.send("!r", "hello", transaction_id="mine"))
    with pytest.raises(ValueError):
        await client.send("!r", "hello", transaction_id="mine")
    request = await connection.request()
    assert "mine" == request["id"]
    connection.answer(request, {"event_id": "$1"})
    assert "$1" == await within(sent)


@pytest_twisted.ensureDeferred
async def test_ids_are_never_used_twice(websocket: Played, new_client: NewClient) -> None:
    ids: set[str] = set()
    for _ in range(2):
        client = new_client(websocket)
        connection = await begin(client, websocket)
        for _ in range(3):
            asked: Deferred[None] = go(client.ping())
            request = await connection.request()
            ids.add(request["id"])
            connection.answer(request, {})
            await within(asked)
    assert 6 == len(ids)


@pytest_twisted.ensureDeferred
async def test_request_that_was_given_up_is_not_made_again(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    first, second = go(client.send("!r", "first")), go(client.send("!r", "second"))
    await connection.requests(2)
    first.cancel()
    with pytest.raises(CancelledError):
        await first
    connection.cut()
    again = await played.connection()
    request = await again.request()
    assert "second" == request["params"]["content"]["body"]
    again.answer(request, {"event_id": "$2"})
    assert "$2" == await within(second)
    assert [] == again.said.pending


@pytest_twisted.ensureDeferred
async def test_patient_client_asks_again_when_the_server_says_so(
    played: Played, new_client: NewClient, hurried: Hurried
) -> None:
    client = new_client(played, patience_s=10.0)
    connection = await begin(client, played)
    sent: Deferred[str] = go(client.send("!r", "hello", transaction_id="mine"))
    connection.refuse(await connection.request(), "M_LIMIT_EXCEEDED", retry_after_ms=4000)
    again = await connection.request()
    assert ("mine", True) == (again["id"], 4.0 in hurried.waits)
    connection.refuse(again, "M_LIMIT_EXCEEDED", retry_after_ms=60_000)
    with pytest.raises(StreamError, match="M_LIMIT_EXCEEDED"):
        await within(sent)


@pytest_twisted.ensureDeferred
async def test_request_without_an_id_is_made_again_under_another(played: Played, new_client: NewClient) -> None:
    client = new_client(played, patience_s=10.0)
    connection = await begin(client, played)
    done: Deferred[None] = go(client.ping())
    connection.refuse(await connection.request(), "M_LIMIT_EXCEEDED", retry_after_ms=0)
    connection.answer(await connection.request(), {})
    await within(done)


# -- connecting again ------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_lost_connection_is_made_again_at_the_place_that_was_reached(
    played: Played, new_client: NewClient
) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    connection.update(1)
    connection.update(2)
    assert ["1"] == await read(client, 1)
    connection.cut()
    again = await played.connection()
    # What was taken in is not asked for again, though it has not been dealt with.
    assert ("s2", None) == (again.auth["since"], client.since)
    again.update(3)
    assert ["2", "3"] == await read(client, 2)


@pytest_twisted.ensureDeferred
async def test_unanswered_requests_are_made_again_in_order_with_their_ids(
    played: Played, new_client: NewClient
) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    sent: list[Deferred[str]] = [go(client.send("!r", str(number))) for number in range(5)]
    before = await connection.requests(5)
    connection.answer(before[2], {"event_id": "$2"})
    await within(sent[2])
    connection.cut()
    late: Deferred[str] = go(client.send("!r", "late"))
    again = await played.connection()
    after = await again.requests(5)
    assert [before[each] for each in (0, 1, 3, 4)] == after[:4]
    assert "late" == after[4]["params"]["content"]["body"]
    for request in after:
        again.answer(request, {"event_id": "$" + request["params"]["content"]["body"]})
    del sent[2]
    assert ["$0", "$1", "$3", "$4", "$late"] == await within(gatherResults([*sent, late]))


@pytest_twisted.ensureDeferred
async def test_request_between_goodbye_and_the_end_is_made_again(websocket: Played, new_client: NewClient) -> None:
    client = new_client(websocket)
    connection = await begin(client, websocket)
    connection.close(1001)
    # It does not see the reply, and so does not hang up.
    connection.wire.transport.pauseProducing()
    wire: Any = client._link._conversation._wire  # type: ignore[union-attr]
    await until(lambda: wire.state != wire.STATE_OPEN)
    sent: Deferred[str] = go(client.send("!r", "hello"))
    again = await websocket.connection()
    again.answer(await again.request("send"), {"event_id": "$1"})
    assert "$1" == await within(sent)


@pytest_twisted.ensureDeferred
async def test_acknowledgement_is_not_made_again(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    connection.update(1, to_device={"events": []})
    connection.update(2)
    assert ["1", "2"] == await read(client, 2)
    await connection.request("ack")
    connection.cut()
    again = await played.connection()
    asked: Deferred[None] = go(client.ping())
    again.answer(await again.request("ping"), {})
    await within(asked)


@pytest_twisted.ensureDeferred
async def test_filter_that_was_set_is_that_of_the_next_connection(played: Played, new_client: NewClient) -> None:
    client = new_client(played, filter="1")
    connection = await begin(client, played)
    done = go(client.set_filter({"room": {}}))
    connection.answer(await connection.request("sync"), {})
    await within(done)
    connection.cut()
    assert {"room": {}} == (await played.connection()).auth["filter"]


@pytest_twisted.ensureDeferred
async def test_waits_double_up_to_a_minute(
    websocket: Played, new_client: NewClient, hurried: Hurried, caplog: pytest.LogCaptureFixture
) -> None:
    hurried.haste = 400.0
    # A bare 502 is no Matrix server's no.
    websocket.refusals.extend([b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\nbad!"] * 9)
    client = new_client(websocket)
    await begin(client, websocket)
    told: list[Any] = [each.args for each in caplog.records if "trying again" in each.msg]
    assert "HTTP 502, 502 Bad Gateway" in [str(loss) for loss, _ in told]
    for step, (_, wait_s) in zip([1, 2, 4, 8, 16, 32, 60, 60, 60], told[:9], strict=True):
        assert step / 2 <= wait_s <= step
        assert wait_s in hurried.waits


@pytest_twisted.ensureDeferred
async def test_restart_is_waited_for_by_chance(played: Played, new_client: NewClient, hurried: Hurried) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    for _ in range(5):
        hurried.waits.clear()
        connection.close(1001)
        connection = await played.connection()
        assert all(each <= 5.0 or each in (30.0, 60.0, 90.0) for each in hurried.waits)


@pytest.mark.parametrize("code", [1000, 1002, 1003, 1007, 1009, 1011, 4408, 4429, 4999])
@pytest_twisted.ensureDeferred
async def test_code_that_is_no_end_is_followed_by_another_connection(
    played: Played, new_client: NewClient, code: int
) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    connection.update(1)
    connection.close(code, "M_UNKNOWN: why")
    assert "s1" == (await played.connection()).auth["since"]
    await within(connection.gone)


@pytest.mark.parametrize("code", [4400, 4401, 4402, 4403])
@pytest_twisted.ensureDeferred
async def test_code_that_is_the_end_is_raised_everywhere(played: Played, new_client: NewClient, code: int) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    asked: Deferred[None] = go(client.ping())
    await connection.request()
    connection.update(1)
    connection.close(code, "M_UNKNOWN_TOKEN: over")
    with pytest.raises(StreamEnded):
        await within(asked)
    # First what came before.
    assert ["1"] == await read(client, 1)
    for _ in range(2):
        with pytest.raises(StreamEnded) as end:
            await anext(client.events())
        assert (code, "M_UNKNOWN_TOKEN") == (end.value.code, end.value.errcode)
    with pytest.raises(StreamEnded):
        await client.ping()
    await client.stop()


@pytest_twisted.ensureDeferred
async def test_token_that_was_never_good_is_raised_by_start(played: Played, new_client: NewClient) -> None:
    started: Deferred[None] = go(new_client(played).start())
    connection = await played.raw_connection()
    await connection.request("auth")
    connection.close(4401, "M_UNKNOWN_TOKEN: Unrecognised access token")
    with pytest.raises(StreamEnded) as end:
        await within(started)
    assert "M_UNKNOWN_TOKEN: Unrecognised access token" == str(end.value)


@pytest_twisted.ensureDeferred
async def test_expired_token_is_refreshed(played: Played, new_client: NewClient) -> None:
    async def refresh() -> str:
        return "sat_next"

    client = new_client(played, refresh=refresh)
    connection = await begin(client, played)
    connection.update(1)
    connection.close(4402, "M_UNKNOWN_TOKEN: expired")
    again = await played.connection()
    assert ("sat_next", "s1", "sat_next") == (again.auth["access_token"], again.auth["since"], client.access_token)


@pytest_twisted.ensureDeferred
async def test_refresh_that_is_refused_is_the_end(played: Played, new_client: NewClient) -> None:
    async def refresh() -> str:
        raise StreamError("M_UNKNOWN_TOKEN", "No such refresh token")

    client = new_client(played, refresh=refresh)
    connection = await begin(client, played)
    connection.close(4402, "M_UNKNOWN_TOKEN: expired")
    with pytest.raises(StreamEnded, match="No such refresh token"):
        await anext(client.updates())


@pytest_twisted.ensureDeferred
async def test_refresh_that_fails_is_tried_again(played: Played, new_client: NewClient) -> None:
    attempts = 0

    async def refresh() -> str:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise OSError("no network")
        return "sat_next"

    connection = await begin(new_client(played, refresh=refresh), played)
    connection.close(4402, "M_UNKNOWN_TOKEN: expired")
    connection = await played.raw_connection()
    assert "sat_token" == (await connection.request("auth"))["params"]["access_token"]
    connection.close(4402, "M_UNKNOWN_TOKEN: expired")
    assert "sat_next" == (await played.connection()).auth["access_token"]


def _refusal(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize(
    ("refusal", "wait_s"),
    [
        (_refusal("429 Slow", b'{"errcode":"M_LIMIT_EXCEEDED","error":"Slow","retry_after_ms":7000}'), 7.0),
        (_refusal("429 Slow", b"slower!", "Retry-After: 9"), 9.0),
        (_refusal("503 Busy", b"<html/>"), 0.5),
        (_refusal("503 Busy", b"[" * 70_000), 0.5),
        (b"HTTP/1.1 503 Busy\r\n\r\nno length", 0.5),
        (b"HTTP/1.1 5\r\n\r\n...", 0.5),
        (b"rubbish\r\n\r\n...", 0.5),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: tea\r\n\r\n...", 0.5),
        (b"HTTP/1.1 101 \xff\r\nX: \xff\xfe\r\n\r\n...", 0.5),
        (b"x" * 100_000, 0.5),
    ],
)
@pytest_twisted.ensureDeferred
async def test_http_answer_that_is_no_end_is_waited_for(
    websocket: Played, new_client: NewClient, hurried: Hurried, refusal: bytes, wait_s: float
) -> None:
    websocket.refusals.append(refusal)
    await begin(new_client(websocket), websocket)
    assert 2 == websocket.attempts
    assert [each for each in hurried.waits if wait_s <= each <= 1.25 * wait_s + 0.5]


@pytest.mark.parametrize(
    ("refusal", "errcode"),
    [
        (_refusal("404 Not Found", b'{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}'), "M_UNRECOGNIZED"),
        (_refusal("404 Not Found", b"<html/>"), "M_UNKNOWN"),
        (_refusal("403 Forbidden", b'{"errcode":"M_FORBIDDEN","error":"Not you"}'), "M_FORBIDDEN"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_http_answer_that_is_a_no_is_raised_by_start(
    websocket: Played, new_client: NewClient, refusal: bytes, errcode: str
) -> None:
    websocket.refusals.append(refusal)
    with pytest.raises(StreamEnded) as end:
        await within(go(new_client(websocket).start()))
    assert errcode == end.value.errcode


@pytest_twisted.ensureDeferred
async def test_proxy_that_finds_nothing_for_a_while_is_no_end(websocket: Played, new_client: NewClient) -> None:
    connection = await begin(new_client(websocket), websocket)
    websocket.refusals.append(_refusal("404 Not Found", b"<html/>"))
    connection.cut()
    await websocket.connection()


@pytest_twisted.ensureDeferred
async def test_server_that_falls_silent_is_left(played: Played, new_client: NewClient, hurried: Hurried) -> None:
    hurried.haste = 100.0
    connection = await begin(new_client(played), played)
    # It no longer reads, nor answers pings.
    connection.wire.transport.pauseProducing()
    await played.connection()
    connection.cut()


@pytest_twisted.ensureDeferred
async def test_server_that_does_not_let_us_in_is_left(played: Played, new_client: NewClient, hurried: Hurried) -> None:
    hurried.haste = 100.0
    started: Deferred[None] = go(new_client(played).start())
    await played.raw_connection()
    await played.connection()
    await within(started)


# -- bounds ----------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_client_stops_reading_when_the_program_is_behind(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    text, number = "x" * 100_000, 0
    # What the sockets of the kernel hold is not much, and then it stands still.
    while len(connection.wire.transport._tempDataBuffer) < 50 and number < 500:
        number += 1
        connection.update(number, more=text)
        if number % 10 == 0:
            await until(lambda: True, every_s=0)
    await until(lambda: client._inbox.is_full)
    assert FULL_UPDATES <= len(client._inbox._held) < number / 2
    assert [str(each) for each in range(1, number + 1)] == await within(go(read(client, number)))


@pytest_twisted.ensureDeferred
async def test_answer_is_read_even_if_the_program_is_behind(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    for number in range(1, 4 * FULL_UPDATES):
        connection.update(number)
    await until(lambda: client._inbox.is_full)
    asked: Deferred[None] = go(client.ping())
    connection.answer(await connection.request(), {})
    await within(asked)
    assert [str(each) for each in range(1, 4 * FULL_UPDATES)] == await within(go(read(client, 4 * FULL_UPDATES - 1)))


@pytest_twisted.ensureDeferred
async def test_what_is_over_the_bound_is_left_to_the_server(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    asked: Deferred[None] = go(client.ping())
    request = await connection.request()
    # It waits for an answer, so it goes on reading, but not for ever.
    for number in range(1, 3 * CUT_UPDATES):
        connection.update(number)
    connection.answer(request, {})
    await within(asked)
    assert CUT_UPDATES == len(client._inbox._held)
    reading: Deferred[list[str]] = go(read(client, CUT_UPDATES + 1))
    again = await played.connection()
    assert f"s{CUT_UPDATES}" == again.auth["since"]
    again.update(CUT_UPDATES + 1)
    assert [str(each) for each in range(1, CUT_UPDATES + 2)] == await within(reading)


@pytest_twisted.ensureDeferred
async def test_client_that_does_not_read_gives_signs_of_life(
    played: Played, new_client: NewClient, hurried: Hurried
) -> None:
    hurried.haste = 100.0
    client = new_client(played)
    connection = await begin(client, played)
    pings: list[Any] = []
    if not played.is_lines:
        connection.wire.onPing = pings.append
    for number in range(1, 2 * FULL_UPDATES):
        connection.update(number)
    await until(lambda: client._inbox.is_full)
    if played.is_lines:
        await connection.request("ping")
    else:
        await until(lambda: len(pings) > 1)
    assert not connection.is_gone


@pytest_twisted.ensureDeferred
async def test_update_over_the_bound_is_not_taken_in(played: Played, new_client: NewClient) -> None:
    connection = await begin(new_client(played, max_update_bytes=10_000), played)
    connection.update(1, more="x" * 20_000)
    await within(connection.gone)


# -- the end ---------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_iterators_end_when_the_client_is_stopped(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)

    async def read_all() -> list[Any]:
        return [each async for each in client.updates()]

    reading, asked = go(read_all()), go(client.ping())
    connection.update(1)
    await until(lambda: client.since == "s1")
    await within(go(client.stop()))
    assert [update(1)] == await within(reading)
    with pytest.raises(StreamEnded):
        await within(asked)
    await within(connection.gone)


@pytest_twisted.ensureDeferred
async def test_client_can_be_stopped_before_it_is_connected(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    started: Deferred[None] = go(client.start())
    await within(go(client.stop()))
    with pytest.raises(StreamEnded):
        await within(started)
    with pytest.raises(RuntimeError):
        await client.start()


@pytest_twisted.ensureDeferred
async def test_client_can_be_stopped_while_it_waits(played: Played, new_client: NewClient, hurried: Hurried) -> None:
    hurried.haste = 0.001
    client = new_client(played)
    connection = await begin(client, played)
    connection.cut()
    await until(lambda: client._link._waiting is not None)
    await within(go(client.stop()))


@pytest_twisted.ensureDeferred
async def test_client_is_stopped_where_its_block_is_left(played: Played, new_client: NewClient) -> None:
    connections: list[Connection] = []

    async def serve() -> None:
        connections.append(await played.connection())

    serving: Deferred[None] = go(serve())
    async with new_client(played) as client:
        await serving
        assert "@alice:test.example" == client.user_id
    await within(connections[0].gone)


@pytest_twisted.ensureDeferred
async def test_server_that_never_says_goodbye_is_hung_up_on(played: Played, new_client: NewClient) -> None:
    client = new_client(played)
    connection = await begin(client, played)
    connection.wire.transport.pauseProducing()
    await within(go(client.stop()))
    connection.cut()


def test_client_loads_nothing_of_the_server() -> None:
    script = (
        "import sys; from homeserver.streamclient import StreamClient; "
        "print([each for each in sys.modules if each.split('.')[0] in "
        "('api', 'federation', 'storage', 'sqlalchemy', 'pydantic', 'treq') or each == 'twisted.internet.reactor'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()
