"""Checks 1 to 3 on a PDU, for every room version.

Spec: server-server API, "Checks performed on receipt of a PDU"; "Validating hashes and signatures on received events".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import BadJson, TooLarge
from homeserver.model.canonical_json import encode_canonical
from homeserver.model.compose import GraphPlace, compose
from homeserver.model.event import Event, EventTemplate
from homeserver.model.event_format import check_event_format
from homeserver.model.hashing import with_content_hash
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.receipt_of_events import (
    MAX_KEYS_TRIED,
    CheckedEvent,
    Dropped,
    check_received,
    read_received,
    servers_to_ask,
    signatures_needed,
    trust_own,
)
from homeserver.model.redaction import redact
from homeserver.model.room_versions import (
    KNOWN_ROOM_VERSIONS,
    V1,
    V2,
    V3,
    V4,
    V5,
    V6,
    V7,
    V8,
    V10,
    V11,
    V12,
    RoomVersion,
)
from homeserver.model.server_keys import ServerKey, ServerKeys
from homeserver.model.signing import SigningKey, VerifyKey, generate_signing_key, sign_event

NOW = 1_700_000_000_000
A, B, C = "a.example", "b.example", "c.example"
KEYS = {name: generate_signing_key(name[0].encode() * 32, "1") for name in (A, B, C)}
ROOM = RoomID("!room:a.example")
ALICE, BOB, CAROL = (UserID(f"@user:{name}") for name in (A, B, C))
HASH_ID = EventID("$" + "A" * 43)

VERSIONS = pytest.mark.parametrize("version", KNOWN_ROOM_VERSIONS.values(), ids=lambda version: version.identifier)


def known(server_name: str, *keys: SigningKey, until: int = NOW, expired: int | None = None) -> ServerKeys:
    keys = keys or (KEYS[server_name],)
    listed = {key.key_id: ServerKey(key.verify_key, until, expired) for key in keys}
    return ServerKeys(server_name, listed, until, NOW)


ALL_KEYS: Mapping[str, ServerKeys] = {name: known(name) for name in KEYS}


def made(
    version: RoomVersion,
    event_type: str = "m.room.message",
    content: Mapping[str, Any] | None = None,
    *,
    sender: UserID = ALICE,
    state_key: str | None = None,
    at: int = NOW,
    signer: str = A,
) -> dict[str, Any]:
    event = compose(
        version,
        EventTemplate(event_type, {"body": "hello"} if content is None else content, sender, state_key),
        room_id=ROOM,
        place=GraphPlace((HASH_ID,), (HASH_ID,), 3, {HASH_ID: "x"}),
        server_name=signer,
        key=KEYS[signer],
        now_ms=at,
    )
    return dict(event.wire)


def signed(version: RoomVersion, wire: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return the event hashed anew and signed by these servers alone."""
    result = with_content_hash({**wire, "signatures": {}}, version)
    for name in names:
        result = sign_event(version, result, name, KEYS[name])
    return result


def checked(version: RoomVersion, wire: Any, keys: Mapping[str, ServerKeys] = ALL_KEYS) -> CheckedEvent:
    return check_received(read_received(version, wire), keys)


def is_dropped(version: RoomVersion, wire: Any, keys: Mapping[str, ServerKeys] = ALL_KEYS) -> bool:
    try:
        checked(version, wire, keys)
    except Dropped as dropped:
        assert str(dropped)
        return True
    return False


# -- 1: format -------------------------------------------------------------------------------------------------------


@VERSIONS
def test_a_good_event_is_taken_as_it_is(version: RoomVersion) -> None:
    wire = made(version)
    received = read_received(version, {**wire, "unsigned": {"age": 1, "redacted_because": 1}})
    assert {A: {"ed25519:1"}} == received.signatures_needed
    found = check_received(received, ALL_KEYS)
    assert (False, wire, ALICE, ROOM) == (found.was_redacted, found.event.wire, found.event.sender, found.event.room_id)
    assert received.event_id == found.event.event_id


