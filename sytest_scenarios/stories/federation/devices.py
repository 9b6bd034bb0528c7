"""Devices, their keys and what is sent to them, where the people live on different servers."""

from typing import Any

from sytest_scenarios.actors import User
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.http import path_of
from sytest_scenarios.props.device_keys import DeviceKeys, claim, devices_of, publish
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import FEDERATION, feature, story, users


@story(
    "Alice asks for the keys of Bob's devices on another server, and hears when he has a new one and when it is gone",
    shows="server-server API, 'Device Management', 'End-to-End Encryption'",
    needs=users(2) + FEDERATION + feature("password login"),
)
async def device_lists(scene: Scene) -> None:
    alice, bob = scene.users
    keys = (await publish(bob)).published
    await alice.create_room_with(bob)
    found = await devices_of(alice, bob)
    check_equal({bob.device_id}, set(found), "Bob's devices")
    told = {key: found[bob.device_id].get(key) for key in keys}
    check_equal(keys, told, "the keys that Alice finds, with the signature")
    await alice.catch_up()
    alice.view.devices_changed.clear()
    phone = await bob.log_in("Bob's phone")
    await publish(phone)
    await _hears_of(alice, bob, {bob.device_id, phone.device_id})
    await phone.log_out()
    await _hears_of(alice, bob, {bob.device_id})


async def _hears_of(alice: User, bob: User, wanted: set[str]) -> None:
    """Wait until Alice, told again and again that Bob's devices have changed, finds these."""
    for _ in range(10):
        await alice.until("a change of Bob's devices", lambda view: bob.user_id in view.devices_changed)
        alice.view.devices_changed.clear()
        found = await devices_of(alice, bob)
        if set(found) == wanted:
            return
    check_equal(wanted, set(found), "Bob's devices")


@story(
    "Alice and Carol claim one-time keys of Bob, who lives on another server, and none is given twice",
    shows="server-server API, 'End-to-End Encryption'; client-server API, 'One-time and fallback keys'",
    needs=users(3) + FEDERATION,
)
async def one_time_keys(scene: Scene) -> None:
    alice, bob, carol = scene.users
    device = DeviceKeys(bob)
    keys = device.one_time_keys(2)
    await bob.post("/keys/upload", {"device_keys": device.published, "one_time_keys": keys})
    first, second, third = [await claim(each, bob) for each in (alice, carol, alice)]
    check_equal(keys, {**(first or {}), **(second or {})}, "the keys that were given")
    check_equal(None, third, "what is left for the third")


@story(
    "Alice sends to one device of Bob on another server, then to all: each gets what is for it, once",
    shows="server-server API, 'Send-to-device messaging'",
    needs=users(2) + FEDERATION + feature("password login"),
)
async def to_device(scene: Scene) -> None:
    alice, bob = scene.users
    phone = await bob.log_in("Bob's phone")
    one = path_of("sendToDevice", "org.example.note", "one")
    body = {"messages": {bob.user_id: {phone.device_id: {"body": "For the phone"}}}}
    await alice.put(one, body)
    await alice.put(one, body)
    await phone.until("the first note", lambda view: _notes(view.to_device) == ["For the phone"])
    everybody = {"messages": {bob.user_id: {"*": {"body": "For all"}}}}
    await alice.put(path_of("sendToDevice", "org.example.note", "two"), everybody)
    await phone.until("both notes", lambda view: _notes(view.to_device) == ["For the phone", "For all"])
    await bob.until("the second note", lambda view: _notes(view.to_device) == ["For all"])
    check(all(each["sender"] == alice.user_id for each in phone.view.to_device), "Alice", came=phone.view.to_device)
    await phone.catch_up()
    check_equal(["For the phone", "For all"], _notes(phone.view.to_device), "what the phone got")


def _notes(events: list[dict[str, Any]]) -> list[str]:
    return [each["content"]["body"] for each in events if each.get("type") == "org.example.note"]
