"""Server ACLs: a server that a room bars is not heard in it."""

from typing import Any

from sytest_scenarios.expect import check_equal, refused
from sytest_scenarios.props.agreeing import all_texts
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import FEDERATION, servers, story, users


def bars(server_name: str) -> dict[str, Any]:
    """Return an ACL that denies one server; names are matched without their ports."""
    return {"allow": ["*"], "deny": [server_name.rpartition(":")[0]], "allow_ip_literals": True}


@story(
    "Alice bars Bob's server: neither she nor Carol on a third one hears him in this room, but in another they do",
    shows="server-server API, 'Server Access Control Lists (ACLs)'",
    needs=users(3) + servers(3),
)
async def barred(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol, preset="private_chat")
    other = await alice.create_room_with(bob, carol, preset="private_chat")
    before = await bob.say(room, "You hear me")
    for each in (alice, carol):
        await each.sees(room, before)
    acl = await alice.set_state(room, "m.room.server_acl", bars(bob.server.name))
    for each in (bob, carol):
        await each.sees(room, acl)
    await bob.type(room)
    await bob.request("PUT", room.path("send", "m.room.message", "barred"), {"msgtype": "m.text", "body": "And now?"})
    for number in range(2):
        said = await bob.say(other, f"Elsewhere {number}")
        for each in (alice, carol):
            await each.sees(other, said)
    for each in (alice, carol):
        check_equal(["You hear me"], each.view.room(room).texts, f"what {each} hears")
        check_equal([], each.view.room(room).typing, f"who types as {each} sees it")
        check_equal(["You hear me"], await all_texts(each, room), f"what {each} reads")


@story(
    "Bob, whose server is barred, cannot join; when Alice lifts it, he can",
    shows="server-server API, 'Server Access Control Lists (ACLs)'",
    needs=users(2) + FEDERATION,
)
async def barred_from_joining(scene: Scene) -> None:
    alice, bob = scene.users
    acl = {"type": "m.room.server_acl", "content": bars(bob.server.name)}
    room = await alice.create_room(preset="public_chat", initial_state=[acl])
    with refused(403, "M_FORBIDDEN", what="Bob's joining"):
        await bob.join(room, via=alice.server)
    open_to_all = {"allow": ["*"], "allow_ip_literals": True}
    await alice.set_state(room, "m.room.server_acl", open_to_all)
    await bob.join(room, via=alice.server)
    await bob.sees(room, await alice.say(room, "Welcome"))
