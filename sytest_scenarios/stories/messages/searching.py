"""Searching in what was said: by words, in one's own rooms, and nowhere else."""

from typing import Any

from sytest_scenarios.actors import Room, User
from sytest_scenarios.asking import JsonObject, objects
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users


async def search(who: User, words: str, *, page: str | None = None, **criteria: Any) -> JsonObject:
    """Return what the server finds, with all that it says of it."""
    body = {"search_categories": {"room_events": {"search_term": words, **criteria}}}
    found = await who.post("/search", body, **({} if page is None else {"next_batch": page}))
    events = found["search_categories"]["room_events"]
    assert isinstance(events, dict)
    return events


def texts(found: JsonObject) -> list[str]:
    """Return what the found events say, in their order."""
    contents = [each["result"]["content"] for each in objects(found.get("results", []))]
    return [each.get("body") or each.get("name") or each.get("topic") for each in contents]


async def say_all(who: User, room: Room, *words: str) -> list[str]:
    """Say one after the other."""
    return [await who.say(room, each) for each in words]


@story(
    "Bob searches for a word, and finds it in his rooms; Eve, who is in none of them, does not",
    shows="client-server API, 'Server Side Search': only events that the user is allowed to see",
    needs=users(2),
    expected_to_fail="Search",
)
async def in_ones_rooms(scene: Scene) -> None:
    alice, bob = scene.users
    eve = await scene.new_user("Eve")
    room = await alice.create_room_with(bob, preset="private_chat")
    another = await alice.create_room_with(bob)
    without_bob = await alice.create_room()
    await say_all(alice, room, "The marmalade is in the cupboard", "The honey is not")
    await alice.say(another, "More MARMALADE for everybody")
    await alice.say(without_bob, "marmalade for me alone")
    expected = {"The marmalade is in the cupboard", "More MARMALADE for everybody"}
    found = await search(bob, "marmalade")
    check_equal(expected, set(texts(found)), "what Bob finds")
    check_equal(2, found.get("count"), "the number of results as the server tells it")
    mine = await eve.create_room()
    await eve.say(mine, "I like honey")
    check_equal([], texts(await search(eve, "marmalade")), "what Eve finds of others")
    check_equal(["I like honey"], texts(await search(eve, "honey")), "what Eve finds of her own")


@story(
    "Bob searches in one room, for what one person said, and in names and topics",
    shows="client-server API, 'Server Side Search': filter, keys",
    needs=users(3),
    expected_to_fail="Search",
)
async def narrowed(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol, name="Marmalade lovers", topic="All about marmalade")
    another = await alice.create_room_with(bob)
    await alice.say(room, "marmalade from Alice")
    await carol.say(room, "marmalade from Carol")
    await alice.say(another, "marmalade elsewhere")
    for criteria, expected in (
        ({"filter": {"rooms": [another.id]}}, {"marmalade elsewhere"}),
        ({"filter": {"senders": [carol.user_id]}}, {"marmalade from Carol"}),
        (
            {"filter": {"rooms": [room.id], "not_senders": [carol.user_id]}, "keys": ["content.body"]},
            {"marmalade from Alice"},
        ),
        ({"keys": ["content.name"]}, {"Marmalade lovers"}),
        ({"keys": ["content.topic"]}, {"All about marmalade"}),
    ):
        check_equal(expected, set(texts(await search(bob, "marmalade", **criteria))), f"what is found by {criteria}")


