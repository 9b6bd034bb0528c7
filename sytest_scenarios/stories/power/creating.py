"""Room version 12: those who made the room are above all others, for good."""

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

VERSION = "room version 12"
TWELVE = feature("room version 12")
HIGHEST = 2**53 - 1


@story(
    "A room of version 12 is called by the hash of its first event",
    shows=f"{VERSION}, 'Client considerations', 'Event format'",
    needs=users(2) + TWELVE,
)
async def named_by_its_hash(scene: Scene) -> None:
    alice, bob = scene.users
    room, twin = [await alice.create_room(room_version="12", preset="public_chat", name="Twin") for _ in range(2)]
    made = (await alice.whole_state(room))["m.room.create", ""]
    check_equal(f"!{made['event_id'][1:]}", room.id, "the room ID")
    check_equal(room.id, made.get("room_id"), "the room ID in the create event as clients get it")
    check(":" not in room.id and room != twin, "room IDs of their own, without a server", came=[room.id, twin.id])
    await bob.join(room)
    said = await alice.say(room, "Hello")
    check_equal(room.id, (await bob.sees(room, said)).get("room_id", room.id), "where it was said")


@story(
    "Nobody, however much power they are given, can do anything to who made the room",
    shows=f"{VERSION}, 'Authorisation rules': 'The power level of room creators is infinitely high'",
    needs=users(3) + TWELVE,
)
async def above_all(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol, room_version="12")
    await alice.set_power(room, (bob, HIGHEST))
    with refused(403, "M_FORBIDDEN", what="Bob's kick of Alice"):
        await bob.kick(room, alice)
    with refused(403, "M_FORBIDDEN", what="Bob's ban of Alice"):
        await bob.ban(room, alice)
    await bob.ban(room, carol)
    await alice.set_power(room, (bob, 0))
    with refused(403, "M_FORBIDDEN", what="a topic by Bob"):
        await bob.set_state(room, "m.room.topic", {"topic": "Bob's"})
    await alice.kick(room, bob)


@story(
    "Who made the room cannot be put among the others, not even by themselves",
    shows=f"{VERSION}, 'Authorisation rules', 10.4",
    needs=users(2) + TWELVE,
)
async def not_among_the_others(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, room_version="12")
    levels = await alice.state(room, "m.room.power_levels")
    check(alice.user_id not in levels.get("users", {}), "Alice not among the users with levels", came=levels)
    await alice.set_power(room, (bob, 100))
    for who, level in ((bob, 0), (bob, 100), (alice, 0), (alice, 100)):
        with refused(403, 400, what=f"{who} giving Alice a level of {level}"):
            await who.set_power(room, (alice, level))
    with refused(400, 403, what="a room that is made with a level for who makes it"):
        await alice.create_room(room_version="12", power_level_content_override={"users": {alice.user_id: 100}})
    await alice.set_power(room, (bob, 0))


@story(
    "Bob, whom Alice makes a creator with her, is her equal for ever; later nobody becomes one",
    shows=f"{VERSION}, 'Authorisation rules': additional_creators",
    needs=users(3) + TWELVE,
)
async def additional(scene: Scene) -> None:
    alice, bob, carol = scene.users
    wishes = {"additional_creators": [bob.user_id]}
    room = await alice.create_room_with(bob, carol, room_version="12", creation_content=wishes)
    await bob.set_power(room, (carol, HIGHEST))
    for one, other in ((alice, bob), (bob, alice), (carol, bob), (carol, alice)):
        with refused(403, "M_FORBIDDEN", what=f"a kick of {other} by {one}"):
            await one.kick(room, other)
    with refused(403, 400, what="a level for Bob"):
        await alice.set_power(room, (bob, 50))
    for wrong in ("bob", [7], [bob.user_id, "bob"], {bob.user_id: True}):
        with refused(400, 403, what=f"a room with the additional creators {wrong!r}"):
            await alice.create_room(room_version="12", creation_content={"additional_creators": wrong})
    with refused(403, 400, what="another first event, with Carol in it"):
        await alice.set_state(room, "m.room.create", {"additional_creators": [carol.user_id], "room_version": "12"})


@story(
    "Those who are invited into a trusted private chat made it with Alice",
    shows="client-server API, 'Creation': POST /createRoom, creation_content: additional_creators and invite combined",
    needs=users(4) + TWELVE,
)
async def trusted(scene: Scene) -> None:
    alice, bob, carol, dan = scene.users
    room = await alice.create_room(
        room_version="12",
        preset="trusted_private_chat",
        invite=[bob, carol],
        creation_content={"additional_creators": [carol.user_id, dan.user_id]},
    )
    creators = (await alice.state(room, "m.room.create")).get("additional_creators")
    check_equal(
        sorted(each.user_id for each in (bob, carol, dan)), sorted(creators or []), "the other creators, once each"
    )
    await bob.join(room)
    with refused(403, "M_FORBIDDEN", what="Alice's kick of Bob"):
        await alice.kick(room, bob)


@story(
    "An administrator of a room of version 12 does not end it; who made it does",
    shows="client-server API, 'Creation': POST /createRoom, the level of m.room.tombstone in room version 12",
    needs=users(2) + TWELVE,
)
async def ends_it(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, room_version="12")
    levels = await alice.state(room, "m.room.power_levels")
    level = levels.get("events", {}).get("m.room.tombstone", 0)
    check(level > levels.get("state_default", 50), "a level for tombstones above that for other state", came=levels)
    await alice.set_power(room, (bob, 100))
    end = {"body": "We have moved", "replacement_room": "!other:example.org"}
    with refused(403, "M_FORBIDDEN", what="a tombstone by Bob"):
        await bob.set_state(room, "m.room.tombstone", end)
    await bob.set_state(room, "m.room.topic", {"topic": "Bob's"})
    await alice.set_state(room, "m.room.tombstone", end)
