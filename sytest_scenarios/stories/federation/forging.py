"""Another server says what is not so, or says it wrongly; what is right among it is taken."""

from typing import Any

from nacl.signing import SigningKey

from sytest_scenarios.actors import Room
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.props.agreeing import all_texts
from sytest_scenarios.props.played import ROOM_VERSION, accepted, played_server
from sytest_scenarios.props.signing import event_id_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, servers, story, users

PLAYED = feature("played servers")
MESSAGE = "m.room.message"


def said(words: str) -> dict[str, Any]:
    """Return the content of a message."""
    return {"msgtype": "m.text", "body": words}


def typing(room: Room, user_id: str) -> dict[str, Any]:
    """Return what tells that somebody types."""
    return {"edu_type": "m.typing", "content": {"room_id": room.id, "user_id": user_id, "typing": True}}


def receipt(room: Room, user_id: str, event_id: str) -> dict[str, Any]:
    """Return what tells that somebody has read."""
    reader = {user_id: {"data": {"ts": 1}, "event_ids": [event_id]}}
    return {"edu_type": "m.receipt", "content": {room.id: {"m.read": reader}}}


@story(
    "Eve's server speaks in Alice's name, alters events, signs with a wrong key, and is heard only as what it is",
    shows="server-server API, 'Checks performed on receipt of a PDU'",
    needs=users(1) + PLAYED,
)
async def forged(scene: Scene) -> None:
    [alice] = scene.users
    room = await alice.create_room(preset="public_chat", room_version=ROOM_VERSION)
    async with played_server(scene) as mallory:
        eve = await mallory.join(room, "eve", through=alice.server)
        of_alice = mallory.event(room, alice.user_id, MESSAGE, said("I am Alice"), is_last=False)
        unsigned = mallory.event(room, eve, MESSAGE, said("signed by nobody"), is_last=False)
        altered = mallory.event(room, eve, MESSAGE, said("before it was altered"), is_last=False)
        other_key = mallory.event(room, eve, MESSAGE, said("signed with another key"), is_last=False)
        await mallory.send(
            alice.server,
            of_alice,
            {**unsigned, "signatures": {}},
            {**altered, "content": said("altered")},
            mallory.finish(other_key, key=SigningKey.generate()),
        )
        good = mallory.event(room, eve, MESSAGE, said("Eve herself"))
        accepted(await mallory.send(alice.server, good), good)
        await alice.sees(room, event_id_of(good))
    texts = [each for each in await all_texts(alice, room) if each]
    check_equal(["Eve herself"], texts, "what Alice reads")
    # An event whose hash is wrong is redacted, not dropped: its content must be gone.
    seen = alice.view.room(room).event(event_id_of(altered))
    check_equal({}, seen["content"] if seen else {}, "what is left of the event that was altered")


@story(
    "Eve is banned, and her server says she spoke before that: neither Alice nor Bob on a third server hears it",
    shows="server-server API, 'Soft failure'",
    needs=users(2) + servers(2) + PLAYED,
)
async def banned(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, preset="public_chat", room_version=ROOM_VERSION)
    async with played_server(scene) as mallory:
        eve = await mallory.join(room, "eve", through=alice.server)
        heard = mallory.event(room, eve, MESSAGE, said("Hello"))
        for each in (alice, bob):
            await mallory.send(each.server, heard)
            await each.sees(room, event_id_of(heard))
        ban = await alice.set_state(room, "m.room.member", {"membership": "ban"}, eve)
        await bob.sees(room, ban)
        late = mallory.event(room, eve, MESSAGE, said("I had said this before"))
        later = mallory.event(room, eve, MESSAGE, said("And this"))
        for each in (alice, bob):
            await mallory.send(each.server, late, later)
        last = await alice.say(room, "She is gone")
        for each in (alice, bob):
            await each.sees(room, last)
            check_equal(["Hello", "She is gone"], await all_texts(each, room), f"what {each} reads")
            check_equal(["Hello", "She is gone"], each.view.room(room).texts, f"what {each} hears")


