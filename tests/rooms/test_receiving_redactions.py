"""Redactions that others made: applied once they may be and what they name is there, shown to nobody before.

Spec: room versions, "Handling redactions"; rooms/v1, "Authorisation rules", 11.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import select
from twisted.internet.defer import Deferred, gatherResults

from homeserver.rooms import effects
from storage.events import Flag, StoredEvent
from storage.tables import rooms as tables
from tests.support.elsewhere import ALICE, BOB, CAROL, Elsewhere
from tests.support.rooms import Person, RoomServer

from .test_receiving_hostile import assert_kept_apart, assert_well, current, ends, local_member, shown

VERSIONS = ["1", "2", "3", "10", "11", "12"]
OF_NO_RULE = ["3", "10", "11", "12"]


async def opened(server: RoomServer, version: str) -> tuple[Elsewhere, Person]:
    room = Elsewhere(version)
    room.join(BOB)
    room.join(CAROL)
    await room.all_to(server)
    return room, await local_member(server, room)


async def stats(server: RoomServer, room: Elsewhere) -> Any:
    room_nid = (await server.door.tip(room.room_id)).room_nid
    query = select(tables.room_stats).where(tables.room_stats.c.room_nid == room_nid)
    return await server.store.database.read(lambda tx: tx.first(query))


async def read(server: RoomServer, room: Elsewhere, event_id: str) -> StoredEvent:
    tip = await server.door.tip(room.room_id)
    found = await server.store.events.get_by_id(tip.room_nid, event_id)
    assert found is not None
    return found


async def assert_redacted(server: RoomServer, room: Elsewhere, target_id: str, redaction_id: str) -> None:
    """The target is redacted in memory and on disk, by that redaction."""
    for _ in range(2):
        stored = await read(server, room, target_id)
        assert stored.redaction is not None and redaction_id == stored.redaction.event_id
        assert "body" not in stored.event.content
        server.forget_memory()


async def assert_hidden(server: RoomServer, room: Elsewhere, redaction: StoredEvent, target_id: str | None) -> None:
    """The redaction has a place in the graph and redacts nothing, so nobody is shown it."""
    for _ in range(2):
        assert Flag.INERT == redaction.flags
        assert redaction.event_id in await ends(server, room)
        assert redaction.event_id not in await shown(server, room.room_id)
        if target_id is not None:
            assert (await read(server, room, target_id)).redacted_by is None
        server.forget_memory()
        redaction = await read(server, room, redaction.event_id)


@pytest.mark.in_turns
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("is_cold", [False, True], ids=["warm", "cold"])
@pytest_twisted.ensureDeferred
async def test_a_redaction_that_comes_first_waits_for_its_target(
    rooms: RoomServer, version: str, is_cold: bool
) -> None:
    room, lena = await opened(rooms, version)
    base = room.last
    target = room.say(BOB, "regret", prev=[base])
    redaction = room.redact(BOB, target, prev=[base])
    await assert_hidden(rooms, room, await room.give(rooms, redaction), None)
    if is_cold:
        rooms.forget_memory()
    stored = await room.give(rooms, target)
    assert "body" not in stored.event.content
    await assert_redacted(rooms, room, target.event_id, redaction.event_id)
    assert {target.event_id, redaction.event_id} <= set(await shown(rooms, room.room_id))
    await assert_well(rooms, room, lena)


@pytest_twisted.ensureDeferred
async def test_only_so_many_waiting_redactions_are_looked_at(
    rooms: RoomServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, _ = await opened(rooms, "12")
    base = room.last
    for limit in (1, 0):
        monkeypatch.setattr(effects, "MAX_WAITING", limit)
        target = room.say(BOB, f"regret {limit}", prev=[base])
        await room.give(rooms, room.redact(BOB, target, prev=[base]))
        stored = await room.give(rooms, target)
        assert bool(limit) is (stored.redacted_by is not None)


@pytest.mark.in_turns
@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_a_redaction_and_its_target_may_come_at_once(rooms: RoomServer, version: str) -> None:
    room, lena = await opened(rooms, version)
    base = room.last
    pairs = []
    for _ in range(6):
        target = room.say(BOB, "regret", prev=[base])
        pairs.append((target, room.redact(BOB, target, prev=[base])))
    events = [event for number, pair in enumerate(pairs) for event in (pair if number % 2 else pair[::-1])]
    await gatherResults([Deferred.fromCoroutine(room.give(rooms, event)) for event in events])
    visible = set(await shown(rooms, room.room_id))
    for target, redaction in pairs:
        assert {target.event_id, redaction.event_id} <= visible
        await assert_redacted(rooms, room, target.event_id, redaction.event_id)
    await assert_well(rooms, room, lena)


@pytest.mark.in_turns
@pytest.mark.parametrize("version", OF_NO_RULE)
@pytest.mark.parametrize("is_first", [False, True], ids=["after its target", "before its target"])
@pytest_twisted.ensureDeferred
async def test_a_redaction_without_power_redacts_nothing(rooms: RoomServer, version: str, is_first: bool) -> None:
    room, lena = await opened(rooms, version)
    base = room.last
    target = room.say(CAROL, "said", prev=[base])
    redaction = room.redact(BOB, target, prev=[base])
    if is_first:
        stored = await room.give(rooms, redaction)
        assert "said" == (await room.give(rooms, target)).event.content["body"]
    else:
        await room.give(rooms, target)
        stored = await room.give(rooms, redaction)
    await assert_hidden(rooms, room, stored, target.event_id)
    # One of those who may is not kept from it.
    by_power = room.redact(ALICE, target, prev=[base])
    assert 0 == (await room.give(rooms, by_power)).flags
    await assert_redacted(rooms, room, target.event_id, by_power.event_id)
    await assert_well(rooms, room, lena)


@pytest.mark.parametrize("version", ["1", "2"])
@pytest_twisted.ensureDeferred
async def test_a_redaction_without_power_is_rejected_where_a_rule_says_so(rooms: RoomServer, version: str) -> None:
    room, lena = await opened(rooms, version)
    base = room.last
    target = room.say(CAROL, "said")
    await room.give(rooms, target)
    redaction = room.redact(BOB, target, refused=True)
    await assert_kept_apart(rooms, room, await room.give(rooms, redaction), Flag.REJECTED)
    # The rule goes by the event ID, which says nothing about who sent what it names.
    forged = room.say(CAROL, "said", event_id="$forged:b.example", prev=[base])
    await room.give(rooms, forged)
    stored = await room.give(rooms, room.redact(BOB, forged, prev=[base]))
    assert 0 == stored.flags
    assert (await read(rooms, room, target.event_id)).redacted_by is None
    await assert_well(rooms, room, lena)


@pytest.mark.in_turns
@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_the_create_event_is_never_redacted(rooms: RoomServer, version: str) -> None:
    room, lena = await opened(rooms, version)
    stored = await room.give(rooms, room.redact(ALICE, room.create))
    await assert_hidden(rooms, room, stored, room.create.event_id)
    assert room.create.content == (await read(rooms, room, room.create.event_id)).event.content
    await assert_well(rooms, room, lena)


@pytest.mark.in_turns
@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_an_event_of_another_room_is_not_redacted(rooms: RoomServer, version: str) -> None:
    room, lena = await opened(rooms, version)
    other = Elsewhere(version, "other")
    target = other.say(ALICE, "elsewhere")
    await other.all_to(rooms)
    later = other.say(ALICE, "not there yet")
    for each in (target, later):
        await assert_hidden(rooms, room, await room.give(rooms, room.redact(ALICE, each)), None)
    await other.give(rooms, later)
    for each in (target, later):
        assert (await read(rooms, other, each.event_id)).redacted_by is None
    await assert_well(rooms, room, lena)
    await assert_well(rooms, other)


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("is_outlier", [False, True], ids=["placed", "outlier first"])
@pytest_twisted.ensureDeferred
async def test_an_event_that_redacts_itself_is_a_redaction_of_nothing(
    rooms: RoomServer, version: str, is_outlier: bool
) -> None:
    room, lena = await opened(rooms, version)
    redaction = room.redact(BOB, "$self:b.example", event_id="$self:b.example")
    if is_outlier:
        await room.give_outlier(rooms, redaction)
    await assert_hidden(rooms, room, await room.give(rooms, redaction), redaction.event_id)
    await assert_well(rooms, room, lena)


@pytest.mark.parametrize("version", ["1", "2"])
@pytest_twisted.ensureDeferred
async def test_redactions_of_one_another_end(rooms: RoomServer, version: str) -> None:
    room, lena = await opened(rooms, version)
    names = [f"$circle{number}:b.example" for number in range(3)]
    for number, event_id in enumerate(names):
        await room.give(rooms, room.redact(BOB, names[(number + 1) % 3], event_id=event_id))
    for _ in range(2):
        for event_id in names:
            stored = await read(rooms, room, event_id)
            assert stored.flags in (0, Flag.INERT)
            repr(stored)
        rooms.forget_memory()
    await assert_well(rooms, room, lena)


@pytest.mark.in_turns
@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_redactions_of_state_reach_the_directory_and_keep_the_state(rooms: RoomServer, version: str) -> None:
    room, lena = await opened(rooms, version)
    name = room.add("m.room.name", ALICE, {"name": "Secrets"}, "")
    levels = {str(ALICE): 100, str(BOB): 50} if not room.version.privileged_creators else {str(BOB): 50}
    power = room.add("m.room.power_levels", ALICE, {"users": levels, "org.example.note": "mine", "invite": 7}, "")
    await room.all_to(rooms)
    assert "Secrets" == (await stats(rooms, room)).name
    for event in (name, power):
        assert 0 == (await room.give(rooms, room.redact(ALICE, event))).flags
    assert (await stats(rooms, room)).name is None
    assert name.event_id == await current(rooms, room, "m.room.name")
    for _ in range(2):
        stored = await rooms.door.state_event(room.room_id, "m.room.power_levels")
        assert stored is not None and power.event_id == stored.event_id
        assert levels == stored.event.content["users"] and "org.example.note" not in stored.event.content
        rooms.forget_memory()
    # Bob has the power still.
    assert 0 == (await room.give(rooms, room.add("m.room.topic", BOB, {"topic": "news"}, ""))).flags
    await assert_well(rooms, room, lena)


@pytest.mark.in_turns
@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_of_two_redactions_the_first_counts_and_both_are_shown(rooms: RoomServer, version: str) -> None:
    room, lena = await opened(rooms, version)
    target = room.say(BOB, "regret")
    await room.give(rooms, target)
    first, second = room.redact(BOB, target), room.redact(ALICE, target)
    for event in (first, second):
        assert 0 == (await room.give(rooms, event)).flags
    await assert_redacted(rooms, room, target.event_id, first.event_id)
    assert {first.event_id, second.event_id} <= set(await shown(rooms, room.room_id))
    await assert_well(rooms, room, lena)


@pytest.mark.in_turns
@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_of_redactions_that_wait_the_first_counts_and_is_shown(rooms: RoomServer, version: str) -> None:
    room, lena = await opened(rooms, version)
    base = room.last
    target = room.say(BOB, "regret", prev=[base])
    first, second = room.redact(BOB, target, prev=[base]), room.redact(ALICE, target, prev=[base])
    for event in (first, second, target):
        await room.give(rooms, event)
    await assert_redacted(rooms, room, target.event_id, first.event_id)
    assert first.event_id in set(await shown(rooms, room.room_id))
    await assert_well(rooms, room, lena)


@pytest.mark.parametrize("version", ["2", "6", "12"])
@pytest_twisted.ensureDeferred
async def test_an_outlier_is_redacted_and_stays_so_at_its_place(rooms: RoomServer, version: str) -> None:
    room, lena = await opened(rooms, version)
    base = room.last
    target = room.add("m.room.name", ALICE, {"name": "Secrets"}, "", prev=[base])
    redaction = room.redact(ALICE, target, prev=[base])
    await room.give_outlier(rooms, target)
    assert 0 == (await room.give(rooms, redaction)).flags
    stored = await room.give(rooms, target)
    assert "name" not in stored.event.content and not stored.flags
    assert (await stats(rooms, room)).name is None
    await assert_redacted(rooms, room, target.event_id, redaction.event_id)
    await assert_well(rooms, room, lena)


@pytest.mark.parametrize("version", ["6", "12"])
@pytest_twisted.ensureDeferred
async def test_the_directory_is_not_told_what_becomes_the_state_with_its_redaction(
    rooms: RoomServer, version: str
) -> None:
    """The name was soft-failed; the redaction on top of it brings it into the room's state, redacted."""
    room, lena = await opened(rooms, version)
    levels = {**room.power.content["users"], str(BOB): 50}
    base = room.add("m.room.power_levels", ALICE, {"users": levels}, "")
    gone = room.member(BOB, BOB, "leave")
    await room.all_to(rooms)
    name = room.add("m.room.name", BOB, {"name": "Secrets"}, "", prev=[base], ts=0)
    await assert_kept_apart(rooms, room, await room.give(rooms, name), Flag.SOFT_FAILED)
    await room.give(rooms, room.join(BOB, prev=[gone]))
    assert 0 == (await room.give(rooms, room.redact(BOB, name, prev=[name]))).flags
    assert name.event_id == await current(rooms, room, "m.room.name")
    assert (await stats(rooms, room)).name is None
    await assert_well(rooms, room, lena)


