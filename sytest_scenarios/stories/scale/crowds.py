"""Ten thousand people, scaled: fifty as it is, ten thousand with --scale 200."""

import json
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from typing import Final, TypeVar

from sytest_scenarios.actors import User
from sytest_scenarios.asking import JsonObject, together
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import STREAM, story
from sytest_scenarios.view import part

Thing = TypeVar("Thing")
Made = TypeVar("Made")

AT_ONCE: Final = 20
LONGEST_S: Final = 60
LITTLE: Final = json.dumps(
    {
        "presence": {"types": []},
        "account_data": {"types": []},
        "room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 5, "types": ["m.room.message"]}},
    }
)


async def in_batches(things: Iterable[Thing], do: Callable[[Thing], Awaitable[Made]]) -> list[Made]:
    """Do the same with all things, a few at once, and return what came, in order."""
    everything, made = list(things), []
    for start in range(0, len(everything), AT_ONCE):
        made += await together(*(_doing(do, each) for each in everything[start : start + AT_ONCE]))
    return made


async def _doing(do: Callable[[Thing], Awaitable[Made]], thing: Thing) -> Made:
    return await do(thing)


async def people(scene: Scene, count: int) -> list[User]:
    """Make so many users."""
    return await in_batches(range(1, count + 1), lambda number: scene.new_user(f"User{number}"))


def texts_of(told: JsonObject, room_id: str) -> list[str]:
    """Return what a sync tells of what was said in a room."""
    events = part(told, "rooms", "join", room_id, "timeline").get("events") or []
    return [each["content"]["body"] for each in events if each["type"] == "m.room.message"]


@story(
    "Fifty people join a room, and each hears what Alice says there, once (ten thousand with --scale 200)",
    shows="client-server API, 'Syncing', 'Lazy-loading room members': however many are in the room",
    tags=["scale"],
    time_limit_s=LONGEST_S,
)
async def crowd(scene: Scene) -> None:
    alice, dan = await scene.new_users("Alice", "Dan")
    room = await alice.create_room(preset="public_chat", name="The square")
    crowd = await people(scene, max(2, int(50 * scene.scale)))
    scene.step(f"{len(crowd)} people join")
    await in_batches(crowd, lambda user: user.join(room))
    await alice.say(room, "Good morning, all of you!")
    scene.step("Each of them looks")
    since: dict[str, str] = {}
    wrong: list[str] = []

    async def look(user: User) -> None:
        told = await user.sync(filter=LITTLE, since=since.get(user.user_id))
        found = texts_of(told, room.id)
        expected = ["Good evening!"] if user.user_id in since else ["Good morning, all of you!"]
        since[user.user_id] = told["next_batch"]
        if found != expected:
            wrong.append(f"{user}: {found}")

    await in_batches(crowd, look)
    check(not wrong, "each to hear it once", came=wrong)
    await alice.say(room, "Good evening!")
    await in_batches(crowd, look)
    check(not wrong, "each to hear what came after that, and nothing twice", came=wrong)
    joined = (await alice.get(room.path("joined_members")))["joined"]
    check_equal({alice.user_id, *(each.user_id for each in crowd)}, set(joined), "who is in the room")
    check_equal([], texts_of(await dan.sync(filter=LITTLE), room.id), "what Dan hears, who did not join")


@story(
    "Twenty people keep a stream open, and each hears Alice at once (nine hundred with --scale 45 and more)",
    shows="docs/stream.md, 'What the server sends': however many are listening",
    needs=STREAM,
    tags=["scale"],
    time_limit_s=LONGEST_S,
)
async def listeners(scene: Scene) -> None:
    (alice,) = await scene.new_users("Alice")
    room = await alice.create_room(preset="public_chat")
    # A server takes about a thousand from one address.
    crowd = await people(scene, min(900, max(2, int(20 * scene.scale))))
    await in_batches(crowd, lambda user: user.join(room))
    async with AsyncExitStack() as opened:
        streams = await in_batches(crowd, lambda user: opened.enter_async_context(user.stream(filter=LITTLE)))
        for words in ("Hear ye!", "And again!"):
            said = await alice.say(room, words)
            for stream in streams:
                await stream.until(words, lambda view: view.room(room).event(said))  # noqa: B023
        heard = [stream.view.room(room).texts for stream in streams]
        wrong = [each for each in heard if each != ["Hear ye!", "And again!"]]
        check(not wrong, "each to hear both, once and in order", came=wrong)


@story(
    "A hundred messages of five people are all kept, each once and in order (twenty thousand with --scale 200)",
    shows="client-server API, 'Getting events for a room': GET /messages",
    tags=["scale"],
    time_limit_s=LONGEST_S,
)
async def talk(scene: Scene) -> None:
    speakers = await scene.new_users("Alice", "Bob", "Carol", "Dan", "Eve")
    alice, *others = speakers
    room = await alice.create_room_with(*others)
    each_says = max(2, int(20 * scene.scale))

    async def speak(user: User) -> None:
        for number in range(each_says):
            await user.say(room, f"{user} {number}")

    await together(*(speak(user) for user in speakers))
    found: list[str] = []
    place: str | None = None
    while True:
        page = await alice.get(room.path("messages"), dir="f", limit=100, **({} if place is None else {"from": place}))
        found += [each["content"]["body"] for each in page["chunk"] if each["type"] == "m.room.message"]
        place = page.get("end")
        if place is None:
            break
    check_equal(each_says * len(speakers), len(found), "the number of messages")
    for user in speakers:
        of_user = [each for each in found if each.startswith(f"{user} ")]
        check([f"{user} {number}" for number in range(each_says)] == of_user, f"all of {user}, in order", came=of_user)


@story(
    "Alice is in thirty rooms, and of what is said in one of them only that is told (six thousand with --scale 200)",
    shows="client-server API, 'Syncing': rooms.join holds what has changed",
    tags=["scale"],
    time_limit_s=LONGEST_S,
)
async def rooms(scene: Scene) -> None:
    alice, bob = await scene.new_users("Alice", "Bob")
    count = max(2, int(30 * scene.scale))
    places = await in_batches(range(count), lambda number: alice.create_room(name=f"Room {number}"))
    told = await alice.sync(filter=LITTLE)
    check_equal({each.id for each in places}, set(part(told, "rooms", "join")), "the rooms that Alice is told of")
    chosen = scene.random.choice(places)
    await alice.invite(chosen, bob)
    await bob.join(chosen)
    await bob.say(chosen, "Here you are!")
    later = await alice.sync(filter=LITTLE, since=told["next_batch"])
    check_equal([chosen.id], list(part(later, "rooms", "join")), "the rooms in which something has changed")
    check_equal(["Here you are!"], texts_of(later, chosen.id), "what Alice hears")