@story(
    "Eve's server, which has no power in Alice's room, changes topic, power and members: nothing of it is so",
    shows="server-server API, 'Rejection'; room version 11, 'Authorisation rules'",
    needs=users(2) + PLAYED,
)
async def powerless(scene: Scene) -> None:
    alice, bob = scene.users[0], scene.users[1]
    room = await alice.create_room_with(bob, preset="public_chat", room_version=ROOM_VERSION, topic="Alice's")
    async with played_server(scene) as mallory:
        eve = await mallory.join(room, "eve", through=alice.server)
        levels = {"users": {eve: 100}}
        await mallory.send(
            alice.server,
            mallory.event(room, eve, "m.room.topic", {"topic": "Eve's"}, state_key="", is_last=False),
            mallory.event(room, eve, "m.room.power_levels", levels, state_key="", is_last=False),
            mallory.event(room, eve, "m.room.member", {"membership": "ban"}, state_key=bob.user_id, is_last=False),
            mallory.event(room, eve, "m.room.create", {"room_version": "11"}, state_key="", is_last=False),
        )
        good = mallory.event(room, eve, MESSAGE, said("Good evening"))
        await mallory.send(alice.server, good)
        await bob.sees(room, event_id_of(good))
        check_equal("Alice's", (await bob.state(room, "m.room.topic")).get("topic"), "the topic")
        users_of = (await bob.state(room, "m.room.power_levels")).get("users", {})
        check(eve not in users_of, "no power for Eve", came=users_of)
        check_equal("join", (await alice.members(room))[bob.user_id], "Bob's membership")
        types = {each["type"] for each in bob.view.room(room).timeline if each["sender"] == eve}
        check_equal({"m.room.member", MESSAGE}, types, "what Bob was told of Eve")


@story(
    "Eve's server sends a transaction again, and an event again in another one: Alice reads it once",
    shows="server-server API, 'Transactions'",
    needs=users(1) + PLAYED,
)
async def repeated(scene: Scene) -> None:
    [alice] = scene.users
    room = await alice.create_room(preset="public_chat", room_version=ROOM_VERSION)
    async with played_server(scene) as mallory:
        eve = await mallory.join(room, "eve", through=alice.server)
        first = mallory.event(room, eve, MESSAGE, said("once"))
        told = [(await mallory.transact(alice.server, "one", first)).good() for _ in range(3)]
        check(told[0] == told[1] == told[2], "the same answer each time", came=told)
        accepted(await mallory.send(alice.server, first, first), first)
        last = mallory.event(room, eve, MESSAGE, said("the last"))
        await mallory.send(alice.server, last)
        await alice.sees(room, event_id_of(last))
    check_equal(["once", "the last"], alice.view.room(room).texts, "what Alice hears")
    check_equal(["once", "the last"], await all_texts(alice, room), "what Alice reads")


@story(
    "A transaction of more than fifty events is refused as a whole, and one of fifty is taken",
    shows="server-server API, 'Transactions'",
    needs=users(1) + PLAYED,
)
async def too_many(scene: Scene) -> None:
    [alice] = scene.users
    room = await alice.create_room(preset="public_chat", room_version=ROOM_VERSION)
    async with played_server(scene) as mallory:
        eve = await mallory.join(room, "eve", through=alice.server)
        events = [mallory.event(room, eve, MESSAGE, said(f"{number}")) for number in range(51)]
        with refused(400, 403, 413, what="a transaction of 51 events"):
            await mallory.send(alice.server, *events)
        check_equal([], await all_texts(alice, room), "what Alice reads of it")
        await mallory.send(alice.server, *events[:50])
        await alice.sees(room, event_id_of(events[49]))
    check_equal([f"{number}" for number in range(50)], await all_texts(alice, room), "what Alice reads")


@story(
    "Eve's server sends only the last of six messages: Alice's server asks for those between, and all come in order",
    shows="server-server API, 'Backfilling and retrieving missing events'",
    needs=users(1) + PLAYED,
)
async def gap(scene: Scene) -> None:
    [alice] = scene.users
    room = await alice.create_room(preset="public_chat", room_version=ROOM_VERSION)
    words = [f"{number}" for number in range(6)]
    async with played_server(scene) as mallory:
        eve = await mallory.join(room, "eve", through=alice.server)
        events = [mallory.event(room, eve, MESSAGE, said(each)) for each in words]
        accepted(await mallory.send(alice.server, events[-1]), events[-1])
        await alice.sees(room, event_id_of(events[-1]))
        check_equal(words, await all_texts(alice, room), "what Alice reads")
        check(any("get_missing_events" in each for each in mallory.asked), "to be asked", came=mallory.asked)


