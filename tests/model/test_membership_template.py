from copy import deepcopy
from typing import Any

import pytest

from homeserver.model.compose import compose
from homeserver.model.event_format import check_event_format
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.membership_template import BadTemplate, rebuild_template
from homeserver.model.room_versions import ROOM_VERSIONS, V1, V6, V7, V8, V11, V12, RoomVersion
from homeserver.model.signing import generate_signing_key

ROOM = RoomID("!room:resident.example")
USER = UserID("@bob:here.example")
RESIDENT = "resident.example"
PREV, AUTH = EventID("$" + "P" * 43), EventID("$" + "A" * 43)
HASH = "w" * 42 + "A"
KEY = generate_signing_key(b"k" * 32, "a")

VERSIONS = pytest.mark.parametrize("version", ROOM_VERSIONS.values(), ids=lambda version: version.identifier)


def refer(version: RoomVersion, *event_ids: str) -> list[Any]:
    return [[each, {"sha256": HASH}] if version.references_carry_hashes else each for each in event_ids]


def answer(version: RoomVersion, membership: str = "join", **changed: Any) -> dict[str, Any]:
    return {
        "room_id": ROOM,
        "type": "m.room.member",
        "sender": USER,
        "state_key": USER,
        "content": {"membership": membership},
        "origin": RESIDENT,
        "origin_server_ts": 5,
        "prev_events": refer(version, PREV),
        "auth_events": refer(version, AUTH),
        "depth": 12,
        **changed,
    }


@VERSIONS
@pytest.mark.parametrize("membership", ["join", "leave", "knock"])
def test_what_is_rebuilt_is_an_event_of_the_room_version(version: RoomVersion, membership: str) -> None:
    rebuilt = rebuild_template(
        version, ROOM, USER, membership, answer(version, membership), {"displayname": "Bob"}, resident=RESIDENT
    )
    event = compose(
        version,
        rebuilt.template,
        room_id=ROOM,
        place=rebuilt.place,
        server_name="here.example",
        key=KEY,
        now_ms=7,
    )
    check_event_format(version, event.wire)
    assert ((PREV,), (AUTH,), 12) == (event.prev_event_ids, event.auth_event_ids, event.depth)
    assert ("m.room.member", USER, USER) == (event.type, event.sender, event.state_key)
    assert {"displayname": "Bob", "membership": membership} == event.content
    assert refer(version, PREV) == event.wire["prev_events"]


def test_nothing_of_the_template_but_its_place_gets_into_the_event() -> None:
    """CVE-2026-24471: a server that signs what a template says signs whatever another server wants it to say."""
    hostile = answer(
        V11,
        content={"membership": "join", "displayname": "Mallory", "users": {USER: 100}, "third_party_invite": {}},
        redacts="$x",
        signatures={"here.example": {"ed25519:a": "x"}},
        hashes={"sha256": "x"},
        event_id="$chosen:resident.example",
        unsigned={"age": 1},
        extra="x",
    )
    rebuilt = rebuild_template(V11, ROOM, USER, "join", hostile, {}, resident=RESIDENT)
    event = compose(
        V11, rebuilt.template, room_id=ROOM, place=rebuilt.place, server_name="here.example", key=KEY, now_ms=7
    )
    assert {"membership": "join"} == event.content
    assert {
        "auth_events",
        "content",
        "depth",
        "hashes",
        "origin_server_ts",
        "prev_events",
        "room_id",
        "sender",
        "signatures",
        "state_key",
        "type",
    } == event.wire.keys()
    assert 7 == event.origin_server_ts


@pytest.mark.parametrize(
    "changed",
    [
        {"room_id": "!other:resident.example"},
        {"room_id": None},
        {"room_id": [ROOM]},
        {"type": "m.room.message"},
        {"type": "m.room.power_levels"},
        {"type": ["m.room.member"]},
        {"sender": "@alice:here.example"},
        {"sender": None},
        {"state_key": "@alice:here.example"},
        {"state_key": ""},
        {"state_key": None},
        {"content": {"membership": "leave"}},
        {"content": {"membership": ["join"]}},
        {"content": {}},
        {"content": []},
        {"content": None},
        {"prev_events": None},
        {"prev_events": []},
        {"prev_events": PREV},
        {"prev_events": {PREV: PREV}},
        {"prev_events": [PREV, PREV]},
        {"prev_events": [7]},
        {"prev_events": [None]},
        {"prev_events": [[PREV]]},
        {"prev_events": ["no event ID"]},
        {"prev_events": ["$" + "x" * 255]},
        {"prev_events": ["$\x00"]},
        {"prev_events": [f"${number}" for number in range(21)]},
        {"auth_events": None},
        {"auth_events": [AUTH, AUTH]},
        {"auth_events": [[AUTH, {"sha256": HASH}]]},
        {"auth_events": [f"${number}" for number in range(11)]},
        {"depth": None},
        {"depth": True},
        {"depth": "12"},
        {"depth": 12.0},
        {"depth": -1},
        {"depth": 2**53},
        {"depth": 10**400},
    ],
    ids=lambda changed: str(changed)[:60],
)
@pytest.mark.parametrize("version", [V6, V11, V12], ids=lambda version: version.identifier)
def test_a_template_that_is_for_something_else_or_malformed_is_refused(
    version: RoomVersion, changed: dict[str, Any]
) -> None:
    with pytest.raises(BadTemplate):
        rebuild_template(version, ROOM, USER, "join", answer(version, **changed), {}, resident=RESIDENT)


