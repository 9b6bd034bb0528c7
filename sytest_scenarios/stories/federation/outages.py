"""A server is away for a while, and the others go on."""

from sytest_scenarios.asking import text
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.http import Answer, path_of
from sytest_scenarios.props.agreeing import all_texts, same_state, whole_history
from sytest_scenarios.props.waiting import eventually
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import OWN_SERVER, servers, story, users


@story(
    "Bob's server is killed while Alice says five things: when it is back, he reads them, in order, each once",
    shows="server-server API, 'Transactions'",
    needs=users(2) + servers(2) + OWN_SERVER,
    time_limit_s=120,
)
async def short_outage(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.sees(room, await alice.say(room, "0"))
    await bob.server.kill()
    words = [f"{number}" for number in range(1, 6)]
    for each in words:
        await alice.say(room, each)
    await bob.server.start()
    # What comes from a server shows that it is there again.
    await bob.say(room, "I am back")
    await bob.until("what Alice said", lambda view: set(words) <= set(view.room(room).texts), within_s=60)
    texts = [each for each in bob.view.room(room).texts if each != "I am back"]
    check_equal(["0", *words], texts, "what Bob hears of Alice")
    check_equal(["0", *words], [each for each in await all_texts(bob, room) if each in texts], "what Bob reads")
    await same_state(room, alice, bob)


@story(
    "Bob's server misses more than a hundred messages, and he pages back over the gap: none lost, none twice",
    shows="server-server API, 'Backfilling and retrieving missing events'",
    needs=users(2) + servers(2) + OWN_SERVER,
    time_limit_s=150,
)
async def long_outage(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    first = await alice.say(room, "message 0")
    await bob.sees(room, first)
    await bob.server.stop()
    words = [f"message {number}" for number in range(1, int(110 * scene.scale) + 1)]
    for each in words:
        await alice.say(room, each)
    topic = await alice.set_state(room, "m.room.topic", {"topic": "What was said meanwhile"})
    await bob.server.start()
    last = await alice.say(room, "the last")
    await bob.say(room, "I am back")
    await bob.sees(room, last, within_s=60)
    texts = [each for each in await all_texts(bob, room) if each != "I am back"]
    check_equal(["message 0", *words, "the last"], texts, "what Bob reads")
    state = await same_state(room, alice, bob)
    check_equal(topic, state.get("m.room.topic"), "the topic")
    mine, his = await whole_history(alice, room), await whole_history(bob, room)
    check_equal(len(mine), len(his), "the number of events that Bob sees")


@story(
    "Alice's server, where the room was made, is away; Bob and Carol on two others talk on, and Alice catches up",
    shows="server-server API, 'Transactions'; the room lives on every server that is in it",
    needs=users(3) + servers(3) + OWN_SERVER,
    time_limit_s=150,
)
async def three_servers(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol, preset="public_chat")
    said = await carol.say(room, "All here")
    for each in scene.users:
        await each.sees(room, said)
    await alice.server.stop()
    asked = await bob.say(room, "Where is Alice?")
    await carol.sees(room, asked)
    answered = await carol.say(room, "Away")
    await bob.sees(room, answered)
    await alice.server.start()
    await alice.say(room, "Here I am")
    for event_id in (asked, answered):
        await alice.sees(room, event_id, within_s=60)
    words = [each for each in await all_texts(alice, room) if each != "Here I am"]
    check_equal(["All here", "Where is Alice?", "Away"], words, "what Alice reads")
    await same_state(room, *scene.users)


@story(
    "While Alice's server is away Bob cannot enter, can leave, and can decline; when it is back, she is told",
    shows="client-server API, 'Leaving rooms'; server-server API, 'Leaving Rooms (Rejecting Invites)'",
    needs=users(2) + servers(2) + OWN_SERVER,
    time_limit_s=150,
)
async def leaving_alone(scene: Scene) -> None:
    alice, bob = scene.users
    shared = await alice.create_room_with(bob, preset="private_chat")
    declined = await alice.create_room(preset="private_chat", invite=[bob])
    public = await alice.create_room(preset="public_chat")
    await bob.until("the invite", lambda view: declined.id in view.invites)

    async def enters() -> Answer:
        return await bob.request("POST", path_of("join", public.id), {}, query={"via": alice.server.name})

    await alice.server.kill()
    answer = await enters()
    check(answer.status >= 400 and answer.errcode, "an error with an errcode", came=f"{answer.status} {answer.body!r}")
    await bob.leave(shared)
    await bob.leave(declined)
    check_equal([], (await bob.get("/joined_rooms")).get("joined_rooms"), "the rooms that Bob is in")
    await bob.until("no invite any more", lambda view: not view.invites)
    await alice.server.start()
    # Bob's server may leave alone for a moment what did not answer.
    await eventually("Bob to get in", enters, lambda answer: answer.status == 200, within_s=60)
    await alice.until("Bob to have left", lambda view: view.room(shared).member(bob.user_id) == "leave", within_s=60)
    check_equal("join", text(await alice.state(public, "m.room.member", bob.user_id), "membership"), "Bob's membership")
