"""What people of two servers do in a room that they share."""

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.props.agreeing import all_texts
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import FEDERATION, feature, story, users


@story(
    "Bob corrects himself and Alice, on another server, reacts; both see both",
    shows="client-server API, 'Event replacements', 'Event annotations and reactions'",
    needs=users(2) + FEDERATION,
)
async def edits_and_reactions(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = await bob.say(room, "Helo")
    await alice.sees(room, said)
    reaction = await alice.react(room, said, "👍")
    relation = {"rel_type": "m.replace", "event_id": said}
    new = {"msgtype": "m.text", "body": "Hello"}
    edit = await bob.say(room, "* Hello", **{"m.new_content": new, "m.relates_to": relation})
    await bob.sees(room, reaction)
    await alice.sees(room, edit)
    for each in (alice, bob):
        seen = await each.event(room, said)
        bundled = seen.get("unsigned", {}).get("m.relations", {}).get("m.replace", {})
        check_equal(edit, bundled.get("event_id"), f"the edit that {each} is told of")
        found = await each.get(f"/_matrix/client/v1{room.path('relations', said, 'm.annotation')}")
        check_equal([reaction], [one["event_id"] for one in found["chunk"]], f"the reactions that {each} sees")


@story(
    "Alice redacts what Bob of another server said: it is gone on both; Dan may not redact",
    shows="client-server API, 'Redactions'",
    needs=users(4) + FEDERATION,
)
async def redactions(scene: Scene) -> None:
    alice, bob, carol, dan = scene.users
    room = await alice.create_room_with(bob, carol, dan)
    kept, gone = await bob.say(room, "Good morning"), await bob.say(room, "something rude")
    for each in (carol, dan, alice):
        await each.sees(room, gone)
    with refused(403, "M_FORBIDDEN", what="Dan's redaction of what Bob said"):
        await dan.redact(room, kept)
    redaction = await alice.redact(room, gone)
    for each in (bob, carol, dan):
        await each.sees(room, redaction)
        check_equal({}, (await each.event(room, gone))["content"], f"what {each} still reads")
        check_equal("Good morning", (await each.event(room, kept))["content"].get("body"), f"what {each} reads")


@story(
    "Alice sees when Bob of another server types, stops, and has read what she said",
    shows="server-server API, 'Typing Notifications', 'Receipts'",
    needs=users(2) + FEDERATION,
)
async def typing_and_receipts(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    first, second = await alice.say(room, "Are you there?"), await alice.say(room, "Hello?")
    await bob.sees(room, second)
    await bob.type(room)
    await alice.until("Bob to type", lambda view: view.room(room).typing == [bob.user_id])
    await bob.type(room, typing=False)
    await alice.until("Bob to have stopped typing", lambda view: view.room(room).typing == [])
    await bob.read(room, second, kind="m.read.private")
    await bob.read(room, first)
    receipt = await alice.until("Bob's receipt", lambda view: view.room(room).receipts.get(("m.read", bob.user_id)))
    check_equal(first, receipt, "how far Bob has read, as Alice sees it")
    private = alice.view.room(room).receipts.get(("m.read.private", bob.user_id))
    check_equal(None, private, "the private receipt, as Alice sees it")


@story(
    "Alice sees that Bob of another server is online; Carol, who shares no room with him, does not",
    shows="server-server API, 'Presence'",
    needs=users(3) + FEDERATION + feature("presence"),
)
async def presence(scene: Scene) -> None:
    alice, bob, carol = scene.users
    await alice.create_room_with(bob)
    await carol.catch_up()
    status = {"presence": "online", "status_msg": "At the window"}
    await bob.put(f"/presence/{bob.user_id}/status", status)
    await alice.until("Bob's status", lambda view: "status_msg" in view.presence[bob.user_id])
    seen = alice.view.presence[bob.user_id]
    check_equal(("online", "At the window"), (seen["presence"], seen["status_msg"]), "what Alice sees of Bob")
    await carol.put(f"/presence/{carol.user_id}/status", {"presence": "unavailable", "status_msg": "Elsewhere"})
    await carol.until("her own status", lambda view: view.presence[carol.user_id].get("status_msg") == "Elsewhere")
    check(bob.user_id not in carol.view.presence, "Carol to hear nothing of Bob", came=carol.view.presence)


@story(
    "Alice looks up Bob's profile on his server, and sees his new name in their room",
    shows="server-server API, 'Querying for information'; client-server API, 'Events on Change of Profile Information'",
    needs=users(2) + FEDERATION,
)
async def profiles(scene: Scene) -> None:
    alice, bob = scene.users
    await bob.set_profile("displayname", "Robert")
    check_equal("Robert", (await alice.profile(bob)).get("displayname"), "the name that Alice finds")
    room = await alice.create_room_with(bob)
    await bob.set_profile("displayname", "Bobby")
    await alice.until(
        "his new name in the room",
        lambda view: view.room(room).content("m.room.member", bob.user_id).get("displayname") == "Bobby",
    )
    with refused(404, "M_NOT_FOUND", what="the profile of nobody on Bob's server"):
        await alice.get(f"/profile/@nobody-{bob.localpart}:{bob.server.name}")


@story(
    "Bob comes late into Alice's room on another server, and pages back to its beginning: each message once, in order",
    shows="server-server API, 'Backfilling and retrieving missing events'",
    needs=users(2) + FEDERATION,
    time_limit_s=60,
)
async def history_from_before(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(preset="public_chat")
    words = [f"message {number}" for number in range(1, int(60 * scene.scale) + 1)]
    for each in words:
        await alice.say(room, each)
    await bob.join(room, via=alice.server)
    check_equal(words, await all_texts(bob, room), "what Bob reads")


@story(
    "What was said before Bob of another server came in stays hidden where history is for members only",
    shows="client-server API, 'Room History Visibility'; server-server API, 'Joining Rooms'",
    needs=users(2) + FEDERATION,
)
async def hidden_history(scene: Scene) -> None:
    alice, bob = scene.users
    visibility = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room = await alice.create_room(preset="public_chat", initial_state=[visibility])
    secret = await alice.say(room, "Before he came")
    await bob.join(room, via=alice.server)
    said = await alice.say(room, "Welcome, Bob")
    await bob.sees(room, said)
    check_equal(["Welcome, Bob"], await all_texts(bob, room), "what Bob reads")
    with refused(403, 404, what="Bob's look at what was said before he came"):
        await bob.event(room, secret)


@story(
    "Bob asks for what was said at a time before his server was in the room, and it asks Alice's",
    shows="client-server API, 'Room Events'; server-server API, 'Retrieving events'",
    needs=users(2) + FEDERATION,
)
async def event_of_a_time(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(preset="public_chat")
    said = [await alice.say(room, f"message {number}") for number in range(1, 41)]
    event = await alice.event(room, said[3])
    await bob.join(room, via=alice.server)
    path = f"/_matrix/client/v1{room.path('timestamp_to_event')}"
    found = await bob.get(path, ts=event["origin_server_ts"], dir="f")
    check(found.get("event_id") in said[:4], "the event of that moment", came=found)
    check_equal(event["origin_server_ts"], found.get("origin_server_ts"), "its time")
    with refused(404, "M_NOT_FOUND", what="an event before the room was made"):
        await bob.get(path, ts=1, dir="b")
