"""Who joins a replacement room finds their settings there, and who claims to be one gets nothing."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from homeserver.errors import GateDenied, HomeserverError, NotAllowed, StorageUnavailable
from homeserver.model.event import EventTemplate
from homeserver.model.ids import RoomID, UserID
from homeserver.rooms.successors import Successors
from tests.support.rooms import Person, RoomServer


class Carried:
    """Follows a server's feed."""

    def __init__(self, server: RoomServer) -> None:
        self.server = server
        self.seen: list[tuple[UserID, RoomID, RoomID]] = []
        # What the user was in the new room when the settings were carried.
        self.memberships: list[Any] = []
        self.fault: HomeserverError | None = None
        Successors(server.store, server.door, server.feed, server.tasks, carry_over=self._carry_over)

    async def _carry_over(self, user_id: UserID, old_id: RoomID, new_id: RoomID) -> None:
        if self.fault is not None:
            raise self.fault
        member = await self.server.door.state_event(new_id, "m.room.member", user_id)
        self.memberships.append(None if member is None else member.event.membership)
        self.seen.append((user_id, old_id, new_id))

    async def settled(self) -> list[tuple[UserID, RoomID, RoomID]]:
        """Return what was carried once no task runs."""
        for _ in range(1_000):
            if not [name for name in self.server.tasks.names if name != "reserve"]:
                break
            await deferLater(reactor, 0.005)  # type: ignore[arg-type]
        return self.seen


async def replaced(
    server: RoomServer, owner: Person, *members: Person, claimed: Any = None, join_rule: str = "public"
) -> tuple[RoomID, RoomID]:
    """Return a room and the one that its tombstone names, which claims to replace it or what is `claimed`."""
    old_id = await server.room(owner, members=members)
    create = {"predecessor": claimed or {"room_id": str(old_id)}}
    new_id = await server.room(owner, create=create, join_rule=join_rule)
    await server.send(old_id, owner, "m.room.tombstone", {"body": "", "replacement_room": str(new_id)}, "")
    return old_id, new_id


@pytest_twisted.ensureDeferred
async def test_settings_follow_whoever_was_in_the_old_room_once(rooms: RoomServer) -> None:
    carried = Carried(rooms)
    alice, bob, carol, eve = await rooms.users("alice", "bob", "carol", "eve")
    old_id, new_id = await replaced(rooms, alice, bob, carol)
    await rooms.leave(old_id, carol)
    for person in (bob, carol, eve):
        await rooms.join(new_id, person)
    await rooms.join(new_id, bob, displayname="Bob")
    assert [(bob.user_id, old_id, new_id), (carol.user_id, old_id, new_id)] == sorted(await carried.settled())


@pytest_twisted.ensureDeferred
async def test_nothing_follows_into_a_room_that_only_claims_to_replace_another(rooms: RoomServer) -> None:
    carried = Carried(rooms)
    alice, bob, eve = await rooms.users("alice", "bob", "eve")
    old_id = await rooms.room(alice, members=[bob])
    claims = await rooms.room(eve, create={"predecessor": {"room_id": str(old_id)}})
    await rooms.join(claims, bob)
    assert [] == await carried.settled()


@pytest.mark.parametrize("claimed", [{"room_id": "!nowhere"}, {"room_id": 5}, {"more": 1}])
@pytest_twisted.ensureDeferred
async def test_an_odd_predecessor_is_none(rooms: RoomServer, claimed: Any) -> None:
    carried = Carried(rooms)
    alice, bob = await rooms.users("alice", "bob")
    _, new_id = await replaced(rooms, alice, bob, claimed=claimed)
    await rooms.join(new_id, bob)
    assert [] == await carried.settled()


@pytest_twisted.ensureDeferred
async def test_settings_are_there_before_the_join_is(rooms: RoomServer) -> None:
    """So the first sync that shows the room shows it with its tags, and a muted room does not notify in between."""
    carried = Carried(rooms)
    alice, bob = await rooms.users("alice", "bob")
    _, new_id = await replaced(rooms, alice, bob)
    await rooms.join(new_id, bob)
    assert [None] == carried.memberships
    assert 1 == len(await carried.settled())


@pytest_twisted.ensureDeferred
async def test_who_was_in_the_new_room_before_gets_nothing_again(rooms: RoomServer) -> None:
    carried = Carried(rooms)
    alice, bob = await rooms.users("alice", "bob")
    _, new_id = await replaced(rooms, alice, bob)
    for _ in range(2):
        await rooms.join(new_id, bob)
        await rooms.leave(new_id, bob)
        rooms.forget_memory()
    assert 1 == len(await carried.settled())


@pytest_twisted.ensureDeferred
async def test_settings_go_to_no_room_whose_door_is_closed_to_the_user(rooms: RoomServer) -> None:
    carried = Carried(rooms)
    alice, bob = await rooms.users("alice", "bob")
    old_id, new_id = await replaced(rooms, alice, bob, join_rule="invite")
    with pytest.raises(NotAllowed):
        await rooms.join(new_id, bob)
    assert [] == carried.seen
    await rooms.invite(new_id, alice, bob)
    await rooms.join(new_id, bob)
    assert [(bob.user_id, old_id, new_id)] == await carried.settled()
    assert ["invite"] == carried.memberships


@pytest_twisted.ensureDeferred
async def test_a_copy_that_fails_does_not_hold_up_the_join_and_is_made_behind_it(rooms: RoomServer) -> None:
    carried = Carried(rooms)
    alice, bob = await rooms.users("alice", "bob")
    _, new_id = await replaced(rooms, alice, bob)

    class Repaired:
        async def check(self, room_id: RoomID, template: EventTemplate) -> EventTemplate:
            carried.fault = None
            return template

    carried.fault = StorageUnavailable("gone")
    rooms.door.add_gate(Repaired())
    await rooms.join(new_id, bob)
    assert 1 == len(await carried.settled())
    assert ["join"] == carried.memberships


@pytest_twisted.ensureDeferred
async def test_a_join_that_a_later_gate_denies_leaves_nothing_amiss(rooms: RoomServer) -> None:
    carried = Carried(rooms)
    alice, bob = await rooms.users("alice", "bob")
    _, new_id = await replaced(rooms, alice, bob)

    class Closed:
        is_closed = True

        async def check(self, room_id: RoomID, template: EventTemplate) -> EventTemplate:
            if self.is_closed:
                raise GateDenied("no")
            return template

    gate = Closed()
    rooms.door.add_gate(gate)
    with pytest.raises(GateDenied):
        await rooms.join(new_id, bob)
    gate.is_closed = False
    await rooms.join(new_id, bob)
    assert [None, None] == carried.memberships
