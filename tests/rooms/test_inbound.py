"""The gate: what other servers send, byte by byte.

Spec: server-server API, "Checks performed on receipt of a PDU", 1 to 3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
import pytest_twisted

from homeserver.errors import StorageUnavailable
from homeserver.model.canonical_json import encode_canonical
from homeserver.model.event import MAX_PDU_BYTES
from homeserver.model.hashing import with_content_hash
from homeserver.model.ids import RoomID, UserID
from homeserver.model.receipt_of_events import CheckedEvent, Dropped
from homeserver.model.room_versions import ROOM_VERSIONS
from homeserver.model.server_keys import ServerKey, ServerKeys
from homeserver.model.signing import generate_signing_key, sign_event
from homeserver.rooms.door import Identity
from homeserver.rooms.inbound import MAX_RAW_BYTES, SLICE, Inbound, Refused
from homeserver.runtime.threads import InlineThreads
from tests.support.elsewhere import ALICE, BOB, START_MS, Elsewhere, _key_of

OURS = Identity("example.org", generate_signing_key(b"\x01" * 32, "test"))
VERSIONS = pytest.mark.parametrize("version", ["1", "3", "6", "10", "11", "12"])


class Keys:
    """Has the keys of all servers of `Elsewhere`, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Mapping[str, int], Mapping[str, frozenset[str]]]] = []

    async def keys_of(
        self, wanted: Mapping[str, int], *, key_ids: Mapping[str, frozenset[str]]
    ) -> Mapping[str, ServerKeys]:
        self.asked.append((wanted, key_ids))
        return {
            name: ServerKeys(
                name, {_key_of(name).key_id: ServerKey(_key_of(name).verify_key, START_MS * 2)}, START_MS * 2, 0
            )
            for name in wanted
        }


def raw(event: Any) -> bytes:
    return orjson.dumps(event.wire)


def gate(keys: Keys | None = None) -> Inbound:
    return Inbound(keys or Keys(), InlineThreads(), OURS)


@pytest_twisted.ensureDeferred
async def test_trouble_of_our_own_is_raised_as_such() -> None:
    """It is not the fault of the events: who sent them comes again."""

    class Stopped:
        def run(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
            raise StorageUnavailable("the server is stopping")

    inbound = Inbound(Keys(), Stopped(), OURS)
    with pytest.raises(StorageUnavailable):
        await inbound.read(ROOM_VERSIONS["11"], RoomID("!room:a.example"), [b"{}"] * SLICE)


@VERSIONS
@pytest_twisted.ensureDeferred
async def test_what_is_right_comes_out_as_it_went_in(version: str) -> None:
    room = Elsewhere(version)
    room.join(BOB)
    room.say(BOB)
    checked = await gate().check(room.version, room.room_id, [raw(event) for event in room.events])
    assert room.events == [each.event if isinstance(each, CheckedEvent) else each for each in checked]


@pytest_twisted.ensureDeferred
async def test_many_keep_their_order_and_keys_are_asked_for_once() -> None:
    room, keys = Elsewhere(), Keys()
    room.join(BOB)
    for number in range(3 * SLICE):
        room.say(BOB if number % 2 else ALICE, str(number))
    pdus = [raw(event) for event in room.events]
    pdus[SLICE] = b"{}"
    checked = await gate(keys).check(room.version, room.room_id, pdus)
    assert isinstance(checked[SLICE], Dropped)
    del checked[SLICE], room.events[SLICE]
    assert room.events == [each.event if isinstance(each, CheckedEvent) else each for each in checked]
    newest = max(event.origin_server_ts for event in room.events if event.sender == ALICE)
    assert [(newest, frozenset({"ed25519:test"}))] == [
        (wanted["a.example"], ids["a.example"]) for wanted, ids in keys.asked
    ]


@pytest.mark.parametrize(
    "pdu",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"{}",
        b"{}{}",
        b'{"depth": NaN}',
        b'{"depth": 1e400}',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b'{"type": "\\ud800"}',
        b"[" * 10_000,
        b'{"a":' * 10_000 + b"1.5" + b"}" * 10_000,
        b"[" * 900 + b"1.5" + b"]" * 900,
        b'{"depth": ' + b"9" * 5_000 + b"}",
        b" " * (MAX_RAW_BYTES + 1),
        b"{" + b",".join(b'"%d":0' % number for number in range(20_000)) + b"}",
    ],
    ids=lambda pdu: repr(pdu[:12]),
)
@pytest.mark.parametrize("version", ["1", "12"])
@pytest_twisted.ensureDeferred
async def test_what_is_no_event_is_left_out_alone(pdu: bytes, version: str) -> None:
    room = Elsewhere(version)
    good = raw(room.last)
    checked = await gate().check(room.version, room.room_id, [good, pdu, good])
    assert [True, False, True] == [isinstance(each, CheckedEvent) for each in checked]


@pytest.mark.parametrize("field", ["content", "prev_events", "auth_events", "depth", "origin_server_ts", "state_key",
                                   "sender", "type", "room_id", "hashes", "signatures"])  # fmt: skip
@pytest.mark.parametrize("value", [None, 7, -1, 2**60, 1.5, "x", [], [[]], {}, {"a": {"b": 1}}, True], ids=repr)
@pytest.mark.parametrize("version", ["1", "12"])
@pytest_twisted.ensureDeferred
async def test_no_type_of_a_field_is_a_traceback(field: str, value: Any, version: str) -> None:
    room = Elsewhere(version)
    wire = {**room.power.wire, field: value}
    outcome = (await gate().check(room.version, room.room_id, [orjson.dumps(wire)]))[0]
    # Where the content is an object, its hash does not fit: the event is taken in its redacted form.
    assert isinstance(outcome, Dropped) or (field == "hashes" and outcome.was_redacted) or value in ([], {})


