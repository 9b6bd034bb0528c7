"""Who joins a replacement room finds their settings there, and who claims to be one gets nothing."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from homeserver.model.ids import RoomID, UserID
from homeserver.rooms.successors import Successors
from tests.support.rooms import Person, RoomServer


class Carried:
    """Follows a server's feed."""

    def __init__(self, server: RoomServer) -> None:
        self.server = server
        self.seen: list[tuple[UserID, RoomID, RoomID]] = []
        Successors(server.door, server.feed, server.tasks, carry_over=self._carry_over)

    async def _carry_over(self, user_id: UserID, old_id: RoomID, new_id: RoomID) -> None:
        self.seen.append((user_id, old_id, new_id))

    async def settled(self) -> list[tuple[UserID, RoomID, RoomID]]:
        """Return what was carried once no task runs."""
        for _ in range(1_000):
            if not [name for name in self.server.tasks.names if name != "reserve"]:
                break
            await deferLater(reactor, 0.005)  # type: ignore[arg-type]
        return self.seen


async def replaced(server: RoomServer, owner: Person, *members: Person, claimed: Any = None) -> tuple[RoomID, RoomID]:
    """Return a room and the one that its tombstone names, which claims to replace it or what is `claimed`."""
    old_id = await server.room(owner, members=members)
    new_id = await server.room(owner, create={"predecessor": claimed or {"room_id": str(old_id)}})
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
