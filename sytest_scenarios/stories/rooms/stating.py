"""The state of a room: reading and setting it, and what it may not be."""

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users

READING = "client-server API, 'Getting events for a room'"
SETTING = "client-server API, 'Sending events to a room'"


@story(
    "Bob reads all of the state, one piece of it, and the whole event",
    shows=f"{READING}: format",
    needs=users("Alice", "Bob", "Eve"),
)
async def reads_state(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await alice.create_room_with(bob, name="The kitchen")
    said = await alice.set_state(room, "m.room.topic", {"topic": "Dinner"})
    state = await bob.whole_state(room)
    check_equal(said, state["m.room.topic", ""].get("event_id"), "the topic in all of the state")
    check_equal({alice.user_id, bob.user_id}, {key for kind, key in state if kind == "m.room.member"}, "the members")
    check_equal("Dinner", (await bob.state(room, "m.room.topic")).get("topic"), "the content")
    event = await bob.get(room.path("state", "m.room.topic", ""), format="event")
    told = {"event_id": said, "sender": alice.user_id, "state_key": "", "type": "m.room.topic"}
    check_equal(told, {key: event.get(key) for key in told}, "the event")
    with refused(404, "M_NOT_FOUND", what="state that is not there"):
        await bob.state(room, "m.room.topic", "another")
    for path in (room.path("state"), room.path("state", "m.room.topic")):
        with refused(403, "M_FORBIDDEN", what="the state for Eve, who never was in the room"):
            await eve.get(path)


@story(
    "State is kept by its key, and setting it again replaces it",
    shows=f"{SETTING}: PUT …/state/{{eventType}}/{{stateKey}}, the trailing slash is optional",
    needs=users(1),
)
async def by_key(scene: Scene) -> None:
    (alice,) = scene.users
    room = await alice.create_room()
    await alice.put(room.path("state", "org.example.color"), {"color": "red"})
    await alice.set_state(room, "org.example.color", {"color": "blue"}, "ünicode/ key")
    check_equal({"color": "red"}, await alice.state(room, "org.example.color"), "the one without a key")
    await alice.put(room.path("state", "org.example.color", ""), {"color": "green"})
    check_equal({"color": "green"}, await alice.get(room.path("state", "org.example.color")), "the one set anew")
    check_equal({"color": "blue"}, await alice.state(room, "org.example.color", "ünicode/ key"), "the other")
    kept = [key for kind, key in await alice.whole_state(room) if kind == "org.example.color"]
    check_equal(["", "ünicode/ key"], sorted(kept), "the keys")


@story(
    "State that is kept under somebody's user ID is set by nobody else",
    shows="room version 12, 'Authorisation rules', 9: a state_key that starts with @",
    needs=users(2),
)
async def under_a_user_id(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await alice.set_power(room, (bob, 50))
    await bob.set_state(room, "org.example.mood", {"mood": "fine"}, bob.user_id)
    with refused(403, "M_FORBIDDEN", what="Alice's word on Bob's mood"):
        await alice.set_state(room, "org.example.mood", {"mood": "sour"}, bob.user_id)
    with refused(403, "M_FORBIDDEN", what="Alice's word on the mood of somebody who is not there"):
        await alice.set_state(room, "org.example.mood", {"mood": "sour"}, "@nobody:example.org")
    check_equal("fine", (await alice.state(room, "org.example.mood", bob.user_id)).get("mood"), "Bob's mood")


@story(
    "State that is too large is refused, and the room goes on", shows="client-server API, 'Size limits'", needs=users(2)
)
async def too_large(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await alice.set_state(room, "org.example.large", {"text": "x" * 60_000})
    with refused(413, 400, "M_TOO_LARGE", what="a content of 65536 bytes"):
        await alice.set_state(room, "org.example.large", {"text": "x" * 65_536})
    await alice.set_state(room, "org.example.key", {}, "ü" * 127)
    with refused(413, 400, what="a state key of 256 bytes, though of 128 characters"):
        await alice.set_state(room, "org.example.key", {}, "ü" * 128)
    with refused(413, 400, what="a type of 256 bytes"):
        await alice.set_state(room, f"org.example.{'x' * 244}", {})
    check_equal(60_000, len((await bob.state(room, "org.example.large"))["text"]), "the length of what Bob reads")


@story(
    "Bob's room stays as it was when he left",
    shows=f"{READING}: 'the state is taken from the state of the room when they left'",
    needs=users(3),
)
async def frozen(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, preset="public_chat", topic="Dinner")
    await alice.say(room, "while Bob is here")
    await bob.leave(room)
    await alice.set_state(room, "m.room.topic", {"topic": "Bob"})
    await carol.join(room)
    unheard = await alice.say(room, "now that he is gone")
    check_equal("Dinner", (await bob.state(room, "m.room.topic")).get("topic"), "the topic that Bob reads")
    state = await bob.whole_state(room)
    check(("m.room.member", carol.user_id) not in state, "Carol not in Bob's state", came=list(state))
    check_equal("leave", (await bob.members(room)).get(bob.user_id), "Bob's membership as he reads it")
    check_equal(["while Bob is here"], await bob.texts(room), "what Bob reads")
    with refused(403, 404, what="Bob's look at what was said later"):
        await bob.event(room, unheard)
    check_equal("Bob", (await carol.state(room, "m.room.topic")).get("topic"), "the topic that Carol reads")


@story(
    "Who may keep servers out of the room says so in its state, and nobody else does",
    shows="client-server API, 'Server Access Control Lists (ACLs) for rooms'",
    needs=users(2),
)
async def access_control(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    rules = {"allow": ["*"], "deny": ["*.bad.example", "bad.example"], "allow_ip_literals": True}
    with refused(403, "M_FORBIDDEN", what="Bob's rules"):
        await bob.set_state(room, "m.room.server_acl", rules)
    await alice.set_state(room, "m.room.server_acl", rules)
    check_equal(rules, await bob.state(room, "m.room.server_acl"), "the rules that Bob reads")
    await bob.say(room, "my server is not denied")


@story(
    "Nobody sets the state of a room that is not there, or of one that they are not in",
    shows=f"{SETTING}: 403",
    needs=users("Alice", "Bob", "Eve"),
)
async def not_ones_own(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await alice.create_room(preset="public_chat", topic="Dinner", invite=[bob])
    for who in (bob, eve):
        with refused(403, "M_FORBIDDEN", what=f"a topic by {who}, who is not in the room"):
            await who.set_state(room, "m.room.topic", {"topic": "mine"})
        with refused(403, "M_FORBIDDEN", what=f"{who} adding Alice to the members of the room by hand"):
            await who.set_state(room, "m.room.member", {"membership": "join"}, alice.user_id)
    with refused(403, 404, what="a topic of a room that is not there"):
        await alice.put(path_of("rooms", "!nothing:example.org", "state", "m.room.topic"), {"topic": "mine"})
    check_equal("Dinner", (await alice.state(room, "m.room.topic")).get("topic"), "the topic")
