"""Pushers: a gateway is told what somebody is to be notified of, as they want it, and no more."""

from typing import Any

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.props.gateway import PushGateway
from sytest_scenarios.props.waiting import eventually
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

PUSHING = "Pushers and gateway"


@story(
    "Bob's phone is pushed what Alice says, with names and counts, and not what he says himself",
    shows="push gateway API, POST /_matrix/push/v1/notify",
    needs=users(2),
    expected_to_fail=PUSHING,
)
async def pushed(scene: Scene) -> None:
    alice, bob = scene.users
    await alice.set_profile("displayname", "Alice Liddell")
    room = await alice.create_open_room_with(bob, name="Tea party")
    async with PushGateway() as gateway:
        await bob.post("/pushers/set", gateway.pusher("bobs-phone", custom={"theme": "dark"}))
        await bob.say(room, "myself")
        said = await alice.say(room, "Tea?", **{"m.mentions": {"user_ids": [bob.user_id]}})
        note = await gateway.hears_of(said)
        expected = {
            "room_id": room.id,
            "type": "m.room.message",
            "sender": alice.user_id,
            "sender_display_name": "Alice Liddell",
            "room_name": "Tea party",
        }
        check_equal(expected, {key: note.get(key) for key in expected}, "what the gateway is told of the message")
        check_equal("Tea?", note.get("content", {}).get("body"), "the words")
        check_equal(1, note.get("counts", {}).get("unread"), "the count of what is unread")
        (device,) = note["devices"]
        check_equal((gateway.app, "bobs-phone"), (device.get("app_id"), device.get("pushkey")), "the device")
        check_equal({"custom": {"theme": "dark"}}, device.get("data"), "the data of the pusher, without the URL")
        check_equal(True, device.get("tweaks", {}).get("highlight"), "the tweak that makes it a highlight")
        events = [each["event_id"] for each in gateway.notes if "event_id" in each]
        check_equal([said], events, "all events that the gateway is told of")


