"""Hostile inputs 10 to 19: identity, signatures and keys, in every room version."""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import Any

import pytest

from homeserver.errors import BadIdentifier, BadJson
from homeserver.model.acl import ServerACL, host_of
from homeserver.model.event_format import event_from_wire
from homeserver.model.hashing import event_id_of, has_valid_content_hash
from homeserver.model.ids import EventID, RoomID, ServerName, UserID
from homeserver.model.receipt_of_events import read_received, signatures_needed
from homeserver.model.room_versions import RoomVersion
from homeserver.model.server_keys import (
    MAX_VALIDITY_MS,
    BadServerKeys,
    ServerKey,
    ServerKeys,
    build_server_keys,
    parse_notary_answer,
    parse_server_keys,
)
from homeserver.model.signing import BadKey, BadSignature, VerifyKey, is_key_id, sign_json, verify_signed_json

from .room import ALICE, BOB, CAROL, KEYS, KNOWN_KEYS, MALLORY, NOW, VALID_UNTIL, VERSIONS, Graph

# The points of order 1, 2, 4 and 8, some in encodings that are not canonical.
LOW_ORDER = (
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
)
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493


def keys_with(server: str, key: VerifyKey, **times: Any) -> dict[str, ServerKeys]:
    """Return what is known of all servers, with one key of one server in place of its own."""
    entry = ServerKey(key, times.get("valid_until_ts", VALID_UNTIL), times.get("expired_ts"))
    known = ServerKeys(server, MappingProxyType({"ed25519:1": entry}), entry.valid_until_ts, NOW)
    return {**KNOWN_KEYS, server: known}


@VERSIONS
def test_hostile_10_the_server_of_the_sender_must_have_signed(version: RoomVersion) -> None:
    graph = Graph(version)
    assert "accepted" == graph.take(graph.wire("m.room.message", BOB, {}))
    for signers in ((), ("evil.example",), ("evil.example", "a.example")):
        assert "dropped" == graph.take(graph.wire("m.room.message", BOB, {}, signed_by=signers))
    relabelled = graph.wire("m.room.message", MALLORY, {})
    assert "dropped" == graph.take({**relabelled, "sender": BOB})
    moved = {**relabelled, "sender": BOB, "signatures": {"b.example": relabelled["signatures"]["evil.example"]}}
    assert "dropped" == graph.take(moved)


@VERSIONS
def test_hostile_11_keys_that_were_not_valid_do_not_count_where_validity_is_enforced(version: RoomVersion) -> None:
    graph = Graph(version)
    wire = graph.wire("m.room.message", BOB, {})
    key = KEYS["b.example"].verify_key
    assert "accepted" == graph.take(wire, keys_with("b.example", key, valid_until_ts=NOW))
    past = graph.take(wire, keys_with("b.example", key, valid_until_ts=NOW - 1))
    assert ("dropped" if version.enforces_key_validity else "accepted") == past
    expired = keys_with("b.example", key, valid_until_ts=NOW - 1, expired_ts=NOW - 1)
    assert "dropped" == graph.take(wire, expired)
    assert "dropped" == graph.take(wire, keys_with("b.example", KEYS["evil.example"].verify_key)), "other bytes"
    assert "dropped" == graph.take(wire, {}), "nothing is known"


def test_hostile_11_a_list_of_keys_is_believed_for_seven_days_only() -> None:
    key = KEYS["evil.example"]
    far = build_server_keys("evil.example", [key], {}, 2**53 - 1)
    keys = parse_server_keys(far, "evil.example", NOW)
    assert keys.valid_until_ts == NOW + MAX_VALIDITY_MS
    assert keys.key("ed25519:1", NOW + MAX_VALIDITY_MS + 1) is None


