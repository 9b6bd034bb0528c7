"""The room directory, summaries of rooms, and finding an event by its time."""

import time
from typing import Any

from sytest_scenarios.actors import Room, User
from sytest_scenarios.asking import objects, sleep, together
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.session import WAIT_S
from sytest_scenarios.story import feature, story, users

DIRECTORY = "client-server API, 'Published room directory'"


async def _found(user: User, term: str, **more: Any) -> list[dict[str, Any]]:
    """Return what the directory has for a word that only one story uses."""
    types = more.pop("room_types", None)
    search = {"generic_search_term": term, **({} if types is None else {"room_types": types})}
    return objects((await user.post("/publicRooms", {"filter": search, **more})).get("chunk"))


async def _listed(user: User, term: str, *wanted: Room) -> list[dict[str, Any]]:
    """Wait until the directory, which may lag behind, has just these rooms for the word; return their entries."""
    deadline = time.monotonic() + WAIT_S
    while _rooms(found := await _found(user, term)) != set(wanted) and time.monotonic() < deadline:
        await sleep(0.1)
    check_equal(set(wanted), _rooms(found), f"what {user} finds by the word {term}")
    return found


def _rooms(chunk: list[dict[str, Any]]) -> set[Room]:
    return {Room(each["room_id"]) for each in chunk}


@story("Bob finds in the directory what Alice publishes, as long as she does", shows=DIRECTORY, needs=users(2))
async def published(scene: Scene) -> None:
    alice, bob = scene.users
    word = f"word{alice.localpart}"
    hidden = await alice.create_room(preset="public_chat", name=f"{word} hidden")
    room = await alice.create_room(visibility="public", name=f"{word} shown", topic="Dinner")
    (entry,) = await _listed(bob, word, room)
    told = {"room_id": room.id, "name": f"{word} shown", "topic": "Dinner", "num_joined_members": 1}
    told |= {"world_readable": False, "guest_can_join": False}
    check_equal(told, {key: entry.get(key) for key in told}, "the entry")
    listing = path_of("directory", "list", "room", room.id)
    check_equal("public", (await bob.get(listing)).get("visibility"), "the visibility")
    await alice.put(listing, {"visibility": "private"})
    await alice.put(path_of("directory", "list", "room", hidden.id), {"visibility": "public"})
    await _listed(bob, word, hidden)
    await bob.join(room)


@story(
    "Eve, who has no say in a room, does not publish it",
    shows=f"{DIRECTORY}: PUT /directory/list/room/{{roomId}}, access control",
    needs=users("Alice", "Bob", "Eve"),
)
async def not_by_others(scene: Scene) -> None:
    alice, bob, eve = scene.users
    word = f"word{alice.localpart}"
    room = await alice.create_room_with(bob, name=word)
    for who in (bob, eve):
        with refused(403, "M_FORBIDDEN", what=f"publishing by {who}"):
            await who.put(path_of("directory", "list", "room", room.id), {"visibility": "public"})
    check_equal([], await _found(eve, word), "what Eve finds")
    with refused(404, "M_NOT_FOUND", what="the visibility of a room that is not there"):
        await eve.get(path_of("directory", "list", "room", "!nothing:example.org"))


@story(
    "Bob searches the directory by name, topic and kind of room",
    shows=f"{DIRECTORY}: POST /publicRooms, generic_search_term, room_types",
    needs=users(2),
)
async def searched(scene: Scene) -> None:
    alice, bob = scene.users
    word, other = f"Word{alice.localpart}", f"other{alice.localpart}"
    by_name, by_topic, space, _ = await together(
        alice.create_room(visibility="public", name=f"The {word} room"),
        alice.create_room(visibility="public", name=other, topic=f"On {word}"),
        alice.create_room(visibility="public", name=f"{word} space", creation_content={"type": "m.space"}),
        alice.create_room(visibility="public", name=other, topic="On something else"),
    )
    await _listed(bob, word, by_name, by_topic, space)
    await _listed(bob, word.lower(), by_name, by_topic, space)
    check_equal({space}, _rooms(await _found(bob, word, room_types=["m.space"])), "among the spaces")
    check_equal({by_name, by_topic}, _rooms(await _found(bob, word, room_types=[None])), "among rooms of no type")


