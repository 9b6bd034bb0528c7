"""The server is killed in the middle of it all, and what it had answered is still there."""

from sytest_scenarios.expect import check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import OWN_SERVER, story, users


@story(
    "The server is killed, and every message that it had taken is there afterwards",
    shows="what was answered is on the disk",
    needs=users(2) + OWN_SERVER,
    time_limit_s=90,
)
async def killed(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.catch_up()
    words = [f"message {number}" for number in range(1, 11)]
    for each in words:
        await alice.say(room, each)
    await scene.server.kill()
    await scene.server.start()
    await bob.until("all ten messages", lambda view: view.room(room).texts == words)
    check_equal(words, await alice.texts(room), "the history")
