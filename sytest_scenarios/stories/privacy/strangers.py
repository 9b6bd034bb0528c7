"""What a stranger learns: nothing of rooms that are not for them, and nothing of people whom they do not know."""

import json

from sytest_scenarios.actors import Room, User
from sytest_scenarios.asking import together
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import Answer
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import ADMIN_SECRET, feature, setting, story, users

RULE = "promise: what does not exist is refused in the same words as what may not be read"


@story(
    "Eve learns nothing of a private room: not who is in it, not what it is called, not what is said there",
    shows="client-server API, 'Getting events for a room': 403; 'Room Summaries'",
    needs=users(2),
    tags=["smoke"],
)
async def private_room(scene: Scene) -> None:
    alice, bob = scene.users
    eve = await scene.new_user("Eve")
    room = await alice.create_room_with(bob, preset="private_chat", name="The cellar")
    said = await bob.say(room, "Under the third stone")
    await alice.upload(b"x", "text/plain")
    for answer, path in await _looks(eve, room, said, bob):
        words = answer.body.decode()
        check(400 <= answer.status < 500, f"GET {path} to be refused", came=answer.status)
        for secret in (
            "The cellar",
            "third stone",
            alice.localpart,
            *([] if bob.localpart in path else [bob.localpart]),
        ):
            check(secret not in words, f"nothing of {secret!r} in the answer to GET {path}", came=words)
    check_equal([], (await eve.get("/joined_rooms"))["joined_rooms"], "the rooms of Eve")
    check("Under the third stone" in await alice.texts(room), "Alice to read it", came="something else")


@story(
    "Eve cannot tell a private room from one that does not exist",
    shows=RULE,
    needs=users(2) + feature("promises of Sennit"),
)
async def no_such_room(scene: Scene) -> None:
    alice, bob = scene.users
    eve = await scene.new_user("Eve")
    room = await alice.create_room_with(bob, preset="private_chat")
    said = await bob.say(room, "Here we are")
    # As long as the other one, and of the same form.
    turned = room.id[1:].partition(":")[0][::-1]
    nowhere = Room(room.id.replace(room.id[1:].partition(":")[0], turned))
    real = await _looks(eve, room, said, bob)
    none = await _looks(eve, nowhere, said, bob)
    for (one, path), (other, _) in zip(real, none, strict=True):
        told, expected = (
            (each.status, each.body.decode().replace(place.id, "!it"))
            for each, place in ((one, room), (other, nowhere))
        )
        check_equal(expected, told, f"the answer to GET {path}")
    about_bob = {"user_id": bob.user_id}
    for verb, body in (
        ("invite", about_bob),
        ("kick", about_bob),
        ("ban", about_bob),
        ("unban", about_bob),
        ("leave", {}),
    ):
        one, other = [await eve.request("POST", each.path(verb), body) for each in (room, nowhere)]
        check_equal((403, other.body), (one.status, one.body), f"the answer to {verb}")
    for verb in ("send", "state"):
        paths = [each.path(verb, "m.room.topic", "x") for each in (room, nowhere)]
        one, other = [await eve.request("PUT", each, {}) for each in paths]
        check_equal((403, other.body), (one.status, one.body), f"the answer to {verb}")
    # Joining asks other servers about a room that is not here: what they say differs.
    for path in (room.path("join"), f"/knock/{room.id}"):
        with refused(403, "M_FORBIDDEN", what=f"Eve's {path.rpartition('/')[2]}"):
            await eve.post(path)


async def _looks(eve: User, room: Room, event_id: str, member: User) -> list[tuple[Answer, str]]:
    paths = [
        *(
            room.path(*each)
            for each in (
                ("state",),
                ("state", "m.room.name", ""),
                ("state", "m.room.member", member.user_id),
                ("members",),
                ("joined_members",),
                ("messages",),
                ("event", event_id),
                ("context", event_id),
                ("aliases",),
                ("initialSync",),
            )
        ),
        *(
            f"/_matrix/client/v1{room.path(*each)}"
            for each in (("hierarchy",), ("threads",), ("relations", event_id), ("timestamp_to_event",))
        ),
        f"/_matrix/client/v1/room_summary/{room.id}",
    ]
    queries: dict[str, dict[str, str | int]] = {"messages": {"dir": "b"}, "timestamp_to_event": {"ts": 0, "dir": "f"}}
    answers = await together(*(eve.request("GET", path, query=queries.get(path.rpartition("/")[2])) for path in paths))
    return list(zip(answers, paths, strict=True))


@story(
    "Whoever asks learns Alice's name only when they share a room with her, where that is the rule",
    shows="client-server API, 'Profiles'; docs/configuration.md, [profiles]: need_shared_room",
    needs=users(2) + setting("strict accounts") + ADMIN_SECRET,
)
async def profile(scene: Scene) -> None:
    alice, bob = scene.users
    eve = await scene.new_user("Eve")
    await alice.set_profile("displayname", "Alice in Wonderland")
    await alice.create_room_with(bob)
    check_equal("Alice in Wonderland", (await bob.profile(alice)).get("displayname"), "what Bob, who knows her, reads")
    paths = [f"/profile/{each}" for each in (alice.user_id, f"@nobody-{alice.localpart}:{scene.server.name}")]
    with refused(401, "M_MISSING_TOKEN", what="a look by somebody who is nobody here"):
        await scene.server.get(paths[0])
    hers, nobodys = [await eve.request("GET", each) for each in paths]
    check(hers.status in (403, 404), "Eve to learn nothing", came=hers.status)
    check("Wonderland" not in hers.body.decode(), "Eve to learn nothing", came=hers.body.decode())
    check_equal((nobodys.status, nobodys.errcode), (hers.status, hers.errcode), "the answer, next to that of nobody")


@story(
    "An invite tells Eve who invites her and to what, and not who else is there",
    shows="client-server API, 'Stripped state'",
    needs=users(2),
)
async def invite(scene: Scene) -> None:
    alice, bob = scene.users
    eve = await scene.new_user("Eve")
    room = await alice.create_room_with(bob, preset="private_chat", name="The cellar", topic="Wine")
    await bob.say(room, "Under the third stone")
    await alice.invite(room, eve)
    await eve.until("the invite", lambda view: view.room(room).membership == "invite")
    told = eve.view.room(room)
    check_equal("The cellar", told.content("m.room.name").get("name"), "what she is invited to")
    check_equal("invite", told.member(eve.user_id), "her own membership")
    words = json.dumps(await eve.sync())
    check(alice.user_id in words, "who invites her", came=words)
    for secret in (bob.user_id, "third stone", "m.room.power_levels"):
        check(secret not in words, f"nothing of {secret!r} in what Eve is told", came=words)
    with refused(403, "M_FORBIDDEN", what="a look at the members"):
        await eve.members(room)