WRONG: list[dict[str, Any]] = [
    {"content": None},
    {"content": []},
    {"prev_events": "x"},
    {"auth_events": [1]},
    {"prev_events": [HASH_ID] * 21},
    {"auth_events": [HASH_ID] * 11},
    {"depth": "1"},
    {"depth": -1},
    {"origin_server_ts": -1},
    {"origin_server_ts": 1.5},
    {"origin_server_ts": 2**63},
    {"state_key": 1},
    {"hashes": None},
    {"signatures": {A: {"ed25519:1": 1}}},
    {"type": {}},
    {"sender": "alice"},
    {"content": {"a": float("nan")}},
    {"content": {"a": float("inf")}},
    {"content": {"body": "x" * 65_536}},
    {"content": {"body": "\ud800"}},
    {"content": {"\ud800": 1}},
    {"content": {"a": {1, 2}}},
]


@VERSIONS
@pytest.mark.parametrize("change", WRONG, ids=lambda change: repr(change)[:30])
def test_an_event_of_the_wrong_format_is_dropped(version: RoomVersion, change: dict[str, Any]) -> None:
    assert is_dropped(version, {**made(version), **change})


@VERSIONS
@pytest.mark.parametrize("wire", [None, [], "x", 1, {}, {"type": "m.room.create"}])
def test_what_is_no_event_is_dropped(version: RoomVersion, wire: Any) -> None:
    assert is_dropped(version, wire)


@VERSIONS
def test_deep_nesting_is_dropped(version: RoomVersion) -> None:
    deep: Any = {}
    for _ in range(50_000):
        deep = {"a": deep}
    assert is_dropped(version, {**made(version), "content": deep})


@VERSIONS
@pytest.mark.parametrize("number", [2**53, -(2**53), 2**63, 10**400, 1.0, 1.5, -0.0, 1e300])
def test_numbers_that_canonical_json_lacks_are_for_old_versions_alone(version: RoomVersion, number: Any) -> None:
    wire = {**made(version), "type": "m.room.power_levels", "state_key": "", "signatures": {}}
    wire = with_content_hash({**wire, "content": {"n": number, "users": {ALICE: number}}})
    if not version.strict_canonical_json:
        wire = sign_event(version, wire, A, KEYS[A])
    assert version.strict_canonical_json is is_dropped(version, wire)
    if not version.strict_canonical_json:
        assert not checked(version, wire).was_redacted


@VERSIONS
@pytest.mark.parametrize("size", [65_536, 65_537])
def test_the_greatest_size_is_exact(version: RoomVersion, size: int) -> None:
    wire = made(version, content={"body": ""})
    body = "x" * (size - len(encode_canonical(wire)))
    wire = signed(version, {**wire, "content": {"body": body}}, A)
    assert size == len(encode_canonical(wire))
    assert (size > 65_536) is is_dropped(version, wire)


@VERSIONS
@pytest.mark.parametrize("name", ["type", "state_key"])
@pytest.mark.parametrize(("characters", "is_good"), [(63, True), (64, False)])
def test_keys_are_limited_in_bytes(version: RoomVersion, name: str, characters: int, is_good: bool) -> None:
    wire = {**made(version), name: "\U0001f600" * characters + "abc"}
    assert is_good is not is_dropped(version, signed(version, wire, A))


def test_an_event_of_version_12_names_its_room_unless_it_makes_it() -> None:
    for version in (V12, KNOWN_ROOM_VERSIONS["org.matrix.hydra.11"]):
        wire = made(version)
        del wire["room_id"]
        with pytest.raises((BadJson, TooLarge)):
            check_event_format(version, wire)
        create = {**wire, "type": "m.room.create", "state_key": "", "prev_events": [], "auth_events": []}
        event = checked(version, signed(version, create, A)).event
        assert event.room_id[1:] == event.event_id[1:]
    assert is_dropped(V11, signed(V11, create, A))


@pytest.mark.parametrize("version", [V1, V2], ids=["1", "2"])
def test_the_first_versions_need_ids_with_a_server_and_hashes_with_references(version: RoomVersion) -> None:
    wire = made(version)
    for change in (
        {"event_id": HASH_ID},
        {"event_id": "$x:"},
        {"event_id": "$x:b c"},
        {"event_id": None},
        {"prev_events": [HASH_ID]},
        {"auth_events": [[HASH_ID]]},
        {"auth_events": [[HASH_ID, {"sha256": "x"}, 1]]},
    ):
        assert is_dropped(version, signed(version, {**wire, **change}, A))
    assert is_dropped(V3, signed(V3, wire, A))


