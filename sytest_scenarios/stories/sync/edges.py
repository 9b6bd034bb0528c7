"""Waiting, gaps, filters: what a client can rely on."""

import json

from sytest_scenarios.asking import together
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users


@story(
    "Bob, who waits, is told at once when Alice says something",
    shows="client-server API, 'Syncing': timeout (long polling)",
    needs=users(2),
    tags=["smoke"],
    time_limit_s=20,
)
async def long_poll_wakes(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.until("the room", lambda view: room.id in view.joined)

    async def waits() -> None:
        # For longer than the story may last: a server that answers only when the time is over is too late.
        while "now" not in bob.view.room(room).texts:
            await bob.catch_up(wait_ms=60_000)

    await together(waits(), alice.say(room, "now"))


@story(
    "A gap in the timeline is told, and what is missing can be fetched",
    shows="client-server API, 'Syncing': limited, prev_batch; GET /messages",
    needs=users(2),
)
async def gap(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.catch_up()
    words = [f"message {number}" for number in range(1, 9)]
    for each in words:
        await alice.say(room, each)
    await bob.catch_up(filter=json.dumps({"room": {"timeline": {"limit": 3}}}))
    seen = bob.view.room(room)
    check(seen.limited, "a timeline that is said to be limited", came=seen.texts)
    check_equal(words[-3:], seen.texts, "the end of what was said")
    earlier = await bob.get(room.path("messages"), dir="b", limit=5, **{"from": seen.prev_batch})
    check_equal(words[:5], [each["content"].get("body") for each in earlier["chunk"]][::-1], "what was in the gap")


@story(
    "What Bob does not want to hear of is not told",
    shows="client-server API, 'Filtering': types",
    needs=users(2),
)
async def filtered(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    wanted = {"room": {"timeline": {"types": ["m.room.message"]}}}
    found = await bob.post(f"/user/{bob.user_id}/filter", wanted)
    await alice.set_state(room, "m.room.topic", {"topic": "dinner"})
    await alice.say(room, "Soup!")
    await bob.catch_up(filter=found["filter_id"])
    kinds = {each["type"] for each in bob.view.room(room).timeline}
    check_equal({"m.room.message"}, kinds, "the types of events in the filtered timeline")


@story(
    "What a full sync says is what the syncs before it said together",
    shows="client-server API, 'Syncing': state and timeline",
    needs=users(2),
)
async def full_equals_increments(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.catch_up()
    for number in range(3):
        await alice.set_state(room, "m.room.topic", {"topic": f"topic {number}"})
        await alice.say(room, f"message {number}")
        await bob.catch_up()
    await bob.until("the last message", lambda view: "message 2" in view.room(room).texts)
    step_by_step = {key: each["event_id"] for key, each in bob.view.room(room).state.items()}
    bob.view = type(bob.view)()
    await bob.catch_up()
    at_once = {key: each["event_id"] for key, each in bob.view.room(room).state.items()}
    check_equal(sorted(at_once.items()), sorted(step_by_step.items()), "the state that Bob has put together")
