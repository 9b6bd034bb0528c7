"""One-time and fallback keys: uploaded by devices, claimed once each by whoever wants to send to them.

Spec: client-server API, "One-time and fallback keys", `POST /keys/upload`, `POST /keys/claim`; server-server API,
`POST /user/keys/claim`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from homeserver.errors import BadJson, InvalidParam
from homeserver.feed.streams.key_counts import KeyCounts
from homeserver.model.canonical_json import JsonObject
from homeserver.model.device_keys import UploadedKey, is_device_id, is_user_id
from homeserver.model.ids import ServerName, server_name_of
from storage import device_keys as keys_storage
from storage import one_time_keys as storage
from storage.one_time_keys import KeyRow
from storage.store import Store
from storage.transaction import Transaction

from .remote_keys import RemoteKeys

# LIMIT: unclaimed keys of one device; clients keep 50 to 100.
MAX_KEPT: Final = 5_000
# LIMIT: algorithms of which one device has a fallback key; clients use one or two.
MAX_FALLBACK: Final = 20
# LIMIT: devices in one claim.
MAX_CLAIMS: Final = 5_000

Wanted = Mapping[str, Mapping[str, str]]
"""user ID -> device ID -> algorithm."""


class OneTimeKeys:
    """Stores and hands out keys."""

    def __init__(self, store: Store, *, counts: KeyCounts, server_name: ServerName, remote: RemoteKeys | None) -> None:
        """`remote` asks other servers; None where there are none."""
        self._store = store
        self._counts = counts
        self._server_name = server_name
        self._remote = remote

    def number(self, keys: Sequence[UploadedKey]) -> list[tuple[int, KeyRow]]:
        """Give keys their places in the order of uploads."""
        return [(self._store.numbers.next(), KeyRow(key.algorithm, key.key_id, key.content)) for key in keys]

    @staticmethod
    def add(
        tx: Transaction, device_nid: int, keys: Sequence[tuple[int, KeyRow]], fallback: Sequence[KeyRow]
    ) -> dict[str, int]:
        """Store keys of a device; return how many unclaimed one-time keys of each algorithm it has then.

        A key that was uploaded and claimed before is left out: its upload is repeated for want of an answer.
        Raises InvalidParam where another key has one's ID, or there are too many.
        """
        counts = storage.count_one_time_keys(tx, device_nid)
        if keys:
            new = storage.without_claimed(tx, device_nid, keys)
            if storage.add_one_time_keys(tx, device_nid, new) == len(new):
                for _, key in new:
                    counts[key.algorithm] = counts.get(key.algorithm, 0) + 1
            else:
                present = storage.find_one_time_keys(tx, device_nid, [key.key_id for _, key in new])
                for _, key in new:
                    if present[key.algorithm, key.key_id] != key.content:
                        raise InvalidParam(f"One time key {key.algorithm}:{key.key_id} already exists")
                counts = storage.count_one_time_keys(tx, device_nid)
            if sum(counts.values()) > MAX_KEPT:
                raise InvalidParam(f"A device has at most {MAX_KEPT} one-time keys")
        if fallback:
            storage.set_fallback_keys(tx, device_nid, fallback)
            if storage.count_fallback_keys(tx, device_nid) > MAX_FALLBACK:
                raise InvalidParam(f"A device has fallback keys of at most {MAX_FALLBACK} algorithms")
        return counts

    def changed(self, device_nids: Sequence[int]) -> None:
        """Keys of devices were stored, or deleted: after the commit."""
        self._counts.forget(device_nids)

    def erase(self, tx: Transaction, user_nid: int, device_nids: Sequence[int]) -> None:
        """Delete all keys of devices; a `DeviceEraser`."""
        storage.delete_one_time_keys(tx, device_nids)

    # -- claiming ----------------------------------------------------------------------------------------------------

    async def claim(self, body: JsonObject, *, timeout_s: float) -> JsonObject:
        """Answer `POST /keys/claim`: keys of local users at once, of others from their servers."""
        wanted = read_claim(body)
        local = {user: each for user, each in wanted.items() if server_name_of(user) == self._server_name}
        by_server: dict[str, dict[str, Mapping[str, str]]] = {}
        for user, devices in wanted.items():
            if user not in local and is_user_id(user):
                by_server.setdefault(server_name_of(user), {})[user] = devices
        found: dict[str, Any] = await self.claim_local(local)
        failures: dict[str, Any] = {}
        if by_server and self._remote is not None:
            remote = await self._remote.claim(by_server, timeout_s=timeout_s)
            found.update(remote.found)
            failures = remote.failures
        return {"one_time_keys": found, "failures": failures}

    async def claim_local(self, wanted: Wanted) -> dict[str, dict[str, dict[str, Any]]]:
        """Claim keys of users of this server: user ID -> device ID -> key name -> key, for those who have any."""
        if not wanted:
            return {}

        def write(tx: Transaction) -> list[tuple[str, str, int, KeyRow]]:
            users = keys_storage.find_local_users(tx, wanted)
            devices = keys_storage.load_device_ids(tx, users.values())
            asked: dict[int, tuple[str, str]] = {}
            algorithms: dict[int, str] = {}
            for user_id, user_nid in users.items():
                own = devices.get(user_nid, {})
                for device_id, algorithm in wanted[user_id].items():
                    device_nid = own.get(device_id)
                    if device_nid is not None:
                        asked[device_nid] = (user_id, device_id)
                        algorithms[device_nid] = algorithm
            taken = storage.claim(tx, algorithms)
            return [(*asked[device_nid], device_nid, key) for device_nid, key in taken.items()]

        rows = await self._store.database.write(write)
        self._counts.forget([row[2] for row in rows])
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for user_id, device_id, _, key in rows:
            named = {f"{key.algorithm}:{key.key_id}": orjson.Fragment(key.content)}
            found.setdefault(user_id, {})[device_id] = named
        return found


def read_claim(body: JsonObject) -> dict[str, dict[str, str]]:
    """Return what a body asks for; BadJson, InvalidParam."""
    wanted = body.get("one_time_keys")
    if not isinstance(wanted, dict):
        raise BadJson("'one_time_keys' must be an object")
    count = 0
    for devices in wanted.values():
        if not isinstance(devices, dict):
            raise BadJson("'one_time_keys' must hold objects")
        count += len(devices)
        if count > MAX_CLAIMS:
            raise InvalidParam(f"at most {MAX_CLAIMS} devices can be asked for at once")
        for device_id, algorithm in devices.items():
            if not isinstance(algorithm, str) or not is_device_id(device_id):
                raise BadJson("'one_time_keys' must name an algorithm for each device")
    return wanted
