"""Coming in and going out where the room lives on another server."""

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.props.agreeing import same_state
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import FEDERATION, servers, story, users


@story(
    "Bob of another server declines Alice's invite, and Alice is told",
    shows="server-server API, 'Leaving Rooms (Rejecting Invites)'",
    needs=users(2) + FEDERATION,
)
async def declines(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(preset="private_chat", name="Attic", invite=[bob])
    await bob.until("the invite", lambda view: room.id in view.invites)
    check_equal("Attic", bob.view.room(room).content("m.room.name").get("name"), "the name in the invite")
    await bob.leave(room)
    await alice.until("Bob to have declined", lambda view: view.room(room).member(bob.user_id) == "leave")
    await bob.until("the invite to be gone", lambda view: room.id not in view.invites)
    with refused(403, what="Bob's joining after he declined"):
        await bob.join(room, via=alice.server)


@story(
    "Alice takes back the invite of Bob, who lives on another server, and he cannot join any more",
    shows="client-server API, 'Room membership'; server-server API, 'Inviting to a room'",
    needs=users(2) + FEDERATION,
)
async def takes_back(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(preset="private_chat", invite=[bob])
    await bob.until("the invite", lambda view: room.id in view.invites)
    await alice.kick(room, bob)
    with refused(403, what="Bob's joining without an invite"):
        await bob.join(room, via=alice.server)
    check_equal("leave", (await alice.members(room))[bob.user_id], "the membership that Alice sees")


@story(
    "Bob of another server joins a room by its alias, and not by one that is not there",
    shows="server-server API, 'Querying for information'; client-server API, 'Room aliases'",
    needs=users(2) + FEDERATION,
)
async def by_alias(scene: Scene) -> None:
    alice, bob = scene.users
    local = f"attic-{alice.localpart}"
    room = await alice.create_room(preset="public_chat", room_alias_name=local)
    alias = f"#{local}:{alice.server.name}"
    found = await bob.get(path_of("directory", "room", alias))
    check_equal(room.id, found.get("room_id"), "the room that the alias leads to")
    check(alice.server.name in found.get("servers", []), "Alice's server among those of the alias", came=found)
    check_equal(room.id, (await bob.join(alias)).id, "the room that Bob has joined")
    await alice.until("Bob to be there", lambda view: view.room(room).member(bob.user_id) == "join")
    with refused(404, "M_NOT_FOUND", what="an alias that is not there"):
        await bob.join(f"#no-{local}:{alice.server.name}")


@story(
    "Carol joins Alice's room through Bob's server, and all three servers hear each other",
    shows="server-server API, 'Joining Rooms'",
    needs=users(3) + servers(3),
)
async def through_another(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room(preset="public_chat")
    answer = await carol.request("POST", path_of("join", room.id), {}, query={"via": bob.server.name})
    check(answer.status >= 400, "no way through a server that is not in the room", came=answer.status)
    await bob.join(room, via=alice.server)
    # A server may let others in only when it has all of the state.
    await same_state(room, alice, bob)
    await carol.join(room, via=bob.server)
    for speaker, words in ((alice, "one"), (bob, "two"), (carol, "three")):
        said = await speaker.say(room, words)
        for listener in scene.users:
            await listener.sees(room, said)
    await same_state(room, alice, bob, carol)


@story(
    "Bob of another server knocks, is let in by Alice, and cannot come in before",
    shows="server-server API, 'Knocking upon a room'; client-server API, 'Knocking on rooms'",
    needs=users(2) + FEDERATION,
)
async def knocks(scene: Scene) -> None:
    alice, bob = scene.users
    rule = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
    room = await alice.create_room(preset="private_chat", name="Attic", initial_state=[rule])
    with refused(403, "M_FORBIDDEN", what="Bob's joining without an invite"):
        await bob.join(room, via=alice.server)
    await bob.post(path_of("knock", room.id), {"reason": "It rains"}, via=alice.server.name)
    await bob.until("the knock", lambda view: room.id in view.in_membership("knock"))
    check_equal("Attic", bob.view.room(room).content("m.room.name").get("name"), "the name of what Bob knocked at")
    knock = await alice.until("Bob's knock", lambda view: view.room(room).content("m.room.member", bob.user_id))
    check_equal(("knock", "It rains"), (knock.get("membership"), knock.get("reason")), "what Alice hears")
    await alice.invite(room, bob)
    await bob.until("the invite", lambda view: room.id in view.invites)
    await bob.join(room, via=alice.server)
    await bob.sees(room, await alice.say(room, "Come in"))


@story(
    "Bob of another server takes his knock back, and Alice is told",
    shows="client-server API, 'Knocking on rooms'; server-server API, 'Leaving Rooms (Rejecting Invites)'",
    needs=users(2) + FEDERATION,
    unlike={
        "synapse": "tells nobody; server-server API, 'Leaving Rooms (Rejecting Invites)', has it sent by /make_leave,"
        " /send_leave"
    },
)
async def knock_taken_back(scene: Scene) -> None:
    alice, bob = scene.users
    rule = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
    room = await alice.create_room(preset="private_chat", initial_state=[rule])
    await bob.post(path_of("knock", room.id), {}, via=alice.server.name)
    await alice.until("Bob's knock", lambda view: view.room(room).member(bob.user_id) == "knock")
    await bob.leave(room)
    await alice.until("Bob to have gone", lambda view: view.room(room).member(bob.user_id) == "leave")
    closed = await alice.create_room(preset="private_chat")
    with refused(403, "M_FORBIDDEN", what="knocking where nobody may knock"):
        await bob.post(path_of("knock", closed.id), {}, via=alice.server.name)


@story(
    "Those of Alice's space may enter its room from other servers, Dan, who is not in it, may not",
    shows="server-server API, 'Restricted rooms'",
    needs=users(4) + FEDERATION,
)
async def restricted(scene: Scene) -> None:
    alice, bob, _, dan = scene.users
    space = await alice.create_room_with(bob, creation_content={"type": "m.space"})
    rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": space.id}]}
    room = await alice.create_room(initial_state=[{"type": "m.room.join_rules", "content": rule}])
    with refused(403, what="the joining of Dan, who is not in the space"):
        await dan.join(room, via=alice.server)
    await bob.join(room, via=alice.server)
    member = await alice.until("Bob to be there", lambda view: view.room(room).content("m.room.member", bob.user_id))
    check_equal(alice.user_id, member.get("join_authorised_via_users_server"), "who answers for Bob")
    await bob.sees(room, await alice.say(room, "Among us"))
    with refused(403, what="the joining of Dan, though somebody of his server is in the room"):
        await dan.join(room, via=alice.server)


@story(
    "A room that is not public lets nobody of another server in, and tells nothing",
    shows="server-server API, 'Joining Rooms'; client-server API, 'Joining rooms'",
    needs=users(2) + FEDERATION,
)
async def private(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(preset="private_chat")
    said = await alice.say(room, "Among ourselves")
    with refused(403, "M_FORBIDDEN", what="Bob's joining"):
        await bob.join(room, via=alice.server)
    for path in ("messages", "state", f"event/{said}", "members"):
        with refused(403, 404, what=f"Bob's look at {path}"):
            await bob.get(f"{room.path()}/{path}", dir="b")
    await alice.catch_up()
    check_equal(None, alice.view.room(room).member(bob.user_id), "Bob's membership")


@story(
    "Alice kicks and then bans Bob of another server: he hears nothing, and stays outside until she lifts the ban",
    shows="client-server API, 'Banning users in a room'; room version 12, 'Authorisation rules'",
    needs=users(2) + FEDERATION,
)
async def kicked_and_banned(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, preset="public_chat")
    # Who begins to look when it is over is not told of a room that they have left.
    await bob.until("the room", lambda view: room.id in view.joined)
    await alice.kick(room, bob, reason="Too loud")
    await bob.until("to be kicked", lambda view: view.room(room).membership == "leave")
    await bob.join(room, via=alice.server)
    await bob.until("the room again", lambda view: room.id in view.joined)
    await alice.ban(room, bob, reason="Still too loud")
    await bob.until("to be banned", lambda view: view.room(room).member(bob.user_id) == "ban")
    secret = await alice.say(room, "Now we are alone")
    with refused(403, "M_FORBIDDEN", what="the joining of Bob, who is banned"):
        await bob.join(room, via=alice.server)
    with refused(403, 404, what="Bob's look at what was said after he was banned"):
        await bob.event(room, secret)
    await alice.unban(room, bob)
    await bob.join(room, via=alice.server)
    await bob.sees(room, await alice.say(room, "Welcome back"))


@story(
    "Bob of another server leaves, and what is said afterwards does not reach him",
    shows="client-server API, 'Leaving rooms'; server-server API, 'Transactions'",
    needs=users(2) + FEDERATION,
)
async def leaves(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, preset="private_chat")
    other = await alice.create_room_with(bob, preset="private_chat")
    await bob.leave(room)
    await alice.until("Bob to be gone", lambda view: view.room(room).member(bob.user_id) == "leave")
    later = await alice.say(room, "He is gone")
    await bob.sees(other, await alice.say(other, "Something else"))
    check_equal([], bob.view.room(room).texts, "what Bob hears of the room that he left")
    with refused(403, 404, what="Bob's look at what was said after he left"):
        await bob.event(room, later)
