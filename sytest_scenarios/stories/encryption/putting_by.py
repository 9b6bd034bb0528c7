"""The device that is put by, and gets keys while none of the user's devices is there (MSC3814)."""

from sytest_scenarios.expect import check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.props.device_keys import DeviceKeys, claim, devices_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

PATH = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"


@story(
    "Alice puts a device by, Bob sends keys to it, and her new phone takes them up",
    shows="MSC3814, dehydrated devices",
    needs=users(2) + feature("dehydrated devices"),
)
async def taken_up(scene: Scene) -> None:
    alice, bob = scene.users
    await alice.create_room_with(bob)
    with refused(404, "M_NOT_FOUND", what="the dehydrated device of who has none"):
        await alice.get(PATH)
    device = DeviceKeys(alice, device_id="PUTBY")
    secret = {"algorithm": "m.dehydration.v1.olm", "device": "encrypted, and none of the server's business"}
    body = {
        "device_id": "PUTBY",
        "device_data": secret,
        "initial_device_display_name": "put by",
        "device_keys": device.published,
        "one_time_keys": device.one_time_keys(1),
        "fallback_keys": device.fallback_key(),
    }
    check_equal({"device_id": "PUTBY"}, await alice.put(PATH, body), "the answer")
    check_equal({"PUTBY"}, set(await devices_of(bob, alice)), "Alice's devices with keys, for Bob")
    at_device = type(alice)("Alice's device", alice.server, alice.user_id, "", "", "PUTBY")
    check_equal(body["one_time_keys"], await claim(bob, at_device), "the one-time key that Bob gets")
    for number in (1, 2):
        note = {"messages": {alice.user_id: {"PUTBY": {"room key": number}}}}
        await bob.put(f"/sendToDevice/m.room.encrypted/t{number}", note)
    with refused(404, what="Alice's dehydrated device, for Bob"):
        await bob.get(PATH)
    found = await alice.get(PATH)
    check_equal(("PUTBY", secret), (found["device_id"], found["device_data"]), "the device that the phone finds")
    events = (await alice.post(PATH + path_of("PUTBY", "events")))["events"]
    check_equal([1, 2], [each["content"]["room key"] for each in events], "what was sent to it")
    with refused(403, 404, what="the messages to Alice's device, for Bob"):
        await bob.post(PATH + path_of("PUTBY", "events"))
    await alice.delete(PATH)
    check_equal({}, await devices_of(bob, alice), "Alice's devices with keys, afterwards")
