"""A client that really encrypts (Olm and Megolm), with the package `vodozemac`, which not everybody has installed.

Stories that use it need `feature("olm")`. Only what they need: no verification, no rotation, no backup.

Spec: client-server API, "Messaging Algorithms".
"""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

from ..actors import Room, User
from ..asking import JsonObject
from ..expect import check_equal
from .device_keys import MEGOLM, OLM, ONE_TIME, claim, devices_of
from .signing import canonical, unpadded


class Crypto:
    """The encrypting half of a user's client."""

    def __init__(self, user: User) -> None:
        self._olm: Any = import_module("vodozemac")
        self._user = user
        self._account: Any = self._olm.Account()
        self._sending: dict[str, Any] = {}
        self._receiving: dict[str, Any] = {}

    @property
    def curve25519(self) -> str:
        """The identity key of the device."""
        return str(self._account.curve25519_key.to_base64())

    @property
    def ed25519(self) -> str:
        """The fingerprint of the device."""
        return str(self._account.ed25519_key.to_base64())

    async def publish(self) -> None:
        """Upload the keys of the device, and some one-time keys."""
        user, device_id = self._user, self._user.device_id
        device = {
            "user_id": user.user_id,
            "device_id": device_id,
            "algorithms": [OLM, MEGOLM],
            "keys": {f"curve25519:{device_id}": self.curve25519, f"ed25519:{device_id}": self.ed25519},
        }
        self._account.generate_one_time_keys(5)
        keys = {
            f"{ONE_TIME}:{key_id}": self._signed({"key": key.to_base64()})
            for key_id, key in self._account.one_time_keys.items()
        }
        await user.post("/keys/upload", {"device_keys": self._signed(device), "one_time_keys": keys})
        self._account.mark_keys_as_published()

    async def share_room_key(self, room: Room, other: User) -> None:
        """Begin to encrypt in the room, and send the key of it to somebody's device, by Olm."""
        group = self._sending.setdefault(room.id, self._olm.GroupSession())
        device = (await devices_of(self._user, other))[other.device_id]
        theirs = device["keys"][f"curve25519:{other.device_id}"]
        one_time_key = next(iter((await claim(self._user, other) or {}).values()))
        self._check_signature(one_time_key, other, device["keys"][f"ed25519:{other.device_id}"])
        identity = self._olm.Curve25519PublicKey.from_base64(theirs)
        session = self._account.create_outbound_session(
            identity, self._olm.Curve25519PublicKey.from_base64(one_time_key["key"])
        )
        room_key = {
            "type": "m.room_key",
            "sender": self._user.user_id,
            "recipient": other.user_id,
            "recipient_keys": {"ed25519": device["keys"][f"ed25519:{other.device_id}"]},
            "keys": {"ed25519": self.ed25519},
            "content": {
                "algorithm": MEGOLM,
                "room_id": room.id,
                "session_id": group.session_id,
                "session_key": group.session_key.to_base64(),
            },
        }
        kind, ciphertext = session.encrypt(json.dumps(room_key).encode()).to_parts()
        content = {
            "algorithm": OLM,
            "sender_key": self.curve25519,
            "ciphertext": {theirs: {"type": kind, "body": unpadded(ciphertext)}},
        }
        path = f"/sendToDevice/m.room.encrypted/for-{other.device_id}-{group.message_index}"
        await self._user.put(path, {"messages": {other.user_id: {other.device_id: content}}})

    def take_room_key(self, event: JsonObject) -> None:
        """Take in a room key that came to the device."""
        content = event["content"]
        ours = content["ciphertext"][self.curve25519]
        check_equal(0, ours["type"], "the type of the first message of an Olm session")
        message = self._olm.PreKeyMessage.from_base64(ours["body"])
        sender = self._olm.Curve25519PublicKey.from_base64(content["sender_key"])
        _, plaintext = self._account.create_inbound_session(sender, message)
        room_key = json.loads(plaintext)
        check_equal(event["sender"], room_key["sender"], "the sender of the room key")
        key = room_key["content"]
        self._receiving[key["session_id"]] = self._olm.InboundGroupSession(self._olm.SessionKey(key["session_key"]))

    def encrypt(self, room: Room, words: str) -> JsonObject:
        """Return the content of an `m.room.encrypted` that says something in the room."""
        group = self._sending[room.id]
        said = {"type": "m.room.message", "room_id": room.id, "content": {"msgtype": "m.text", "body": words}}
        return {
            "algorithm": MEGOLM,
            "sender_key": self.curve25519,
            "device_id": self._user.device_id,
            "session_id": group.session_id,
            "ciphertext": group.encrypt(json.dumps(said).encode()).to_base64(),
        }

    def decrypt(self, event: JsonObject) -> JsonObject | None:
        """Return what was encrypted in an event; None if the key of it has not come."""
        session = self._receiving.get(event["content"]["session_id"])
        if session is None:
            return None
        message = self._olm.MegolmMessage.from_base64(event["content"]["ciphertext"])
        found: JsonObject = json.loads(session.decrypt(message).plaintext)
        return found

    def _signed(self, value: JsonObject) -> JsonObject:
        signature = self._account.sign(canonical(value)).to_base64()
        return {**value, "signatures": {self._user.user_id: {f"ed25519:{self._user.device_id}": signature}}}

    def _check_signature(self, value: JsonObject, signer: User, public_key: str) -> None:
        signature = value["signatures"][signer.user_id][f"ed25519:{signer.device_id}"]
        unsigned = {key: each for key, each in value.items() if key not in ("signatures", "unsigned")}
        key = self._olm.Ed25519PublicKey.from_base64(public_key)
        key.verify_signature(canonical(unsigned), self._olm.Ed25519Signature.from_base64(signature))
