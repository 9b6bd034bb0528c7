"""Whether other servers may ask about a room at all: we are in it, its ACL lets them, they are in it."""

from __future__ import annotations

import pytest
import pytest_twisted

from homeserver.errors import MatrixError, NotAllowed, NotFound
from homeserver.model.ids import RoomID, UserID
from homeserver.rooms.server_guard import ServerGuard
from tests.support.elsewhere import ALICE, BOB, Elsewhere
from tests.support.rooms import SERVER, RoomServer


class _Room:
    """A room of a.example that this server is in, with its guard."""

    def __init__(self, server: RoomServer) -> None:
        self.server = server
        self.elsewhere = Elsewhere()
        self.local = UserID(f"@zoe:{SERVER}")
        self.guard = ServerGuard(server.store, server.door, SERVER)

    async def start(self, acl: dict[str, list[str]] | None = None) -> _Room:
        self.elsewhere.join(self.local)
        self.elsewhere.join(BOB)
        self.elsewhere.member(BOB, BOB, "leave")
        if acl is not None:
            self.elsewhere.add("m.room.server_acl", ALICE, acl, "")
        await self.elsewhere.all_to(self.server)
        return self

    async def refusal(self, server: str, room_id: str | None = None) -> MatrixError | None:
        try:
            await self.guard.require_in_room(RoomID(room_id or self.elsewhere.room_id), server)
        except MatrixError as fault:
            return fault
        return None


@pytest_twisted.ensureDeferred
async def test_a_server_with_a_joined_user_is_in_the_room(rooms: RoomServer) -> None:
    room = await _Room(rooms).start()
    tip = await room.guard.require_in_room(room.elsewhere.room_id, "a.example")
    assert room.elsewhere.room_id == tip.room_id


@pytest.mark.in_turns
@pytest.mark.parametrize(
    "server", ["b.example", "c.example", "example", "A.example", "xa.example", "%", "_.example", ""], ids=repr
)
@pytest_twisted.ensureDeferred
async def test_a_server_without_a_joined_user_is_not(rooms: RoomServer, server: str) -> None:
    room = await _Room(rooms).start()
    assert isinstance(await room.refusal(server), NotAllowed)


@pytest_twisted.ensureDeferred
async def test_a_port_is_no_server_name(rooms: RoomServer) -> None:
    room = _Room(rooms)
    room.elsewhere.join(UserID("@dave:d.example:8448"))
    await room.start()
    assert isinstance(await room.refusal("8448"), NotAllowed)
    assert await room.refusal("d.example:8448") is None


@pytest.mark.parametrize("acl", [{"allow": []}, {"allow": ["*"], "deny": ["a.*"]}], ids=["nobody", "denied"])
@pytest_twisted.ensureDeferred
async def test_an_acl_keeps_a_server_out_that_is_in_the_room(rooms: RoomServer, acl: dict[str, list[str]]) -> None:
    room = await _Room(rooms).start(acl)
    assert isinstance(await room.refusal("a.example"), NotAllowed)
    with pytest.raises(NotAllowed):
        await room.guard.admit(room.elsewhere.room_id, "a.example")
    assert not await room.guard.allows(room.elsewhere.room_id, "a.example")


@pytest_twisted.ensureDeferred
async def test_who_is_not_in_the_room_may_come_to_it(rooms: RoomServer) -> None:
    room = await _Room(rooms).start({"allow": ["*"], "deny": ["d.example"]})
    assert (await room.guard.admit(room.elsewhere.room_id, "c.example")).room_id == room.elsewhere.room_id
    assert await room.guard.allows(room.elsewhere.room_id, "c.example")


@pytest_twisted.ensureDeferred
async def test_a_room_that_this_server_left_is_unknown(rooms: RoomServer) -> None:
    room = await _Room(rooms).start()
    room.elsewhere.member(room.local, room.local, "leave")
    await room.elsewhere.all_to(rooms)
    unknown = RoomID("!unknown:a.example")
    with pytest.raises(NotFound) as left:
        await room.guard.admit(room.elsewhere.room_id, "a.example")
    with pytest.raises(NotFound) as never:
        await room.guard.admit(unknown, "a.example")
    assert never.value.body() == left.value.body()
    assert not await room.guard.allows(unknown, "a.example")


@pytest_twisted.ensureDeferred
async def test_all_refusals_are_the_same(rooms: RoomServer) -> None:
    room = await _Room(rooms).start({"allow": ["*"], "deny": ["d.example"]})
    left = Elsewhere(name="left")
    await left.all_to(rooms)
    refusals = [
        await room.refusal("a.example", "!unknown:a.example"),
        await room.refusal("a.example", left.room_id),
        await room.refusal("c.example"),
        await room.refusal("b.example"),
        await room.refusal("d.example"),
    ]
    assert refusals[0] is not None
    assert [refusals[0].body()] * 5 == [each.body() for each in refusals if each is not None]