@pytest.mark.parametrize("version", ["6", "12"])
@pytest_twisted.ensureDeferred
async def test_a_refused_redaction_never_applies(rooms: RoomServer, version: str) -> None:
    room, lena = await opened(rooms, version)
    base = room.last
    target = room.say(BOB, "said", prev=[base])
    ban = room.member(ALICE, BOB, "ban", prev=[base])
    await room.give(rooms, ban)
    late = room.redact(BOB, target, prev=[base])
    await assert_kept_apart(rooms, room, await room.give(rooms, late), Flag.SOFT_FAILED)
    rejected = room.redact(BOB, target, prev=[ban], refused=True)
    await assert_kept_apart(rooms, room, await room.give(rooms, rejected), Flag.REJECTED)
    stored = await room.give(rooms, target)
    assert Flag.SOFT_FAILED == stored.flags and stored.redacted_by is None
    await assert_well(rooms, room, lena)


ODD_TARGETS = ["x", "", "$" + "😀" * 250, "$" + "x" * 60_000, "$a:b\u0000c", "!room:a.example", None, 7, {"a": 1}]


@pytest.mark.parametrize("version", ["10", "11", "12"])
@pytest_twisted.ensureDeferred
async def test_whatever_a_redaction_names_it_can_be_stored(rooms: RoomServer, version: str) -> None:
    room, lena = await opened(rooms, version)
    for target in ODD_TARGETS:
        if room.version.redacts_in_content:
            event = room.add("m.room.redaction", BOB, {"redacts": target})
        elif isinstance(target, str) and len(target.encode()) <= 255:
            event = room.redact(BOB, target)
        else:
            continue
        stored = await room.give(rooms, event)
        assert stored.flags in (0, Flag.INERT)
        assert stored.event_id not in await shown(rooms, room.room_id)
    await assert_well(rooms, room, lena)


@pytest_twisted.ensureDeferred
async def test_a_local_redaction_reaches_what_is_on_its_way_to_the_disk(rooms: RoomServer) -> None:
    room, _ = await opened(rooms, "12")
    lena = await rooms.user("lena")
    levels = {"users": {str(lena.user_id): 100}}
    await room.give(rooms, room.add("m.room.power_levels", ALICE, levels, ""))
    target = room.say(BOB, "regret")
    waiting = [
        Deferred.fromCoroutine(room.give(rooms, target)),
        Deferred.fromCoroutine(rooms.send(room.room_id, lena, "m.room.redaction", {}, redacts=str(target.event_id))),
    ]
    stored = (await gatherResults(waiting))[1]
    room.note(stored)
    await assert_redacted(rooms, room, target.event_id, stored.event_id)
    await assert_well(rooms, room, lena)
