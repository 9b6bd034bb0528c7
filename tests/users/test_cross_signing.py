"""Signatures over keys of users."""

from __future__ import annotations

import pytest
import pytest_twisted

from homeserver.model.base64 import encode_base64
from homeserver.model.signing import encode_signed
from tests.support.encrypted import EncryptedServer
from tests.support.encryption import public_key
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