# -- 2: signatures ---------------------------------------------------------------------------------------------------


@VERSIONS
def test_the_server_of_the_sender_must_have_signed(version: RoomVersion) -> None:
    wire = {**made(version), "sender": BOB}
    if "event_id" in wire:
        wire["event_id"] = f"$x:{B}"
    assert is_dropped(version, signed(version, wire, A))
    assert is_dropped(version, signed(version, wire))
    assert not is_dropped(version, signed(version, wire, B))
    assert not is_dropped(version, signed(version, wire, A, B))


@VERSIONS
def test_who_made_the_event_id_must_have_signed_where_it_is_chosen(version: RoomVersion) -> None:
    wire = {**made(version), "event_id": f"$x:{B}"}
    is_chosen = version.references_carry_hashes
    assert is_chosen is is_dropped(version, signed(version, wire, A))
    assert is_dropped(version, signed(version, wire, B))
    assert not is_dropped(version, signed(version, wire, A, B))


@VERSIONS
def test_a_join_that_the_authorising_server_has_not_signed_is_dropped(version: RoomVersion) -> None:
    content = {"membership": "join", "join_authorised_via_users_server": CAROL}
    wire = made(version, "m.room.member", content, state_key=ALICE)
    assert version.restricted_joins is is_dropped(version, wire)
    assert checked(version, signed(version, wire, A, C)).is_vouched_for
    odd = made(version, "m.room.member", {**content, "join_authorised_via_users_server": ["x"]}, state_key=ALICE)
    assert not is_dropped(version, odd)
    assert not is_dropped(version, made(version, "m.room.message", content))


@VERSIONS
@pytest.mark.parametrize("membership", ["leave", "invite", "ban", "knock", None])
def test_another_membership_that_the_authorising_server_has_not_signed_is_not_vouched_for(
    version: RoomVersion, membership: Any
) -> None:
    content = {"membership": membership, "join_authorised_via_users_server": CAROL}
    wire = made(version, "m.room.member", content, state_key=ALICE)
    forged = {**wire, "signatures": {**wire["signatures"], C: {"ed25519:1": "A" * 86}}}
    for unsigned in (wire, forged):
        assert version.restricted_joins is not checked(version, unsigned).is_vouched_for
    assert checked(version, signed(version, wire, A, C)).is_vouched_for
    assert is_dropped(version, signed(version, wire, C))
    own = made(version, "m.room.member", {**content, "join_authorised_via_users_server": ALICE}, state_key=ALICE)
    assert checked(version, own).is_vouched_for
    assert is_dropped(version, {**own, "signatures": {}})


@VERSIONS
def test_a_third_party_invite_may_be_sent_by_another_server(version: RoomVersion) -> None:
    content = {"membership": "invite", "third_party_invite": {"signed": {}}}
    wire = made(version, "m.room.member", content, state_key=BOB)
    # Where the ID is chosen, whoever chose it must have signed.
    assert ({A} if version.references_carry_hashes else set()) == signatures_needed(version, wire).keys()
    assert version.references_carry_hashes is is_dropped(version, signed(version, wire, C))
    for other in ({"membership": "join"}, {"membership": "invite"}):
        plain = made(version, "m.room.member", other, state_key=BOB)
        assert is_dropped(version, signed(version, plain, C))


def test_a_third_party_invite_of_version_1_is_signed_by_who_made_its_id() -> None:
    content = {"membership": "invite", "third_party_invite": {"signed": {}}}
    wire = {**made(V1, "m.room.member", content, state_key=BOB), "event_id": f"$x:{C}"}
    assert {C: frozenset({"ed25519:1"})} == signatures_needed(V1, signed(V1, wire, C))
    assert not is_dropped(V1, signed(V1, wire, C))
    assert is_dropped(V1, signed(V1, wire, A))