@pytest_twisted.ensureDeferred
async def test_an_event_of_another_room_is_left_out_and_named() -> None:
    room, other = Elsewhere(), Elsewhere(name="other")
    outcome = (await gate().check(room.version, room.room_id, [raw(other.last)]))[0]
    assert isinstance(outcome, Refused)
    assert other.last.event_id == outcome.event_id


@pytest_twisted.ensureDeferred
async def test_a_create_event_that_makes_another_room_is_left_out() -> None:
    room, other = Elsewhere(), Elsewhere(name="other")
    outcome = (await gate().check(room.version, room.room_id, [raw(other.create)]))[0]
    assert isinstance(outcome, Refused)


@pytest_twisted.ensureDeferred
async def test_a_signature_of_another_server_does_not_do() -> None:
    room = Elsewhere()
    wire = {**room.last.wire, "signatures": {}}
    forged = sign_event(room.version, wire, "b.example", _key_of("b.example"))
    outcome = (await gate().check(room.version, room.room_id, [orjson.dumps(forged)]))[0]
    assert isinstance(outcome, Refused)
    assert room.last.event_id == outcome.event_id


@pytest_twisted.ensureDeferred
async def test_who_has_not_signed_is_not_asked_for_keys() -> None:
    room, keys = Elsewhere(), Keys()
    unsigned = {**room.last.wire, "signatures": {"a.example": {"ed25519:policy_server": "x" * 86}}}
    await gate(keys).check(room.version, room.room_id, [orjson.dumps(unsigned)])
    assert [] == keys.asked


@VERSIONS
@pytest_twisted.ensureDeferred
async def test_own_events_are_checked_with_our_own_key_and_nobody_is_asked(version: str) -> None:
    room, keys = Elsewhere(version), Keys()
    ours = UserID("@eve:example.org")
    wire = {**room.make("m.room.message", ours, {"body": "hi"}, event_id="$x:example.org").wire, "signatures": {}}
    signed = orjson.dumps(sign_event(room.version, wire, "example.org", OURS.key))
    forged = orjson.dumps(sign_event(room.version, wire, "example.org", _key_of("b.example")))
    outcomes = await gate(keys).check(room.version, room.room_id, [signed, forged])
    assert [True, False] == [isinstance(each, CheckedEvent) for each in outcomes]


@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_federate_believes_nobody() -> None:
    room = Elsewhere()
    outcome = (await Inbound(None, InlineThreads(), OURS).check(room.version, room.room_id, [raw(room.last)]))[0]
    assert isinstance(outcome, Dropped)


@pytest_twisted.ensureDeferred
async def test_other_content_under_the_same_signature_is_taken_redacted() -> None:
    room = Elsewhere()
    said = room.say(ALICE)
    wire = {**said.wire, "content": {"body": "forged"}}
    outcome = (await gate().check(room.version, room.room_id, [orjson.dumps(wire)]))[0]
    assert isinstance(outcome, CheckedEvent)
    assert (True, {}) == (outcome.was_redacted, outcome.event.content)


@pytest.mark.parametrize(("over", "is_taken"), [(0, True), (1, False)], ids=["the limit", "one byte over"])
@pytest_twisted.ensureDeferred
async def test_the_limit_is_that_of_the_canonical_form(over: int, is_taken: bool) -> None:
    room = Elsewhere()
    base = room.make("m.room.message", ALICE, {"body": ""}).wire
    body = {
        **base,
        "content": {"body": "ü" * 9_000 + "x" * (MAX_PDU_BYTES - len(encode_canonical(base)) - 18_000 + over)},
    }
    hashed = with_content_hash({name: value for name, value in body.items() if name not in ("signatures", "hashes")})
    signed = sign_event(room.version, {**hashed, "signatures": {}}, "a.example", _key_of("a.example"))
    assert MAX_PDU_BYTES + over == len(encode_canonical(signed))
    # Another encoder, with escapes and blanks, and what its server adds.
    loose = json.dumps({**signed, "unsigned": {"x": "y" * 30_000}}, ensure_ascii=True, indent=2).encode()
    outcome = (await gate().check(room.version, room.room_id, [loose]))[0]
    assert is_taken is isinstance(outcome, CheckedEvent)


@pytest.mark.parametrize("number", ["1.5", "1" * 400, "1" * 25, "-0.0"])
@pytest.mark.parametrize("version", ["5", "6"])
@pytest_twisted.ensureDeferred
async def test_numbers_in_unsigned_do_no_harm(version: str, number: str) -> None:
    room = Elsewhere(version)
    pdu = raw(room.last)[:-1] + b',"unsigned":{"age":%s}}' % number.encode()
    outcome = (await gate().check(room.version, room.room_id, [pdu]))[0]
    assert isinstance(outcome, CheckedEvent)
    assert "unsigned" not in outcome.event.wire


@pytest_twisted.ensureDeferred
async def test_of_two_keys_of_one_name_the_last_is_read_by_hash_and_rules() -> None:
    room = Elsewhere()
    said = room.say(ALICE)
    outcome = (await gate().check(room.version, room.room_id, [b'{"type":"m.room.member",' + raw(said)[1:]]))[0]
    assert isinstance(outcome, CheckedEvent)
    assert (said, False) == (outcome.event, outcome.was_redacted)
