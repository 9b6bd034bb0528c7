"""Identity keys of devices: uploaded by them, asked for by everybody who writes to their user.

Spec: client-server API, "Device keys", "Key management API"; server-server API, "Device Management", "End-to-End
Encryption".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from homeserver.errors import BadJson, InvalidParam, NotFound, UnknownToken
from homeserver.model.canonical_json import JsonObject
from homeserver.model.device_keys import (
    MASTER,
    SELF_SIGNING,
    USER_SIGNING,
    add_signatures,
    check_device_keys,
    is_device_id,
    is_user_id,
    read_one_time_keys,
)
from homeserver.model.ids import ServerName, UserID, server_name_of
from storage import device_keys as storage
from storage import device_lists as lists_storage
from storage import one_time_keys as one_time_storage
from storage.device_keys import CrossSigningKey, LocalDevice
from storage.one_time_keys import KeyRow
from storage.store import Store
from storage.transaction import Transaction

from .device_lists import SIGNING_KEYS, DeviceLists
from .one_time_keys import OneTimeKeys
from .remote_keys import RemoteKeys, with_name
from .sessions import Requester

# LIMIT: users and devices in one query.
MAX_QUERIED: Final = 10_000

_SECTIONS: Final = {MASTER: "master_keys", SELF_SIGNING: "self_signing_keys", USER_SIGNING: "user_signing_keys"}


@dataclass(slots=True)
class _Found:
    devices: list[LocalDevice] = field(default_factory=list)
    keys: list[CrossSigningKey] = field(default_factory=list)
    signatures: Mapping[tuple[int, str], Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    users: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Upload:
    """Checked keys of a device: its identity keys in canonical JSON or None, one-time keys with their numbers."""

    identity: bytes | None
    one_time: Sequence[tuple[int, KeyRow]]
    fallback: Sequence[KeyRow]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to store."""
        return self.identity is None and not self.one_time and not self.fallback