@story(
    "Bob reads page by page what was found, the newest first, none twice and none left out",
    shows="client-server API, 'Server Side Search': 'Ordering', 'Pagination'",
    needs=users(2),
    expected_to_fail="Search",
)
async def paged(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    words = [f"marmalade number {number}" for number in range(7)]
    await say_all(alice, room, *words)
    found = await search(bob, "marmalade", order_by="recent", filter={"limit": 3})
    read = texts(found)
    check_equal(words[:3:-1], read, "the first page")
    for _ in range(5):
        if "next_batch" not in found:
            break
        found = await search(bob, "marmalade", page=found["next_batch"], order_by="recent", filter={"limit": 3})
        read += texts(found)
    check_equal(words[::-1], read, "all pages together")


@story(
    "What was found comes with what was said around it, and with who said it",
    shows="client-server API, 'Server Side Search': event_context, include_profile",
    needs=users(2),
    expected_to_fail="Search",
)
async def with_context(scene: Scene) -> None:
    alice, bob = scene.users
    await alice.set_profile("displayname", "Alice in the kitchen")
    room = await alice.create_room_with(bob)
    await say_all(alice, room, "one", "two", "the marmalade", "three", "four")
    wanted = {"before_limit": 2, "after_limit": 1, "include_profile": True}
    (result,) = objects((await search(bob, "marmalade", event_context=wanted))["results"])
    context = result["context"]
    before = [each["content"].get("body") for each in context["events_before"]]
    after = [each["content"].get("body") for each in context["events_after"]]
    check_equal({"one", "two"}, set(before), "what was said before")
    check_equal(["three"], after, "what was said after")
    profile = context["profile_info"][alice.user_id]
    check_equal("Alice in the kitchen", profile["displayname"], "the name of who said it")


@story(
    "What was found is grouped by rooms and by people",
    shows="client-server API, 'Server Side Search': 'Groups'",
    needs=users(2),
    expected_to_fail="Search",
)
async def grouped(scene: Scene) -> None:
    alice, bob = scene.users
    rooms = [await alice.create_room_with(bob) for _ in range(2)]
    one, two = await alice.say(rooms[0], "marmalade one"), await bob.say(rooms[0], "marmalade two")
    three = await alice.say(rooms[1], "marmalade three")
    groupings = {"group_by": [{"key": "room_id"}, {"key": "sender"}]}
    groups = (await search(bob, "marmalade", groupings=groupings))["groups"]
    by_room = {room_id: set(each["results"]) for room_id, each in groups["room_id"].items()}
    by_sender = {user_id: set(each["results"]) for user_id, each in groups["sender"].items()}
    check_equal({rooms[0].id: {one, two}, rooms[1].id: {three}}, by_room, "the groups by rooms")
    check_equal({alice.user_id: {one, three}, bob.user_id: {two}}, by_sender, "the groups by people")


@story(
    "A picture is found by its caption, and comes whole",
    shows="client-server API, 'Server Side Search': content.body of m.room.message",
    needs=users(2),
    expected_to_fail="Search",
)
async def picture(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    info = {"mimetype": "image/png", "w": 64, "h": 48, "size": 1_234, "thumbnail_url": "mxc://example.org/small"}
    content = {"msgtype": "m.image", "body": "Breakfast with marmalade", "filename": "a.png", "info": info}
    content |= {"url": "mxc://example.org/large"}
    sent = await alice.send(room, "m.room.message", content)
    (result,) = objects((await search(bob, "marmalade"))["results"])
    check_equal((sent, content), (result["result"]["event_id"], result["result"]["content"]), "what Bob finds")


@story(
    "What was taken back is not found any more",
    shows="client-server API, 'Server Side Search', 'Redactions'",
    needs=users(2),
    expected_to_fail="Search",
)
async def taken_back(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    oops = await alice.say(room, "marmalade, oops")
    await alice.say(room, "marmalade for Bob")
    await alice.redact(room, oops)
    check_equal(["marmalade for Bob"], texts(await search(bob, "marmalade")), "what Bob finds")


@story(
    "Bob left, and finds what was said before that, and nothing of later",
    shows="client-server API, 'Server Side Search': including those that they have left",
    needs=users(2),
    expected_to_fail="Search",
    unlike={"synapse": "searches the rooms one is in; the spec, 'Server Side Search', those that one has left, too"},
)
async def left(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await alice.say(room, "marmalade for Bob")
    await bob.leave(room)
    await alice.say(room, "marmalade without Bob")
    check_equal(["marmalade for Bob"], texts(await search(bob, "marmalade")), "what Bob finds after he left")


@story(
    "A search for SQL, for operators of a search engine and for nonsense finds what is called so, and breaks nothing",
    shows="client-server API, 'Server Side Search': search_term is text",
    needs=users("Eve"),
    tags=["injection"],
    expected_to_fail="Search",
    unlike={"synapse": "answers 500 to some on SQLite; the spec, POST /search: search_term is a string"},
)
async def hostile_terms(scene: Scene) -> None:
    (eve,) = scene.users
    room = await eve.create_room()
    await eve.say(room, "nothing to see here")
    terms = [
        "%",
        "_",
        "'; DROP TABLE events; --",
        '"',
        '"""',
        "NEAR(",
        "a AND NOT",
        "x' OR '1'='1",
        "body:*",
        "\\",
        "*",
        "-",
    ]
    for each in terms:
        answer = await eve.request("POST", "/search", {"search_categories": {"room_events": {"search_term": each}}})
        check(answer.status in (200, 400), f"{each} to be searched for, or refused", came=answer.status)
        if answer.status == 200:
            check_equal([], texts(answer.json["search_categories"]["room_events"]), f"what is found by {each}")
    check_equal(["nothing to see here"], texts(await search(eve, "nothing")), "what is found afterwards")
