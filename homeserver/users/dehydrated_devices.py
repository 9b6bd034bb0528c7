"""The device that a user puts by, to be sent keys while none of the user's clients is there.

It is a device like others, with identity keys, one-time keys and an inbox, but nobody is logged in on it. A client
that comes later takes what the inbox has, message by message, as often as it likes: reading acknowledges nothing, and
all goes when the next dehydrated device takes the place of this one. There is at most one for a user.

A dehydrated device that a client logs in on under its ID is an ordinary one from then on.

Unstable: MSC3814 (`org.matrix.msc3814.v1`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from homeserver.errors import BadJson, InvalidParam, MissingParam, NotAllowed, NotFound, UnknownToken
from homeserver.model.canonical_json import JsonObject
from homeserver.model.device_keys import encode_bounded
from homeserver.runtime.tasks import Tasks
from storage import dehydrated_devices as storage
from storage import device_keys as keys_storage
from storage import devices as devices_storage
from storage import to_device as messages_storage
from storage.dehydrated_devices import DehydratedDevice
from storage.devices import DeviceRow
from storage.store import Store
from storage.to_device import Message
from storage.transaction import Transaction

from .device_keys import DeviceKeys
from .devices import Devices
from .sessions import MAX_DEVICES, Requester, Sessions, check_device_id, check_device_name

# LIMIT: what clients in use store is some ten thousand bytes: the secret halves of a hundred one-time keys.
MAX_CONTENT_BYTES: Final = 262_144
# LIMIT: messages, and bytes of them, in one answer.
MAX_MESSAGES: Final = 100
MAX_BYTES: Final = 1024**2
_MAX_TOKEN_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages for a dehydrated device, encoded, oldest first; `next_token` asks for what comes after them."""

    messages: tuple[bytes, ...]
    next_token: str
    is_last: bool


class DehydratedDevices:
    """Stores, shows and deletes them."""

    def __init__(self, store: Store, tasks: Tasks, sessions: Sessions, *, devices: Devices, keys: DeviceKeys) -> None:
        self._store = store
        self._tasks = tasks
        self._devices = devices
        self._keys = keys
        sessions.when_taken_over(self._on_login)

    async def store(self, requester: Requester, body: JsonObject) -> str:
        """Store a dehydrated device with its keys in the place of the user's former one; return its ID.

        All or nothing. Raises BadJson, MissingParam, InvalidParam, TooLarge; UnknownToken where who asks is gone.
        """
        device_id, name, content = _read(body)
        if body.get("device_keys") is None:
            raise MissingParam("'device_keys' is missing: a dehydrated device comes with its keys")
        uploaded = self._keys.read_upload(requester.user_id, device_id, body)
        user_nid, device_nid = requester.user_nid, self._store.numbers.next()

        def write(tx: Transaction) -> list[DeviceRow]:
            if requester.device_nid is not None and not keys_storage.has_device(tx, requester.device_nid):
                # Logged out since the request came, perhaps because the account was closed.
                raise UnknownToken("The device is gone")
            former = storage.find_dehydrated(tx, user_nid)
            former_nid = None if former is None else former.device_nid
            present = devices_storage.find_device(tx, user_nid, device_id)
            if present is not None and present.device_nid != former_nid:
                raise InvalidParam("This is the ID of a device that is in use")
            gone = self._devices.delete_in(tx, user_nid, lambda row: row.device_nid != former_nid)
            if devices_storage.count_devices(tx, user_nid, MAX_DEVICES) >= MAX_DEVICES:
                raise InvalidParam(f"A user has at most {MAX_DEVICES} devices; delete one first")
            devices_storage.create_device(
                tx, device_nid=device_nid, user_nid=user_nid, device_id=device_id, display_name=name
            )
            storage.set_dehydrated(tx, user_nid, device_nid, content)
            self._keys.store_upload(tx, user_nid, device_nid, device_id, uploaded)
            return gone

        gone = await self._store.database.write(write)
        if gone:
            self._devices.deleted(requester.user_id, user_nid, gone)
        await self._keys.uploaded(requester.user_id, user_nid, device_nid)
        return device_id

    async def get(self, user_nid: int) -> dict[str, Any]:
        """Return `device_id` and `device_data` of a user's dehydrated device; NotFound."""
        found = await self._find(user_nid)
        return {"device_id": found.device_id, "device_data": orjson.Fragment(found.content)}

    async def delete(self, requester: Requester) -> str:
        """Delete the dehydrated device and all that waits for it; return its ID. NotFound."""
        found = await self._find(requester.user_nid)
        await self._devices.delete(requester.user_id, requester.user_nid, [found.device_id])
        return found.device_id

    async def messages(self, user_nid: int, device_id: str, token: str | None, limit: int) -> Batch:
        """Return messages for the dehydrated device that come after `token`, at most `limit`.

        Raises NotAllowed where the user has no dehydrated device of this ID, InvalidParam for a token of no batch.
        """
        after = _position(token)
        upto = self._store.positions.watermark

        def read(tx: Transaction) -> list[Message]:
            found = storage.find_dehydrated(tx, user_nid)
            if found is None or found.device_id != device_id:
                raise NotAllowed("This is not the ID of your dehydrated device")
            return messages_storage.load_messages(tx, found.device_nid, upto, limit + 1, after=after)

        waiting = await self._store.database.read(read)
        chosen: list[Message] = []
        size = 0
        for message in waiting[:limit]:
            size += len(message.content)
            if chosen and size > MAX_BYTES:
                break
            chosen.append(message)
        last = chosen[-1].position if chosen else after
        return Batch(tuple(message.content for message in chosen), f"d{last}", len(chosen) == len(waiting))

    async def _find(self, user_nid: int) -> DehydratedDevice:
        found = await self._store.database.read(lambda tx: storage.find_dehydrated(tx, user_nid))
        if found is None:
            raise NotFound("You have no dehydrated device")
        return found

    def _on_login(self, user_nid: int, device_nid: int) -> None:
        self._tasks.start(f"device {device_nid} is in use", self._wake(user_nid, device_nid))

    async def _wake(self, user_nid: int, device_nid: int) -> None:
        await self._store.database.write(lambda tx: storage.delete_dehydrated(tx, user_nid, [device_nid]))


def _read(body: JsonObject) -> tuple[str, str | None, bytes]:
    device_id, name, content = body.get("device_id"), body.get("initial_device_display_name"), body.get("device_data")
    if not isinstance(device_id, str):
        raise BadJson("'device_id' must be a string")
    if name is not None and not isinstance(name, str):
        raise BadJson("'initial_device_display_name' must be a string")
    if not isinstance(content, dict) or not isinstance(content.get("algorithm"), str):
        raise BadJson("'device_data' must be an object with an 'algorithm'")
    check_device_id(device_id)
    check_device_name(name)
    return device_id, name, encode_bounded(content, MAX_CONTENT_BYTES, "the data of a dehydrated device")


def _position(token: str | None) -> int:
    if token is None:
        return 0
    digits = token[1:]
    if not token.startswith("d") or not digits.isascii() or not digits.isdigit() or len(digits) > _MAX_TOKEN_DIGITS:
        raise InvalidParam("This is no token of a batch of messages")
    return int(digits)