@VERSIONS
def test_a_third_party_invite_that_its_redaction_makes_an_ordinary_one_needs_its_senders_server(
    version: RoomVersion,
) -> None:
    """With a wrong hash it is judged in its redacted form, in which only the sender's rights are asked for."""
    content = {"membership": "invite", "third_party_invite": {"signed": {}}}
    wire = {**made(version, "m.room.member", content, state_key=BOB), "hashes": {"sha256": "A" * 43}, "signatures": {}}
    if version.references_carry_hashes:
        wire["event_id"] = f"$x:{C}"
    by_another = sign_event(version, wire, C, KEYS[C])
    stays = version.redaction_keeps_third_party_signed
    assert stays is not is_dropped(version, by_another)
    assert stays is not is_dropped(version, wire)
    found = checked(version, sign_event(version, by_another, A, KEYS[A]))
    assert (True, stays) == (found.was_redacted, "third_party_invite" in found.event.content)


@VERSIONS
@pytest.mark.parametrize("late_ms", [0, 1])
def test_validity_of_keys_is_enforced_from_version_5_on(version: RoomVersion, late_ms: int) -> None:
    wire = made(version, at=NOW + late_ms)
    assert (version.enforces_key_validity and late_ms > 0) is is_dropped(version, wire, {A: known(A, until=NOW)})


@VERSIONS
def test_an_expired_key_counts_for_what_is_older_in_every_version(version: RoomVersion) -> None:
    keys = {A: known(A, until=NOW, expired=NOW)}
    assert not is_dropped(version, made(version, at=NOW), keys)
    assert is_dropped(version, made(version, at=NOW + 1), keys)


@VERSIONS
def test_unknown_keys_and_kinds_of_keys_are_skipped_and_known_wrong_ones_are_not(version: RoomVersion) -> None:
    wire = made(version)
    right = wire["signatures"][A]
    second = generate_signing_key(b"2" * 32, "2")
    keys = {A: known(A, KEYS[A], second)}
    for more in ({"ed25519:9": "x"}, {"rsa:1": "x"}, {"": "x"}, {"ed25519:" + "x" * 1000: "x"}, {"ed25519:a\n": "x"}):
        assert not is_dropped(version, {**wire, "signatures": {A: {**right, **more}}}, keys)
        assert is_dropped(version, {**wire, "signatures": {A: more}}, keys)
    for wrong in ("x", "A" * 86, "", right["ed25519:1"], "é" * 86):
        assert is_dropped(version, {**wire, "signatures": {A: {**right, "ed25519:2": wrong}}}, keys)
    both = sign_event(version, wire, A, second)
    assert not is_dropped(version, both, keys)


@VERSIONS
def test_no_keys_or_those_of_another_server_do_not_do(version: RoomVersion) -> None:
    wire = made(version)
    assert is_dropped(version, wire, {})
    assert is_dropped(version, wire, {A: known(B)})
    assert is_dropped(version, wire, {A: ServerKeys(A, {}, NOW, NOW)})


@VERSIONS
def test_servers_are_asked_for_keys_that_are_unknown_or_out_of_date(version: RoomVersion) -> None:
    received = read_received(version, made(version, at=NOW + 1))
    assert frozenset({A}) == servers_to_ask(received, {}) == servers_to_ask(received, {A: known(B, until=0, expired=0)})
    assert frozenset() == servers_to_ask(received, {A: known(A, until=NOW + 1)})
    expected = frozenset({A}) if version.enforces_key_validity else frozenset()
    assert expected == servers_to_ask(received, {A: known(A, until=NOW)})
    unsigned = read_received(version, {**made(version), "signatures": {B: {"ed25519:1": "x"}, A: {"rsa:1": "x"}}})
    assert frozenset() == servers_to_ask(unsigned, {})


class CountedKey(VerifyKey):
    """A key that counts how often it is asked."""

    count = 0

    def check(self, message: bytes, signature: bytes) -> None:
        type(self).count += 1
        super().check(message, signature)


def test_ten_thousand_signatures_cost_no_more_than_a_few() -> None:
    wire = made(V12)
    signature = wire["signatures"][A]["ed25519:1"]
    # Such an event would be too large; the bound does not lean on that.
    many = {f"ed25519:{number:05}": signature for number in range(10_000)}
    needed = signatures_needed(V12, {**wire, "signatures": {A: many}})
    assert MAX_KEYS_TRIED == len(needed[A])
    assert needed == signatures_needed(V12, {**wire, "signatures": {A: dict(reversed(many.items()))}})
    key = CountedKey(KEYS[A].verify_key.public_key)
    some = {f"ed25519:{number:03}": signature for number in range(400)}
    keys = {A: ServerKeys(A, {key_id: ServerKey(key, NOW) for key_id in some}, NOW, NOW)}
    assert not is_dropped(V12, {**wire, "signatures": {A: some}}, keys)
    assert MAX_KEYS_TRIED == CountedKey.count


