"""State in /sync: where the timeline begins, where it ends, all of it, or only the members one needs."""

import json

from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users
from sytest_scenarios.view import View, part

LAST_ONLY = json.dumps({"room": {"timeline": {"limit": 1}}})
LAZY = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}


def topics(told: dict[str, object], *path: str) -> list[str]:
    """Return the topics in a list of events of an answer."""
    events = part(told, *path).get("events") or []
    return [each["content"]["topic"] for each in events if each["type"] == "m.room.topic"]


@story(
    "What changed in the gap is told as the state where the timeline begins; what changed after it is in the timeline",
    shows="client-server API, 'Syncing': state is that at the start of the timeline",
    needs=users(3),
)
async def at_the_start(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, preset="public_chat", topic="first")
    await bob.catch_up()
    await alice.set_state(room, "m.room.topic", {"topic": "second"})
    await carol.join(room)
    await alice.say(room, "many words")
    await alice.set_state(room, "m.room.topic", {"topic": "third"})
    two = json.dumps({"room": {"timeline": {"limit": 2}}})
    for since in (bob.view.since, None):
        told = part(await bob.sync(since=since, filter=two), "rooms", "join", room.id)
        check_equal(["third"], topics(told, "timeline"), "the topics in the timeline")
        check_equal(["second"], topics(told, "state"), "the topics in the state before it")
        members = {each["state_key"] for each in told["state"]["events"] if each["type"] == "m.room.member"}
        check(carol.user_id in members, "Carol, who joined in the gap, in the state", came=sorted(members))
        check(told["timeline"].get("limited"), "a timeline that is said to be limited", came=told["timeline"])


@story(
    "A timeline that begins with a new topic is told with the topic that was before",
    shows="client-server API, 'Syncing': state is that at the start of the timeline",
    needs=users(2),
    unlike={
        "synapse": "leaves the topic of before out; the spec, 'Syncing', says 'the start of the returned timeline'"
    },
)
async def before_the_first(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, topic="first")
    await bob.catch_up()
    await alice.set_state(room, "m.room.topic", {"topic": "second"})
    await alice.set_state(room, "m.room.topic", {"topic": "third"})
    for since in (bob.view.since, None):
        told = part(await bob.sync(since=since, filter=LAST_ONLY), "rooms", "join", room.id)
        check_equal(["third"], topics(told, "timeline"), "the topics in the timeline")
        check_equal(["second"], topics(told, "state"), "the topics in the state before it")


@story(
    "Bob, who asks for the state after the timeline, is told that and no other",
    shows="client-server API, GET /sync: use_state_after",
    needs=users(2) + feature("state after the timeline"),
)
async def at_the_end(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, topic="first")
    await bob.catch_up(use_state_after="true")
    await alice.set_state(room, "m.room.topic", {"topic": "second"})
    await alice.say(room, "many words")
    await alice.set_state(room, "m.room.topic", {"topic": "third"})
    for since in (bob.view.since, None):
        told = await bob.sync(since=since, use_state_after="true", filter=LAST_ONLY)
        told = part(told, "rooms", "join", room.id)
        check_equal(["third"], topics(told, "state_after"), "the topics in the state after the timeline")
        check("state" not in told, "no state before the timeline", came=sorted(told))
    await bob.catch_up(use_state_after="true")
    await alice.say(room, "no change")
    told = part(await bob.sync(since=bob.view.since, use_state_after="true"), "rooms", "join", room.id)
    check_equal({"events": []}, told.get("state_after"), "the state after a timeline that changed none")


