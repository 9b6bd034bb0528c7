"""Two servers cannot hear each other, both sides change the room, and then they meet."""

from sytest_scenarios.actors import Room, User
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.props.agreeing import same_state, whole_history
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import OWN_SERVER, feature, servers, story, users


async def _room_with_power(alice: User, bob: User, *others: User, version: str) -> Room:
    """Have Alice make a room where Bob may change state and kick; the others are there, too."""
    levels = {"users": {bob.user_id: 50}}
    if version != "12":
        levels["users"][alice.user_id] = 100
    room = await alice.create_room_with(
        bob, *others, preset="private_chat", room_version=version, power_level_content_override=levels
    )
    said = await alice.say(room, "Before")
    for each in (bob, *others):
        await each.sees(room, said)
    return room


async def _meet(room: Room, alice: User, bob: User) -> dict[str, str]:
    """Have both speak until each hears the other; return the state, which is the same for both."""
    mine, his = await alice.say(room, "Here is Alice"), await bob.say(room, "Here is Bob")
    await alice.sees(room, his, within_s=60)
    await bob.sees(room, mine, within_s=60)
    return await same_state(room, alice, bob)


@story(
    "Alice and Bob change topic and name while their servers cannot hear each other; then both see the same of each",
    shows="server-server API, 'Room State Resolution'",
    needs=users(2) + servers(2) + OWN_SERVER + feature("room version 12"),
    time_limit_s=180,
)
async def topics(scene: Scene) -> None:
    alice, bob = scene.users
    rooms = [await _room_with_power(alice, bob, version=version) for version in ("10", "11", "12")]
    await bob.server.stop()
    for room in rooms:
        for number in range(3):
            await alice.say(room, f"alone {number}")
        await alice.set_state(room, "m.room.topic", {"topic": "Alice's"})
    await alice.server.stop()
    await bob.server.start()
    topics = {}
    for room in rooms:
        for number in range(3):
            await bob.say(room, f"also alone {number}")
        last = await bob.set_state(room, "m.room.topic", {"topic": "Bob's"})
        topics[room.id] = last
        await bob.set_state(room, "m.room.name", {"name": "Named by Bob"})
    await alice.server.start()
    for room in rooms:
        state = await _meet(room, alice, bob)
        # Both had the power for it: the resolution orders them by their times, and the later one stands.
        check_equal(topics[room.id], state.get("m.room.topic"), "the event of the topic")
        check_equal("Bob's", (await alice.state(room, "m.room.topic")).get("topic"), "the topic, for Alice")
        check_equal("Named by Bob", (await alice.state(room, "m.room.name")).get("name"), "the name, for Alice")
        mine, his = await whole_history(alice, room), await whole_history(bob, room)
        check_equal(sorted(each["event_id"] for each in mine), sorted(each["event_id"] for each in his), "the events")


@story(
    "Alice bans Bob, whose server does not hear it, while he sets a topic and kicks: then the ban stands, and no more",
    shows="server-server API, 'Room State Resolution'; room versions 2 and 12, 'State resolution'",
    needs=users(4) + servers(2) + OWN_SERVER + feature("room version 12"),
    time_limit_s=180,
)
async def bans(scene: Scene) -> None:
    alice, bob, carol, dan = scene.users
    rooms = [await _room_with_power(alice, bob, carol, dan, version=version) for version in ("10", "11", "12")]
    before = [await same_state(room, carol, dan) for room in rooms]
    await bob.server.stop()
    for room in rooms:
        await alice.ban(room, bob)
    await alice.server.stop()
    await bob.server.start()
    for room in rooms:
        await bob.set_state(room, "m.room.topic", {"topic": "Bob's"})
        await bob.kick(room, carol)
        await bob.say(room, "I rule here")
    await alice.server.start()
    for room, state_before in zip(rooms, before, strict=True):
        state = await _meet(room, carol, dan)
        check_equal(None, state.get("m.room.topic"), "the topic")
        carols = f"m.room.member {carol.user_id}"
        check_equal(state_before[carols], state.get(carols), "Carol's membership")
        for each in (carol, dan):
            membership = (await each.state(room, "m.room.member", bob.user_id)).get("membership")
            check_equal("ban", membership, f"Bob's membership as {each} sees it")
        check(
            "I rule here" not in carol.view.room(room).texts, "Carol not to hear Bob", came=carol.view.room(room).texts
        )