@VERSIONS
def test_signatures_by_keys_that_nobody_knows_push_out_no_good_one(version: RoomVersion) -> None:
    wire = made(version)
    signature = wire["signatures"][A]["ed25519:1"]
    junk = {f"ed25519:0{number}": signature for number in range(20)}
    crowded = {**wire, "signatures": {**wire["signatures"], A: {**junk, "ed25519:1": signature}}}
    assert not is_dropped(version, crowded, {A: known(A)})


# -- 3: content hash -------------------------------------------------------------------------------------------------


@VERSIONS
def test_an_event_with_changed_content_is_taken_redacted_under_the_same_id(version: RoomVersion) -> None:
    wire = made(version, "m.room.topic", {"topic": "true"}, state_key="")
    good = checked(version, wire).event
    for changed in ({**wire, "content": {"topic": "false"}}, {**wire, "origin": B, "age_ts": 5}):
        if "origin" in changed and version.redaction_keeps_legacy_keys:
            changed.pop("origin")
        found = checked(version, changed)
        assert found.was_redacted
        assert good.event_id == found.event.event_id
        assert {} == found.event.content
        assert redact(version, wire) == found.event.wire
        # Who gets the redacted form comes to the same.
        again = checked(version, found.event.wire)
        assert (True, found.event.wire) == (again.was_redacted, again.event.wire)


@VERSIONS
@pytest.mark.parametrize("sha256", ["", "x", "A" * 43, "é", "A" * 10_000])
def test_a_wrong_content_hash_is_signed_and_means_redacted(version: RoomVersion, sha256: str) -> None:
    wire = {**made(version), "hashes": {"sha256": sha256}, "signatures": {}}
    found = checked(version, sign_event(version, wire, A, KEYS[A]))
    assert found.was_redacted
    assert {} == found.event.content


@VERSIONS
def test_what_is_signed_cannot_be_changed(version: RoomVersion) -> None:
    wire = made(version, "m.room.member", {"membership": "join"}, state_key=ALICE)
    changes: list[dict[str, Any]] = [
        {"content": {"membership": "ban"}},
        {"state_key": BOB},
        {"depth": 9},
        {"origin_server_ts": NOW - 1},
        {"room_id": "!other:a.example"},
        {"hashes": {"sha256": "x"}},
        {"prev_events": []},
    ]
    for change in changes:
        assert is_dropped(version, {**wire, **change})


# -- the type --------------------------------------------------------------------------------------------------------


def _event() -> Event:
    return checked(V12, made(V12)).event


def test_a_checked_event_comes_from_the_checks_alone() -> None:
    event = _event()
    for proof in (None, object()):
        with pytest.raises(TypeError):
            CheckedEvent(event, False, proof)
    own = trust_own(event)
    assert (event, False) == (own.event, own.was_redacted)
    with pytest.raises((TypeError, ValueError)):
        replace(own, was_redacted=True)
    with pytest.raises(FrozenInstanceError):
        own.was_redacted = True  # type: ignore[misc]


JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from([ALICE, HASH_ID, ROOM]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@given(
    st.sampled_from([V1, V3, V4, V5, V6, V7, V8, V10, V11, V12]),
    st.sampled_from(["m.room.member", "m.room.create", "m.room.message", "m.room.redaction"]),
    st.dictionaries(
        st.sampled_from([*made(V1), "state_key", "redacts", "unsigned", "membership", "origin"]), JUNK, max_size=3
    ),
)
def test_junk_is_dropped_or_taken_and_nothing_else(
    version: RoomVersion, event_type: str, changes: dict[str, Any]
) -> None:
    wire = {**made(version), "type": event_type, **changes}
    try:
        check_received(read_received(version, wire), ALL_KEYS)
    except Dropped:
        return
