"""Who may take back what, and what is left of an event that was taken back."""

from sytest_scenarios.actors import Room, User
from sytest_scenarios.asking import JsonObject, together
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

REDACTIONS = "client-server API, 'Redactions'"
LEFT = "room version 11, 'Redactions': what stays"
STAYS = {
    "m.room.power_levels": [
        "ban",
        "events",
        "events_default",
        "invite",
        "kick",
        "redact",
        "state_default",
        "users",
        "users_default",
    ],
    "m.room.join_rules": ["join_rule", "allow"],
    "m.room.history_visibility": ["history_visibility"],
}


async def _read(user: User, room: Room, event_id: str) -> JsonObject:
    return dict((await user.event(room, event_id))["content"])


@story("Who has the power takes back what others said, and says why", shows=REDACTIONS, needs=users(3))
async def by_a_moderator(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol)
    await alice.set_power(room, (bob, 30), redact=30)
    said = await alice.say(room, "a secret")
    with refused(403, "M_FORBIDDEN", what="Carol taking back what Alice said"):
        await carol.redact(room, said)
    check_equal("a secret", (await _read(carol, room, said)).get("body"), "what Alice said")
    redaction = await bob.redact(room, said, reason="too much said")
    told = await carol.sees(room, redaction)
    check_equal("too much said", told["content"].get("reason"), "the reason")
    event = await carol.event(room, said)
    check_equal({}, event["content"], "what is left of the message")
    check_equal(alice.user_id, event["sender"], "who said it")
    because = event.get("unsigned", {}).get("redacted_because", {})
    check_equal([redaction, bob.user_id], [because.get("event_id"), because.get("sender")], "why it is gone")
    left = [each for each in await carol.history(room) if each["event_id"] == said]
    check_equal([{}], [each["content"] for each in left], "what is left of it in the history")


@story(
    "Bob, who may send no redactions, cannot take back his own words; Carol, who may, takes them back",
    shows="m.room.power_levels: m.room.redaction events, and redact 'additionally' for those of others",
    needs=users(3),
)
async def needs_both(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol)
    said = await bob.say(room, "hm")
    await alice.set_power(room, (carol, 20), redact=0, events={"m.room.redaction": 20})
    with refused(403, "M_FORBIDDEN", what="Bob taking back what he said himself"):
        await bob.redact(room, said)
    await carol.redact(room, said)
    check_equal({}, await _read(bob, room, said), "what is left of it")


@story(
    "A topic that is taken back is no topic; the one before does not come back",
    shows=f"{REDACTIONS}: 'it causes the topic to be removed from the room'",
    needs=users(2),
)
async def topic(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, topic="Dinner")
    bad = await alice.set_state(room, "m.room.topic", {"topic": "rude"})
    await bob.until("the topic", lambda view: view.room(room).content("m.room.topic").get("topic") == "rude")
    redaction = await alice.redact(room, bad)
    await bob.sees(room, redaction)
    check_equal({}, await bob.state(room, "m.room.topic"), "what is left of the topic")
    state = (await bob.whole_state(room))["m.room.topic", ""]
    check_equal([bad, {}], [state["event_id"], state["content"]], "the event in the state")
    again = (await bob.sync())["rooms"]["join"][room.id]
    told = [each for part in ("state", "timeline") for each in again.get(part, {}).get("events", [])]
    check("rude" not in str(told), "nothing of the topic in what /sync tells later", came=told)
    await alice.set_state(room, "m.room.topic", {"topic": "Supper"})
    check_equal("Supper", (await bob.state(room, "m.room.topic")).get("topic"), "the next topic")


@story(
    "What was replaced and then taken back is not told as what was there before",
    shows="promise: what was taken back is told nowhere, in unsigned.prev_content neither",
    needs=users(2) + feature("promises of Sennit"),
)
async def replaced(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    bad = await alice.set_state(room, "m.room.topic", {"topic": "something rude"})
    good = await alice.set_state(room, "m.room.topic", {"topic": "Dinner"})
    check_equal("Dinner", (await bob.sees(room, good))["content"].get("topic"), "the topic")
    await alice.redact(room, bad)
    check_equal("Dinner", (await bob.state(room, "m.room.topic")).get("topic"), "the topic, which stays")
    looks = await together(bob.sync(), bob.history(room), bob.event(room, good), bob.get(room.path("context", good)))
    for what, told in zip(("/sync", "/messages", "/event", "/context"), looks, strict=True):
        check("rude" not in str(told), f"nothing of what was taken back in {what}", came=told)


@story(
    "Bob, whose join is taken back, is in the room still, without his name",
    shows=f"{REDACTIONS}: 'a redacted join event will still result in the user being considered joined'; {LEFT}",
    needs=users(2),
)
async def membership(scene: Scene) -> None:
    alice, bob = scene.users
    await bob.set_profile("displayname", "Rude Bob")
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    join = (await alice.whole_state(room))["m.room.member", bob.user_id]["event_id"]
    await alice.redact(room, join)
    check_equal({"membership": "join"}, await alice.state(room, "m.room.member", bob.user_id), "what is left of it")
    await bob.say(room, "I am still here")
    check_equal({alice.user_id: "join", bob.user_id: "join"}, await alice.members(room), "the members")
    told = (await alice.get(room.path("members")))["chunk"]
    check("Rude" not in str(told), "nothing of Bob's name in what the members are told to be", came=told)


@story(
    "The rules of a room outlast the taking back of their events",
    shows=f"{LEFT} of m.room.power_levels, m.room.join_rules, m.room.history_visibility",
    needs=users("Alice", "Bob", "Eve"),
)
async def rules_stay(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await alice.create_room_with(bob, room_version="11")
    await alice.set_power(room, (bob, 50), events_default=10, notifications={"room": 20})
    await alice.set_state(room, "m.room.join_rules", {"join_rule": "invite", "org.example.why": "rude"})
    state = await alice.whole_state(room)
    for event_type, stays in STAYS.items():
        event = state[event_type, ""]
        await alice.redact(room, event["event_id"])
        left = {key: value for key, value in event["content"].items() if key in stays}
        check_equal(left, await bob.state(room, event_type), f"what is left of {event_type}")
    await bob.say(room, "I have the word")
    await alice.invite(room, eve)
    await eve.join(room)
    with refused(403, "M_FORBIDDEN", what="a message by Eve, who has not"):
        await eve.say(room, "me too")


@story(
    "Eve cannot take back what Alice said by doing it in a room of her own",
    shows="client-server API, 'Redactions': PUT /rooms/{roomId}/redact/{eventId}/{txnId}",
    needs=users("Alice", "Eve"),
)
async def of_another_room(scene: Scene) -> None:
    alice, eve = scene.users
    room, trap = await alice.create_room(), await eve.create_room()
    said = await alice.say(room, "mine")
    # Whether this is refused or just does nothing is left to the server.
    await eve.request("PUT", trap.path("redact", said, "1"), {})
    with refused(403, 404, 400, what="Eve taking it back in Alice's room"):
        await eve.redact(room, said)
    check_equal({"msgtype": "m.text", "body": "mine"}, await _read(alice, room, said), "what Alice said")