class DeviceKeys:
    """Stores and shows keys."""

    def __init__(
        self,
        store: Store,
        *,
        device_lists: DeviceLists,
        one_time_keys: OneTimeKeys,
        server_name: ServerName,
        remote: RemoteKeys | None,
        tells_names: bool = False,
    ) -> None:
        """`remote` asks other servers; `tells_names`: whether they are told the display names of devices."""
        self._store = store
        self._device_lists = device_lists
        self._one_time_keys = one_time_keys
        self._server_name = server_name
        self._remote = remote
        self._tells_names = tells_names

    # -- uploading ---------------------------------------------------------------------------------------------------

    async def upload(self, requester: Requester, body: JsonObject) -> dict[str, int]:
        """Store a device's keys, all or nothing; return how many unclaimed one-time keys of each algorithm it has.

        Raises BadJson, InvalidParam, TooLarge; UnknownToken where the device is gone by now.
        """
        device_nid, device_id = requester.device_nid, requester.device_id
        if device_nid is None or device_id is None:
            raise InvalidParam("To upload keys, you must pass device_id when authenticating")
        uploaded = self.read_upload(requester.user_id, device_id, body)
        user_nid = requester.user_nid

        def write(tx: Transaction) -> tuple[dict[str, int], bool]:
            if not storage.has_device(tx, device_nid):
                # Logged out since the request came: nobody would ever delete its keys.
                raise UnknownToken("The device is gone")
            return self.store_upload(tx, user_nid, device_nid, device_id, uploaded)

        if uploaded.is_empty:
            return await self._store.database.read(lambda tx: one_time_storage.count_one_time_keys(tx, device_nid))
        counts, is_new = await self._store.database.write(write)
        if uploaded.one_time or uploaded.fallback:
            self._one_time_keys.changed([device_nid])
        if is_new:
            await self._device_lists.tell(requester.user_id, user_nid)
        return counts

    def read_upload(self, user_id: UserID, device_id: str, body: JsonObject) -> Upload:
        """Return the keys of a body that has the form of `POST /keys/upload`; BadJson, InvalidParam, TooLarge."""
        identity = None
        if body.get("device_keys") is not None:
            identity = check_device_keys(body["device_keys"], user_id, device_id)
        one_time = self._one_time_keys.number(read_one_time_keys(body.get("one_time_keys")))
        raw = body.get("fallback_keys")
        if raw is None:
            # MSC2732, by which clients of before v1.2 call them.
            raw = body.get("org.matrix.msc2732.fallback_keys")
        fallback = [KeyRow(key.algorithm, key.key_id, key.content) for key in read_one_time_keys(raw, is_fallback=True)]
        return Upload(identity, one_time, fallback)

    def store_upload(
        self, tx: Transaction, user_nid: int, device_nid: int, device_id: str, upload: Upload
    ) -> tuple[dict[str, int], bool]:
        """Store keys of a device in a transaction of the caller.

        Return how many unclaimed one-time keys of each algorithm it has, and whether its identity keys are new ones.
        Call `uploaded` after the commit. Raises InvalidParam.
        """
        identity = upload.identity
        present = None if identity is None else storage.find_device_keys(tx, user_nid, device_nid)
        is_new = identity is not None and present != identity
        if is_new and identity is not None:
            # Spec: "Cross-signing": servers "must ensure that device IDs will not collide with cross-signing public
            # keys".
            if any(key.public_key == device_id for key in storage.load_cross_signing(tx, [user_nid])):
                raise InvalidParam("The device has the ID of a cross-signing key")
            storage.set_device_keys(tx, user_nid, device_nid, identity)
            storage.delete_signatures_of(tx, user_nid, [device_id])
            self._device_lists.note(tx, user_nid, [device_id])
            # What the replaced key has signed, the master key most likely, the new one has not.
            is_replaced = present is not None and _signing_key(present, device_id) != _signing_key(identity, device_id)
            if is_replaced and storage.delete_signatures_by_devices(tx, user_nid, [device_id]):
                self._device_lists.note(tx, user_nid, [SIGNING_KEYS])
        return self._one_time_keys.add(tx, device_nid, upload.one_time, upload.fallback), is_new

    async def uploaded(self, user_id: UserID, user_nid: int, device_nid: int) -> None:
        """Tell of keys that were stored in a transaction of the caller."""
        self._one_time_keys.changed([device_nid])
        await self._device_lists.tell(user_id, user_nid)

    # -- asking ------------------------------------------------------------------------------------------------------

    async def query(self, requester: Requester, body: JsonObject, *, timeout_s: float) -> JsonObject:
        """Answer `POST /keys/query`; raises BadJson, InvalidParam."""
        wanted = read_query(body)
        local = {user: each for user, each in wanted.items() if server_name_of(user) == self._server_name}
        by_server: dict[str, dict[str, Sequence[str]]] = {}
        for user, device_ids in wanted.items():
            if user not in local and is_user_id(user):
                by_server.setdefault(server_name_of(user), {})[user] = device_ids
        answer = _shown(await self._find(local, requester.user_nid), local, requester.user_id)
        answer["failures"] = {}
        if by_server and self._remote is not None:
            remote = await self._remote.query(by_server, timeout_s=timeout_s)
            answer["device_keys"].update(remote.found)
            answer["master_keys"].update(await self._own_signatures(requester, remote.master_keys))
            answer["self_signing_keys"].update(remote.self_signing_keys)
            answer["failures"] = remote.failures
        return answer

    async def query_local(self, body: JsonObject) -> JsonObject:
        """Answer another server's `POST /user/keys/query`; raises BadJson, InvalidParam."""
        wanted = {user: each for user, each in read_query(body).items() if server_name_of(user) == self._server_name}
        answer = _shown(await self._find(wanted, None), wanted, None, tells_names=self._tells_names)
        del answer["user_signing_keys"]
        return answer

    async def list_for_server(self, user_id: UserID) -> JsonObject:
        """Answer another server's `GET /user/devices`; NotFound."""
        if user_id.server_name != self._server_name:
            raise NotFound("User not found")

        def read(tx: Transaction) -> tuple[_Found, int]:
            # The version before the devices: what comes between is then told by the next update, and where each
            # statement sees a state of its own, no list is taken for newer than it is.
            user_nid = storage.find_local_users(tx, [user_id]).get(user_id)
            stream_id = None if user_nid is None else lists_storage.find_stream_id(tx, user_nid)
            return _load(tx, [user_id], None), stream_id or 0

        found, stream_id = await self._store.database.read(read)
        if user_id not in found.users:
            raise NotFound("User not found")
        answer: JsonObject = {"user_id": str(user_id), "stream_id": stream_id, "devices": []}
        for device in found.devices:
            each: JsonObject = {"device_id": device.device_id, "keys": _with_signatures(found, device)}
            if self._tells_names and device.display_name is not None:
                each["device_display_name"] = device.display_name
            answer["devices"].append(each)
        for key in found.keys:
            if key.usage in (MASTER, SELF_SIGNING):
                answer[f"{key.usage}_key"] = _key_with_signatures(found, key)
        return answer

    async def _find(self, wanted: Collection[str], viewer_nid: int | None) -> _Found:
        if not wanted:
            return _Found()
        return await self._store.database.read(lambda tx: _load(tx, wanted, viewer_nid))

    async def _own_signatures(self, requester: Requester, master_keys: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the master keys of users of other servers with the signatures that the requester made over them."""
        if not master_keys:
            return master_keys
        nids = await self._store.interner.find_users(master_keys)
        signed = await self._store.database.read(
            lambda tx: storage.load_signatures(tx, nids.values(), requester.user_nid)
        )
        if not signed:
            return master_keys
        by_user: dict[int, dict[str, dict[str, dict[str, str]]]] = {}
        for (target_nid, target), added in signed.items():
            by_user.setdefault(target_nid, {})[target] = added
        shown = dict(master_keys)
        for user, user_nid in nids.items():
            if user_nid in by_user:
                key = orjson.loads(orjson.dumps(master_keys[user]))
                for name in key["keys"].values():
                    shown[user] = add_signatures(key, by_user[user_nid].get(name, {}))
        return shown


def _signing_key(content: bytes, device_id: str) -> Any:
    return orjson.loads(content).get("keys", {}).get(f"ed25519:{device_id}")


def read_query(body: JsonObject) -> dict[str, Sequence[str]]:
    """Return what a body asks for: user ID -> device IDs, none for all; BadJson, InvalidParam."""
    wanted = body.get("device_keys")
    if not isinstance(wanted, dict):
        raise BadJson("'device_keys' must be an object")
    count = len(wanted)
    for device_ids in wanted.values():
        if not isinstance(device_ids, list) or not all(is_device_id(each) for each in device_ids):
            raise BadJson("'device_keys' must hold arrays of device IDs")
        count += len(device_ids)
    if count > MAX_QUERIED:
        raise InvalidParam(f"at most {MAX_QUERIED} users and devices can be asked for at once")
    return wanted


def _load(tx: Transaction, users: Iterable[str], viewer_nid: int | None) -> _Found:
    nids = storage.find_local_users(tx, users)
    known = list(nids.values())
    return _Found(
        storage.load_device_keys(tx, known),
        storage.load_shown_cross_signing(tx, known, viewer_nid),
        storage.load_signatures(tx, known, viewer_nid),
        nids,
    )


def _shown(
    found: _Found, wanted: Mapping[str, Sequence[str]], viewer: str | None, *, tells_names: bool = True
) -> JsonObject:
    names = {user_nid: user_id for user_id, user_nid in found.users.items()}
    chosen = {user_id: frozenset(wanted[user_id]) for user_id in found.users}
    device_keys: dict[str, dict[str, Any]] = {user_id: {} for user_id in found.users}
    answer: JsonObject = {"device_keys": device_keys, **{section: {} for section in _SECTIONS.values()}}
    for device in found.devices:
        user_id = names[device.user_nid]
        only = chosen[user_id]
        if only and device.device_id not in only:
            continue
        name = device.display_name if tells_names else None
        added = found.signatures.get((device.user_nid, device.device_id))
        content = _signed(device.content, added)
        device_keys[user_id][device.device_id] = orjson.Fragment(with_name(content, name))
    for key in found.keys:
        user_id = names[key.user_nid]
        if key.usage != USER_SIGNING or user_id == viewer:
            added = found.signatures.get((key.user_nid, key.public_key))
            answer[_SECTIONS[key.usage]][user_id] = orjson.Fragment(_signed(key.content, added))
    return answer


def _signed(content: bytes, added: Mapping[str, Mapping[str, str]] | None) -> bytes:
    """Return the JSON of a key with further signatures."""
    return content if not added else orjson.dumps(add_signatures(orjson.loads(content), added))


def _with_signatures(found: _Found, device: LocalDevice) -> JsonObject:
    added = found.signatures.get((device.user_nid, device.device_id), {})
    return add_signatures(orjson.loads(device.content), added)


def _key_with_signatures(found: _Found, key: CrossSigningKey) -> JsonObject:
    return add_signatures(orjson.loads(key.content), found.signatures.get((key.user_nid, key.public_key), {}))
