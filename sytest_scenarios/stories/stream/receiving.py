"""What arrives on the WebSocket: all that /sync would tell, as it happens, to each of one's devices."""

from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.props.device_keys import ONE_TIME, claim, publish
from sytest_scenarios.props.frames import Framed
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import STREAM, feature, story, users

SENDING = "docs/stream.md, 'What the server sends'"


@story(
    "Bob is invited, joins, leaves, is banned: his stream tells him each time",
    shows=f"{SENDING}; invites arrive under rooms.invite",
    needs=users(2) + STREAM,
)
async def comings_and_goings(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(name="The boat house")
    await alice.say(room, "before Bob")
    async with bob.stream() as stream:
        await stream.until("the initial sync", lambda view: view.since)
        await alice.invite(room, bob)
        await stream.until("the invite", lambda view: room.id in view.invites)
        name = stream.view.room(room).content("m.room.name")
        check_equal({"name": "The boat house"}, name, "the name in the invite")
        await bob.join(room)
        await stream.until("the room", lambda view: room.id in view.joined)
        said = await alice.say(room, "Welcome!")
        await stream.until("what is said in it", lambda view: view.room(room).event(said))
        await bob.leave(room)
        await stream.until("the end of it", lambda view: view.room(room).membership == "leave")
        behind = await alice.say(room, "between us")
        await alice.ban(room, bob)
        await stream.until("the ban", lambda view: view.room(room).member(bob.user_id) == "ban")
        check(not stream.view.room(room).event(behind), "not what was said without him", came=stream.view.sight())


@story(
    "What Alice keeps on the server, and her new phone, are told to the other devices of hers and hers alone",
    shows=f"{SENDING}: account_data, device_lists",
    needs=users(2) + STREAM + feature("password login"),
)
async def her_own(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(
        bob,
        initial_state=[
            {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
        ],
    )
    async with alice.stream() as alices, bob.stream() as bobs:
        await alices.until("the initial sync", lambda view: view.since)
        await bobs.until("the room", lambda view: room.id in view.joined)
        phone = await alice.log_in("Alice at her phone")
        await phone.set_account_data("org.example.theme", {"colour": "green"})
        await phone.set_account_data("org.example.remark", {"of": "Bob"}, room=room)
        await alices.until("the theme", lambda view: view.account_data["org.example.theme"] == {"colour": "green"})
        await alices.until(
            "the remark", lambda view: view.room(room).account_data["org.example.remark"] == {"of": "Bob"}
        )
        await publish(phone)
        for name, stream in (("Alice", alices), ("Bob", bobs)):
            await stream.until(f"{name} to be told", lambda view: alice.user_id in view.devices_changed)
        said = await alice.say(room, "the end")
        await bobs.until("the end", lambda view: view.room(room).event(said))
        check(
            "org.example.theme" not in bobs.view.account_data, "Bob not to see the theme", came=bobs.view.account_data
        )
        check("org.example.remark" not in bobs.view.room(room).account_data, "nor the remark", came=bobs.view.sight())


@story(
    "Bob has two streams open, and each gets everything, with the mark of its own request on the right one",
    shows=f"{SENDING}: the client's own events come, too, with unsigned.transaction_id",
    needs=users(2) + STREAM + feature("password login"),
)
async def two_at_once(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    phone = await bob.log_in("Bob at his phone")
    async with bob.stream() as first, phone.stream() as second:
        for each in (first, second):
            await each.until("the room", lambda view: room.id in view.joined)
        said = await alice.say(room, "to both")
        content = {"msgtype": "m.text", "body": "from the phone"}
        sent = await second.request("send", room_id=room.id, event_type="m.room.message", content=content)
        for each in (first, second):
            await each.until("both", lambda view: view.room(room).texts == ["to both", "from the phone"])
            check(each.view.room(room).event(said), "Alice's message", came=each.view.sight())
        marks = [
            "transaction_id" in (each.view.room(room).event(sent["event_id"]) or {}).get("unsigned", {})
            for each in (first, second)
        ]
        check_equal([False, True], marks, "whether each of them is told the transaction ID")


@story(
    "A message to Bob's device comes again after a cut, until he has acknowledged it",
    shows="docs/stream.md, 'What the client sends': to_device, ack",
    needs=users(2) + STREAM,
)
async def acknowledged(scene: Scene) -> None:
    alice, bob = scene.users

    async def tell(note: str) -> None:
        messages = {bob.user_id: {bob.device_id: {"note": note}}}
        async with alice.stream() as stream:
            await stream.request("to_device", event_type="org.example.note", messages=messages)

    async with bob.stream() as stream:
        await stream.until("the initial sync", lambda view: view.since)
        since = stream.view.since
        await tell("one")
        await stream.until("the first message", lambda view: view.to_device)
    async with bob.stream(since=since) as stream:
        await stream.until("the first message again", lambda view: view.to_device)
        check_equal("one", stream.view.to_device[0]["content"]["note"], "the message")
        await stream.request("ack", next_batch=stream.view.since)
    await tell("two")
    async with bob.stream(since=since) as stream:
        await stream.until("the second message", lambda view: view.to_device)
        notes = [each["content"]["note"] for each in stream.view.to_device]
        check_equal(["two"], notes, "what comes after the first was acknowledged")


@story(
    "Bob changes on the open stream what he wants to hear of",
    shows="docs/stream.md, 'What the client sends': sync; 'Opening': filter",
    needs=users(2) + STREAM,
)
async def filtered(scene: Scene) -> None:
    alice, bob = scene.users
    quiet, loud = await alice.create_room_with(bob), await alice.create_room_with(bob)
    async with bob.stream(filter=f'{{"room": {{"rooms": ["{loud.id}"]}}}}') as stream:
        await stream.until("the loud room", lambda view: loud.id in view.joined)
        await alice.say(quiet, "psst")
        said = await alice.say(loud, "hey!")
        await stream.until("what is said loudly", lambda view: view.room(loud).event(said))
        check(quiet.id not in stream.view.rooms, "nothing of the quiet room", came=stream.view.sight())
        await stream.request("sync", filter={"room": {"rooms": [quiet.id]}})
        missed = await alice.say(loud, "can you hear me?")
        heard = await alice.say(quiet, "better?")
        await stream.until("what is said quietly", lambda view: view.room(quiet).event(heard))
        check(not stream.view.room(loud).event(missed), "nothing more of the loud room", came=stream.view.sight())
        await stream.request("sync", filter=None)
        last = await alice.say(loud, "and now?")
        await stream.until("the loud room again", lambda view: view.room(loud).event(last))


@story(
    "After a long absence all that was said comes, in several updates, with no gap between them",
    shows=f"{SENDING}: after that there are no gaps to fill",
    needs=users(2) + STREAM,
)
async def no_gaps(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    async with bob.stream() as stream:
        await stream.until("the room", lambda view: room.id in view.joined)
        since = stream.view.since
    words = [f"message {number}" for number in range(int(130 * scene.scale))]
    async with Framed(alice) as alices:
        for each in words:
            content = {"msgtype": "m.text", "body": each}
            alices.request(each, "send", room_id=room.id, event_type="m.room.message", content=content)
        answered: set[str] = set()
        while len(answered) < len(words):
            found = await alices.message()
            if "next_batch" not in found:
                check("result" in found, "the message to be taken", came=found)
                answered.add(found["id"])
    filtered = '{"room": {"timeline": {"limit": 5}}}'
    async with Framed(bob, since=since, filter=filtered) as stream_of_bob:
        seen: list[str] = []
        updates = 0
        while len(seen) < len(words):
            told = (await stream_of_bob.message()).get("rooms", {}).get("join", {}).get(room.id, {})
            timeline = told.get("timeline", {})
            check(not timeline.get("limited"), "a timeline without a gap", came=timeline.get("limited"))
            seen += [each["content"]["body"] for each in timeline.get("events", [])]
            updates += 1
        check_equal(words, seen, "what Bob got")
        check(updates > 1, "several updates", came=updates)


@story(
    "Bob looks in without being seen, and is online when he says so",
    shows="docs/stream.md, 'Opening': set_presence; 'Heartbeat'",
    needs=users(2) + STREAM,
)
async def unseen(scene: Scene) -> None:
    alice, bob = scene.users
    await alice.create_room_with(bob)
    path = f"/presence/{bob.user_id}/status"
    async with bob.stream(set_presence="offline") as stream, alice.stream() as alices:
        await stream.until("the initial sync", lambda view: view.since)
        await stream.request("ping")
        check_equal("offline", (await alice.get(path))["presence"], "Bob's presence while he only looks in")
        await stream.request("sync", set_presence="online")
        await alices.until("Bob to be online", lambda view: view.presence[bob.user_id]["presence"] == "online")
        check_equal("online", (await alice.get(path))["presence"], "Bob's presence afterwards")


@story(
    "Others claim Alice's one-time keys, and her stream tells how many are left",
    shows=f"{SENDING}: device_one_time_keys_count; client-server API, 'One-time and fallback keys'",
    needs=users(2) + STREAM,
)
async def fewer_keys(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    async with alice.stream() as stream:
        await publish(alice, one_time_keys=3)
        await stream.until("three keys", lambda view: view.key_counts.get(ONE_TIME) == 3)
        check(await claim(bob, alice), "a key for Bob", came="none")
        await bob.say(room, "I have one")
        await stream.until("two keys", lambda view: view.key_counts.get(ONE_TIME) == 2)
