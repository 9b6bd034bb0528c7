"""Two servers cannot hear each other, both sides change the room, and then they meet."""

from sytest_scenarios.actors import Room, User
from sytest_scenarios.agreeing import same_state, whole_history
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import OWN_SERVER, servers, story, users


async def _room_with_power(alice: User, *others: User, version: str) -> Room:
    """Have Alice make a room where the others may change state and invite them."""
    levels = {"users": {each.user_id: 50 for each in others}}
    if version != "12":
        levels["users"][alice.user_id] = 100
    room = await alice.create_room_with(
        *others, preset="private_chat", room_version=version, power_level_content_override=levels
    )
    said = await alice.say(room, "Before")
    for each in others:
        await each.sees(room, said)
    return room


async def _meet(room: Room, alice: User, bob: User) -> dict[str, str]:
    """Have both speak until each hears the other; return the state, which is the same for both."""
    mine, his = await alice.say(room, "Here is Alice"), await bob.say(room, "Here is Bob")
    await alice.sees(room, his, within_s=30)
    await bob.sees(room, mine, within_s=30)
    return await same_state(room, alice, bob)


@story(
    "Alice and Bob change topic and name while their servers cannot hear each other; then both see the same of each",
    shows="server-server API, 'Room State Resolution'; docs/conformance.md",
    needs=users(2) + servers(2) + OWN_SERVER,
    time_limit_s=120,
)
async def topics(scene: Scene) -> None:
    alice, bob = scene.users
    rooms = [await _room_with_power(alice, bob, version=version) for version in ("10", "11")]
    await bob.server.stop()
    said = set()
    for room in rooms:
        said |= {await alice.say(room, f"alone {number}") for number in range(3)}
        said.add(await alice.set_state(room, "m.room.topic", {"topic": "Alice's"}))
    await alice.server.stop()
    await bob.server.start()
    for room in rooms:
        said |= {await bob.say(room, f"also alone {number}") for number in range(3)}
        said.add(await bob.set_state(room, "m.room.topic", {"topic": "Bob's"}))
        said.add(await bob.set_state(room, "m.room.name", {"name": "Named by Bob"}))
    await alice.server.start()
    for room in rooms:
        state = await _meet(room, alice, bob)
        topic = (await alice.state(room, "m.room.topic")).get("topic")
        # Both had the power for it: the resolution orders them by their times, and the later one stands.
        check_equal("Bob's", topic, "the topic")
        check_equal(state["m.room.topic"], (await _told(bob, room))["m.room.topic"], "the topic's event, for Bob")
        check_equal("Named by Bob", (await alice.state(room, "m.room.name")).get("name"), "the name, for Alice")
        mine, his = await whole_history(alice, room), await whole_history(bob, room)
        check_equal(sorted(each["event_id"] for each in mine), sorted(each["event_id"] for each in his), "the events")
    check(said, "something said", came=said)


async def _told(user: User, room: Room) -> dict[str, str]:
    return await same_state(room, user)
