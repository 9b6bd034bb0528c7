"""Transactions: each is worked on once, whole, in its turn, and nothing in it keeps the rest of it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from federation.server.transactions import TransactionsApi, cut_pdus
from homeserver.errors import BadJson, InternalFault, LimitExceeded, NotAllowed, StorageUnavailable
from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import EventID, RoomID
from homeserver.ports import PDU

A = "a.example"


class Gate:
    """Takes events in as a test says; `$` and the text of an event is its ID."""

    def __init__(self) -> None:
        self.received: list[tuple[str, RoomID, list[bytes]]] = []
        self.raises: dict[str, Exception] = {}
        self.held: Deferred[None] | None = None

    async def receive(
        self, origin: str, room_id: RoomID, pdus: Sequence[PDU], *, relay: bool = False
    ) -> Mapping[EventID, str | None]:
        self.received.append((origin, room_id, list(pdus)))
        if self.held is not None:
            await self.held
        if room_id in self.raises:
            raise self.raises[room_id]
        texts = [orjson.loads(pdu)["text"] for pdu in pdus]
        return {EventID(f"${text}"): "bad" if text.startswith("bad") else None for text in texts}


class Edus:
    """Notes the EDUs that come."""

    def __init__(self) -> None:
        self.received: list[JsonObject] = []
        self.raises: Exception | None = None

    async def receive(self, origin: str, edus: Sequence[JsonObject]) -> None:
        self.received.extend(edus)
        if self.raises is not None:
            raise self.raises


class Door:
    """The endpoint with both behind it."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.edus = Edus()
        self.api = TransactionsApi(self.gate, self.edus)  # type: ignore[arg-type]

    async def put(self, txn_id: str, body: Any, origin: str = A) -> Any:
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        return orjson.loads(await self.api.receive(origin, txn_id, raw, orjson.loads(raw)))


def pdu(text: str, room_id: str = "!r") -> JsonObject:
    return {"room_id": room_id, "text": text}


@pytest_twisted.ensureDeferred
async def test_events_go_to_the_gate_by_room_as_the_bytes_that_came() -> None:
    door = Door()
    raw = b'{"pdus":[{"room_id":"!r","text":"1","n":1.50},{"room_id":"!s","text":"2"} , {"text":"3","room_id":"!r"}]}'
    answer = await door.put("1", raw)
    assert {"pdus": {"$1": {}, "$2": {}, "$3": {}}} == answer
    assert [
        (A, "!r", [b'{"room_id":"!r","text":"1","n":1.50}', b'{"text":"3","room_id":"!r"}']),
        (A, "!s", [b'{"room_id":"!s","text":"2"}']),
    ] == door.gate.received


@pytest.mark.parametrize(
    "bad",
    [{}, {"room_id": None}, {"room_id": 1}, {"room_id": "r"}, {"room_id": "!" + "x" * 300}, [], "x", None, 1],
    ids=["none", "null", "number", "sigil", "long", "list", "text", "null event", "number event"],
)
@pytest_twisted.ensureDeferred
async def test_what_names_no_room_is_dropped_alone(bad: Any) -> None:
    door = Door()
    assert {"pdus": {"$1": {}}} == await door.put("1", {"pdus": [bad, pdu("1")]})


@pytest_twisted.ensureDeferred
async def test_keys_come_before_what_they_open_and_receipts_after_what_was_read() -> None:
    door = Door()
    door.gate.held = Deferred()
    edus = [{"edu_type": "m.receipt", "content": {}}, {"edu_type": "m.direct_to_device", "content": {}}]
    answered = Deferred.fromCoroutine(door.put("1", {"pdus": [pdu("1")], "edus": edus}))
    assert edus[1:] == door.edus.received
    door.gate.held.callback(None)
    assert {"pdus": {"$1": {}}} == await answered
    assert edus[::-1] == door.edus.received


@pytest_twisted.ensureDeferred
async def test_a_refused_event_is_told_and_the_others_are_taken() -> None:
    door = Door()
    answer = await door.put("1", {"pdus": [pdu("bad"), pdu("1")]})
    assert {"pdus": {"$bad": {"error": "bad"}, "$1": {}}} == answer


@pytest_twisted.ensureDeferred
async def test_a_room_that_refuses_does_not_keep_out_the_others() -> None:
    door = Door()
    door.gate.raises["!r"] = NotAllowed("no")
    answer = await door.put("1", {"pdus": [pdu("1"), *(pdu(str(n), f"!s{n}") for n in range(2, 12))]})
    assert {f"${n}" for n in range(2, 12)} == set(answer["pdus"])


