"""Who gets into a room, how they are asked, and how they find it."""

from sytest_scenarios.actors import Room
from sytest_scenarios.asking import text
from sytest_scenarios.expect import check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users


@story("Alice makes a room with a name and a topic", shows="client-server API, 'Creation'", needs=users(1))
async def makes_a_room(scene: Scene) -> None:
    (alice,) = scene.users
    room = await alice.create_room(name="The kitchen", topic="What is for dinner")
    check_equal("The kitchen", (await alice.state(room, "m.room.name")).get("name"), "the name of the room")
    check_equal("What is for dinner", (await alice.state(room, "m.room.topic")).get("topic"), "the topic")
    check_equal({alice.user_id: "join"}, await alice.members(room), "the members")


@story(
    "Bob is invited, sees by whom and to what, and joins", shows="client-server API, 'Room membership'", needs=users(2)
)
async def invited(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(invite=[bob], name="The kitchen")
    await bob.until("an invite", lambda view: room.id in view.invites)
    invite = bob.view.room(room).state["m.room.member", bob.user_id]
    check_equal(alice.user_id, invite["sender"], "who invites Bob")
    check_equal("The kitchen", bob.view.room(room).content("m.room.name").get("name"), "the name in the invite")
    await bob.join(room)
    await bob.until("the room among the joined ones", lambda view: room.id in view.joined)


@story("Bob declines an invite", shows="client-server API, 'Leaving rooms'", needs=users(2))
async def declines(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(invite=[bob])
    await bob.until("an invite", lambda view: room.id in view.invites)
    await bob.leave(room)
    await alice.until("Bob's leave", lambda view: view.room(room).member(bob.user_id) == "leave")
    await bob.until("no invite any more", lambda view: room.id not in view.invites)


@story(
    "A private room is closed to those who were not invited",
    shows="client-server API, 'Joining rooms'",
    needs=users("Alice", "Eve"),
)
async def closed(scene: Scene) -> None:
    alice, eve = scene.users
    room = await alice.create_room(preset="private_chat")
    with refused(403, "M_FORBIDDEN", what="Eve's join without an invite"):
        await eve.join(room)


@story("Bob finds a public room by its alias", shows="client-server API, 'Room aliases'", needs=users(2))
async def by_alias(scene: Scene) -> None:
    alice, bob = scene.users
    localpart = f"kitchen-{alice.localpart}"
    room = await alice.create_room(preset="public_chat", room_alias_name=localpart)
    alias = f"#{localpart}:{alice.user_id.partition(':')[2]}"
    found = await bob.get(path_of("directory", "room", alias))
    check_equal(room.id, text(found, "room_id"), "the room that the alias leads to")
    check_equal(Room(room.id), await bob.join(alias), "the room that Bob joins by the alias")
    check_equal("join", (await alice.members(room)).get(bob.user_id), "Bob's membership, as Alice sees it")


@story(
    "Bob, who comes later, reads what was said before in a room with shared history",
    shows="client-server API, 'Room history visibility': shared",
    needs=users(2),
)
async def reads_what_was_before(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(preset="public_chat")
    await alice.say(room, "before")
    await bob.join(room)
    await alice.say(room, "after")
    check_equal(["before", "after"], await bob.texts(room), "what Bob reads")


@story(
    "Bob, who comes later, does not read what was said before he joined where history says so",
    shows="client-server API, 'Room history visibility': joined",
    needs=users(2),
)
async def does_not_read_what_was_before(scene: Scene) -> None:
    alice, bob = scene.users
    visibility = {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "joined"}}
    room = await alice.create_room(preset="public_chat", initial_state=[visibility])
    said = await alice.say(room, "before")
    await bob.join(room)
    await alice.say(room, "after")
    check_equal(["after"], await bob.texts(room), "what Bob reads")
    with refused(403, 404, what="Bob's look at the earlier message"):
        await bob.event(room, said)
