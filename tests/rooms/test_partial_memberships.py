"""Memberships of local users in a room whose members are not all known yet."""

from __future__ import annotations

import json

import pytest_twisted
from twisted.internet.defer import Deferred

from homeserver.model.ids import UserID
from homeserver.rooms.remote_invites import RemoteInvites, read_invite
from homeserver.rooms.server_guard import ServerGuard
from tests.support.elsewhere import ALICE, Elsewhere
from tests.support.played_server import until
from tests.support.residents import DAVE, JoiningServer, Residents, _may_invite, crowded
from tests.support.rooms import SERVER, RoomServer

EVE = UserID(f"@eve:{SERVER}")


@pytest_twisted.ensureDeferred
async def test_invite_is_not_judged_by_a_state_without_members(rooms: RoomServer) -> None:
    """Who invites is not known to be in the room; the event comes again, and waits until it can be judged."""
    room = crowded("12")
    residents = Residents(room)
    residents.answers["get_state"] = residents.refuse(403, "M_FORBIDDEN")
    here = JoiningServer(rooms, residents)
    await here.membership.join(room.room_id, DAVE, servers=["a.example"])
    guard = ServerGuard(rooms.store, rooms.door, SERVER)
    invites = RemoteInvites(rooms.door, guard, here.inbound, here.outside, rooms.identity, may_invite=_may_invite)
    invite = room.member(ALICE, EVE, "invite")
    body = {"room_version": "12", "event": dict(invite.wire), "invite_room_state": [dict(room.create.wire)]}
    asked = read_invite(room.room_id, invite.event_id, json.dumps(body).encode(), is_v1=False)
    signed = json.loads(await invites.accept("a.example", asked))
    assert SERVER in signed["signatures"]
    await until(lambda: len([each for each in residents.asked if each[0] == "get_state"]) >= 3)
    del residents.answers["get_state"]
    here.completion.hurry(room.room_id)
    assert await here.joining.completed(room.room_id, 5.0)
    stored = await room.give(rooms, invite)
    assert not stored.is_rejected
    assert stored.position is not None


@pytest_twisted.ensureDeferred
async def test_join_that_another_server_vouches_for_waits_for_the_members(rooms: RoomServer) -> None:
    """Who vouches is not known to be in the room; the join would be refused here and nowhere else."""
    space = await rooms.room(await rooms.user("eve"))
    room = Elsewhere("11", levels={"invite": 50})
    allow = [{"type": "m.room_membership", "room_id": str(space)}]
    room.add("m.room.join_rules", ALICE, {"join_rule": "restricted", "allow": allow}, "")
    room.member(ALICE, DAVE, "invite")
    residents = Residents(room)
    residents.answers["get_state"] = residents.refuse(403, "M_FORBIDDEN")
    here = JoiningServer(rooms, residents)
    await here.membership.join(room.room_id, DAVE, servers=["a.example"])
    residents.vouches = str(ALICE)
    assert (await rooms.door.tip(room.room_id)).is_partial
    joining = Deferred.fromCoroutine(here.membership.join(room.room_id, EVE, servers=["a.example"]))
    for _ in range(200):
        await rooms.store.database.read(lambda tx: None)
    del residents.answers["get_state"]
    here.completion.hurry(room.room_id)
    await joining
    current = await here.membership.current(room.room_id, EVE)
    assert current is not None
    assert "join" == current.event.membership
