"""Whose devices have changed: those who share a room are told, and nobody else."""

from sytest_scenarios.actors import User
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.props.device_keys import CrossSigningKeys, devices_of, publish
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

ENCRYPTED = [
    {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}},
]


def forget(user: User) -> None:
    """Forget what was told of devices."""
    user.view.devices_changed.clear()
    user.view.devices_left.clear()


@story(
    "Bob gets a new phone: Alice, who is in a room with him, is told of it, and Eve is not",
    shows="client-server API, 'Tracking the device list for a user'; 'Extensions to /sync': device_lists.changed",
    needs=users("Alice", "Bob", "Eve") + feature("password login"),
)
async def added(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await alice.create_room_with(bob, initial_state=ENCRYPTED)
    evil = await alice.create_room_with(eve, initial_state=ENCRYPTED)
    await publish(bob)
    for each in (alice, eve):
        await each.catch_up()
        forget(each)
    phone = await bob.log_in("Bob at his phone")
    await publish(phone)
    await alice.until("Bob's devices to have changed", lambda view: bob.user_id in view.devices_changed)
    check_equal({bob.device_id, phone.device_id}, set(await devices_of(alice, bob)), "Bob's devices")
    end = await alice.say(evil, "the end")
    await eve.sees(evil, end)
    check(
        bob.user_id not in eve.view.devices_changed, "Eve not to hear of Bob's devices", came=eve.view.devices_changed
    )
    check(room.id not in eve.view.rooms, "Eve not to know the room", came=list(eve.view.rooms))


@story(
    "Bob logs out at his phone: Alice is told that his devices have changed",
    shows="client-server API, 'Tracking the device list for a user'",
    needs=users(2) + feature("password login"),
)
async def removed(scene: Scene) -> None:
    alice, bob = scene.users
    await alice.create_room_with(bob, initial_state=ENCRYPTED)
    phone = await bob.log_in("Bob at his phone")
    await publish(bob)
    await publish(phone)
    check_equal({bob.device_id, phone.device_id}, set(await devices_of(alice, bob)), "Bob's devices")
    await alice.catch_up()
    forget(alice)
    await phone.log_out()
    await alice.until("Bob's devices to have changed", lambda view: bob.user_id in view.devices_changed)
    check_equal({bob.device_id}, set(await devices_of(alice, bob)), "Bob's devices, afterwards")


@story(
    "Bob joins an encrypted room and leaves the last one that he shares with Alice: she is told of both",
    shows="client-server API, 'Extensions to /sync': device_lists.changed and left",
    needs=users(2),
)
async def last_shared_room(scene: Scene) -> None:
    alice, bob = scene.users
    await publish(bob)
    one = await alice.create_room(initial_state=ENCRYPTED, preset="public_chat")
    two = await alice.create_room(initial_state=ENCRYPTED, preset="public_chat")
    await alice.catch_up()
    forget(alice)
    await bob.join(one)
    await alice.until("Bob's devices to be news", lambda view: bob.user_id in view.devices_changed)
    await bob.join(two)
    await alice.until("Bob in the second room", lambda view: view.room(two).member(bob.user_id) == "join")
    await bob.leave(one)
    await alice.until("Bob out of the first room", lambda view: view.room(one).member(bob.user_id) == "leave")
    check(bob.user_id not in alice.view.devices_left, "nothing of Bob, still in a room", came=alice.view.devices_left)
    forget(alice)
    await bob.leave(two)
    await alice.until("Bob to be out of sight", lambda view: bob.user_id in view.devices_left)


@story(
    "Alice was away, and asks whose devices have changed meanwhile: Bob's, not Carol's, nor Eve's",
    shows="client-server API, 'Key management API': GET /keys/changes",
    needs=users("Alice", "Bob", "Carol", "Eve") + feature("password login"),
)
async def changed_meanwhile(scene: Scene) -> None:
    alice, bob, carol, eve = scene.users
    await alice.create_room_with(bob, carol, initial_state=ENCRYPTED)
    await publish(bob)
    await publish(carol)
    before = (await alice.catch_up()).since
    await publish(await bob.log_in("Bob at his phone"))
    await publish(eve)
    until = (await alice.sync())["next_batch"]
    found = await alice.get("/keys/changes", **{"from": before, "to": until})
    check_equal([bob.user_id], found["changed"], "whose devices have changed")
    check_equal([], found["left"], "who is out of sight")
    later = await alice.get("/keys/changes", **{"from": until, "to": (await alice.sync())["next_batch"]})
    check_equal([], later["changed"], "whose devices have changed after that")


@story(
    "Alice sets up cross-signing, and Bob is told to look at her keys again",
    shows="client-server API, 'Cross-signing': her user ID appears in the changed property of device_lists",
    needs=users(2),
)
async def cross_signing(scene: Scene) -> None:
    alice, bob = scene.users
    await alice.create_room_with(bob, initial_state=ENCRYPTED)
    device = await publish(alice)
    await bob.until("Alice's device to be news", lambda view: alice.user_id in view.devices_changed or view.joined)
    await bob.catch_up()
    forget(bob)
    mine = CrossSigningKeys(alice)
    await alice.post("/keys/device_signing/upload", mine.published)
    await bob.until("Alice's keys to be news", lambda view: alice.user_id in view.devices_changed)
    await bob.catch_up()
    forget(bob)
    signed = {alice.user_id: {alice.device_id: mine.by_self_signing(device.published)}}
    check_equal({}, (await alice.post("/keys/signatures/upload", signed)).get("failures", {}), "what was refused")
    await bob.until("the signature on her device to be news", lambda view: alice.user_id in view.devices_changed)