@story("Bob pages through the directory, there and back", shows=f"{DIRECTORY}: limit, since", needs=users(2))
async def paged(scene: Scene) -> None:
    alice, bob = scene.users
    word = f"word{alice.localpart}"
    rooms = await together(*(alice.create_room(visibility="public", name=f"{word} {each}") for each in range(5)))
    await _listed(bob, word, *rooms)
    pages: list[set[Room]] = []
    told: dict[str, Any] = {}
    while not pages or "next_batch" in told:
        asked = {"filter": {"generic_search_term": word}, "limit": 2, "since": told.get("next_batch")}
        told = await bob.post("/publicRooms", {key: value for key, value in asked.items() if value is not None})
        pages.append(_rooms(told["chunk"]))
    check_equal([2, 2, 1], [len(each) for each in pages], "the sizes of the pages")
    check_equal(set(rooms), set().union(*pages), "what Bob found on them")
    back = {"filter": {"generic_search_term": word}, "limit": 2, "since": told["prev_batch"]}
    check_equal(pages[1], _rooms((await bob.post("/publicRooms", back))["chunk"]), "the page before the last")
    one = await bob.get("/publicRooms", limit=1)
    check_equal(1, len(one["chunk"]), "the rooms on a page of one")


@story(
    "Bob learns of a room what it is before he joins; Eve nothing of one that is not for her",
    shows="client-server API, 'Room Summaries'",
    needs=users("Alice", "Bob", "Eve") + feature("room summaries"),
)
async def summary(scene: Scene) -> None:
    alice, bob, eve = scene.users
    localpart = f"kitchen-{alice.localpart}"
    public = await alice.create_room(
        preset="public_chat", name="The kitchen", room_alias_name=localpart, room_version="11"
    )
    private = await alice.create_room(name="The cellar", invite=[bob])
    path = "/_matrix/client/v1/room_summary"
    alias = f"#{localpart}:{alice.user_id.partition(':')[2]}"
    told = {"room_id": public.id, "name": "The kitchen", "num_joined_members": 1, "join_rule": "public"}
    for way in (public.id, alias):
        found = await eve.get(f"{path}{path_of(way)}")
        check_equal(told, {key: found.get(key) for key in told}, f"the summary by {way}")
    check_equal("11", found.get("room_version"), "the version of the room")
    found = await bob.get(f"{path}{path_of(private.id)}")
    check_equal(
        ["The cellar", "invite"], [found.get("name"), found.get("membership")], "what Bob, who is asked in, sees"
    )
    with refused(404, "M_NOT_FOUND", what="a summary of the cellar for Eve"):
        await eve.get(f"{path}{path_of(private.id)}")


@story(
    "Bob finds the message that is nearest to a time, before it and after it",
    shows="client-server API, 'Getting events for a room': GET …/timestamp_to_event",
    needs=users("Alice", "Bob", "Eve"),
)
async def by_time(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await alice.create_room_with(bob)
    said = await alice.say(room, "first")
    began = latest = int((await bob.event(room, said))["origin_server_ts"])
    while latest < began + 3:
        said = await alice.say(room, "later")
        latest = int((await bob.event(room, said))["origin_server_ts"])
    path = f"/_matrix/client/v1{room.path('timestamp_to_event')}"
    for ts, direction, wanted in ((latest - 1, "f", said), (latest + 60_000, "b", said), (latest, "f", said)):
        found = await bob.get(path, ts=ts, dir=direction)
        check_equal([wanted, latest], [found["event_id"], found["origin_server_ts"]], f"what is nearest ({direction})")
    found = await bob.get(path, ts=latest - 1, dir="b")
    check(found["origin_server_ts"] < latest, "an event before the last one", came=found)
    for ts, direction in ((latest + 60_000, "f"), (1, "b")):
        with refused(404, "M_NOT_FOUND", what="an event where there is none"):
            await bob.get(path, ts=ts, dir=direction)
    with refused(403, 404, what="an event for Eve, who is not in the room"):
        await eve.get(path, ts=latest, dir="b")
