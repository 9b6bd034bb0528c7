"""People of two servers meet in a room."""

from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import FEDERATION, story, users


@story(
    "Bob of another server is invited by Alice, joins, and they talk",
    shows="server-server API, 'Inviting to a room', 'Joining rooms', 'Transactions'",
    needs=users(2) + FEDERATION,
    time_limit_s=60,
)
async def two_servers(scene: Scene) -> None:
    alice, bob = scene.users
    check(alice.server.name != bob.server.name, "two servers", came=alice.server.name)
    room = await alice.create_room(invite=[bob])
    await bob.until("the invite", lambda view: room.id in view.invites)
    await bob.join(room, via=alice.server)
    there = await alice.say(room, "Hello from here")
    await bob.sees(room, there)
    await alice.sees(room, await bob.say(room, "Hello from there"))
    words = ["Hello from here", "Hello from there"]
    check_equal(words, await alice.texts(room), "what Alice reads")
    check_equal(words, await bob.texts(room), "what Bob reads")