@pytest.mark.parametrize(
    "change",
    [
        {"server_name": "b.example"},
        {"verify_keys": {}},
        {"verify_keys": []},
        {"verify_keys": {"ed25519:1": {"key": KEYS["b.example"].verify_key_base64}}},
        {"verify_keys": {f"ed25519:{number}": {"key": "A" * 43} for number in range(10_000)}},
        {"valid_until_ts": "1"},
        {"valid_until_ts": -1},
        {"valid_until_ts": float("inf")},
        {"valid_until_ts": 2**63},
        {"signatures": {}},
        {"signatures": {"evil.example": {"ed25519:1": "A" * 86}}},
        {"old_verify_keys": {"ed25519:1": {"key": KEYS["b.example"].verify_key_base64, "expired_ts": 2**53}}},
        {"extra": 1},
    ],
    ids=lambda change: repr(change)[:40],
)
def test_hostile_11_a_list_of_keys_that_was_changed_is_not_believed(change: dict[str, Any]) -> None:
    key = KEYS["evil.example"]
    wire = {**build_server_keys("evil.example", [key], {}, VALID_UNTIL), **change}
    with pytest.raises(BadServerKeys):
        parse_server_keys(wire, "evil.example", NOW)
    try:
        signed = sign_json(wire, "notary.example", KEYS["a.example"])
    except BadJson:
        signed = wire
    answer = {"server_keys": [signed]}
    found = parse_notary_answer(answer, "notary.example", {"ed25519:1": KEYS["a.example"].verify_key}, NOW)
    assert [] == [keys for keys in found if keys.server_name == "evil.example"]


@pytest.mark.parametrize(
    "answer", [None, [], {}, {"server_keys": {}}, {"server_keys": [None] * 10_000}], ids=lambda value: repr(value)[:24]
)
def test_hostile_11_an_answer_of_a_notary_that_is_none_is_refused(answer: Any) -> None:
    with pytest.raises(BadServerKeys):
        parse_notary_answer(answer, "notary.example", {}, NOW)


@VERSIONS
def test_hostile_12_many_and_odd_signatures_cost_little(version: RoomVersion) -> None:
    graph = Graph(version)
    wire = graph.wire("m.room.message", BOB, {})
    good = wire["signatures"]["b.example"]["ed25519:1"]
    crowd = {f"ed25519:{number}": "A" * 8 for number in range(1_000)}
    odd = {
        "ed25519:a/b": "x",
        "ed25519:\n": "x",
        ":": "",
        "rsa:1": "x",
        "ed25519:" + "k" * 30_000: "x",
        "": "",
        "é:1": "",
    }
    others = {f"s{number}.example": {"ed25519:1": "x"} for number in range(500)}
    assert "accepted" == graph.take({**wire, "signatures": {**others, "b.example": {"ed25519:1": good, **odd}}})
    needed = signatures_needed(version, {**wire, "signatures": {"b.example": crowd}})
    assert len(needed["b.example"]) <= 8
    assert "dropped" == graph.take(
        {**wire, "signatures": {"b.example": {f"ed25519:{n}": "A" * 86 for n in range(500)}}}
    )
    assert "dropped" == graph.take({**wire, "signatures": {"b.example": {f"ed25519:{n}": "x" for n in range(10_000)}}})


@pytest.mark.parametrize(
    "key_id",
    ["", ":", "ed25519", "ed25519:", "rsa:1", "ed25519:a b", "ed25519:\n", "ed25519:é", "ed25519:" + "k" * 10**6],
)
def test_hostile_12_odd_key_ids_are_none(key_id: str) -> None:
    assert not is_key_id(key_id)
    with pytest.raises(BadSignature):
        verify_signed_json({"signatures": {"a": {key_id: "A" * 86}}}, "a", key_id, KEYS["a.example"].verify_key)


@pytest.mark.parametrize("point", LOW_ORDER)
def test_hostile_13_keys_that_make_signatures_fit_anything_are_refused(point: str) -> None:
    with pytest.raises(BadKey):
        VerifyKey.of(bytes.fromhex(point))


@pytest.mark.parametrize(
    "text",
    [None, 7, [], {}, "", "A" * 42, "A" * 45, "A" * 10**6, "é" * 43, "A" * 42 + "\n", "=" * 43, "\ud800" * 43],
    ids=lambda text: ascii(text)[:12],
)
def test_hostile_13_what_is_no_key_is_refused(text: Any) -> None:
    with pytest.raises(BadKey):
        VerifyKey.parse(text)


def test_hostile_13_a_signature_has_one_form() -> None:
    key = KEYS["a.example"]
    message = b"message"
    signature = key.sign(message)
    key.verify_key.check(message, signature)
    scalar = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    malleable = signature[:32] + scalar.to_bytes(32, "little")
    for point in LOW_ORDER:
        with pytest.raises(BadSignature):
            key.verify_key.check(message, bytes.fromhex(point) + signature[32:])
    for wrong in (malleable, b"", signature[:63], signature + b"x", bytes(64), b"\xff" * 64):
        with pytest.raises(BadSignature):
            key.verify_key.check(message, wrong)


