"""Moving a room to another version: what goes along, and what becomes of the old room."""

from sytest_scenarios.actors import Room, User
from sytest_scenarios.asking import text
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

UPGRADES = "client-server API, 'Room Upgrades'"


async def _upgrade(user: User, room: Room, version: str, **more: object) -> Room:
    return Room(text(await user.post(room.path("upgrade"), {"new_version": version, **more}), "replacement_room"))


@story(
    "A room and the one that follows it name each other, and what is set goes along",
    shows=f"{UPGRADES}, 'Server behaviour', 2, 3 and 5",
    needs=users(2),
)
async def goes_along(scene: Scene) -> None:
    alice, bob = scene.users
    old = await alice.create_room_with(
        bob, room_version="9", name="The kitchen", topic="Dinner", creation_content={"type": "org.example.map"}
    )
    await alice.set_state(old, "m.room.history_visibility", {"history_visibility": "joined"})
    await alice.set_power(old, (bob, 40), events={"m.room.topic": 40})
    new = await _upgrade(alice, old, "11")
    tombstone = await bob.until("the tombstone", lambda view: view.room(old).content("m.room.tombstone"))
    check_equal(new.id, tombstone.get("replacement_room"), "the room that the tombstone names")
    made = await alice.state(new, "m.room.create")
    check_equal(old.id, made["predecessor"]["room_id"], "the room that the new one follows")
    check_equal(["11", "org.example.map"], [made.get("room_version"), made.get("type")], "its version and type")
    state = {event_type: each["content"] for (event_type, _), each in (await alice.whole_state(new)).items()}
    check_equal("The kitchen", state["m.room.name"].get("name"), "the name")
    check_equal("joined", state["m.room.history_visibility"].get("history_visibility"), "who reads what was said")
    check_equal("invite", state["m.room.join_rules"].get("join_rule"), "the join rule")
    levels = state["m.room.power_levels"]
    check_equal([40, 40], [levels["users"].get(bob.user_id), levels["events"].get("m.room.topic")], "Bob's power")
    check_equal(0, levels.get("events_default"), "who may speak in the new room")
    await alice.invite(new, bob)
    await bob.join(new)
    await bob.set_state(new, "m.room.topic", {"topic": "Supper"})


@story(
    "After the move nobody speaks in the old room any more, and everybody reads it",
    shows=f"{UPGRADES}, 'Server behaviour', 6; 'If possible, the power levels in the old room should be modified'",
    needs=users(3),
)
async def old_room_is_muted(scene: Scene) -> None:
    alice, bob, carol = scene.users
    old = await alice.create_room_with(bob, preset="public_chat", room_version="10")
    await bob.say(old, "before")
    new = await _upgrade(alice, old, "11")
    with refused(403, "M_FORBIDDEN", what="Bob's message in the old room"):
        await bob.say(old, "after")
    with refused(403, "M_FORBIDDEN", what="Bob's invite into the old room"):
        await bob.invite(old, carol)
    check("before" in await bob.texts(old), "what was said before in the old room", came=await bob.texts(old))
    await bob.join(new)
    await bob.say(new, "here we are")
    check_equal(["here we are"], await alice.texts(new), "what Alice reads in the new room")


@story(
    "The alias of a room and its place in the directory move with it",
    shows=f"{UPGRADES}, 'Server behaviour', 4: 'Moves any local aliases to the new room'",
    needs=users(2),
)
async def aliases_move(scene: Scene) -> None:
    alice, bob = scene.users
    localpart = f"kitchen-{alice.localpart}"
    alias = f"#{localpart}:{alice.user_id.partition(':')[2]}"
    old = await alice.create_room(preset="public_chat", room_version="10", room_alias_name=localpart)
    other = alias.replace("kitchen", "galley")
    await alice.put(path_of("directory", "room", other), {"room_id": old.id})
    new = await _upgrade(alice, old, "11")
    check_equal([new, new], [await bob.join(alias), await bob.join(other)], "the rooms that the aliases lead to")
    check_equal(alias, (await bob.state(new, "m.room.canonical_alias")).get("alias"), "the canonical alias")
    left = (await alice.get(old.path("aliases")))["aliases"]
    check_equal([], left, "the aliases of the old room")


@story(
    "Bob finds his tag on the new room when he joins it; Carol, who had none, finds none",
    shows=f"{UPGRADES}, 'Server behaviour': 'some of the user's personalized settings'",
    needs=users(3),
)
async def tags_move(scene: Scene) -> None:
    alice, bob, carol = scene.users
    old = await alice.create_room_with(bob, carol, preset="public_chat", room_version="10")
    tag = {"order": 0.25}
    await bob.put(path_of("user", bob.user_id, "rooms", old.id, "tags", "m.favourite"), tag)
    new = await _upgrade(alice, old, "11")
    await bob.join(new)
    await carol.join(new)
    tags = await bob.until("the tag on the new room", lambda view: view.room(new).account_data["m.tag"])
    check_equal({"m.favourite": tag}, tags["tags"], "Bob's tags of the new room")
    found = await carol.get(path_of("user", carol.user_id, "rooms", new.id, "tags"))
    check_equal({}, found["tags"], "Carol's tags of it")


@story(
    "Only who may end a room moves it, and only to a version that there is",
    shows=f"{UPGRADES}, 'Server behaviour', 1; POST /rooms/{{roomId}}/upgrade, 400, 403",
    needs=users("Alice", "Bob", "Eve"),
)
async def refuses(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await alice.create_room_with(bob, room_version="10")
    await alice.set_power(room, (bob, 50), events={"m.room.tombstone": 60})
    with refused(400, "M_UNSUPPORTED_ROOM_VERSION", what="a move to a version that is not there"):
        await _upgrade(alice, room, "org.example.none")
    with refused(403, "M_FORBIDDEN", what="a move by Bob"):
        await _upgrade(bob, room, "11")
    with refused(403, 404, what="a move by Eve, who is not in the room"):
        await _upgrade(eve, room, "11")
    check(("m.room.tombstone", "") not in await alice.whole_state(room), "no tombstone", came="one")
    rooms = [(await who.get("/joined_rooms"))["joined_rooms"] for who in (alice, bob, eve)]
    check_equal([[room.id], [room.id], []], rooms, "the rooms of Alice, Bob and Eve")
    await bob.say(room, "we stay here")


@story(
    "Who moves a room to version 12 is above all there, with those that they name",
    shows=f"{UPGRADES}: additional_creators; room version 12, 'Authorisation rules', 10.4",
    needs=users(3) + feature("room version 12"),
)
async def to_version_12(scene: Scene) -> None:
    alice, bob, carol = scene.users
    old = await alice.create_room_with(bob, carol, room_version="11", preset="public_chat")
    await alice.set_power(old, (carol, 100))
    new = await _upgrade(alice, old, "12", additional_creators=[bob.user_id])
    made = await alice.state(new, "m.room.create")
    check_equal([bob.user_id], made.get("additional_creators"), "the other creators")
    check_equal({carol.user_id: 100}, (await alice.state(new, "m.room.power_levels")).get("users"), "the levels")
    await bob.join(new)
    await carol.join(new)
    for creator in (alice, bob):
        with refused(403, "M_FORBIDDEN", what=f"Carol's kick of {creator}"):
            await carol.kick(new, creator)
    await bob.kick(new, carol)
