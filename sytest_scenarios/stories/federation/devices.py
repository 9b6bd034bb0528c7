"""Devices, their keys and what is sent to them, where the people live on different servers."""

from typing import Any

from sytest_scenarios.actors import User
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import FEDERATION, story, users

ALGORITHMS = ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"]


def keys_of(user: User, letter: str) -> dict[str, Any]:
    """Return device keys that look like some; servers do not check what they cannot know."""
    device = user.device_id
    return {
        "user_id": user.user_id,
        "device_id": device,
        "algorithms": ALGORITHMS,
        "keys": {f"curve25519:{device}": letter * 43, f"ed25519:{device}": letter * 43},
        "signatures": {user.user_id: {f"ed25519:{device}": letter * 86}},
    }


@story(
    "Alice asks for the keys of Bob's devices on another server, and hears when he has a new one and when it is gone",
    shows="server-server API, 'Device Management', 'End-to-End Encryption'",
    needs=users(2) + FEDERATION,
)
async def device_lists(scene: Scene) -> None:
    alice, bob = scene.users
    await bob.post("/keys/upload", {"device_keys": keys_of(bob, "A")})
    await alice.create_room_with(bob)
    found = (await alice.post("/keys/query", {"device_keys": {bob.user_id: []}}))["device_keys"][bob.user_id]
    check_equal({bob.device_id}, set(found), "Bob's devices")
    check_equal(keys_of(bob, "A")["keys"], found[bob.device_id].get("keys"), "the keys that Alice finds")
    await alice.catch_up()
    alice.view.devices_changed.clear()
    phone = await bob.log_in("Bob's phone")
    await phone.post("/keys/upload", {"device_keys": keys_of(phone, "B")})
    await _hears_of(alice, bob, {bob.device_id, phone.device_id})
    await phone.log_out()
    await _hears_of(alice, bob, {bob.device_id})


async def _hears_of(alice: User, bob: User, wanted: set[str]) -> None:
    """Wait until Alice, told again and again that Bob's devices have changed, finds these."""
    for _ in range(10):
        await alice.until("a change of Bob's devices", lambda view: bob.user_id in view.devices_changed)
        alice.view.devices_changed.clear()
        found = (await alice.post("/keys/query", {"device_keys": {bob.user_id: []}}))["device_keys"][bob.user_id]
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
    keys = {f"curve25519:K{number}": f"{number}" * 43 for number in range(2)}
    await bob.post("/keys/upload", {"device_keys": keys_of(bob, "A"), "one_time_keys": keys})
    claim = {"one_time_keys": {bob.user_id: {bob.device_id: "curve25519"}}}
    given: list[dict[str, Any]] = []
    for each in (alice, carol, alice):
        found = (await each.post("/keys/claim", claim)).get("one_time_keys", {})
        given.append(found.get(bob.user_id, {}).get(bob.device_id, {}))
    check_equal(keys, {**given[0], **given[1]}, "the keys that were given")
    check_equal({}, given[2], "what is left for the third")


@story(
    "Alice sends to one device of Bob on another server, then to all: each gets what is for it, once",
    shows="server-server API, 'Send-to-device messaging'",
    needs=users(2) + FEDERATION,
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