@pytest.mark.parametrize("missing", sorted(answer(V11).keys() - {"origin", "origin_server_ts"}))
def test_a_template_that_lacks_something_is_refused(missing: str) -> None:
    lacking = answer(V11)
    del lacking[missing]
    with pytest.raises(BadTemplate):
        rebuild_template(V11, ROOM, USER, "join", lacking, {}, resident=RESIDENT)


@pytest.mark.parametrize("answered", [None, [], "template", 7, [answer(V11)]], ids=str)
def test_what_is_no_object_is_refused(answered: object) -> None:
    with pytest.raises(BadTemplate):
        rebuild_template(V11, ROOM, USER, "join", answered, {}, resident=RESIDENT)


@pytest.mark.parametrize(
    "reference",
    [
        PREV,
        [PREV],
        [PREV, HASH],
        [PREV, {"sha256": 7}],
        [PREV, {"sha256": "short"}],
        [PREV, {"sha256": "w" * 100_000}],
        [PREV, {"sha256": "!" * 43}],
        [PREV, {"sha256": HASH}, PREV],
    ],
    ids=lambda reference: str(reference)[-40:],
)
def test_references_of_old_rooms_carry_a_hash(reference: Any) -> None:
    with pytest.raises(BadTemplate):
        rebuild_template(V1, ROOM, USER, "join", answer(V1, prev_events=[reference]), {}, resident=RESIDENT)


def test_hash_that_is_left_out_stays_so() -> None:
    """Synapse leaves it out for events that it made together, such as the first ones of a room."""
    answered = answer(V1, auth_events=[[AUTH, {}]])
    rebuilt = rebuild_template(V1, ROOM, USER, "join", answered, {}, resident=RESIDENT)
    assert (AUTH,) == rebuilt.place.auth_event_ids
    assert {PREV: HASH, AUTH: None} == rebuilt.place.reference_hashes


@pytest.mark.parametrize("version", [V8, V11, V12], ids=lambda version: version.identifier)
def test_who_vouches_for_a_restricted_join_is_taken_over(version: RoomVersion) -> None:
    content = {"membership": "join", "join_authorised_via_users_server": "@alice:resident.example"}
    rebuilt = rebuild_template(version, ROOM, USER, "join", answer(version, content=content), {}, resident=RESIDENT)
    assert "@alice:resident.example" == rebuilt.template.content["join_authorised_via_users_server"]


@pytest.mark.parametrize("authoriser", ["@alice:here.example", "@alice:third.example", "alice", 7, ["@a:b"], {}, ""])
def test_only_users_of_the_server_that_was_asked_can_vouch(authoriser: Any) -> None:
    content = {"membership": "join", "join_authorised_via_users_server": authoriser}
    with pytest.raises(BadTemplate):
        rebuild_template(V11, ROOM, USER, "join", answer(V11, content=content), {}, resident=RESIDENT)


@pytest.mark.parametrize(("version", "membership"), [(V7, "join"), (V11, "leave"), (V11, "knock")], ids=str)
def test_nobody_vouches_where_there_is_nothing_to_vouch_for(version: RoomVersion, membership: str) -> None:
    content = {"membership": membership, "join_authorised_via_users_server": "@alice:resident.example"}
    rebuilt = rebuild_template(version, ROOM, USER, membership, answer(version, content=content), {}, resident=RESIDENT)
    assert {"membership": membership} == rebuilt.template.content


def test_our_own_content_cannot_give_rights() -> None:
    own = {
        "membership": "ban",
        "join_authorised_via_users_server": "@alice:here.example",
        "third_party_invite": {},
        "reason": "why not",
    }
    before = deepcopy(own)
    rebuilt = rebuild_template(V11, ROOM, USER, "join", answer(V11), own, resident=RESIDENT)
    assert {"membership": "join", "reason": "why not"} == rebuilt.template.content
    assert before == own
