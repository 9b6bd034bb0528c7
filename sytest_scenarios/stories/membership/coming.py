"""Coming and going: what an invite tells, joining twice, coming back, forgetting, and who is where."""

from sytest_scenarios.actors import initial
from sytest_scenarios.asking import together
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

MEMBERSHIP = "client-server API, 'Room membership'"


@story(
    "An invite shows Bob what room it is and why he is asked, and nothing of what is said there",
    shows="client-server API, 'Stripped state'; POST /rooms/{roomId}/invite: reason",
    needs=users(2),
)
async def invite_tells(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(name="The kitchen", topic="Dinner")
    await alice.set_state(room, "org.example.secret", {"recipe": "grandmother's"})
    await alice.say(room, "among ourselves")
    await alice.invite(room, bob, reason="we are hungry")
    await bob.until("the invite", lambda view: room.id in view.invites)
    told = bob.view.room(room)
    check_equal("we are hungry", told.content("m.room.member", bob.user_id).get("reason"), "the reason")
    check_equal("invite", told.content("m.room.join_rules").get("join_rule"), "the join rule")
    check(("m.room.create", "") in told.state, "the create event in the invite", came=list(told.state))
    check(("org.example.secret", "") not in told.state, "no secret in the invite", came=list(told.state))
    check_equal([], told.timeline, "the messages in the invite")
    keys = {key for event in told.state.values() for key in event}
    check("unsigned" not in keys and "hashes" not in keys, "stripped events", came=sorted(keys))


@story(
    "Bob, who joins twice, is in the room once",
    shows=f"{MEMBERSHIP}: POST /join/{{roomIdOrAlias}}, the joined room ID must be returned",
    needs=users(2),
)
async def joins_twice(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(preset="public_chat")
    check_equal([room, room], await together(bob.join(room), bob.join(room)), "the rooms that Bob joined")
    check_equal(room, await bob.join(room), "the room that Bob joined again")
    joins = [each for each in await alice.history(room) if each.get("state_key") == bob.user_id]
    check_equal(["join"], [each["content"]["membership"] for each in joins], "what the room saw of it")
    check_equal({alice.user_id, bob.user_id}, set(await alice.members(room)), "the members")


@story(
    "Bob, who was kicked, comes back where everybody may, and needs an invite where not",
    shows="client-server API, 'Leaving rooms': 'the user is free to re-join if the room is not invite-only'",
    needs=users(2),
)
async def comes_back(scene: Scene) -> None:
    alice, bob = scene.users
    public = await alice.create_room_with(bob, preset="public_chat")
    private = await alice.create_room_with(bob, preset="private_chat")
    await together(alice.kick(public, bob), alice.kick(private, bob))
    await bob.join(public)
    await bob.say(public, "I am back")
    with refused(403, "M_FORBIDDEN", what="Bob's return into the private room"):
        await bob.join(private)
    await alice.invite(private, bob)
    await bob.join(private)


@story(
    "Nobody joins, leaves or names themselves for somebody else",
    shows="room version 12, 'Authorisation rules', 5.3.2: the sender of a join",
    needs=users(3),
)
async def not_for_others(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, preset="public_chat")
    for membership in ("join", "knock", "org.example.maybe"):
        with refused(403, 400, what=f"Carol's {membership} by Alice"):
            await alice.set_state(room, "m.room.member", {"membership": membership}, carol.user_id)
    with refused(403, 400, what="Bob's name by Alice"):
        await alice.set_state(room, "m.room.member", {"membership": "join", "displayname": "Rob"}, bob.user_id)
    await bob.set_state(room, "m.room.member", {"membership": "join", "displayname": "Bobby"}, bob.user_id)
    members = await alice.get(room.path("joined_members"))
    check_equal("Bobby", members["joined"][bob.user_id].get("display_name"), "Bob's name in the room")
    check_equal(None, members["joined"].get(carol.user_id), "Carol")


@story(
    "A room that Bob forgets is gone for him; he cannot forget one that he is in",
    shows="client-server API, 'Leaving rooms': POST /rooms/{roomId}/forget",
    needs=users(2),
)
async def forgets(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await alice.say(room, "before")
    with refused(400, what="forgetting a room that Bob is in"):
        await bob.post(room.path("forget"))
    await bob.leave(room)
    left = await bob.sync(filter='{"room":{"include_leave":true}}')
    check(room.id in left.get("rooms", {}).get("leave", {}), "the room among those left", came=left.get("rooms"))
    await bob.post(room.path("forget"))
    left = await bob.sync(filter='{"room":{"include_leave":true}}')
    check(room.id not in left.get("rooms", {}).get("leave", {}), "the room not there", came=left.get("rooms"))
    with refused(403, 404, what="what was said in the room that Bob forgot"):
        await bob.history(room)
    await alice.invite(room, bob)
    await bob.join(room)
    check_equal(["before"], await bob.texts(room), "what Bob reads when he is back")


@story(
    "Whatever becomes of Bob's membership, the room learns why",
    shows="client-server API, 'Joining rooms', 'Leaving rooms', 'Banning users in a room', 'Knocking on rooms': reason",
    needs=users(2),
)
async def reasons(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(initial_state=[initial("m.room.join_rules", {"join_rule": "knock"})])
    await bob.knock(room, reason="why knock")
    await alice.invite(room, bob, reason="why invite")
    await bob.post(path_of("join", room.id), {"reason": "why join"})
    await bob.post(room.path("leave"), {"reason": "why leave"})
    await alice.invite(room, bob, reason="why invite again")
    await bob.post(room.path("join"), {"reason": "why join again"})
    await alice.kick(room, bob, reason="why kick")
    await alice.ban(room, bob, reason="why ban")
    await alice.unban(room, bob, reason="why unban")
    changes = [each["content"] for each in await alice.history(room) if each.get("state_key") == bob.user_id]
    wanted = ["knock", "invite", "join", "leave", "invite", "join", "leave", "ban", "leave"]
    check_equal(wanted, [each["membership"] for each in changes], "what became of Bob's membership")
    verbs = ["knock", "invite", "join", "leave", "invite again", "join again", "kick", "ban", "unban"]
    check_equal([f"why {verb}" for verb in verbs], [each.get("reason") for each in changes], "the reasons")


@story(
    "Alice takes an invite back, and it is gone for Bob",
    shows="client-server API, 'Leaving rooms': POST /rooms/{roomId}/kick; 'Syncing': invite, leave",
    needs=users(2),
)
async def invite_taken_back(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(invite=[bob])
    await bob.until("the invite", lambda view: room.id in view.invites)
    await alice.kick(room, bob)
    await bob.until("that the invite is gone", lambda view: view.room(room).membership == "leave")
    check_equal({}, (await bob.sync()).get("rooms", {}).get("invite", {}), "Bob's invites")
    with refused(403, "M_FORBIDDEN", what="Bob's join"):
        await bob.join(room)
    await alice.invite(room, bob)
    await bob.until("the second invite", lambda view: room.id in view.invites)
    await bob.join(room)


@story(
    "Bob, who leaves, is told so, and hears nothing more of the room",
    shows="client-server API, 'Leaving rooms': 'it will no longer appear in the response to the /sync API'",
    needs=users(2),
)
async def hears_no_more(scene: Scene) -> None:
    alice, bob = scene.users
    room, other = await together(alice.create_room_with(bob), alice.create_room_with(bob))
    await bob.catch_up()
    await alice.say(room, "before")
    await bob.leave(room)
    await alice.say(room, "after")
    await alice.set_state(room, "m.room.topic", {"topic": "Bob"})
    await bob.sees(other, await alice.say(other, "you are still here"))
    left = bob.view.room(room)
    check_equal("leave", left.membership, "how the room was told last")
    check_equal(["before"], left.texts, "what Bob heard of it")
    check_equal({}, left.content("m.room.topic"), "the topic")
    check(room.id not in str((await bob.sync()).get("rooms", {})), "nothing of the room in a fresh sync", came=room.id)


@story(
    "Alice asks who was in the room at an earlier time",
    shows="client-server API, 'Getting events for a room': GET /rooms/{roomId}/members, at",
    needs=users(3),
)
async def who_was_there(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, preset="public_chat")
    await alice.catch_up()
    await alice.sees(room, await alice.say(room, "the two of us"))
    then = alice.view.room(room).prev_batch
    await bob.leave(room)
    await carol.join(room)
    found = await alice.get(room.path("members"), at=then, membership="join")
    check_equal(
        {alice.user_id, bob.user_id}, {each["state_key"] for each in found["chunk"]}, "who was in the room then"
    )
    found = await alice.get(room.path("members"), membership="join")
    check_equal({alice.user_id, carol.user_id}, {each["state_key"] for each in found["chunk"]}, "who is in it now")


@story(
    "Alice asks who is in the room, who was, and which rooms she is in",
    shows=f"{MEMBERSHIP}: GET /joined_rooms; 'Getting events for a room': GET …/members, …/joined_members",
    needs=users(4),
)
async def who_is_where(scene: Scene) -> None:
    alice, bob, carol, dan = scene.users
    await bob.set_profile("displayname", "Bobby")
    room = await alice.create_room_with(bob, dan)
    await alice.invite(room, carol)
    await dan.leave(room)
    joined = (await alice.get(room.path("joined_members")))["joined"]
    check_equal({alice.user_id, bob.user_id}, set(joined), "who is in the room")
    check_equal("Bobby", joined[bob.user_id].get("display_name"), "Bob's name")

    async def chosen(**query: str) -> set[str]:
        found = await alice.get(room.path("members"), **query)
        return {each["state_key"] for each in found["chunk"]}

    check_equal({carol.user_id}, await chosen(membership="invite"), "who is invited")
    check_equal({carol.user_id, dan.user_id}, await chosen(not_membership="join"), "who is not in the room")
    rooms = [(await who.get("/joined_rooms"))["joined_rooms"] for who in (alice, bob, carol, dan)]
    check_equal([[room.id], [room.id], [], []], rooms, "the rooms of Alice, Bob, Carol and Dan")


@story(
    "Alice sees which rooms she shares with Bob, and none that she is not in",
    shows="client-server API, 'Mutual Rooms'",
    needs=users(3) + feature("mutual rooms"),
)
async def mutual(scene: Scene) -> None:
    alice, bob, carol = scene.users
    path = "/_matrix/client/v1/mutual_rooms"
    first, second = await together(alice.create_room_with(bob), bob.create_room_with(alice))
    await together(alice.create_room(invite=[bob]), bob.create_room_with(carol), alice.create_room())
    found = await alice.get(path, user_id=bob.user_id)
    check_equal({first.id, second.id}, set(found["joined"]), "the rooms that Alice shares with Bob")
    check_equal(2, found["count"], "how many they are")
    await bob.leave(first)
    check_equal([second.id], (await alice.get(path, user_id=bob.user_id))["joined"], "those after Bob left one")
    nobody = await alice.get(path, user_id=f"@nobody-{alice.localpart}:{alice.user_id.partition(':')[2]}")
    check_equal([], nobody["joined"], "those that Alice shares with nobody")
    with refused(400, what="asking for the rooms that Alice shares with herself"):
        await alice.get(path, user_id=alice.user_id)
