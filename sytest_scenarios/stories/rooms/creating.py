"""What a room is like when it is made: presets, initial state, room versions, and what is refused."""

from typing import Any

from sytest_scenarios.actors import Room, User, initial
from sytest_scenarios.asking import together
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users
from sytest_scenarios.view import content_of, part

CREATION = "client-server API, 'Creation': POST /createRoom"


async def _settings(user: User, room: Room) -> dict[str, Any]:
    """Return the join rule, the history visibility and the guest access (forbidden, if nothing is said of it)."""
    state = {event_type: content_of(each) for (event_type, _), each in (await user.whole_state(room)).items()}
    return {
        "join_rule": state["m.room.join_rules"].get("join_rule"),
        "history_visibility": state["m.room.history_visibility"].get("history_visibility"),
        "guest_access": state.get("m.room.guest_access", {}).get("guest_access", "forbidden"),
    }


@story(
    "A private chat is for those who are invited, and who made it has the say",
    shows=f"{CREATION}, preset",
    needs=users("Alice", "Bob", "Eve"),
)
async def private_chat(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await alice.create_room_with(bob, preset="private_chat")
    given = {"join_rule": "invite", "history_visibility": "shared", "guest_access": "can_join"}
    check_equal(given, await _settings(alice, room), "what a private chat is like")
    with refused(403, "M_FORBIDDEN", what="a name by Bob, who is no more than a member"):
        await bob.set_state(room, "m.room.name", {"name": "Bob's"})
    with refused(403, "M_FORBIDDEN", what="Eve's join"):
        await eve.join(room)


@story(
    "A room for the directory is a public chat, any other a private one, if no preset is said",
    shows=f"{CREATION}, visibility and preset",
    needs=users("Alice", "Eve"),
)
async def by_visibility(scene: Scene) -> None:
    alice, eve = scene.users
    open_room, closed_room = await together(alice.create_room(visibility="public"), alice.create_room())
    given = {"join_rule": "public", "history_visibility": "shared", "guest_access": "forbidden"}
    check_equal(given, await _settings(alice, open_room), "what a room for the directory is like")
    check_equal("invite", (await _settings(alice, closed_room))["join_rule"], "the join rule of the other")
    await eve.join(open_room)
    with refused(403, "M_FORBIDDEN", what="Eve's join of the other"):
        await eve.join(closed_room)


@story(
    "In a trusted private chat those who are invited from the beginning have Alice's power",
    shows=f"{CREATION}, preset trusted_private_chat",
    needs=users(3),
)
async def trusted_private_chat(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, preset="trusted_private_chat")
    check_equal("invite", (await _settings(alice, room))["join_rule"], "the join rule")
    await bob.invite(room, carol)
    await carol.join(room)
    with refused(403, "M_FORBIDDEN", what="a topic by Carol, who was invited later"):
        await carol.set_state(room, "m.room.topic", {"topic": "Carol's"})
    with refused(403, "M_FORBIDDEN", what="Alice's kick of Bob, who has her power"):
        await alice.kick(room, bob)
    await bob.set_power(room, (carol, 100))
    await carol.set_state(room, "m.room.topic", {"topic": "Carol's"})


@story(
    "What Alice says of the state goes before the preset, and the name before that",
    shows=f"{CREATION}, initial_state: takes precedence over the preset, is overridden by name",
    needs=users(2),
)
async def initial_state(scene: Scene) -> None:
    alice, bob = scene.users
    wishes = [
        initial("m.room.join_rules", {"join_rule": "public"}),
        initial("m.room.name", {"name": "The cellar"}),
        initial("org.example.color", {"color": "red"}, "door"),
        initial("org.example.color", {"color": "blue"}, "window"),
    ]
    room = await alice.create_room(preset="private_chat", name="The kitchen", initial_state=wishes)
    await bob.join(room)
    check_equal("The kitchen", (await bob.state(room, "m.room.name")).get("name"), "the name")
    check_equal({"color": "red"}, await bob.state(room, "org.example.color", "door"), "the color of the door")
    check_equal({"color": "blue"}, await bob.state(room, "org.example.color", "window"), "the color of the window")
    check_equal("shared", (await _settings(bob, room))["history_visibility"], "what is left to the preset")


@story(
    "Bob learns that Alice's invite is to a direct conversation",
    shows=f"{CREATION}, is_direct; 'Direct Messaging'",
    needs=users(3),
)
async def direct(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room(invite=[bob], is_direct=True)
    other = await alice.create_room(invite=[carol])
    await bob.until("an invite", lambda view: room.id in view.invites)
    await carol.until("an invite", lambda view: other.id in view.invites)
    asked = bob.view.room(room).content("m.room.member", bob.user_id)
    check_equal(True, asked.get("is_direct"), "is_direct in Bob's invite")
    check_equal(
        None,
        carol.view.room(other).content("m.room.member", carol.user_id).get("is_direct"),
        "is_direct in the invite to another room",
    )


@story(
    "The create event says what Alice wants it to, but not another version or creator",
    shows=f"{CREATION}, creation_content: the server overwrites creator and room_version",
    needs=users(2),
)
async def creation_content(scene: Scene) -> None:
    alice, bob = scene.users
    wishes = {"m.federate": False, "type": "org.example.map", "room_version": "3", "creator": bob.user_id}
    room = await alice.create_room(preset="public_chat", room_version="10", creation_content=wishes)
    made = (await alice.whole_state(room))["m.room.create", ""]
    check_equal(alice.user_id, made.get("sender"), "who made the room")
    wanted = {"m.federate": False, "type": "org.example.map", "room_version": "10", "creator": alice.user_id}
    check_equal(wanted, {key: content_of(made).get(key) for key in wanted}, "the content of the create event")
    await bob.join(room)


@story(
    "Alice and Bob talk in a room of each version that the server has",
    shows="client-server API, 'm.room_versions capability'; rooms, 'Complete list of room versions'",
    needs=users(2),
)
async def every_version(scene: Scene) -> None:
    alice, bob = scene.users
    told = part(await alice.get("/capabilities"), "capabilities", "m.room_versions")
    stable = [version for version, stability in part(told, "available").items() if stability == "stable"]
    check(told.get("default") in stable, "the default version among the stable ones", came=told)

    async def talk(version: str) -> None:
        room = await alice.create_room_with(bob, room_version=version)
        check_equal(version, (await bob.state(room, "m.room.create")).get("room_version", "1"), "the version")
        said = await alice.say(room, f"in version {version}")
        with refused(403, "M_FORBIDDEN", what=f"Bob's kick of Alice in version {version}"):
            await bob.kick(room, alice)
        check_equal(f"in version {version}", (await bob.event(room, said))["content"]["body"], "what Bob reads")

    await together(*(talk(version) for version in stable))


@story(
    "What the power levels of a new room are to be, Alice says; the rest is as always",
    shows=f"{CREATION}, power_level_content_override",
    needs=users(2),
)
async def power_override(scene: Scene) -> None:
    alice, bob = scene.users
    override = {"events_default": 10, "ban": 75, "users": {alice.user_id: 100, bob.user_id: 20}}
    room = await alice.create_room_with(bob, room_version="11", power_level_content_override=override)
    levels = await alice.state(room, "m.room.power_levels")
    check_equal(override, {key: levels.get(key) for key in override}, "what was overridden")
    check_equal(50, levels.get("state_default"), "what was not")
    await bob.say(room, "I have 20, and 10 are enough")
    with refused(403, "M_FORBIDDEN", what="a topic by Bob"):
        await bob.set_state(room, "m.room.topic", {"topic": "Bob's"})


@story(
    "A room that cannot be made leaves nothing behind",
    shows=f"{CREATION}, 400: M_ROOM_IN_USE, M_UNSUPPORTED_ROOM_VERSION",
    needs=users(2),
)
async def cannot_be_made(scene: Scene) -> None:
    alice, bob = scene.users
    taken = f"taken-{alice.localpart}"
    await alice.create_room(room_alias_name=taken)
    before = (await alice.get("/joined_rooms"))["joined_rooms"]
    with refused(400, "M_ROOM_IN_USE", what="a room by an alias that leads elsewhere"):
        await alice.create_room(room_alias_name=taken, invite=[bob])
    with refused(400, "M_UNSUPPORTED_ROOM_VERSION", what="a room of a version that is not there"):
        await alice.create_room(room_version="org.example.none", invite=[bob])
    with refused(400, what="a room with an invite to what is no user ID"):
        await alice.create_room(invite=[bob, "nobody"])
    check_equal(before, (await alice.get("/joined_rooms"))["joined_rooms"], "the rooms that Alice is in")
    check_equal([], (await bob.catch_up()).invites, "Bob's invites")


@story(
    "Alice cannot make a room in which she may not do what its making does",
    shows=f"{CREATION}, 400: M_INVALID_ROOM_STATE",
    needs=users(1),
    unlike={"synapse": "answers 403 M_FORBIDDEN; the spec, 'POST /createRoom', says 400 M_INVALID_ROOM_STATE"},
)
async def impossible_state(scene: Scene) -> None:
    (alice,) = scene.users
    with refused(400, "M_INVALID_ROOM_STATE", what="a name where Alice may not set one"):
        await alice.create_room(
            name="The kitchen", room_version="11", power_level_content_override={"users": {alice.user_id: 0}}
        )
    check_equal([], (await alice.get("/joined_rooms"))["joined_rooms"], "the rooms that Alice is in")
