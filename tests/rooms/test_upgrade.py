"""Rooms are replaced, from every stable version to every other, and what is around them follows."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from homeserver.errors import (
    BadRequest,
    GateDenied,
    HomeserverError,
    NotAllowed,
    StorageUnavailable,
    UnsupportedRoomVersion,
)
from homeserver.model.event import EventTemplate
from homeserver.model.ids import RoomAlias, RoomID, UserID
from homeserver.rooms.directory import Directory
from homeserver.rooms.upgrade import BATCH, Upgrades
from tests.support.rooms import SERVER, Person, RoomServer

STABLE = [str(number) for number in range(1, 13)]
# On MariaDB too; all of them on SQLite.
PAIRS = [("1", "12"), ("6", "10"), ("12", "11"), ("12", "12")]
LEVELS: dict[str, Any] = {"ban": 60, "users_default": 0}


class World:
    """Upgrades on a running server."""

    def __init__(self, server: RoomServer) -> None:
        self.server = server
        self.directory = Directory(server.store, server.clock)
        self.carried: list[tuple[UserID, RoomID, RoomID]] = []
        self._made = 0
        self.upgrades = self.make()

    def make(self) -> Upgrades:
        """Return the part as it is after a start."""

        async def carry_over(user_id: UserID, old_id: RoomID, new_id: RoomID) -> None:
            self.carried.append((user_id, old_id, new_id))

        async def profile_of(user_id: UserID) -> Mapping[str, Any]:
            return {"displayname": user_id.localpart}

        def opaque_id() -> str:
            self._made += 1
            return f"new{self._made}"

        return Upgrades(
            self.server.store,
            self.server.door,
            self.directory,
            profile_of=profile_of,
            opaque_id=opaque_id,
            carry_over=carry_over,
        )

    async def upgrade(self, person: Person, room_id: RoomID, version: str = "12", *creators: Person) -> RoomID:
        return await self.upgrades.upgrade(person.user_id, room_id, version, [each.user_id for each in creators])

    async def content(self, room_id: RoomID, kind: str, state_key: str = "") -> dict[str, Any] | None:
        stored = await self.server.door.state_event(room_id, kind, state_key)
        return None if stored is None else dict(stored.event.content)

    async def alias(self, room_id: RoomID, creator: Person, *names: str) -> list[RoomAlias]:
        room_nid = (await self.server.door.tip(room_id)).room_nid
        made = [RoomAlias.parse(f"#{name}:{SERVER}") for name in names]
        for each in made:
            await self.directory.add_alias(each, room_nid, creator.user_id)
        return made

    async def is_published(self, room_id: RoomID) -> bool:
        return await self.directory.is_published((await self.server.door.tip(room_id)).room_nid)

    async def is_refused(self, person: Person, room_id: RoomID, version: str = "12") -> str:
        with pytest.raises(NotAllowed) as caught:
            await self.upgrade(person, room_id, version)
        return caught.value.message


class Gate:
    """Denies, or fails on, events of one type."""

    def __init__(self, kind: str, fault: HomeserverError) -> None:
        self.kind: str | None = kind
        self.fault = fault

    async def check(self, room_id: RoomID, template: EventTemplate) -> EventTemplate:
        if template.type == self.kind:
            raise self.fault
        return template


# -- every version ----------------------------------------------------------------------------------------------------


async def _replaces(server: RoomServer, source: str, target: str) -> None:
    world = World(server)
    alice, bob, eve = await server.users("alice", "bob", "eve")
    users = {} if source == "12" else {str(alice.user_id): 100}
    old_id = await server.room(
        alice,
        version=source,
        members=[bob, eve],
        power_levels={"users": {**users, str(bob.user_id): 50}, **LEVELS},
        state=[("m.room.name", "", {"name": "here"})],
    )
    await server.ban(old_id, alice, eve)
    new_id = await world.upgrade(alice, old_id, target)

    tip = await server.door.tip(new_id)
    assert (target, alice.user_id) == (tip.version.identifier, tip.create.event.sender)
    create = tip.create.event.content
    assert (target, old_id) == (create["room_version"], create["predecessor"]["room_id"])
    assert (("creator" in create), (":" in new_id)) == (int(target) <= 10, target != "12")
    # The old room.
    tombstone = await world.content(old_id, "m.room.tombstone")
    assert tombstone is not None and new_id == tombstone["replacement_room"]
    closed = await world.content(old_id, "m.room.power_levels")
    assert closed is not None and (50, 50) == (closed["events_default"], closed["invite"])
    with pytest.raises(NotAllowed):
        await server.say(old_id, eve)
    # The new one.
    assert {"name": "here"} == await world.content(new_id, "m.room.name")
    assert {"join_rule": "public"} == await world.content(new_id, "m.room.join_rules")
    assert {"membership": "ban"} == await world.content(new_id, "m.room.member", eve.user_id)
    joined = {"membership": "join", "displayname": "alice"}
    assert joined == await world.content(new_id, "m.room.member", alice.user_id)
    levels = await world.content(new_id, "m.room.power_levels")
    owners = {} if target == "12" else {alice.user_id: 100}
    assert levels is not None and {**owners, bob.user_id: 50} == levels["users"]
    assert 60 == levels["ban"]
    # People come, and the new room works.
    await server.join(new_id, bob)
    await server.say(new_id, bob)
    with pytest.raises(NotAllowed):
        await server.join(new_id, eve)
    assert [(alice.user_id, old_id, new_id)] == world.carried


@pytest.mark.parametrize("target", STABLE)
@pytest.mark.parametrize("source", STABLE)
@pytest_twisted.ensureDeferred
async def test_a_room_of_any_version_is_replaced_by_one_of_any(sqlite_url: str, source: str, target: str) -> None:
    server = await RoomServer.start(sqlite_url)
    try:
        await _replaces(server, source, target)
    finally:
        await server.stop()


@pytest.mark.mariadb
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0]} to {pair[1]}")
@pytest_twisted.ensureDeferred
async def test_a_room_is_replaced_on_mariadb_as_well(mariadb_url: str, pair: tuple[str, str]) -> None:
    server = await RoomServer.start(mariadb_url)
    try:
        await _replaces(server, *pair)
    finally:
        await server.stop()


@pytest.mark.parametrize("version", STABLE)
@pytest_twisted.ensureDeferred
async def test_a_cold_server_goes_on_in_both_rooms(sqlite_url: str, version: str) -> None:
    server = await RoomServer.start(sqlite_url)
    try:
        world = World(server)
        alice, bob = await server.users("alice", "bob")
        old_id = await server.room(alice, version=version, members=[bob])
        new_id = await world.upgrade(alice, old_id, version)
        server.forget_memory()
        with pytest.raises(NotAllowed):
            await server.say(old_id, bob)
        await server.say(old_id, alice)
        await server.join(new_id, bob)
        await server.say(new_id, bob)
    finally:
        await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_room_can_be_replaced_again_and_again(rooms: RoomServer) -> None:
    world = World(rooms)
    (alice,) = await rooms.users("alice")
    room_id = first_id = await rooms.room(alice, version="1", state=[("m.room.topic", "", {"topic": "talk"})])
    for version in ("12", "5", "12", "12"):
        room_id = await world.upgrade(alice, room_id, version)
    assert first_id != room_id
    assert {"topic": "talk"} == await world.content(room_id, "m.room.topic")


# -- a second time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_touched", [False, True], ids=["as it was closed", "changed since"])
@pytest_twisted.ensureDeferred
async def test_members_talk_and_invite_in_the_third_room_as_they_did_in_the_first(
    rooms: RoomServer, is_touched: bool
) -> None:
    world = World(rooms)
    alice, bob, carol = await rooms.users("alice", "bob", "carol")
    levels = {"users": {str(alice.user_id): 100}, "invite": 0, "ban": 60}
    first_id = await rooms.room(alice, version="9", members=[bob], power_levels=levels)
    await world.upgrade(alice, first_id, "10")
    closed = await world.content(first_id, "m.room.power_levels")
    assert closed is not None and (50, 50) == (closed["events_default"], closed["invite"])
    if is_touched:
        await rooms.send(first_id, alice, "m.room.power_levels", {**closed, "kick": 70}, "")
    for version in ("11", "9"):
        # The fourth time the room has two tombstones.
        rooms.forget_memory()
        new_id = await world.upgrade(alice, first_id, version)
        found = await world.content(new_id, "m.room.power_levels")
        assert {**levels, "events": {}, **({"kick": 70} if is_touched else {})} == found
        await rooms.join(new_id, bob)
        await rooms.say(new_id, bob)
        await rooms.invite(new_id, bob, carol)
    assert {**closed, **({"kick": 70} if is_touched else {})} == await world.content(first_id, "m.room.power_levels")


@pytest_twisted.ensureDeferred
async def test_a_room_in_which_few_may_talk_stays_so_however_often_it_is_replaced(rooms: RoomServer) -> None:
    world = World(rooms)
    (alice,) = await rooms.users("alice")
    levels = {"users": {str(alice.user_id): 100}, "events": {}}
    room_id = await rooms.room(alice, version="9", power_levels=levels)
    levels |= {"events_default": 50, "invite": 50}
    await rooms.send(room_id, alice, "m.room.power_levels", levels, "")
    for version in ("10", "11"):
        new_id = await world.upgrade(alice, room_id, version)
        assert levels == await world.content(new_id, "m.room.power_levels")


@pytest_twisted.ensureDeferred
async def test_aliases_that_went_to_the_second_room_come_on_to_the_third(rooms: RoomServer) -> None:
    world = World(rooms)
    (alice,) = await rooms.users("alice")
    said = {"alias": f"#main:{SERVER}"}
    first_id = await rooms.room(alice, version="9", state=[("m.room.canonical_alias", "", said)])
    (alias,) = await world.alias(first_id, alice, "main")
    await world.directory.publish((await rooms.door.tip(first_id)).room_nid, True)
    second_id = await world.upgrade(alice, first_id, "10")
    rooms.clock.advance(1)
    (own,) = await world.alias(second_id, alice, "own")
    gate = Gate("m.room.canonical_alias", StorageUnavailable("gone"))
    rooms.door.add_gate(gate)
    # It stops half way, and goes on.
    with pytest.raises(StorageUnavailable):
        await world.upgrade(alice, first_id, "12")
    gate.kind = None
    third_id = await world.upgrade(alice, first_id, "12")
    tombstone = await world.content(first_id, "m.room.tombstone")
    assert tombstone is not None and third_id == tombstone["replacement_room"]
    assert {alias: third_id, own: second_id} == await world.directory.find_all([alias, own])
    assert (False, True) == (await world.is_published(second_id), await world.is_published(third_id))
    assert said == await world.content(third_id, "m.room.canonical_alias")
    assert {} == await world.content(second_id, "m.room.canonical_alias")
    assert await world.content(second_id, "m.room.tombstone") is None


@pytest_twisted.ensureDeferred
async def test_aliases_stay_in_a_second_room_where_the_user_has_no_power_or_that_no_upgrade_made(
    rooms: RoomServer,
) -> None:
    world = World(rooms)
    alice, bob = await rooms.users("alice", "bob")
    users = {str(alice.user_id): 100, str(bob.user_id): 100}
    first_id = await rooms.room(alice, version="11", members=[bob], power_levels={"users": users})
    (alias,) = await world.alias(first_id, alice, "main")
    second_id = await world.upgrade(alice, first_id, "11")
    third_id = await world.upgrade(bob, first_id, "11")
    assert second_id == await world.directory.find(alias)
    # A tombstone that was sent by hand.
    await rooms.send(first_id, alice, "m.room.tombstone", {"body": "", "replacement_room": str(second_id)}, "")
    other_id = await rooms.room(alice)
    (other,) = await world.alias(other_id, alice, "other")
    await rooms.send(first_id, alice, "m.room.tombstone", {"body": "", "replacement_room": str(other_id)}, "")
    await world.upgrade(alice, first_id, "10")
    assert {alias: second_id, other: other_id} == await world.directory.find_all([alias, other])
    assert third_id != second_id


@pytest.mark.parametrize("target", ["11", "12", "org.matrix.hydra.11"])
@pytest_twisted.ensureDeferred
async def test_the_creator_of_the_old_room_keeps_power_where_somebody_else_upgrades(
    rooms: RoomServer, target: str
) -> None:
    world = World(rooms)
    alice, bob = await rooms.users("alice", "bob")
    levels = {"users": {str(bob.user_id): 150}, "events": {"m.room.tombstone": 150}}
    new_id = await world.upgrade(bob, await rooms.room(alice, members=[bob], power_levels=levels), target)
    await rooms.join(new_id, alice)
    await rooms.send(new_id, alice, "m.room.name", {"name": "still mine"}, "")
    await rooms.send(new_id, alice, "m.room.tombstone", {"body": "", "replacement_room": "!x"}, "")


# -- who may ----------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_who_may_not_send_a_tombstone_may_not_upgrade(rooms: RoomServer) -> None:
    """Spec: "Room Upgrades", "Server behaviour", 1."""
    world = World(rooms)
    alice, bob, carol, eve = await rooms.users("alice", "bob", "carol", "eve")
    levels = {"users": {str(bob.user_id): 50, str(carol.user_id): 100}, "events": {"m.room.tombstone": 150}}
    room_id = await rooms.room(alice, members=[bob, carol], power_levels=levels)
    for person in (bob, carol):
        assert "upgrade" in await world.is_refused(person, room_id)
    # A stranger cannot tell whether there is such a room.
    assert await world.is_refused(eve, room_id) == await world.is_refused(eve, RoomID("!nowhere"))
    await rooms.leave(room_id, alice)
    await world.is_refused(alice, room_id)
    assert await world.content(room_id, "m.room.tombstone") is None


@pytest_twisted.ensureDeferred
async def test_an_unknown_version_is_refused_and_nothing_is_made(rooms: RoomServer) -> None:
    world = World(rooms)
    (alice,) = await rooms.users("alice")
    room_id = await rooms.room(alice)
    for version in ("", "13", "org.example.none", "１２"):
        with pytest.raises(UnsupportedRoomVersion):
            await world.upgrade(alice, room_id, version)
    assert 1 == len((await rooms.user_feed(alice)).rooms)


@pytest_twisted.ensureDeferred
async def test_a_moderator_who_may_send_tombstones_makes_a_room_with_the_powers_of_the_old_one(
    rooms: RoomServer,
) -> None:
    world = World(rooms)
    alice, bob = await rooms.users("alice", "bob")
    users = {str(alice.user_id): 100, str(bob.user_id): 50}
    levels = {"users": users, "events": {"m.room.power_levels": 100, "m.room.name": 100, "m.room.tombstone": 50}}
    room_id = await rooms.room(
        alice, version="11", members=[bob], power_levels=levels, state=[("m.room.name", "", {"name": "here"})]
    )
    new_id = await world.upgrade(bob, room_id, "11")
    assert {"name": "here"} == await world.content(new_id, "m.room.name")
    assert levels == await world.content(new_id, "m.room.power_levels")
    with pytest.raises(NotAllowed):
        await rooms.send(new_id, bob, "m.room.name", {"name": "mine"}, "")
    # What bob may not do in the old room is left as it is.
    assert levels == await world.content(room_id, "m.room.power_levels")
    await rooms.join(new_id, alice)
    await rooms.send(new_id, alice, "m.room.name", {"name": "ours"}, "")


@pytest_twisted.ensureDeferred
async def test_additional_creators_are_creators_and_bans_of_them_end(rooms: RoomServer) -> None:
    world = World(rooms)
    alice, bob, carol = await rooms.users("alice", "bob", "carol")
    room_id = await rooms.room(alice, version="11", members=[bob, carol])
    await rooms.ban(room_id, alice, carol)
    new_id = await world.upgrade(alice, room_id, "12", bob, carol)
    for person in (bob, carol):
        await rooms.join(new_id, person)
    await rooms.send(new_id, bob, "m.room.tombstone", {"body": "", "replacement_room": "!x"}, "")


# -- what is around the room ------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_aliases_and_the_place_in_the_directory_move(rooms: RoomServer) -> None:
    """Spec: "Room Upgrades", "Server behaviour", 4."""
    world = World(rooms)
    (alice,) = await rooms.users("alice")
    said = {"alias": f"#main:{SERVER}", "alt_aliases": [f"#other:{SERVER}", "#far:elsewhere.example"]}
    old_id = await rooms.room(alice, version="10", state=[("m.room.canonical_alias", "", said)])
    aliases = await world.alias(old_id, alice, "main", "other", "silent")
    old_nid = (await rooms.door.tip(old_id)).room_nid
    await world.directory.publish(old_nid, True)
    new_id = await world.upgrade(alice, old_id)
    assert dict.fromkeys(aliases, new_id) == await world.directory.find_all(aliases)
    assert [] == await world.directory.aliases_of(old_nid)
    assert (False, True) == (await world.is_published(old_id), await world.is_published(new_id))
    moved = {"alias": said["alias"], "alt_aliases": [f"#other:{SERVER}"]}
    assert moved == await world.content(new_id, "m.room.canonical_alias")
    assert {"alt_aliases": ["#far:elsewhere.example"]} == await world.content(old_id, "m.room.canonical_alias")


@pytest_twisted.ensureDeferred
async def test_a_room_that_was_not_listed_is_replaced_by_one_that_is_not(rooms: RoomServer) -> None:
    world = World(rooms)
    (alice,) = await rooms.users("alice")
    new_id = await world.upgrade(alice, await rooms.room(alice))
    assert not await world.is_published(new_id)
    assert await world.content(new_id, "m.room.canonical_alias") is None


@pytest_twisted.ensureDeferred
async def test_more_bans_and_children_than_fit_into_one_transaction_are_there_before_anybody_can_join(
    rooms: RoomServer,
) -> None:
    world = World(rooms)
    (alice,) = await rooms.users("alice")
    children = [("m.space.child", f"!child{number}:{SERVER}", {"via": [SERVER]}) for number in range(BATCH)]
    old_id = await rooms.room(alice, create={"type": "m.space"}, state=children)
    banned = await rooms.users(*(f"eve{number}" for number in range(BATCH // 2)))
    for person in banned:
        await rooms.ban(old_id, alice, person)
    rooms.forget_memory()
    new_id = await world.upgrade(alice, old_id)
    for kind, key, content in children:
        assert content == await world.content(new_id, kind, key)
    for person in banned:
        with pytest.raises(NotAllowed):
            await rooms.join(new_id, person)


# -- again, at once, and half way -------------------------------------------------------------------------------------


def _start(work: Awaitable[RoomID]) -> Deferred[RoomID]:
    return Deferred.fromCoroutine(work)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_the_same_request_meanwhile_gets_the_same_answer_and_any_other_is_refused(rooms: RoomServer) -> None:
    world = World(rooms)
    alice, bob, eve = await rooms.users("alice", "bob", "eve")
    room_id = await rooms.room(
        alice,
        version="11",
        members=[bob],
        power_levels={"users": {f"@{name}:{SERVER}": 100 for name in ("alice", "bob")}},
    )
    both = [_start(world.upgrade(alice, room_id)) for _ in range(2)]
    for person, version in ((alice, "11"), (bob, "12")):
        with pytest.raises(BadRequest):
            await world.upgrade(person, room_id, version)
    await world.is_refused(eve, room_id)
    found = [await each for each in both]
    assert found[0] == found[1]
    assert 2 == len((await rooms.user_feed(alice)).rooms)


@pytest_twisted.ensureDeferred
async def test_the_same_request_later_gets_the_same_answer_while_the_user_is_in_the_new_room(
    rooms: RoomServer,
) -> None:
    world = World(rooms)
    alice, bob = await rooms.users("alice", "bob")
    users = {str(alice.user_id): 100, str(bob.user_id): 100}
    room_id = await rooms.room(alice, version="11", members=[bob], power_levels={"users": users})
    first = await world.upgrade(alice, room_id)
    world.upgrades = world.make()
    assert first == await world.upgrade(alice, room_id)
    # Who wants another version, or is somebody else, or has left, wants another room.
    found = {first, other := await world.upgrade(alice, room_id, "11")}
    await rooms.leave(other, alice)
    found |= {await world.upgrade(alice, room_id, "11"), await world.upgrade(bob, room_id, "11")}
    assert 4 == len(found)


@pytest_twisted.ensureDeferred
async def test_an_upgrade_that_stops_before_the_tombstone_leaves_the_old_room_as_it_was(rooms: RoomServer) -> None:
    world = World(rooms)
    (alice,) = await rooms.users("alice")
    old_id = await rooms.room(alice)
    (alias,) = await world.alias(old_id, alice, "main")
    levels = await world.content(old_id, "m.room.power_levels")
    rooms.door.add_gate(Gate("m.room.tombstone", StorageUnavailable("gone")))
    with pytest.raises(StorageUnavailable):
        await world.upgrade(alice, old_id)
    assert old_id == await world.directory.find(alias)
    assert await world.content(old_id, "m.room.tombstone") is None
    assert levels == await world.content(old_id, "m.room.power_levels")


@pytest.mark.parametrize("version", ["11", "12"])
@pytest_twisted.ensureDeferred
async def test_an_upgrade_that_stopped_after_the_tombstone_goes_on_when_asked_again(
    rooms: RoomServer, version: str
) -> None:
    world = World(rooms)
    (alice,) = await rooms.users("alice")
    said = {"alias": f"#main:{SERVER}"}
    old_id = await rooms.room(alice, version="11", state=[("m.room.canonical_alias", "", said)])
    (alias,) = await world.alias(old_id, alice, "main")
    gate = Gate("m.room.canonical_alias", StorageUnavailable("gone"))
    rooms.door.add_gate(gate)
    with pytest.raises(StorageUnavailable):
        await world.upgrade(alice, old_id, version)
    tombstone = await world.content(old_id, "m.room.tombstone")
    assert tombstone is not None and said == await world.content(old_id, "m.room.canonical_alias")
    gate.kind = None
    rooms.forget_memory()
    world.upgrades = world.make()
    new_id = await world.upgrade(alice, old_id, version)
    assert tombstone["replacement_room"] == new_id
    assert new_id == await world.directory.find(alias)
    assert said == await world.content(new_id, "m.room.canonical_alias")
    assert {} == await world.content(old_id, "m.room.canonical_alias")
    levels = await world.content(old_id, "m.room.power_levels")
    assert levels is not None and 50 == levels["events_default"]
    assert [(alice.user_id, old_id, new_id)] == world.carried


@pytest_twisted.ensureDeferred
async def test_a_new_room_whose_tombstone_is_denied_is_left(rooms: RoomServer) -> None:
    world = World(rooms)
    (alice,) = await rooms.users("alice")
    old_id = await rooms.room(alice)
    rooms.door.add_gate(Gate("m.room.tombstone", GateDenied("no")))
    with pytest.raises(GateDenied):
        await world.upgrade(alice, old_id)
    places = (await rooms.user_feed(alice)).rooms
    assert ["join", "leave"] == sorted(place.membership for place in places.values())
    assert "join" == places[old_id].membership


@pytest_twisted.ensureDeferred
async def test_who_waits_for_an_upgrade_that_fails_is_told_the_same(rooms: RoomServer) -> None:
    world = World(rooms)
    (alice,) = await rooms.users("alice")
    old_id = await rooms.room(alice)
    gate = Gate("m.room.tombstone", GateDenied("no"))
    rooms.door.add_gate(gate)
    both = [_start(world.upgrade(alice, old_id)) for _ in range(2)]
    for each in both:
        with pytest.raises(GateDenied):
            await each
    gate.kind = None
    await world.upgrade(alice, old_id)
