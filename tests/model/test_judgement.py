"""Checks 4 to 6 on a PDU: what is rejected, what is soft-failed, and why.

Spec: server-server API, "Checks performed on receipt of a PDU", "Rejection", "Soft failure".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from homeserver.errors import AuthRuleBroken
from homeserver.model.auth.needed import needed_state
from homeserver.model.event import Event, StateKey
from homeserver.model.ids import EventID
from homeserver.model.judgement import Judged, Verdict, judge_local, judge_outlier, judge_remote
from homeserver.model.receipt_of_events import _MADE_HERE, CheckedEvent, trust_own
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, V11, V12, RoomVersion

from .rooms_in_memory import ALICE, BOB, CAROL, StateRoom

VERSIONS = pytest.mark.parametrize("version", KNOWN_ROOM_VERSIONS.values(), ids=lambda version: version.identifier)
MESSAGE = "m.room.message"


def room_of(version: RoomVersion) -> StateRoom:
    room = StateRoom(version)
    room.set_member(BOB, "join")
    room.set_power()
    room.set_join_rule("public")
    return room


def citing(room: StateRoom, event: Event) -> tuple[Event, list[Event]]:
    """Return the event with the auth events that it should have, and those."""
    keys = needed_state(
        room.version, type=event.type, sender=event.sender, state_key=event.state_key, content=event.content
    )
    auth = [room.state[key] for key in keys if key in room.state]
    return replace(event, auth_event_ids=tuple(each.event_id for each in auth)), auth


def judged(room: StateRoom, event: Event, auth: list[Event], **changes: Any) -> Judged:
    shown: dict[str, Any] = {
        "auth_events": auth,
        "rejected_ids": frozenset(),
        "state_before": room.state,
        "current_state": room.state,
        "create": room.create,
        **changes,
    }
    return judge_remote(room.version, trust_own(event), **shown)


def without(room: StateRoom, *keys: StateKey) -> dict[StateKey, Event]:
    return {key: event for key, event in room.state.items() if key not in keys}


@VERSIONS
def test_what_all_three_states_allow_is_accepted(version: RoomVersion) -> None:
    room = room_of(version)
    event, auth = citing(room, room.event(MESSAGE, BOB, {}))
    assert Judged(event, Verdict.ACCEPTED, None) == judged(room, event, auth)
    assert Judged(event, Verdict.ACCEPTED) == judged(room, event, auth, current_state=None)


@VERSIONS
def test_old_versions_find_the_create_event_among_the_auth_events(version: RoomVersion) -> None:
    room = room_of(version)
    event, auth = citing(room, room.event(MESSAGE, BOB, {}))
    expected = Verdict.REJECTED if version.create_is_implicit_auth_event else Verdict.ACCEPTED
    assert expected is judged(room, event, auth, create=None).verdict


@VERSIONS
@pytest.mark.parametrize("cut", ["auth", "before", "now"])
def test_each_state_has_its_verdict(version: RoomVersion, cut: str) -> None:
    room = room_of(version)
    event, auth = citing(room, room.event(MESSAGE, BOB, {}))
    gone = without(room, ("m.room.member", BOB))
    if cut == "auth":
        auth = [each for each in auth if each.state_key != BOB]
        event = replace(event, auth_event_ids=tuple(each.event_id for each in auth))
        found = judged(room, event, auth)
    else:
        found = judged(room, event, auth, **{"state_before" if cut == "before" else "current_state": gone})
    assert (Verdict.SOFT_FAILED if cut == "now" else Verdict.REJECTED) is found.verdict
    expected = {"auth": "auth events", "before": "state before", "now": "current state"}[cut]
    assert found.reason is not None
    assert expected in found.reason
    assert "you are not in this room" in found.reason


@VERSIONS
def test_an_event_that_is_refused_twice_is_rejected_not_soft_failed(version: RoomVersion) -> None:
    room = room_of(version)
    event, auth = citing(room, room.event(MESSAGE, BOB, {}))
    gone = without(room, ("m.room.member", BOB))
    assert Verdict.REJECTED is judged(room, event, auth, state_before=gone, current_state=gone).verdict


@VERSIONS
def test_an_event_whose_auth_events_were_rejected_is_rejected(version: RoomVersion) -> None:
    room = room_of(version)
    event, auth = citing(room, room.event(MESSAGE, BOB, {}))
    for each in (*auth, room.create):
        is_relevant = each in auth or version.room_id_is_create_hash
        found = judged(room, event, auth, rejected_ids={each.event_id})
        assert is_relevant is (found.verdict is Verdict.REJECTED)


@VERSIONS
def test_missing_or_other_auth_events_reject(version: RoomVersion) -> None:
    room = room_of(version)
    event, auth = citing(room, room.event(MESSAGE, BOB, {}))
    for wrong in (auth[:-1], auth[::-1], [*auth, auth[0]], []):
        assert Verdict.REJECTED is judged(room, event, wrong).verdict


@VERSIONS
def test_auth_events_of_no_use_reject(version: RoomVersion) -> None:
    room, other = room_of(version), room_of(version)
    plain = room.event(MESSAGE, BOB, {})
    _, auth = citing(room, plain)
    message, topic = room.event(MESSAGE, ALICE, {}), room.set_state("m.room.topic", {})
    foreign = replace(other.state["m.room.member", BOB], room_id=other.room_id, event_id=EventID("$foreign"))
    bad = [[*auth, message], [*auth, topic], [*auth, auth[-1]]]
    if version.room_id_is_create_hash:
        bad.append([*auth[:-1], foreign])
    for cited in bad:
        event = replace(plain, auth_event_ids=tuple(each.event_id for each in cited))
        assert Verdict.REJECTED is judged(room, event, cited).verdict
    many = [auth[0]] * 10_000
    event = replace(plain, auth_event_ids=tuple(each.event_id for each in many))
    assert Verdict.REJECTED is judged(room, event, many).verdict


@VERSIONS
def test_who_nobody_vouches_for_is_rejected(version: RoomVersion) -> None:
    room = room_of(version)
    event, auth = citing(room, room.member(BOB, BOB, "leave"))
    checked = CheckedEvent(event, False, _MADE_HERE, is_vouched_for=False)
    shown: dict[str, Any] = {"auth_events": auth, "rejected_ids": (), "create": room.create}
    found = [
        judge_outlier(version, checked, **shown),
        judge_remote(version, checked, state_before=room.state, current_state=room.state, **shown),
    ]
    for judged in found:
        assert Verdict.REJECTED is judged.verdict
        assert judged.reason is not None
        assert "has not signed" in judged.reason


@VERSIONS
def test_a_create_event_is_judged_by_itself_and_a_second_one_is_rejected(version: RoomVersion) -> None:
    room = StateRoom(version)
    shown: dict[str, Any] = {"state_before": {}, "current_state": None}
    for create in (room.create, None):
        assert Verdict.ACCEPTED is judged(room, room.create, [], create=create, **shown).verdict
    second = replace(room.create, event_id=EventID("$second"))
    assert Verdict.REJECTED is judged(room, second, [], **shown).verdict
    late = replace(room.create, prev_event_ids=(EventID("$x"),))
    assert Verdict.REJECTED is judged(room, late, [], create=None, **shown).verdict


def test_an_event_without_prev_events_has_no_state_to_stand_on() -> None:
    room = room_of(V12)
    event, auth = citing(room, room.event(MESSAGE, BOB, {}, prev=()))
    assert Verdict.REJECTED is judged(room, event, auth, state_before={}).verdict


@VERSIONS
def test_an_outlier_is_judged_by_what_it_cites_alone(version: RoomVersion) -> None:
    room = room_of(version)
    event, auth = citing(room, room.member(BOB, BOB, "leave"))
    shown: dict[str, Any] = {"rejected_ids": (), "create": room.create}
    assert Judged(event, Verdict.ACCEPTED) == judge_outlier(version, trust_own(event), auth_events=auth, **shown)
    stranger, cited = citing(room, room.event(MESSAGE, CAROL, {}))
    found = judge_outlier(version, trust_own(stranger), auth_events=cited, **shown)
    assert Verdict.REJECTED is found.verdict
    assert found.reason


def test_in_version_12_an_event_needs_the_create_event_that_its_room_names() -> None:
    room, other = room_of(V12), room_of(V12)
    event, auth = citing(room, room.event(MESSAGE, BOB, {}))
    for create in (None, other.create, room.state["m.room.member", ALICE]):
        assert Verdict.REJECTED is judged(room, event, auth, create=create).verdict
    cites = replace(event, auth_event_ids=(room.create.event_id, *event.auth_event_ids))
    assert Verdict.REJECTED is judged(room, cites, [room.create, *auth]).verdict


def test_our_own_events_are_refused_by_an_exception() -> None:
    room = room_of(V11)
    allowed = room.event(MESSAGE, BOB, {})
    assert Judged(allowed, Verdict.ACCEPTED) == judge_local(V11, allowed, room.state, room.create)
    with pytest.raises(AuthRuleBroken):
        judge_local(V11, room.event(MESSAGE, CAROL, {}), room.state, room.create)