@VERSIONS
def test_hostile_14_tampered_content_is_redacted_then_processed(version: RoomVersion) -> None:
    graph = Graph(version)
    wire = graph.wire("m.room.message", BOB, {"body": "x"})
    assert "redacted accepted" == graph.take({**wire, "content": {"body": "forged"}})
    assert "redacted accepted" == graph.take({**wire, "extra": "forged"})
    # What a redaction keeps is signed.
    member = graph.wire("m.room.member", CAROL, {"membership": "join", "displayname": "x"}, CAROL)
    forged = {**member["content"], "displayname": "forged"}
    assert "redacted accepted" == graph.take({**member, "content": forged})
    for change in ({"membership": "ban"}, {"membership": "leave"}):
        assert "dropped" == graph.take({**member, "content": {**member["content"], **change}})
    for name, value in (("depth", 99), ("origin_server_ts", 5), ("state_key", BOB), ("type", "m.room.name")):
        assert "dropped" == graph.take({**member, name: value}), name


@VERSIONS
@pytest.mark.parametrize(
    "claimed", ["", "x", "A" * 43, "A" * 60_000, "é", "\x00"], ids=lambda claimed: ascii(claimed)[:8]
)
def test_hostile_14_odd_hashes_do_not_fit(version: RoomVersion, claimed: str) -> None:
    wire = Graph(version).wire("m.room.message", BOB, {})
    assert not has_valid_content_hash({**wire, "hashes": {"sha256": claimed}}, version)


@VERSIONS
def test_hostile_15_an_id_is_what_the_event_hashes_to(version: RoomVersion) -> None:
    graph = Graph(version)
    wire = graph.wire("m.room.message", BOB, {"body": "x"})
    if version.references_carry_hashes:
        assert "dropped" == graph.take({**wire, "event_id": "$other:b.example"}), "the ID is signed"
        return
    # What stands in the event under `event_id` names nothing.
    received = read_received(version, wire)
    assert received.event_id == event_id_of(version, wire) != wire.get("event_id")
    other = read_received(version, {**wire, "origin_server_ts": 7})
    assert other.event_id != received.event_id


@VERSIONS
def test_hostile_15_a_room_of_version_12_is_named_by_its_create_event(version: RoomVersion) -> None:
    graph = Graph(version)
    wire = graph.wire(
        "m.room.create", MALLORY, {"room_version": version.identifier, "creator": MALLORY}, "", prev=[], auth=[]
    )
    if not version.room_id_is_create_hash:
        assert "rejected" == graph.take(wire), "a second create event"
        return
    assert event_from_wire(version, wire).room_id != graph.room_id
    assert "rejected" == graph.take(graph.sign({**wire, "room_id": graph.room_id}, "evil.example"))
    message = graph.wire("m.room.message", BOB, {}, room_id="!" + "A" * 43)
    assert "rejected" == graph.take(message)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        "a@b",
        "a.example:",
        "a.example:x",
        "a.example:999999",
        "::1",
        "[::1",
        "[::1]]",
        "[g::1]",
        "bücher.example",
        "ａ.example",
        "a.example\n",
        "a.example/",
        "a_b.example",
        "\x00",
        "x" * 300,
        None,
        7,
        ["a.example"],
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_hostile_19_what_is_no_server_name_is_refused(text: Any) -> None:
    with pytest.raises(BadIdentifier):
        ServerName.parse(text)
    if isinstance(text, str):
        with pytest.raises(BadIdentifier):
            UserID.parse(f"@user:{text}")
        assert host_of(text) is None
        assert ServerACL.from_event(None).allows(text), "without an ACL nobody is asked"


@pytest.mark.parametrize("parse", [UserID.parse, RoomID.parse, EventID.parse])
@pytest.mark.parametrize(
    "text", ["", "@", "!", "$", "@\x00:a", "!\x00", "$\x00", "$" * 256, "!" + "é" * 128, None, 1, [], {}]
)
def test_hostile_5_6_odd_identifiers_are_refused(parse: Any, text: Any) -> None:
    with pytest.raises(BadIdentifier):
        parse(text)


def test_hostile_12_a_signature_of_a_megabyte_is_cheap() -> None:
    begin = time.thread_time()
    with pytest.raises(BadSignature):
        verify_signed_json(
            {"signatures": {ALICE: {"ed25519:1": "A" * 10**6}}}, ALICE, "ed25519:1", KEYS["a.example"].verify_key
        )
    assert time.thread_time() - begin < 0.1
