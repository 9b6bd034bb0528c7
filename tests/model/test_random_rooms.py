"""The random rooms are what they say they are; other tests stand on them."""

from hashlib import sha256

import pytest

from homeserver.model.auth.rules import check_state_independent
from homeserver.model.event import Event
from homeserver.model.event_format import check_event_format
from homeserver.model.graph import forward_extremities, prev_graph
from homeserver.model.hashing import event_id_of, has_valid_content_hash
from homeserver.model.ids import server_name_of
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, V11, RoomVersion
from homeserver.model.signing import SigningKey, generate_signing_key, verify_signed_event

from .random_rooms import build_random_room, random_room

VERSIONS = pytest.mark.parametrize("version", KNOWN_ROOM_VERSIONS.values(), ids=lambda version: version.identifier)


def key_of(server_name: str) -> SigningKey:
    return generate_signing_key(sha256(server_name.encode()).digest(), "a_test")


def wires(events: list[Event]) -> list[object]:
    return [event.wire for event in events]


@VERSIONS
def test_a_seed_makes_one_room_and_another_seed_another(version: RoomVersion) -> None:
    room = random_room(5, version, events=40, branches=3)
    assert 40 == len(room)
    assert wires(room) == wires(random_room(5, version, events=40, branches=3))
    assert wires(room) != wires(random_room(6, version, events=40, branches=3))


@VERSIONS
def test_events_are_well_formed_and_cite_what_allows_them(version: RoomVersion) -> None:
    room = build_random_room(9, version, events=60, branches=4)
    seen: set[str] = set()
    for event in room.events:
        check_event_format(version, event.wire)
        assert has_valid_content_hash(event.wire)
        assert event.event_id == event_id_of(version, event.wire)
        assert seen.issuperset(event.prev_event_ids) and seen.issuperset(event.auth_event_ids)
        auth_events = [room.by_id[event_id] for event_id in event.auth_event_ids]
        check_state_independent(version, event, auth_events, frozenset(), room.create)
        seen.add(event.event_id)


@VERSIONS
def test_signatures_are_those_of_the_senders_servers(version: RoomVersion) -> None:
    signed = random_room(2, version, events=30, branches=3, key=key_of)
    for event in signed:
        key, server_name = key_of(server_name_of(event.sender)), server_name_of(event.sender)
        verify_signed_event(version, event.wire, server_name, key.key_id, key.verify_key)
    unsigned = random_room(2, version, events=30, branches=3)
    assert [event.event_id for event in unsigned] == [event.event_id for event in signed]


def test_rooms_fork_and_merge_and_things_happen_in_them() -> None:
    rooms = [build_random_room(seed, V11, events=100, branches=5) for seed in range(10)]
    events = [event for room in rooms for event in room.events]
    assert sum(len(event.prev_event_ids) > 1 for event in events) > 20
    assert {"join", "leave", "ban", "invite", None} <= {event.membership for event in events}
    assert sum(event.type == "m.room.power_levels" for event in events) > 50
    assert all(forward_extremities(prev_graph(room.events)) == frozenset(room.tips) for room in rooms)