@pytest_twisted.ensureDeferred
async def test_a_fault_of_ours_is_not_acknowledged_but_does_not_block_the_sender_for_ever() -> None:
    door = Door()
    door.gate.raises["!r"] = RuntimeError("a bug")
    body = {"pdus": [pdu("1"), pdu("2", "!s")]}
    for attempt in range(3):
        with pytest.raises(InternalFault):
            await door.put(str(attempt), body)
    assert {"pdus": {"$2": {}}} == await door.put("3", body)


@pytest.mark.parametrize("fault", [StorageUnavailable("no"), LimitExceeded(1)], ids=["storage", "limit"])
@pytest_twisted.ensureDeferred
async def test_what_should_come_again_is_not_acknowledged(fault: Exception) -> None:
    door = Door()
    door.gate.raises["!r"] = fault
    body = {"pdus": [pdu("1"), pdu("2", "!s")]}
    with pytest.raises(type(fault)):
        await door.put("1", body)
    door.gate.raises.clear()
    assert {"pdus": {"$1": {}, "$2": {}}} == await door.put("1", body)


@pytest.mark.parametrize(
    "body",
    [
        {"pdus": [pdu(str(n)) for n in range(51)]},
        {"pdus": {}},
        {"pdus": "x"},
        {"pdus": [], "edus": [{}] * 101},
        {"pdus": [], "edus": {}},
    ],
    ids=["51 PDUs", "object", "text", "101 EDUs", "EDUs object"],
)
@pytest_twisted.ensureDeferred
async def test_what_is_over_the_limits_is_refused_as_a_whole(body: Any) -> None:
    door = Door()
    with pytest.raises(BadJson):
        await door.put("1", body)
    assert [] == door.gate.received


@pytest_twisted.ensureDeferred
async def test_fifty_events_and_a_hundred_edus_are_taken() -> None:
    door = Door()
    answer = await door.put("1", {"pdus": [pdu(str(n)) for n in range(50)], "edus": [{"n": n} for n in range(100)]})
    assert 50 == len(answer["pdus"])
    assert 100 == len(door.edus.received)


@pytest_twisted.ensureDeferred
async def test_a_transaction_that_comes_again_gets_the_first_answer_whatever_it_says() -> None:
    door = Door()
    first = await door.put("1", {"pdus": [pdu("1")]})
    assert first == await door.put("1", {"pdus": [pdu("2")]})
    assert {"pdus": {"$2": {}}} == await door.put("1", {"pdus": [pdu("2")]}, origin="b.example")
    assert 2 == len(door.gate.received)


@pytest_twisted.ensureDeferred
async def test_a_repetition_waits_with_the_first_and_another_one_for_its_turn() -> None:
    door = Door()
    door.gate.held = Deferred()
    answers: list[Any] = []
    for txn_id in ("1", "1", "2"):
        Deferred.fromCoroutine(door.put(txn_id, {"pdus": [pdu(txn_id)]})).addCallback(answers.append)
    other: list[Any] = []
    Deferred.fromCoroutine(door.put("1", {"pdus": [pdu("o")]}, "b.example")).addCallback(other.append)
    assert [(A, "!r"), ("b.example", "!r")] == [each[:2] for each in door.gate.received]
    held, door.gate.held = door.gate.held, None
    held.callback(None)
    assert [{"pdus": {"$1": {}}}] * 2 + [{"pdus": {"$2": {}}}] == sorted(answers, key=str)
    assert [{"pdus": {"$o": {}}}] == other
    assert 3 == len(door.gate.received)


@pytest_twisted.ensureDeferred
async def test_the_rooms_of_one_transaction_go_side_by_side_a_few_at_once() -> None:
    door = Door()
    door.gate.held = Deferred()
    done: list[Any] = []
    Deferred.fromCoroutine(door.put("1", {"pdus": [pdu(str(n), f"!r{n}") for n in range(8)]})).addCallback(done.append)
    assert 5 == len(door.gate.received)
    held, door.gate.held = door.gate.held, None
    held.callback(None)
    assert 8 == len(done[0]["pdus"])


@pytest_twisted.ensureDeferred
async def test_the_memory_of_answers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door()
    for number in range(500):
        await door.put(str(number), {"pdus": []})
    assert 200 == len(door.api._answers._by_origin[A])
    monkeypatch.setattr("federation.server.transactions.MAX_REMEMBERED_BYTES", 1_000)
    for number in range(50):
        await door.put("1", {"pdus": []}, f"s{number}.example")
    assert door.api._answers._bytes <= 1_000
    assert len(door.api._answers._by_origin) < 10


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{", b'{"pdus":[}', b"\xff", b'{"pdus":' + b"[" * 100_000, b'{"pdus":[1' + b"0" * 5_000 + b"]}"],
    ids=["empty", "list", "open", "broken", "bytes", "deep", "number"],
)
def test_nothing_that_is_no_json_gets_through_the_knife(raw: bytes) -> None:
    try:
        cut_pdus(raw)
    except BadJson:
        pass
