"""Keys as a client makes them: of devices, for one message each, and of users.

keys = Keys(alice.user_id, alice.device_id)
await alice.call("POST", "/keys/upload", {"device_keys": keys.device(), "one_time_keys": keys.one_time(5)})
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from homeserver.model.base64 import encode_base64
from homeserver.model.signing import SigningKey, generate_signing_key, sign_json


class Keys:
    """The secret keys of one device, and of its user's identity."""

    def __init__(self, user_id: str, device_id: str, *, generation: int = 1) -> None:
        self.user_id = user_id
        self.device_id = device_id
        self.device_key = self._key(f"device {device_id}")
        self.master = self._key(f"master {generation}")
        self.self_signing = self._key(f"self {generation}")
        self.user_signing = self._key(f"user {generation}")

    def device(self, **more: Any) -> dict[str, Any]:
        """Return the identity keys, signed by the device."""
        wire = {
            "user_id": self.user_id,
            "device_id": self.device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                f"curve25519:{self.device_id}": "c" * 43,
                f"ed25519:{self.device_id}": self.device_key.verify_key_base64,
            },
            **more,
        }
        return self.sign(wire, self.device_key, self.device_id)

    def one_time(self, count: int, start: int = 0, *, fallback: bool = False) -> dict[str, Any]:
        """Return signed one-time keys, or fallback keys."""
        return {
            f"signed_curve25519:{'F' if fallback else 'K'}{index:04}": self.sign(
                {"key": f"{index:043}", **({"fallback": True} if fallback else {})}, self.device_key, self.device_id
            )
            for index in range(start, start + count)
        }

    def cross_signing(self) -> dict[str, Any]:
        """Return the body of an upload of all three keys."""
        master = self.public("master", self.master)
        return {
            "master_key": self.sign(master, self.device_key, self.device_id),
            "self_signing_key": self.sign_by_master(self.public("self_signing", self.self_signing)),
            "user_signing_key": self.sign_by_master(self.public("user_signing", self.user_signing)),
        }

    def public(self, usage: str, key: SigningKey) -> dict[str, Any]:
        """Return a cross-signing key without signatures."""
        text = key.verify_key_base64
        return {"user_id": self.user_id, "usage": [usage], "keys": {f"ed25519:{text}": text}}

    def sign_by_master(self, wire: dict[str, Any]) -> dict[str, Any]:
        """Sign with the master key."""
        return self.sign(wire, self.master, self.master.verify_key_base64)

    def sign_by_self(self, wire: dict[str, Any]) -> dict[str, Any]:
        """Sign with the self-signing key."""
        return self.sign(wire, self.self_signing, self.self_signing.verify_key_base64)

    def sign_by_user(self, wire: dict[str, Any]) -> dict[str, Any]:
        """Sign with the user-signing key."""
        return self.sign(wire, self.user_signing, self.user_signing.verify_key_base64)

    def sign(self, wire: dict[str, Any], key: SigningKey, key_id: str) -> dict[str, Any]:
        """Return the object with a signature of the user's."""
        return sign_json(wire, self.user_id, SigningKey(f"ed25519:{key_id}", key.secret))

    def _key(self, name: str) -> SigningKey:
        return generate_signing_key(sha256(f"{self.user_id} {name}".encode()).digest(), "x")


def public_key(key: SigningKey) -> str:
    """Return the public half as clients write it."""
    return encode_base64(bytes(key.secret.verify_key))
