"""One person, several devices: which there are, what they are called, and how they are got rid of."""

import time

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.props.device_keys import devices_of, password_of, publish
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users


@story(
    "Alice gives her device a name, and Bob can neither list nor rename it",
    shows="client-server API, 'Device Management': GET and PUT /devices/{deviceId}",
    needs=users(2),
)
async def named(scene: Scene) -> None:
    alice, bob = scene.users
    path = f"/devices/{alice.device_id}"
    await alice.put(path, {"display_name": "Alice's phone"})
    found = await alice.get(path)
    check_equal((alice.device_id, "Alice's phone"), (found["device_id"], found["display_name"]), "the device")
    listed = [each["device_id"] for each in (await bob.get("/devices"))["devices"]]
    check_equal([bob.device_id], listed, "the devices that Bob is shown")
    with refused(404, what="Bob's look at Alice's device"):
        await bob.get(path)
    with refused(404, what="a name that Bob gives to Alice's device"):
        await bob.put(path, {"display_name": "Bob was here"})
    check_equal("Alice's phone", (await alice.get(path))["display_name"], "the name afterwards")


@story(
    "Alice removes two lost devices at once, with her password, and they are out",
    shows="client-server API, 'Device Management': POST /delete_devices; 'User-Interactive Authentication API'",
    needs=users(1) + feature("password login"),
)
async def removed_in_bulk(scene: Scene) -> None:
    (alice,) = scene.users
    phone, laptop, tablet = [await alice.log_in(f"Alice at her {each}") for each in ("phone", "laptop", "tablet")]
    wish = {"devices": [phone.device_id, laptop.device_id]}
    asked = await alice.request("POST", "/delete_devices", wish)
    check_equal(401, asked.status, "the answer to who does not show that it is Alice")
    check("m.login.password" in str(asked.json["flows"]), "a flow with the password", came=asked.json["flows"])
    session = asked.json["session"]
    wrong = {**password_of(alice, session), "password": "not hers"}
    refusal = await alice.request("POST", "/delete_devices", {**wish, "auth": wrong})
    check_equal((401, "M_FORBIDDEN"), (refusal.status, refusal.errcode), "the answer to a wrong password")
    await phone.get("/account/whoami")
    await alice.post("/delete_devices", {**wish, "auth": password_of(alice, session)})
    for each in (phone, laptop):
        with refused(401, "M_UNKNOWN_TOKEN", what=f"{each.name}, which was removed,"):
            await each.get("/account/whoami")
    await tablet.get("/account/whoami")
    left = {each["device_id"] for each in (await alice.get("/devices"))["devices"]}
    check_equal({alice.device_id, tablet.device_id}, left, "the devices that are left")


@story(
    "Bob, who knows the ID of Alice's device, cannot remove it",
    shows="client-server API, 'Device Management': DELETE /devices/{deviceId}, of the current user",
    needs=users(2) + feature("password login"),
)
async def not_anothers(scene: Scene) -> None:
    alice, bob = scene.users
    path = f"/devices/{alice.device_id}"
    asked = await bob.request("DELETE", path, {})
    if asked.status == 401:
        # Whatever it answers to this: some say that there is nothing to remove, some that it is gone.
        await bob.request("DELETE", path, {"auth": password_of(bob, asked.json["session"])})
    check_equal(alice.user_id, (await alice.get("/account/whoami"))["user_id"], "who Alice still is")
    listed = [each["device_id"] for each in (await alice.get("/devices"))["devices"]]
    check_equal([alice.device_id], listed, "Alice's devices")


@story(
    "Alice sees when and from where her devices were used last",
    shows="client-server API, 'Device Management': last_seen_ts, last_seen_ip",
    needs=users(1) + feature("password login"),
)
async def last_seen(scene: Scene) -> None:
    (alice,) = scene.users
    began_ms = time.time_ns() // 1_000_000
    phone = await alice.log_in("Alice at her phone", initial_device_display_name="phone")
    await phone.get("/account/whoami")
    device = await alice.get(f"/devices/{phone.device_id}")
    check_equal("phone", device["display_name"], "the name that the phone gave itself")
    # Clocks of two machines may differ by some minutes.
    check(
        isinstance(device.get("last_seen_ts"), int) and abs(device["last_seen_ts"] - began_ms) < 600_000,
        "last_seen_ts to be now, in milliseconds",
        came=device,
    )
    check(device.get("last_seen_ip"), "the address from which the phone came", came=device)


@story(
    "Alice logs in again as the same device: one device, and the old token is worth nothing",
    shows="client-server API, 'Relationship between access tokens and devices'",
    needs=users(1) + feature("password login"),
    unlike={
        "synapse": "lets the old token live on; the spec, 'Relationship between access tokens and devices': 'If the "
        "client sets the device_id, the server will invalidate any access and refresh tokens previously assigned'"
    },
)
async def same_device(scene: Scene) -> None:
    (alice,) = scene.users
    first = await alice.log_in(device_id="KITCHEN", initial_device_display_name="kitchen")
    second = await alice.log_in(device_id="KITCHEN", initial_device_display_name="another name")
    check_equal("KITCHEN", second.device_id, "the device of the second login")
    with refused(401, "M_UNKNOWN_TOKEN", what="the first token"):
        await first.get("/account/whoami")
    devices = {each["device_id"]: each for each in (await second.get("/devices"))["devices"]}
    check_equal({alice.device_id, "KITCHEN"}, set(devices), "the devices")
    check_equal("kitchen", devices["KITCHEN"]["display_name"], "the name, given at the first login")


@story(
    "A device that is removed takes its keys and its waiting messages with it",
    shows="client-server API, 'Device Management'; 'Send-to-Device messaging'",
    needs=users(2) + feature("password login"),
)
async def leaves_nothing(scene: Scene) -> None:
    alice, bob = scene.users
    await alice.create_room_with(bob)
    tablet = await bob.log_in("Bob at his tablet", device_id="TABLET")
    await publish(tablet, one_time_keys=1)
    check_equal({"TABLET"}, set(await devices_of(alice, bob)), "Bob's devices with keys, as Alice sees them")
    for_tablet = {"messages": {bob.user_id: {"TABLET": {"secret": "for the old one"}}}}
    await alice.put("/sendToDevice/org.example.secret/t1", for_tablet)
    await tablet.log_out()
    check_equal({}, await devices_of(alice, bob), "Bob's devices with keys, afterwards")
    again = await bob.log_in("Bob at a new tablet", device_id="TABLET")
    await alice.put("/sendToDevice/org.example.secret/t2", {"messages": {bob.user_id: {"TABLET": {"secret": "new"}}}})
    await again.until("the message for the new tablet", lambda view: view.to_device)
    check_equal(["new"], [each["content"]["secret"] for each in again.view.to_device], "what it is told")
    check_equal(0, again.view.key_counts.get("signed_curve25519", 0), "the one-time keys of the new tablet")
