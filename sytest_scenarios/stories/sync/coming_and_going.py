"""Rooms that somebody enters and leaves, between two syncs or within one."""

import json

from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users
from sytest_scenarios.view import View, part

JOINED_ONLY = {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "joined"}}


@story(
    "Bob is invited, declines, is invited again and joins while he does not look: he is told that he is in",
    shows="client-server API, 'Syncing': rooms",
    needs=users(2),
)
async def back_and_forth(scene: Scene) -> None:
    alice, bob = scene.users
    await bob.catch_up()
    room = await alice.create_room(name="Revolving door")
    await alice.invite(room, bob)
    await bob.leave(room)
    await alice.invite(room, bob)
    await bob.join(room)
    found = await bob.sync(since=bob.view.since)
    sections = {each for each in ("join", "invite", "leave") if room.id in part(found, "rooms", each)}
    check_equal({"join"}, sections, "the sections in which the room is told")
    seen = View.of(found).room(room)
    check_equal("join", seen.member(bob.user_id), "Bob's membership")
    check_equal("Revolving door", seen.content("m.room.name").get("name"), "the name of the room")


@story(
    "Bob is told once that he was kicked, with the reason, and nothing that is said afterwards",
    shows="client-server API, 'Syncing': rooms.leave",
    needs=users(2),
)
async def left_rooms_are_told_once(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.catch_up()
    await alice.kick(room, bob, reason="too loud")
    await alice.say(room, "Silence at last")
    view = await bob.catch_up()
    check_equal("leave", view.room(room).membership, "the section in which the room is told")
    leaving = view.room(room).state["m.room.member", bob.user_id]
    check_equal("too loud", leaving["content"].get("reason"), "the reason of the kick")
    again = await bob.sync(since=view.since)
    check(room.id not in part(again, "rooms", "leave"), "the room not to be told again", came=again.get("rooms"))
    check("Silence at last" not in json.dumps(again), "nothing said later", came=again.get("rooms"))
    check("Silence at last" not in view.room(room).texts, "nothing said later", came=view.room(room).texts)


@story(
    "A left room is told to a new device only if it asks for left rooms, and up to the leaving",
    shows="client-server API, 'Filtering': include_leave",
    needs=users(2),
)
async def include_leave(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await alice.say(room, "Hello, Bob")
    await bob.leave(room)
    await alice.say(room, "He is gone")
    without = await bob.sync()
    check(
        room.id not in json.dumps(without.get("rooms", {})), "the left room not to be told", came=without.get("rooms")
    )
    seen = View.of(await bob.sync(filter=json.dumps({"room": {"include_leave": True}}))).room(room)
    check_equal("leave", seen.membership, "the section in which the room is told")
    check_equal(["Hello, Bob"], seen.texts, "what Bob may know of the room that he left")
    check_equal("leave", seen.member(bob.user_id), "Bob's membership")


@story(
    "Bob joins between two syncs: he is told the whole state, and can read back what was said before",
    shows="client-server API, 'Syncing': state; prev_batch; 'Room History Visibility': shared",
    needs=users(2),
)
async def joins_in_the_window(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(preset="public_chat", name="Old room", topic="Dust")
    words = [f"old message {number}" for number in range(1, 7)]
    for each in words:
        await alice.say(room, each)
    await bob.catch_up()
    await bob.join(room)
    await alice.say(room, "welcome")
    few = json.dumps({"room": {"timeline": {"limit": 4}}})
    seen = (await bob.catch_up(filter=few)).room(room)
    check_equal("Dust", seen.content("m.room.topic").get("topic"), "the topic that Bob is told")
    check_equal("join", seen.member(alice.user_id), "Alice's membership as Bob is told it")
    check_equal("welcome", seen.texts[-1], "the last words")
    earlier = await bob.get(room.path("messages"), dir="b", limit=50, **{"from": seen.prev_batch})
    before = [each["content"]["body"] for each in earlier["chunk"] if each["type"] == "m.room.message"][::-1]
    check_equal([*words, "welcome"], before + seen.texts, "what was said, put together")


@story(
    "Bob, who joins a room whose past is not for newcomers, is told nothing of it",
    shows="client-server API, 'Room History Visibility': joined",
    needs=users(2),
)
async def no_history_for_newcomers(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(preset="public_chat", initial_state=[JOINED_ONLY])
    await alice.say(room, "between us")
    await bob.catch_up()
    await bob.join(room)
    said = await alice.say(room, "welcome")
    await bob.sees(room, said)
    check_equal(["welcome"], bob.view.room(room).texts, "what Bob is told of what was said")
    check_equal(["welcome"], await bob.texts(room), "what Bob can read back")


@story(
    "Bob leaves and comes back while he does not look: what was said in between is kept from him, the rest is not",
    shows="client-server API, 'Room History Visibility': joined; 'Syncing'",
    needs=users(2),
)
async def away_in_between(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, preset="public_chat", initial_state=[JOINED_ONLY])
    await bob.catch_up()
    await alice.say(room, "before")
    await bob.leave(room)
    await alice.say(room, "about Bob")
    await bob.join(room)
    said = await alice.say(room, "after")
    await bob.sees(room, said)
    check_equal("join", bob.view.room(room).membership, "the section in which the room is told")
    check("about Bob" not in bob.view.room(room).texts, "no word about Bob", came=bob.view.room(room).texts)
    check_equal(["before", "after"], await bob.texts(room), "what Bob can read back")


@story(
    "Eve, who is not in the room, is told nothing of it, whatever she asks for",
    shows="client-server API, 'Syncing'; 'Room History Visibility'",
    needs=users("Alice", "Bob", "Eve"),
    tags=["smoke"],
)
async def nothing_for_strangers(scene: Scene) -> None:
    alice, bob, eve = scene.users
    own = await eve.create_room(name="Eve's own")
    before = await eve.sync()
    room = await alice.create_room_with(bob, preset="private_chat", name="Not for Eve")
    said = await alice.say(room, "a secret")
    await bob.read(room, said)
    greedy = json.dumps({"room": {"rooms": [room.id, own.id], "include_leave": True}})
    for told in (
        await eve.sync(since=before["next_batch"]),
        await eve.sync(since=before["next_batch"], full_state="true", filter=greedy),
        await eve.sync(filter=greedy, full_state="true"),
    ):
        for secret in (room.id, "a secret", "Not for Eve", alice.user_id):
            check(secret not in json.dumps(told), f"nothing of {secret} to be told to Eve", came=told)
    check(own.id in json.dumps(told), "Eve's own room to be told", came=told.get("rooms"))


@story(
    "Bob, who is banned while he does not look, is told that, and nothing more",
    shows="client-server API, 'Banning users in a room'; 'Syncing': rooms.leave",
    needs=users(2),
)
async def banned(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.catch_up()
    await alice.say(room, "Last warning")
    await alice.ban(room, bob, reason="enough")
    await alice.set_state(room, "m.room.topic", {"topic": "Bob is out"})
    seen = (await bob.catch_up()).room(room)
    check_equal("leave", seen.membership, "the section in which the room is told")
    check_equal("ban", seen.member(bob.user_id), "Bob's membership")
    check_equal(["Last warning"], seen.texts, "what was said before the ban")
    check_equal({}, seen.content("m.room.topic"), "the topic, which came later")
