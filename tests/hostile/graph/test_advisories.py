"""Published advisories against other servers that a pure function can meet, one test for each.

Spec: hostile inputs; the identifiers are in the names of the tests.
"""

from __future__ import annotations

import time

import pytest

from homeserver.errors import BadJson
from homeserver.model.canonical_json import check_strict, encode_canonical
from homeserver.model.event_format import event_from_wire
from homeserver.model.hashing import event_id_of
from homeserver.model.receipt_of_events import CheckedEvent, Dropped, read_received
from homeserver.model.resolution.resolve import resolve_states
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion, StateResolution
from homeserver.model.signing import sign_json

from .room import ALICE, BOB, CAROL, KEYS, MALLORY, VERSIONS, Graph


@VERSIONS
def test_cve_2020_26257_ids_are_those_of_the_event_and_not_of_the_request(version: RoomVersion) -> None:
    """Events were taken under the room and event ID of the URL; here both are read from what was signed."""
    graph = Graph(version)
    wire = graph.wire("m.room.message", BOB, {"body": "x"})
    received = read_received(version, wire)
    assert event_from_wire(version, wire).room_id == graph.room_id
    if version.references_carry_hashes:
        assert "dropped" == graph.take({**wire, "event_id": "$requested:b.example"})
    else:
        assert event_id_of(version, {**wire, "event_id": "$requested"}) != "$requested"
        assert received.event_id == event_from_wire(version, wire).event_id
    assert "dropped" == graph.take({**wire, "room_id": "!requested:a.example"})


@VERSIONS
def test_cve_2022_39374_rejected_events_stay_out_of_the_state_that_others_build_on(version: RoomVersion) -> None:
    """A rejected membership came back into the state as an auth event of a later one."""
    graph = Graph(version)
    create = [] if version.create_is_implicit_auth_event else [graph.create.event_id]
    power = graph.state["m.room.power_levels", ""].event_id
    join = graph.wire("m.room.member", CAROL, {"membership": "join"}, CAROL, auth=[*create, power])
    assert "rejected" == graph.take(join, keep=True)
    rejected = graph.events[next(iter(graph.rejected))]
    assert "rejected" == graph.take(graph.wire("m.room.message", CAROL, {}, auth=[*create, power, rejected.event_id]))
    # A later join of the same user that leans on it, and states that disagree about what leans on it.
    rules = graph.state["m.room.join_rules", ""].event_id
    again = [*create, power, rules, rejected.event_id]
    assert "rejected" == graph.take(
        graph.wire("m.room.member", CAROL, {"membership": "join"}, CAROL, auth=again), keep=True
    )
    states = [{key: event.event_id for key, event in graph.state.items()} for _ in range(2)]
    topic = graph.wire("m.room.topic", CAROL, {"topic": "x"}, "", auth=[*create, power, rejected.event_id])
    assert "rejected" == graph.take(topic, keep=True)
    forged = next(event for event in graph.events.values() if event.type == "m.room.topic")
    states[1][("m.room.topic", "")] = forged.event_id
    if version.state_resolution is StateResolution.V1:
        return  # To the first algorithm what one state lacks is no conflict: there rejected events must not come in.
    resolved = resolve_states(version, states, graph.events, create=graph.create, rejected=graph.rejected)
    assert ("m.room.topic", "") not in resolved


@VERSIONS
def test_cve_2025_61672_numbers_that_canonical_json_lacks_are_refused_before_they_are_signed(
    version: RoomVersion,
) -> None:
    """Device keys with fractions were stored, and could not be sent to other servers any more."""
    keys = {"algorithms": [], "device_id": "D", "keys": {"ed25519:D": "A" * 43}, "user_id": ALICE}
    for odd in (0.5, 1e300, float("nan"), 2**53, 10**400):
        with pytest.raises(BadJson):
            check_strict({**keys, "extra": odd})
    graph = Graph(version)
    wire = graph.wire("m.room.message", BOB, {})
    assert "dropped" == graph.take({**wire, "content": {"body": float("nan")}})


def test_cve_2026_24471_only_what_this_server_made_counts_as_checked() -> None:
    """Templates of other servers were signed as they came; here nothing is checked but by its signatures."""
    graph = Graph(next(iter(KNOWN_ROOM_VERSIONS.values())))
    template = graph.wire("m.room.message", MALLORY, {"body": "x"})
    with pytest.raises(TypeError):
        CheckedEvent(event_from_wire(graph.version, template), False)
    for sender in (ALICE, BOB):
        with pytest.raises(Dropped):
            read_received(graph.version, {**template, "sender": sender, "signatures": None})


@VERSIONS
def test_cve_2023_32323_an_event_that_is_too_large_for_others_is_never_built_on(version: RoomVersion) -> None:
    """Invites over the limit made events that no server took."""
    graph = Graph(version)
    state = [{"type": "x", "content": {"a": "b" * 70_000}, "state_key": "", "sender": ALICE}]
    content = {"membership": "invite"}
    wire = graph.wire("m.room.member", ALICE, content, CAROL)
    assert "accepted" == graph.take({**wire, "unsigned": {"invite_room_state": state}}), "unsigned is no part of it"
    assert "dropped" == graph.take(graph.wire("m.room.member", ALICE, {**content, "x": "y" * 70_000}, CAROL))


@VERSIONS
@pytest.mark.parametrize(
    "state",
    [None, 1, "x", [None], [1], [{}], [{"type": 1}], {"a": []}, [[]] * 10_000],
    ids=lambda state: repr(state)[:16],
)
def test_cve_2024_52815_malformed_invite_state_does_not_change_the_verdict_on_an_invite(
    version: RoomVersion, state: object
) -> None:
    """Invites with malformed state broke the sync of who was invited; to the rules it is nothing."""
    graph = Graph(version)
    wire = graph.wire("m.room.member", ALICE, {"membership": "invite"}, CAROL)
    assert "accepted" == graph.take({**wire, "unsigned": {"invite_room_state": state}})
    received = read_received(version, {**wire, "unsigned": {"invite_room_state": state}})
    assert received.event_id == read_received(version, wire).event_id


def test_tuwunel_1_4_8_only_an_invite_of_the_invited_is_an_invite() -> None:
    """Events that were no invites were co-signed; what a rule says of them is known before a signature is made."""
    graph = Graph(next(reversed(KNOWN_ROOM_VERSIONS.values())))
    graph.add("m.room.member", ALICE, {"membership": "ban"}, CAROL)
    assert "rejected" == graph.take(graph.wire("m.room.member", BOB, {"membership": "invite"}, CAROL)), "banned"
    assert "rejected" == graph.take(graph.wire("m.room.member", BOB, {"membership": "invite"}, BOB)), "joined"


def test_signing_and_encoding_refuse_what_cannot_be_written() -> None:
    begin = time.thread_time()
    for odd in ({"a": float("nan")}, {"a": "\ud800"}, {"a": 10**5_000}):
        with pytest.raises(BadJson):
            check_strict(odd)
            encode_canonical(odd)
        with pytest.raises(BadJson):
            check_strict(odd)
            sign_json(odd, "a.example", KEYS["a.example"])
    assert time.thread_time() - begin < 1