@story(
    "Bob's phone is pushed nothing but the ID where Bob wants it so",
    shows="push gateway API, 'Homeserver behaviour': event_id_only",
    needs=users(2),
    expected_to_fail=PUSHING,
)
async def id_only(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_open_room_with(bob)
    async with PushGateway() as gateway:
        await bob.post("/pushers/set", gateway.pusher("bobs-phone", format="event_id_only"))
        said = await alice.say(room, "between us")
        note = await gateway.hears_of(said)
        check_equal(room.id, note.get("room_id"), "the room")
        check("content" not in note, "no content in the notification", came=note)
        check("between us" not in str(gateway.notes), "no word of it at the gateway", came=gateway.notes)


@story(
    "A muted room, a room that Bob has left and a pusher that he has removed push nothing",
    shows="client-server API, 'Push Rules': MUST NOT notify the Push Gateway; POST /pushers/set: kind null",
    needs=users(2),
    expected_to_fail=PUSHING,
)
async def not_pushed(scene: Scene) -> None:
    alice, bob = scene.users
    muted, left, room = [await alice.create_open_room_with(bob) for _ in range(3)]
    await bob.put(path_of("pushrules", "global", "room", muted.id), {"actions": []})
    async with PushGateway() as gateway:
        await bob.post("/pushers/set", gateway.pusher("bobs-phone"))
        await bob.post("/pushers/set", gateway.pusher("bobs-tablet"))
        await bob.leave(left)
        await alice.say(muted, "bla")
        await alice.say(left, "He is gone")
        said = await alice.say(room, "one")
        await gateway.until(
            "one notification for each", lambda notes: {"bobs-phone", "bobs-tablet"} <= keys(notes, said)
        )
        gone = {"kind": None, "app_id": gateway.app, "pushkey": "bobs-tablet"}
        await bob.post("/pushers/set", gone)
        found = (await bob.get("/pushers"))["pushers"]
        check_equal(["bobs-phone"], [each["pushkey"] for each in found], "the pushers that are left")
        later = await alice.say(room, "two")
        await gateway.hears_of(later)
        last = await alice.say(room, "three")
        await gateway.hears_of(last)
        check_equal({"bobs-phone"}, keys(gateway.notes, later), "the pushers that are told of the second message")
        rooms = {each["room_id"] for each in gateway.notes if "room_id" in each}
        check_equal({room.id}, rooms, "the rooms of which the gateway is told")


def keys(notes: list[dict[str, Any]], event_id: str) -> set[str]:
    """Return the push keys for which an event was told."""
    told = [each for each in notes if each.get("event_id") == event_id]
    return {device["pushkey"] for each in told for device in each["devices"]}


@story(
    "A key that the gateway rejects is dropped, and Bob's other phone is still pushed",
    shows="push gateway API, POST /_matrix/push/v1/notify: rejected",
    needs=users(2),
    expected_to_fail=PUSHING,
)
async def rejected(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_open_room_with(bob)
    async with PushGateway() as gateway:
        gateway.rejected = ["old-phone"]
        for key in ("old-phone", "new-phone"):
            await bob.post("/pushers/set", gateway.pusher(key))
        said = await alice.say(room, "Hello")
        await gateway.until("both told", lambda notes: {"old-phone", "new-phone"} <= keys(notes, said))
        await eventually(
            "the pusher of the new phone alone",
            lambda: bob.get("/pushers"),
            lambda found: [each["pushkey"] for each in found["pushers"]] == ["new-phone"],
        )
        said = await alice.say(room, "Hello again")
        await gateway.until("the new phone told", lambda notes: "new-phone" in keys(notes, said))
        check_equal({"new-phone"}, keys(gateway.notes, said), "the phones that are told of the second message")


@story(
    "A gateway that is out of order for a moment is told when it is back",
    shows="push gateway API, 'Homeserver behaviour': SHOULD retry",
    needs=users(2),
    expected_to_fail=PUSHING,
    time_limit_s=40,
)
async def retried(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_open_room_with(bob)
    async with PushGateway() as gateway:
        gateway.failing = 1
        await bob.post("/pushers/set", gateway.pusher("bobs-phone"))
        said = await alice.say(room, "Are you there?")
        # Servers wait a little, and longer each time.
        await gateway.hears_of(said, within_s=30)


@story(
    "Bob logs out on his phone, and the phone is pushed no more; his tablet is",
    shows="client-server API, POST /logout; 'Push Notifications'",
    needs=users(2) + feature("password login"),
    expected_to_fail=PUSHING,
)
async def logged_out(scene: Scene) -> None:
    alice, bob = scene.users
    phone = await bob.log_in("Bob's phone")
    room = await alice.create_open_room_with(bob)
    async with PushGateway() as gateway:
        await phone.post("/pushers/set", gateway.pusher("bobs-phone"))
        await bob.post("/pushers/set", gateway.pusher("bobs-tablet"))
        said = await alice.say(room, "one")
        await gateway.until("both told", lambda notes: {"bobs-phone", "bobs-tablet"} <= keys(notes, said))
        await phone.log_out()
        said = await alice.say(room, "two")
        await gateway.until("the tablet told", lambda notes: "bobs-tablet" in keys(notes, said))
        last = await alice.say(room, "three")
        await gateway.until("the tablet told", lambda notes: "bobs-tablet" in keys(notes, last))
        check_equal({"bobs-tablet"}, keys(gateway.notes, said), "the devices that are told of the second message")
        found = (await bob.get("/pushers"))["pushers"]
        check_equal(["bobs-tablet"], [each["pushkey"] for each in found], "the pushers that are left")


@story(
    "Eve sees none of Bob's pushers, and a pusher that is none is refused",
    shows="client-server API, GET /pushers; POST /pushers/set",
    needs=users("Bob", "Eve"),
    expected_to_fail=PUSHING,
)
async def own_pushers(scene: Scene) -> None:
    bob, eve = scene.users
    async with PushGateway() as gateway:
        pusher = gateway.pusher("bobs-phone")
        await bob.post("/pushers/set", pusher)
        (found,) = (await bob.get("/pushers"))["pushers"]
        check_equal(pusher, {key: found.get(key) for key in pusher}, "Bob's pusher")
        check_equal([], (await eve.get("/pushers"))["pushers"], "Eve's pushers")
        for wrong in (
            {key: value for key, value in pusher.items() if key != "pushkey"},
            {key: value for key, value in pusher.items() if key != "data"},
            {**pusher, "data": {}},
            {**pusher, "data": {"url": "no address"}},
        ):
            with refused(400, what="a pusher that is none"):
                await eve.post("/pushers/set", wrong)
        check_equal([], (await eve.get("/pushers"))["pushers"], "Eve's pushers")
