"""An operator restarts the server, and clients go on as if nothing had been."""

import time
from collections.abc import Awaitable

from twisted.internet.defer import Deferred

from sytest_scenarios.asking import JsonObject, sleep
from sytest_scenarios.expect import Failed, check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import OWN_SERVER, story, users


@story(
    "The server is stopped while Bob waits for news: he is not kept waiting, and his next sync loses nothing",
    shows="client-server API, 'Syncing'; promise: a stop lets go of those who wait",
    needs=users(2) + OWN_SERVER,
    time_limit_s=90,
)
async def long_polls(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.catch_up()
    said = await alice.say(room, "before")
    await bob.sees(room, said)
    since = bob.view.since
    waiting = Deferred.fromCoroutine(_waits(bob.sync(timeout_ms=60_000, since=since)))
    await sleep(0.2)
    began = time.monotonic()
    await scene.server.stop()
    answer = await waiting
    took_s = time.monotonic() - began
    check(took_s < 15, "the stop, and the end of Bob's wait, within 15 s", came=f"{took_s:.1f} s")
    if answer is not None:
        bob.view.merge(answer)
    await scene.server.start()
    later = await alice.say(room, "after")
    await bob.sees(room, later)
    check_equal(["before", "after"], bob.view.room(room).texts, "what Bob hears")


async def _waits(asking: Awaitable[JsonObject]) -> JsonObject | None:
    """Return the answer, or None if the server closed without one."""
    try:
        return await asking
    except Failed:
        return None


@story(
    "After a restart positions, filters, transactions, receipts, counts and data are as they were; nobody types",
    shows="client-server API, 'Syncing', 'Filtering', 'Transaction identifiers', 'Receipts', 'Typing Notifications'",
    needs=users(3) + OWN_SERVER,
    time_limit_s=90,
)
async def everything_goes_on(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob)
    await alice.invite(room, carol)
    content = {"msgtype": "m.text", "body": "one"}
    first = await alice.send(room, "m.room.message", content, transaction_id="only-once")
    read, unread = await alice.say(room, "two"), await alice.say(room, "three")
    await bob.sees(room, unread)
    await bob.read(room, read)
    await bob.set_account_data("org.example.x", {"kept": True}, room=room)
    await bob.set_profile("displayname", "Robert")
    path = f"/user/{bob.user_id}/filter"
    filter_id = (await bob.post(path, {"room": {"timeline": {"types": ["m.room.topic"]}}}))["filter_id"]
    await alice.type(room)
    await bob.until("one unread message", lambda view: view.room(room).unread == 1)
    await bob.until("Alice to type", lambda view: view.room(room).typing == [alice.user_id])
    page = await bob.get(room.path("messages"), dir="b", limit=2)
    following = {"dir": "b", "from": page["end"], "limit": 2}
    before = [each["event_id"] for each in (await bob.get(room.path("messages"), **following))["chunk"]]

    await scene.server.stop()
    await scene.server.start()

    again = await alice.send(room, "m.room.message", content, transaction_id="only-once")
    check_equal(first, again, "the event of the transaction that is sent again")
    topic = await alice.set_state(room, "m.room.topic", {"topic": "After"})
    await bob.sees(room, topic)
    check_equal(["one", "two", "three"], bob.view.room(room).texts, "what Bob heard, before and after")
    fresh = await bob.sync()
    told = fresh["rooms"]["join"][room.id]
    check_equal(1, told["unread_notifications"]["notification_count"], "the unread messages")
    typing = [each["content"]["user_ids"] for each in told["ephemeral"]["events"] if each["type"] == "m.typing"]
    check(not any(typing), "nobody to type", came=typing)
    receipts = [each for each in told["ephemeral"]["events"] if each["type"] == "m.receipt"]
    check(read in receipts[0]["content"], "the receipt", came=receipts)
    check_equal({"kept": True}, await bob.account_data("org.example.x", room=room), "the account data")
    check_equal("Robert", (await alice.profile(bob)).get("displayname"), "Bob's name")
    after = [each["event_id"] for each in (await bob.get(room.path("messages"), **following))["chunk"]]
    check_equal(before, after, "the page that follows the one from before the restart")
    filtered = await bob.sync(filter=filter_id)
    types = {each["type"] for each in filtered["rooms"]["join"][room.id]["timeline"]["events"]}
    check_equal({"m.room.topic"}, types, "what the filter lets through")
    await carol.until("her invite", lambda view: room.id in view.invites)
