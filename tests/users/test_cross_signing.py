"""Signatures over keys of users."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import pytest_twisted

from homeserver.model.base64 import encode_base64
from homeserver.model.signing import encode_signed
from tests.support.encrypted import EncryptedServer
from tests.support.encryption import Keys, public_key
from tests.support.rooms import RoomServer


@pytest.mark.parametrize("device_id", ["PHONE", "My Bot", "Gerät", "a/b+c="])
@pytest_twisted.ensureDeferred
async def test_a_device_of_any_id_signs_the_master_key(rooms: RoomServer, device_id: str) -> None:
    """Spec: "Cross-signing": that is how devices that knew the user before find the key to be the user's."""
    world = EncryptedServer(rooms)
    alice = await world.log_in("alice", device_id)
    keys = await world.upload(alice)
    signing = world.parts.cross_signing
    assert await signing.store(alice, await signing.read_upload(alice, keys.cross_signing()))
    master = keys.public("master", keys.master)
    name = f"ed25519:{device_id}"
    for signature, failures in (
        (encode_base64(keys.master.sign(encode_signed(master))), ["M_INVALID_SIGNATURE"]),
        (encode_base64(keys.device_key.sign(encode_signed(master))), []),
    ):
        signed = {**master, "signatures": {str(alice.user_id): {name: signature}}}
        answer = await signing.sign(alice, {alice.user_id: {public_key(keys.master): signed}})
        assert failures == [each["errcode"] for by_key in answer.values() for each in by_key.values()]


async def _shown_master(world: EncryptedServer, user: Any) -> Any:
    shown = await world.parts.device_keys.query(user, {"device_keys": {user.user_id: []}}, timeout_s=1)
    return orjson.loads(orjson.dumps(shown["master_keys"]))[user.user_id]


@pytest_twisted.ensureDeferred
async def test_a_bad_signature_by_one_device_does_not_void_those_of_others(rooms: RoomServer) -> None:
    """Clients send all the signatures that they know of, and one of the devices may have other keys since."""
    world = EncryptedServer(rooms)
    alice = await world.log_in("alice", "BAD")
    await world.upload(alice)
    later = await world.log_in("alice", "GOOD")
    keys = await world.upload(later)
    signing = world.parts.cross_signing
    body = {**keys.cross_signing(), "master_key": keys.public("master", keys.master)}
    assert await signing.store(alice, await signing.read_upload(alice, body))
    master = keys.sign(keys.public("master", keys.master), keys.device_key, "GOOD")
    signatures = master["signatures"][str(alice.user_id)]
    # Nor do names of devices that are not there count among those that are looked at.
    many = {f"ed25519:{number}": "x" for number in range(20)}
    master["signatures"] = {str(alice.user_id): {**many, "ed25519:BAD": "x" * 86, **signatures}}
    assert {} == await signing.sign(alice, {alice.user_id: {public_key(keys.master): master}})
    assert {str(alice.user_id): signatures} == (await _shown_master(world, alice))["signatures"]


@pytest_twisted.ensureDeferred
async def test_what_a_replaced_key_of_a_device_has_signed_is_shown_no_more(rooms: RoomServer) -> None:
    world = EncryptedServer(rooms)
    alice = await world.log_in("alice", "PHONE")
    keys = await world.upload(alice)
    later = await world.log_in("alice", "TABLET")
    tablet = await world.upload(later)
    signing, names = world.parts.cross_signing, {"ed25519:PHONE", "ed25519:TABLET"}
    assert await signing.store(alice, await signing.read_upload(alice, keys.cross_signing()))
    master = keys.public("master", keys.master)
    signed = tablet.sign(keys.sign(master, keys.device_key, "PHONE"), tablet.device_key, "TABLET")
    assert {} == await signing.sign(alice, {alice.user_id: {public_key(keys.master): signed}})
    # The same key with another content has signed it still.
    await world.parts.device_keys.upload(alice, {"device_keys": keys.device(more=1)})
    assert names == set((await _shown_master(world, alice))["signatures"][str(alice.user_id)])
    other = Keys(alice.user_id, "PHONE")
    other.device_key = keys.user_signing
    await world.parts.device_keys.upload(alice, {"device_keys": other.device()})
    assert {"ed25519:TABLET"} == set((await _shown_master(world, alice))["signatures"][str(alice.user_id)])
    await world.devices.delete(alice.user_id, alice.user_nid, ["TABLET"])
    assert {} == (await _shown_master(world, alice))["signatures"][str(alice.user_id)]