@story(
    "Bob, who asks for the full state, gets all of it at once, though nothing has happened",
    shows="client-server API, GET /sync: full_state",
    needs=users(2),
)
async def full_state(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, name="Still life", topic="Nothing moves")
    quiet = await alice.create_room_with(bob, name="Another")
    await bob.catch_up()
    # Much longer than the story may last: full_state does not wait.
    told = await bob.sync(since=bob.view.since, full_state="true", timeout_ms=60_000)
    seen = View.of(told).room(room)
    check_equal("Nothing moves", seen.content("m.room.topic").get("topic"), "the topic")
    check_equal("Still life", seen.content("m.room.name").get("name"), "the name")
    check_equal("join", seen.member(alice.user_id), "Alice's membership")
    check_equal([], seen.timeline, "the timeline since then")
    check(quiet.id in part(told, "rooms", "join"), "the other room, too", came=sorted(part(told, "rooms", "join")))


@story(
    "Bob, who loads members when he needs them, is told of those who speak, not of all who are there",
    shows="client-server API, 'Lazy-loading room members'",
    needs=users(8),
)
async def lazy_members(scene: Scene) -> None:
    alice, bob, heidi = scene.users[0], scene.users[1], scene.users[7]
    room = await alice.create_room_with(*scene.users[1:], preset="private_chat", name="Full house")
    await alice.say(room, "Hello, everybody")
    lazy = json.dumps(LAZY)
    seen = (await bob.catch_up(filter=lazy)).room(room)
    known = {key for kind, key in seen.state if kind == "m.room.member"}
    # Those after whom a room may be called are told along with it.
    wanted = {alice.user_id, bob.user_id, *seen.summary.get("m.heroes", [])}
    check_equal(wanted, known, "the members that Bob is told: the one who speaks, himself, and the heroes")
    check(heidi.user_id not in known, "Heidi, the last who came, not to be told", came=sorted(known))
    await heidi.say(room, "Hello, Alice")
    await bob.until("Heidi's words", lambda view: "Hello, Alice" in view.room(room).texts, filter=lazy)
    check_equal("join", bob.view.room(room).member(heidi.user_id), "Heidi's membership, now that she has spoken")
    check_equal(8, len(await bob.members(room)), "the number of all members, for whom Bob asks")


@story(
    "Bob, who wants members again and again, is told of Carol each time that she speaks",
    shows="client-server API, 'Lazy-loading room members': include_redundant_members",
    needs=users(3),
)
async def redundant_members(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol, name="Echo")
    state = {"lazy_load_members": True, "include_redundant_members": True}
    again = json.dumps({"room": {"state": state}})
    await bob.catch_up(filter=again)
    for words in ("one", "two"):
        said = await carol.say(room, words)
        told = await bob.sync(since=bob.view.since, filter=again, timeout_ms=5000)
        seen = View.of(told).room(room)
        check(seen.event(said), f"Carol's {words}", came=seen.texts)
        check_equal("join", seen.member(carol.user_id), "Carol's membership, told along with her words")
        bob.view.merge(told)


@story(
    "A room without a name is told with those after whom it can be called, and how many they are",
    shows="client-server API, GET /sync: m.heroes, m.joined_member_count, m.invited_member_count",
    needs=users(4),
)
async def heroes(scene: Scene) -> None:
    alice, bob, carol, dan = scene.users
    room = await alice.create_room_with(bob, preset="private_chat")
    await alice.invite(room, carol)
    lazy = json.dumps(LAZY)
    told = (await bob.catch_up(filter=lazy)).room(room)
    check_equal({alice.user_id, carol.user_id}, set(told.summary.get("m.heroes", [])), "the heroes, without Bob")
    check_equal(2, told.summary.get("m.joined_member_count"), "the number of members")
    check_equal(1, told.summary.get("m.invited_member_count"), "the number of invited people")
    for hero in (alice, carol):
        check(told.member(hero.user_id), f"the member event of the hero {hero}", came=sorted(map(str, told.state)))
    await carol.join(room)
    await alice.invite(room, dan)
    await dan.leave(room)
    counts = {"m.joined_member_count": 3, "m.invited_member_count": 0}
    await bob.until(
        "three members and no invited people",
        lambda view: {key: view.room(room).summary.get(key) for key in counts} == counts,
        filter=lazy,
    )
