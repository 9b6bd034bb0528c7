"""The public keys of devices and people, as clients publish them: made, signed, and laid out as the spec says.

    phone = DeviceKeys(alice)
    await alice.post("/keys/upload", {"device_keys": phone.published, "one_time_keys": phone.one_time_keys(5)})

The signatures are real (Ed25519); nothing is encrypted with the Curve25519 keys, which are random.

Spec: client-server API, "Key Distribution", "Cross-signing"; appendices, "Signing JSON".
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from nacl import signing

from ..actors import User
from ..asking import JsonObject
from .signing import signed_json, unpadded

OLM: Final = "m.olm.v1.curve25519-aes-sha2"
MEGOLM: Final = "m.megolm.v1.aes-sha2"
ONE_TIME: Final = "signed_curve25519"
_KEY_IDS: Final = count(1)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key."""

    private: signing.SigningKey = field(default_factory=signing.SigningKey.generate)

    @property
    def public(self) -> str:
        """The public key in unpadded base64."""
        return unpadded(bytes(self.private.verify_key))

    def signed(self, value: Mapping[str, Any], user_id: str, key_id: str) -> JsonObject:
        """Return the object with a signature of this key added."""
        return signed_json(dict(value), signer=user_id, key=self.private, key_id=f"ed25519:{key_id}")


class DeviceKeys:
    """The keys of the device at which a user is logged in."""

    def __init__(self, user: User, *, device_id: str | None = None) -> None:
        self.user_id = user.user_id
        self.device_id = device_id or user.device_id
        self.signing = SigningKey()
        self.published = self.sign(
            {
                "user_id": self.user_id,
                "device_id": self.device_id,
                "algorithms": [OLM, MEGOLM],
                "keys": {
                    f"curve25519:{self.device_id}": unpadded(secrets.token_bytes(32)),
                    f"ed25519:{self.device_id}": self.signing.public,
                },
            }
        )

    def sign(self, value: Mapping[str, Any]) -> JsonObject:
        """Return the object, signed by the device."""
        return self.signing.signed(value, self.user_id, self.device_id)

    def one_time_keys(self, number: int) -> JsonObject:
        """Return so many new one-time keys, by name."""
        return {f"{ONE_TIME}:{self._key_id()}": self.sign(self._new_key()) for _ in range(number)}

    def fallback_key(self) -> JsonObject:
        """Return a new fallback key, by name."""
        return {f"{ONE_TIME}:{self._key_id()}": self.sign({**self._new_key(), "fallback": True})}

    def _new_key(self) -> JsonObject:
        return {"key": unpadded(secrets.token_bytes(32))}

    def _key_id(self) -> str:
        return f"AA{next(_KEY_IDS):06d}"


class CrossSigningKeys:
    """The three keys by which somebody vouches for their devices, and for others."""

    def __init__(self, user: User) -> None:
        self.user_id = user.user_id
        self.master, self.self_signing, self.user_signing = SigningKey(), SigningKey(), SigningKey()

    @property
    def published(self) -> JsonObject:
        """The body of `POST /keys/device_signing/upload`, without `auth`."""
        return {
            "master_key": self.key("master", self.master),
            "self_signing_key": self.by_master(self.key("self_signing", self.self_signing)),
            "user_signing_key": self.by_master(self.key("user_signing", self.user_signing)),
        }

    def key(self, usage: str, key: SigningKey) -> JsonObject:
        """Return a key as it is published, not yet signed."""
        return {"user_id": self.user_id, "usage": [usage], "keys": {f"ed25519:{key.public}": key.public}}

    def by_master(self, value: Mapping[str, Any]) -> JsonObject:
        """Return the object, signed by the master key."""
        return self.master.signed(value, self.user_id, self.master.public)

    def by_self_signing(self, value: Mapping[str, Any]) -> JsonObject:
        """Return the object, a device, signed by the self-signing key."""
        return self.self_signing.signed(value, self.user_id, self.self_signing.public)

    def by_user_signing(self, value: Mapping[str, Any]) -> JsonObject:
        """Return the object, somebody's master key, signed by the user-signing key."""
        return self.user_signing.signed(value, self.user_id, self.user_signing.public)


async def publish(user: User, *, one_time_keys: int = 0, **more: Any) -> DeviceKeys:
    """Make keys for the device of this user and upload them."""
    device = DeviceKeys(user)
    keys = {"one_time_keys": device.one_time_keys(one_time_keys)} if one_time_keys else {}
    await user.post("/keys/upload", {"device_keys": device.published, **keys, **more})
    return device


async def devices_of(asking: User, other: User) -> dict[str, JsonObject]:
    """Return the devices of somebody, as the one who asks is told, by device ID."""
    found = await asking.post("/keys/query", {"device_keys": {other.user_id: []}})
    return dict(found["device_keys"].get(other.user_id, {}))


async def claim(asking: User, other: User) -> JsonObject | None:
    """Claim a one-time key of a device and return its name and the key in one object; None if there is none."""
    found = await asking.post("/keys/claim", {"one_time_keys": {other.user_id: {other.device_id: ONE_TIME}}})
    keys: JsonObject = found["one_time_keys"].get(other.user_id, {}).get(other.device_id, {})
    return keys or None


def password_of(user: User, session: str | None = None) -> JsonObject:
    """Return what proves to the server that it is the user who asks (user-interactive authentication)."""
    identifier = {"type": "m.id.user", "user": user.user_id}
    more = {} if session is None else {"session": session}
    return {"type": "m.login.password", "identifier": identifier, "password": user.password, **more}
