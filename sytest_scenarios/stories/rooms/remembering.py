"""Who reads what was said when: the four kinds of history visibility, changes of them, and looking in from outside."""

from sytest_scenarios.actors import initial
from sytest_scenarios.asking import together
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users

HISTORY = "client-server API, 'Room History Visibility'"
EVENT = "m.room.history_visibility"


@story(
    "Bob reads what was said before he was asked in, since then, or since he came, as the room has it",
    shows=f"{HISTORY}: the four kinds",
    needs=users(2),
)
async def four_kinds(scene: Scene) -> None:
    alice, bob = scene.users
    read = {
        "world_readable": ["before", "while invited", "after"],
        "shared": ["before", "while invited", "after"],
        "invited": ["while invited", "after"],
        "joined": ["after"],
    }

    async def tell(kind: str) -> None:
        room = await alice.create_room(initial_state=[initial(EVENT, {"history_visibility": kind})])
        await alice.say(room, "before")
        await alice.invite(room, bob)
        await alice.say(room, "while invited")
        await bob.join(room)
        await alice.say(room, "after")
        check_equal(read[kind], await bob.texts(room), f"what Bob reads where the history is {kind}")
        told = (await bob.sync())["rooms"]["join"][room.id]["timeline"]["events"]
        texts = [each["content"]["body"] for each in told if each["type"] == "m.room.message"]
        check_equal(read[kind][-len(texts) :], texts, f"what Bob is told by /sync where the history is {kind}")

    await together(*(tell(kind) for kind in read))


@story(
    "What was said under a stricter rule stays hidden when the rule is relaxed, and the other way round",
    shows=f"{HISTORY}: 'applied at the point an event is sent'",
    needs=users(2),
)
async def changed_in_between(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(preset="public_chat")
    await alice.say(room, "one, shared")
    await alice.set_state(room, EVENT, {"history_visibility": "joined"})
    hidden = await alice.say(room, "two, for those who are here")
    await alice.set_state(room, EVENT, {"history_visibility": "shared"})
    await alice.say(room, "three, shared")
    await bob.join(room)
    check_equal(["one, shared", "three, shared"], await bob.texts(room), "what Bob reads")
    with refused(403, 404, what="Bob's look at the second message"):
        await bob.event(room, hidden)
    changes = [each["content"]["history_visibility"] for each in await bob.history(room) if each["type"] == EVENT]
    check_equal(["shared", "joined", "shared"], changes, "the changes, all of which Bob may see")


@story(
    "Bob, who was away, reads what was said meanwhile only where history is shared",
    shows=f"{HISTORY}: 'Events stop being accessible when the member's state changes'",
    needs=users(2),
)
async def was_away(scene: Scene) -> None:
    alice, bob = scene.users

    async def read_where(kind: str) -> list[str]:
        state = [initial(EVENT, {"history_visibility": kind})]
        room = await alice.create_room_with(bob, preset="public_chat", initial_state=state)
        await alice.say(room, "before")
        await bob.leave(room)
        await alice.say(room, "meanwhile")
        check_equal(["before"], await bob.texts(room), f"what Bob reads while away where history is {kind}")
        await bob.join(room)
        await alice.say(room, "after")
        return await bob.texts(room)

    joined, shared = await together(read_where("joined"), read_where("shared"))
    check_equal(["before", "after"], joined, "what Bob reads where history is for members")
    check_equal(["before", "meanwhile", "after"], shared, "what Bob reads where history is shared")


@story(
    "Eve looks into a room that everybody may read, without joining, until it is closed",
    shows="client-server API, 'Room Previews'; 'Room History Visibility': world_readable",
    needs=users("Alice", "Eve"),
)
async def looks_in(scene: Scene) -> None:
    alice, eve = scene.users
    state = [initial(EVENT, {"history_visibility": "world_readable"})]
    room = await alice.create_room(preset="private_chat", name="The stage", initial_state=state)
    said = await alice.say(room, "for everybody")
    check_equal(["for everybody"], await eve.texts(room), "what Eve reads")
    check_equal("for everybody", (await eve.event(room, said))["content"]["body"], "the message, by its ID")
    check_equal("The stage", (await eve.state(room, "m.room.name")).get("name"), "the name that Eve reads")
    with refused(403, "M_FORBIDDEN", what="Eve's word from outside"):
        await eve.say(room, "boo")
    check_equal({}, (await eve.catch_up()).rooms, "the rooms that Eve is told of")
    await alice.set_state(room, EVENT, {"history_visibility": "shared"})
    hidden = await alice.say(room, "among ourselves")
    later = await eve.request("GET", room.path("messages"), query={"dir": "b", "limit": 100})
    check("among ourselves" not in later.body.decode(), "no new message for Eve", came=later.body.decode())
    with refused(403, 404, what="Eve's look at what was said after it was closed"):
        await eve.event(room, hidden)


@story(
    "A room is not open to the eyes of those who may join it",
    shows=f"{HISTORY}: 'In all cases except world_readable, a user needs to join a room to view events in that room'",
    needs=users("Alice", "Bob", "Eve"),
)
async def not_before_joining(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await alice.create_room(preset="public_chat", invite=[bob])
    said = await alice.say(room, "among ourselves")
    for who in (bob, eve):
        for path in ("messages", "members", "joined_members", f"context/{said}", f"event/{said}"):
            with refused(403, 404, what=f"{path} for {who}, who has not joined"):
                await who.get(f"{room.path()}/{path}", dir="b")
    await eve.join(room)
    check_equal(["among ourselves"], await eve.texts(room), "what Eve reads once she has joined")


@story(
    "Eve follows a room that everybody may read, from outside",
    shows="client-server API, 'Room Previews': GET …/initialSync, then GET /events",
    needs=users("Alice", "Eve"),
)
async def follows(scene: Scene) -> None:
    alice, eve = scene.users
    state = [initial(EVENT, {"history_visibility": "world_readable"})]
    room, closed = await together(alice.create_room(initial_state=state), alice.create_room())
    await alice.say(room, "first")
    before = await eve.get(room.path("initialSync"))
    bodies = [each["content"].get("body") for each in before["messages"]["chunk"]]
    check("first" in bodies, "what was said first in the preview", came=bodies)
    said = await alice.say(room, "second")
    since: str = before["messages"]["end"]
    heard: list[str] = []
    for _ in range(10):  # presence may be told first
        told = await eve.get("/events", **{"room_id": room.id, "from": since, "timeout": 2000})
        since, heard = told["end"], [*heard, *(each["event_id"] for each in told["chunk"] if "event_id" in each)]
        if heard:
            break
    check_equal([said], heard, "what Eve hears of next")
    with refused(403, "M_FORBIDDEN", what="a preview of the room that is closed"):
        await eve.get(closed.path("initialSync"))