@story(
    "Events that are no events come in a transaction: they are left out, and the good one among them is taken",
    shows="server-server API, 'Checks performed on receipt of a PDU', 'Transactions'",
    needs=users(1) + PLAYED,
)
async def no_events(scene: Scene) -> None:
    [alice] = scene.users
    room = await alice.create_room(preset="public_chat", room_version=ROOM_VERSION)
    async with played_server(scene) as mallory:
        eve = await mallory.join(room, "eve", through=alice.server)
        plain = mallory.event(room, eve, MESSAGE, said("wrong"), is_last=False)
        spoilt: list[dict[str, Any]] = [
            {"content": {**said("wrong"), "number": 2**60}},
            {"content": {**said("wrong"), "number": 0.5}},
            {"depth": "1"},
            {"depth": -1},
            {"origin_server_ts": "yesterday"},
            {"prev_events": [f"$unknown{number}" for number in range(30)]},
            {"auth_events": []},
            {"auth_events": [event_id_of(plain)] * 30},
            {"sender": "nobody"},
            {"content": {**said("wrong"), "filler": "x" * 70_000}},
        ]
        wrong = [
            {},
            {"type": MESSAGE},
            {**plain, "room_id": 7},
            {**plain, "room_id": "!elsewhere:example.org"},
            *(mallory.finish({**plain, **each}) for each in spoilt),
        ]
        good = mallory.event(room, eve, MESSAGE, said("right"))
        accepted(await mallory.send(alice.server, *wrong, good), good)
        await alice.sees(room, event_id_of(good))
        await alice.say(room, "And I")
    check_equal(["right", "And I"], await all_texts(alice, room), "what Alice reads")


@story(
    "Eve's server says that Alice types and Bob has read, which is not for it to say: nobody is told",
    shows="server-server API, 'EDUs', 'Typing Notifications', 'Receipts'",
    needs=users(2) + PLAYED,
)
async def others_names(scene: Scene) -> None:
    alice, bob = scene.users[0], scene.users[1]
    room = await alice.create_room_with(bob, preset="public_chat", room_version=ROOM_VERSION)
    said_here = await alice.say(room, "Hello")
    async with played_server(scene) as mallory:
        eve = await mallory.join(room, "eve", through=alice.server)

        wrong = [typing(room, alice.user_id), receipt(room, bob.user_id, said_here)]
        await mallory.send(alice.server, edus=[*wrong, typing(room, eve), receipt(room, eve, said_here)])
        for each in (alice, bob):
            await each.until("Eve to type", lambda view: eve in view.room(room).typing)
            await each.until("Eve's receipt", lambda view: ("m.read", eve) in view.room(room).receipts)
            check_equal([eve], each.view.room(room).typing, f"who types as {each} sees it")
            check(("m.read", bob.user_id) not in each.view.room(room).receipts, "no receipt of Bob", came="one")


@story(
    "Things that are no EDUs come with one that is: they are left out, and the good one is taken",
    shows="promise: what is wrong in a transaction is left out, and the rest is taken",
    needs=users(1) + PLAYED + feature("promises of Sennit"),
)
async def no_edus(scene: Scene) -> None:
    [alice] = scene.users
    room = await alice.create_room(preset="public_chat", room_version=ROOM_VERSION)
    async with played_server(scene) as mallory:
        eve = await mallory.join(room, "eve", through=alice.server)
        rubbish: list[dict[str, Any]] = [
            {},
            {"edu_type": 7, "content": {}},
            {"edu_type": "m.typing"},
            {"edu_type": "m.typing", "content": []},
            {"edu_type": "m.typing", "content": {"room_id": 7, "user_id": {}, "typing": "yes"}},
            {"edu_type": "m.receipt", "content": {room.id: {"m.read": {eve: {"event_ids": "x"}}}}},
            {"edu_type": "m.presence", "content": {"push": [{"user_id": alice.user_id, "presence": "offline"}, 7]}},
            {"edu_type": "m.direct_to_device", "content": {"sender": alice.user_id, "type": "x", "message_id": "1"}},
            {"edu_type": "m.device_list_update", "content": {"user_id": eve, "device_id": "X", "stream_id": "first"}},
            {"edu_type": "m.signing_key_update", "content": {"user_id": alice.user_id}},
        ]
        await mallory.send(alice.server, edus=[*rubbish, typing(room, eve)])
        await alice.until("Eve to type", lambda view: view.room(room).typing == [eve])
    check_equal([], alice.view.to_device, "what Alice's device got")
