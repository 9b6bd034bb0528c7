"""What nobody else has to know: who is in a room, what one keeps, where one logs in."""

import json

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users


@story(
    "Eve cannot find out who is in a private room, what it is called, or what is said there",
    shows="client-server API, 'Getting events for a room': 403 You aren't a member of the room",
    needs=users("Alice", "Bob", "Eve"),
    tags=["smoke"],
)
async def private_room(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await alice.create_room_with(bob, preset="private_chat", name="Surprise for Eve")
    said = await alice.say(room, "At eight")
    for parts in (
        ("members",),
        ("joined_members",),
        ("state",),
        ("state", "m.room.name", ""),
        ("state", "m.room.member", alice.user_id),
        ("event", said),
        ("context", said),
        ("messages",),
        ("aliases",),
        ("initialSync",),
    ):
        answer = await eve.request("GET", room.path(*parts), query={"dir": "b"} if parts == ("messages",) else None)
        check(answer.status in (403, 404), f"{parts[0]} to be refused with 403 or 404", came=answer.status)
        for secret in (alice.user_id, bob.user_id, "Surprise", "At eight"):
            check(secret.encode() not in answer.body, f"nothing of {secret} in the refusal", came=answer.body.decode())
    check_equal({alice.user_id, bob.user_id}, set(await bob.members(room)), "the members, for whom Bob asks")


@story(
    "Bob, who is only invited, learns who invites him and where to, but neither who else is there nor what is said",
    shows="client-server API, 'Stripped state'",
    needs=users(3),
)
async def invited_only(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(carol, preset="private_chat", name="Chess club")
    await alice.say(room, "Shall we ask Bob?")
    await alice.invite(room, bob)
    await bob.until("the invite", lambda view: room.id in view.invites)
    seen = bob.view.room(room)
    check_equal("Chess club", seen.content("m.room.name").get("name"), "the name of the room")
    check_equal(alice.user_id, seen.state["m.room.member", bob.user_id].get("sender"), "who invites Bob")
    told = json.dumps(await bob.sync())
    for secret in (carol.user_id, "Shall we ask Bob?"):
        check(secret not in told, f"nothing of {secret} to be told to Bob", came=told)
    for parts in (("members",), ("joined_members",), ("messages",)):
        with refused(403, what=f"Bob's question for {parts[0]}"):
            await bob.get(room.path(*parts), dir="b")


@story(
    "What Bob's client is told holds nothing that is Alice's own",
    shows="client-server API, 'Client Config': Users may only view the account data for their own account",
    needs=users(2) + feature("password login"),
)
async def own_things_only(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    tablet = await alice.log_in("Alice's tablet", initial_device_display_name="Alice's secret tablet")
    await alice.set_account_data("org.example.diary", {"monday": "rain on monday"})
    await alice.set_account_data("org.example.note", {"about": "boring"}, room=room)
    await alice.put(path_of("user", alice.user_id, "rooms", room.id, "tags", "u.secret"), {})
    rule = {"actions": ["notify"], "pattern": "hedgehog"}
    await alice.put(path_of("pushrules", "global", "content", "org.example.keyword"), rule)
    said = await tablet.say(room, "Good morning")
    await bob.sees(room, said)
    told = json.dumps(await bob.sync()) + json.dumps(await bob.get(room.path("messages"), dir="b", limit=100))
    own = ("rain on monday", "boring", "u.secret", "hedgehog", "secret tablet", alice.token, tablet.token)
    for secret in own:
        check(secret not in told, f"nothing of {secret} to be told to Bob", came="it")
    check("Good morning" in told, "what Alice said to be told", came=told)


@story(
    "Alice's profile holds what she has put there: no address, no telephone number, no device",
    shows="client-server API, 'Profiles': GET /profile/{userId}",
    needs=users(2),
)
async def profile_holds_no_more(scene: Scene) -> None:
    alice, bob = scene.users
    await alice.create_room_with(bob)
    await alice.set_profile("displayname", "Alice")
    await alice.set_profile("avatar_url", "mxc://example.org/alice")
    expected = {"displayname": "Alice", "avatar_url": "mxc://example.org/alice"}
    check_equal(expected, await bob.profile(alice), "what Bob is told of Alice")


@story(
    "Bob cannot ask where Alice is logged in, nor change or end her sessions",
    shows="client-server API, 'Server Administration': GET /admin/whois/{userId}",
    needs=users(2),
)
async def sessions_are_nobody_elses(scene: Scene) -> None:
    alice, bob = scene.users
    await alice.create_room_with(bob)
    with refused(403, "M_FORBIDDEN", what="Bob's question where Alice is logged in"):
        await bob.get(path_of("admin", "whois", alice.user_id))
    with refused(404, "M_NOT_FOUND", what="Bob's look at Alice's device"):
        await bob.get(path_of("devices", alice.device_id))
    with refused(404, "M_NOT_FOUND", what="Bob's new name for Alice's device"):
        await bob.put(path_of("devices", alice.device_id), {"display_name": "mine now"})
    found = await bob.get("/devices")
    check_equal([bob.device_id], [each["device_id"] for each in found["devices"]], "the devices that Bob is told")
