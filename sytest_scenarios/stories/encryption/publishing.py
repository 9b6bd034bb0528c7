"""Keys of devices: published by the device itself, handed out as they are; each one-time key to one only."""

from sytest_scenarios.asking import together
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.props.device_keys import ONE_TIME, DeviceKeys, claim, devices_of, publish
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users


@story(
    "Bob gets the keys of Alice's device as she has published them, signature and all",
    shows="client-server API, 'Key management API': POST /keys/upload, POST /keys/query",
    needs=users(2) + feature("password login"),
)
async def published(scene: Scene) -> None:
    alice, bob = scene.users
    await bob.create_room_with(alice)
    await alice.put(f"/devices/{alice.device_id}", {"display_name": "Alice's phone"})
    device = await publish(alice)
    silent = await alice.log_in("Alice at a device without encryption")
    found = await devices_of(bob, alice)
    check_equal({alice.device_id}, set(found), f"the devices that have keys ({silent.device_id} has none)")
    keys = {key: value for key, value in found[alice.device_id].items() if key != "unsigned"}
    check_equal(device.published, keys, "the keys as Bob gets them")
    one = await bob.post("/keys/query", {"device_keys": {alice.user_id: ["NOSUCHDEVICE"]}})
    check_equal({}, one["device_keys"].get(alice.user_id, {}), "the keys of a device that does not exist")


@story(
    "Eve cannot publish keys in Alice's name, nor for another device than her own",
    shows="client-server API, 'Key management API': POST /keys/upload, identity keys for the device",
    needs=users("Alice", "Eve"),
)
async def own_device_only(scene: Scene) -> None:
    alice, eve = scene.users
    await publish(alice)
    before = await devices_of(eve, alice)
    for what, forged in {
        "keys for Alice's device": DeviceKeys(alice).published,
        "keys for a device that Eve does not use": DeviceKeys(eve, device_id="ANOTHER").published,
    }.items():
        with refused(400, 403, what=what):
            await eve.post("/keys/upload", {"device_keys": forged})
    check_equal(before, await devices_of(eve, alice), "Alice's devices afterwards")
    check_equal({}, await devices_of(alice, eve), "Eve's devices afterwards")


@story(
    "Keys of the wrong shape are refused, and good ones are taken afterwards",
    shows="client-server API, 'Key management API': POST /keys/upload, POST /keys/query",
    needs=users(1),
)
async def bad_shapes(scene: Scene) -> None:
    (alice,) = scene.users
    for path, body in (
        ("/keys/upload", {"device_keys": "none"}),
        ("/keys/query", {}),
        ("/keys/query", {"device_keys": [alice.user_id]}),
        ("/keys/query", {"device_keys": {alice.user_id: "all"}}),
    ):
        with refused(400, what=f"{path} with {body}"):
            await alice.post(path, body)
    device = await publish(alice)
    check_equal({device.device_id}, set(await devices_of(alice, alice)), "Alice's devices with keys")


@story(
    "A one-time key is given to one only, whole, and Alice is told how many are left",
    shows="client-server API, 'One-time and fallback keys': each one-time key is only claimed once",
    needs=users(3),
)
async def claimed_once(scene: Scene) -> None:
    alice, bob, carol = scene.users
    device = DeviceKeys(alice)
    keys = device.one_time_keys(2)
    answer = await alice.post("/keys/upload", {"device_keys": device.published, "one_time_keys": keys})
    check_equal(2, answer["one_time_key_counts"].get(ONE_TIME), "the number of keys that the server has")
    again = await alice.post("/keys/upload", {"one_time_keys": keys})
    check_equal(2, again["one_time_key_counts"].get(ONE_TIME), "their number after the same upload once more")
    await alice.until("the number of keys to be told", lambda view: view.key_counts.get(ONE_TIME) == 2)
    bobs, carols, late = await claim(bob, alice), await claim(carol, alice), await claim(bob, alice)
    check_equal(keys, {**(bobs or {}), **(carols or {})}, "the keys that Bob and Carol got, together")
    check_equal(None, late, "what the third gets")
    left = await alice.sync()
    check_equal(0, left.get("device_one_time_keys_count", {}).get(ONE_TIME, 0), "the number of keys that are left")


@story(
    "Twenty claim one-time keys at once, where there are ten: each key goes to one",
    shows="client-server API, 'One-time and fallback keys': each one-time key is only claimed once",
    needs=users(2),
)
async def claimed_side_by_side(scene: Scene) -> None:
    alice, bob = scene.users
    device = DeviceKeys(alice)
    keys = device.one_time_keys(10)
    await alice.post("/keys/upload", {"device_keys": device.published, "one_time_keys": keys})
    found = await together(*(claim(bob, alice) for _ in range(20)))
    given = sorted(name for each in found for name in each or {})
    check_equal(sorted(keys), given, "the names of all keys that were given")


@story(
    "When the one-time keys are used up, the fallback key is given, until Alice puts a new one in its place",
    shows="client-server API, 'One-time and fallback keys': fallback keys; device_unused_fallback_key_types",
    needs=users(2),
)
async def fallback(scene: Scene) -> None:
    alice, bob = scene.users
    device = DeviceKeys(alice)
    once, first, second = device.one_time_keys(1), device.fallback_key(), device.fallback_key()
    body = {"device_keys": device.published, "one_time_keys": once, "fallback_keys": first}
    await alice.post("/keys/upload", body)
    unused = "device_unused_fallback_key_types"
    check_equal([ONE_TIME], (await alice.sync())[unused], "the unused fallback keys")
    check_equal(once, await claim(bob, alice), "the first key that Bob gets")
    check_equal([ONE_TIME], (await alice.sync())[unused], "the unused fallback keys, as none was needed")
    for number in ("second", "third"):
        check_equal(first, await claim(bob, alice), f"the {number} key that Bob gets")
    check_equal([], (await alice.sync())[unused], "the unused fallback keys when it was used")
    await alice.post("/keys/upload", {"fallback_keys": second})
    check_equal([ONE_TIME], (await alice.sync())[unused], "the unused fallback keys when there is a new one")
    check_equal(second, await claim(bob, alice), "the key that Bob gets then")


@story(
    "Nobody has keys to claim where there is no such device, and the others are given all the same",
    shows="client-server API, 'Key management API': POST /keys/claim",
    needs=users(2),
)
async def none_there(scene: Scene) -> None:
    alice, bob = scene.users
    await publish(alice, one_time_keys=1)
    nobody = alice.user_id.replace(alice.localpart, "nobody-at-all", 1)
    wanted = {
        alice.user_id: {alice.device_id: ONE_TIME, "NOSUCHDEVICE": ONE_TIME},
        nobody: {"PHONE": ONE_TIME},
    }
    found = await bob.post("/keys/claim", {"one_time_keys": wanted})
    given = {user: {name for name, keys in devices.items() if keys} for user, devices in found["one_time_keys"].items()}
    check_equal({alice.device_id}, given.get(alice.user_id), "the devices of Alice whose keys Bob got")
    check(not given.get(nobody), "no keys of who does not exist", came=found)
    check_equal({}, found.get("failures", {}), "the servers that failed")
