"""End-to-end encryption between the two servers: device lists, keys, one-time keys, to-device messages."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.encryption import Keys
from tests.support.federation import FederatedUser

from .pairs import Pair, until

BOTH_DATABASES = pytest.mark.parametrize("new_database", ["sqlite", "mariadb"], indirect=True)


async def upload(user: FederatedUser, *, one_time: int = 3) -> Keys:
    """Upload a device's keys and return them."""
    keys = Keys(user.user_id, user.device_id)
    await user.call("POST", "/keys/upload", {"device_keys": keys.device(), "one_time_keys": keys.one_time(one_time)})
    return keys


async def query(asker: FederatedUser, user: FederatedUser) -> Any:
    """Return what the asker's server says of a user's keys."""
    return await asker.call("POST", "/keys/query", {"device_keys": {user.user_id: []}})


async def wait_for_device(asker: FederatedUser, user: FederatedUser, device_id: str, *, present: bool = True) -> Any:
    """Return the keys of a device as soon as the asker's server has them, or None as soon as it has not."""
    found: list[Any] = []

    async def is_so() -> bool:
        found[:] = [(await query(asker, user))["device_keys"].get(user.user_id, {}).get(device_id)]
        return present is (found[0] is not None)

    await until(is_so, what=f"device {device_id} {'there' if present else 'gone'} at {asker.server.name}")
    return found[0]


async def test_keys_are_queried_and_claimed(pair: Pair) -> None:
    """Without a room in common, too: then the answer is not kept."""
    for owner, asker in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        keys = await upload(owner)
        device = await wait_for_device(asker, owner, owner.device_id)
        assert keys.device()["keys"] == device["keys"]
        assert keys.device()["signatures"] == device["signatures"]
        wanted = {"one_time_keys": {owner.user_id: {owner.device_id: "signed_curve25519"}}}
        taken = set()
        for _ in range(3):
            claimed = await asker.call("POST", "/keys/claim", wanted)
            taken |= claimed["one_time_keys"][owner.user_id][owner.device_id].keys()
        assert keys.one_time(3).keys() == taken
        claimed = await asker.call("POST", "/keys/claim", wanted)
        assert not claimed["one_time_keys"].get(owner.user_id, {}).get(owner.device_id)


async def test_name_of_a_device_is_told_where_that_is_allowed(pair: Pair) -> None:
    for owner, asker in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        await owner.call("PUT", f"/devices/{owner.device_id}", {"display_name": "Tea machine"})
        await upload(owner)
        device = await wait_for_device(asker, owner, owner.device_id)
        assert "Tea machine" == device["unsigned"]["device_display_name"]


async def test_changed_devices_are_told_to_who_shares_a_room(pair: Pair) -> None:
    room_id = await pair.room()
    assert room_id
    for owner, asker in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        since = (await asker.sync())["next_batch"]
        await upload(owner)

        async def is_told(owner: FederatedUser = owner, asker: FederatedUser = asker, since: str = since) -> bool:
            lists = (await asker.sync(since)).get("device_lists", {})
            return owner.user_id in lists.get("changed", [])

        await until(is_told, what=f"device list of {owner.user_id} at {asker.server.name}")
        await wait_for_device(asker, owner, owner.device_id)


async def test_device_that_logs_out_is_gone(pair: Pair) -> None:
    await pair.room()
    for owner, asker in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        password = "correct horse" if owner.server is pair.sides.sennit else "x"
        login = await owner.call(
            "POST",
            "/login",
            {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": owner.user_id},
                "password": password,
            },
        )
        second = FederatedUser(owner.server, owner.user_id, login["access_token"], login["device_id"])
        await upload(second)
        await wait_for_device(asker, owner, second.device_id)
        await second.call("POST", "/logout", {})
        await wait_for_device(asker, owner, second.device_id, present=False)


async def test_cross_signing_keys_are_told(pair: Pair) -> None:
    await pair.room()
    for owner, asker in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        keys = await upload(owner)
        await wait_for_device(asker, owner, owner.device_id)
        await owner.call("POST", "/keys/device_signing/upload", keys.cross_signing())

        async def is_told(owner: FederatedUser = owner, asker: FederatedUser = asker, keys: Keys = keys) -> bool:
            answer = await query(asker, owner)
            shown = [
                answer.get(kind, {}).get(owner.user_id, {}).get("keys") for kind in ("master_keys", "self_signing_keys")
            ]
            expected = [keys.public("master", keys.master), keys.public("self_signing", keys.self_signing)]
            return [each["keys"] for each in expected] == shown

        await until(is_told, what=f"cross-signing keys of {owner.user_id} at {asker.server.name}")
        assert "user_signing_keys" not in {
            name for name, users in (await query(asker, owner)).items() if owner.user_id in (users or {})
        }


@BOTH_DATABASES
async def test_messages_to_devices_arrive_once(pair: Pair) -> None:
    """Without a room in common, too; to one device, and to all with `*`."""
    for sender, receiver in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        await upload(receiver)
        await wait_for_device(sender, receiver, receiver.device_id)
        for number, device_id in enumerate([receiver.device_id, "*"]):
            body = {"messages": {receiver.user_id: {device_id: {"number": number}}}}
            await sender.call("PUT", f"/sendToDevice/org.example.test/{sender.device_id}{number}", body)
        received: dict[int, str] = {}
        since: str | None = None

        async def are_there(
            sender: FederatedUser = sender, receiver: FederatedUser = receiver, received: dict[int, str] = received
        ) -> bool:
            nonlocal since
            synced = await receiver.sync(since)
            since = synced["next_batch"]
            for event in synced.get("to_device", {}).get("events", []):
                assert event["content"]["number"] not in received
                assert "org.example.test" == event["type"]
                received[event["content"]["number"]] = event["sender"]
            return {0: sender.user_id, 1: sender.user_id} == received

        await until(are_there, what=f"to-device messages at {receiver.server.name}")
