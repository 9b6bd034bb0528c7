"""Keys of users of other servers: from the copies that are kept, else asked for.

Servers are asked many at once, each within the time that the client gave; one that fails is named in `failures` and
fails nothing else. So is one whose turn has not come within that time: a question may name thousands of servers, and
most of them may be dead.

Spec: client-server API, `POST /keys/query`, `POST /keys/claim`; server-server API, "End-to-End Encryption".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from homeserver.errors import MatrixError, RemoteError
from homeserver.model.canonical_json import JsonObject
from homeserver.model.device_keys import (
    MASTER,
    MAX_ALGORITHM_CHARACTERS,
    MAX_KEYS,
    SELF_SIGNING,
    read_one_time_keys,
)
from homeserver.ports import RemoteServers
from homeserver.runtime.clock import Clock
from homeserver.runtime.gathering import gather
from storage import device_keys as keys_storage
from storage import device_lists as storage
from storage.store import Store
from storage.transaction import Transaction

from .remote_devices import RemoteDevices, RemoteList, read_list

# LIMIT: servers that are asked at once for one request.
_AT_ONCE: Final = 50
# LIMIT: users asked of a server in one request.
_MOST_USERS: Final = 1_000


@dataclass(slots=True)
class RemoteAnswer:
    """What other servers answered; `failures` by server."""

    found: dict[str, Any] = field(default_factory=dict)
    master_keys: dict[str, Any] = field(default_factory=dict)
    self_signing_keys: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, JsonObject] = field(default_factory=dict)


class RemoteKeys:
    """Asks for keys."""

    def __init__(self, store: Store, clock: Clock, *, servers: RemoteServers, devices: RemoteDevices) -> None:
        self._store = store
        self._clock = clock
        self._servers = servers
        self._devices = devices

    # -- querying ----------------------------------------------------------------------------------------------------

    async def query(self, wanted: Mapping[str, Mapping[str, Sequence[str]]], *, timeout_s: float) -> RemoteAnswer:
        """Return the keys of users: `wanted` is server -> user ID -> device IDs (none: all)."""
        answer = RemoteAnswer()
        users = [user for by_user in wanted.values() for user in by_user]
        known = await self._known(users)
        missing: dict[str, list[str]] = {}
        for server, by_user in wanted.items():
            left = [user for user in by_user if user not in known]
            if left:
                missing[server] = left

        async def ask(server: str) -> None:
            for start in range(0, len(missing[server]), _MOST_USERS):
                part = missing[server][start : start + _MOST_USERS]

                async def fetch(part: Sequence[str] = part) -> dict[str, RemoteList]:
                    told = await self._servers.keys_query(server, {user: [] for user in part}, timeout_s=timeout_s)
                    return read_query_answer(told, part)

                known.update(await self._devices.fetch_and_keep(part, fetch))

        await self._ask_all(list(missing), ask, answer, timeout_s)
        for by_user in wanted.values():
            for user, device_ids in by_user.items():
                if user in known:
                    _show(answer, user, known[user], device_ids)
        return answer

    async def _known(self, users: Sequence[str]) -> dict[str, RemoteList]:
        nids = await self._store.interner.find_users(users)
        if not nids:
            return {}

        def read(tx: Transaction) -> dict[str, RemoteList]:
            lists = storage.load_remote_lists(tx, nids.values())
            kept = [nid for nid, each in lists.items() if each.is_fetched]
            devices: dict[int, dict[str, tuple[bytes, str | None]]] = {nid: {} for nid in kept}
            keys: dict[int, dict[str, tuple[str, bytes]]] = {nid: {} for nid in kept}
            for device in storage.load_remote_devices(tx, kept):
                devices[device.user_nid][device.device_id] = (device.content, device.display_name)
            for key in keys_storage.load_cross_signing(tx, kept):
                keys[key.user_nid][key.usage] = (key.public_key, key.content)
            if not tx.is_sqlite:
                # Each of these looks saw a state of its own: of a list that was forgotten between, half is here.
                still = storage.load_remote_lists(tx, kept)
                kept = [nid for nid in kept if nid in still and still[nid] == lists[nid]]
            whole = set(kept)
            return {user: RemoteList(devices[nid], keys[nid]) for user, nid in nids.items() if nid in whole}

        return await self._store.database.read(read)

    # -- claiming ----------------------------------------------------------------------------------------------------

    async def claim(self, wanted: Mapping[str, Mapping[str, Mapping[str, str]]], *, timeout_s: float) -> RemoteAnswer:
        """Claim keys: `wanted` is server -> user ID -> device ID -> algorithm."""
        answer = RemoteAnswer()

        async def ask(server: str) -> None:
            asked = {user: dict(devices) for user, devices in wanted[server].items()}
            told = await self._servers.keys_claim(server, asked, timeout_s=timeout_s)
            answer.found.update(read_claim_answer(told, asked))

        await self._ask_all(list(wanted), ask, answer, timeout_s)
        return answer

    async def _ask_all(
        self, servers: list[str], ask: Callable[[str], Awaitable[None]], answer: RemoteAnswer, timeout_s: float
    ) -> None:
        left = iter(servers)
        deadline = self._clock.monotonic() + timeout_s

        async def work() -> None:
            for server in left:
                if self._clock.monotonic() >= deadline:
                    answer.failures[server] = _failure(is_temporary=True)
                    continue
                try:
                    await ask(server)
                except RemoteError as fault:
                    answer.failures[server] = _failure(is_temporary=fault.temporary)

        await gather(work() for _ in range(min(_AT_ONCE, len(servers))))


def _failure(*, is_temporary: bool) -> JsonObject:
    errcode = "M_UNAVAILABLE" if is_temporary else "M_UNKNOWN"
    return {"errcode": errcode, "error": "The server could not be asked"}


def _show(answer: RemoteAnswer, user: str, known: RemoteList, device_ids: Sequence[str]) -> None:
    chosen = set(device_ids)
    shown: dict[str, Any] = {}
    for device_id, (content, name) in known.devices.items():
        if not chosen or device_id in chosen:
            shown[device_id] = orjson.Fragment(with_name(content, name))
    answer.found[user] = shown
    for usage, into in ((MASTER, answer.master_keys), (SELF_SIGNING, answer.self_signing_keys)):
        key = known.keys.get(usage)
        if key is not None:
            into[user] = orjson.Fragment(key[1])


def with_name(content: bytes, name: str | None) -> bytes:
    """Return the JSON of device keys with the device's display name put under `unsigned`."""
    unsigned: JsonObject = {} if name is None else {"device_display_name": name}
    return content[:-1] + b',"unsigned":' + orjson.dumps(unsigned) + b"}"


def read_query_answer(answer: JsonObject, users: Sequence[str]) -> dict[str, RemoteList]:
    """Return what `POST /user/keys/query` answered of the users that were asked for; what is not right is left out."""
    sections = {name: answer.get(name) for name in ("device_keys", "master_keys", "self_signing_keys")}
    found: dict[str, RemoteList] = {}
    for user in users:
        told = {name: section.get(user) for name, section in sections.items() if isinstance(section, dict)}
        devices = told.get("device_keys")
        keys = {MASTER: told.get("master_keys"), SELF_SIGNING: told.get("self_signing_keys")}
        if not isinstance(devices, dict):
            if not any(keys.values()):
                # Spec: "the corresponding user or device is missing from the device_keys result".
                continue
            devices = {}
        names: dict[str, Any] = {}
        for device_id, content in devices.items():
            unsigned = content.get("unsigned") if isinstance(content, dict) else None
            if isinstance(unsigned, dict):
                names[device_id] = unsigned.get("device_display_name")
        found[user] = read_list(user, devices, names, keys)
    return found


def read_claim_answer(answer: JsonObject, asked: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return what `POST /user/keys/claim` answered to what was asked; what is not right is left out."""
    told = answer.get("one_time_keys")
    found: dict[str, Any] = {}
    for user, devices in asked.items():
        by_device = told.get(user) if isinstance(told, dict) else None
        if not isinstance(by_device, dict):
            continue
        for device_id, algorithm in devices.items():
            named = by_device.get(device_id)
            if not isinstance(named, dict) or len(named) > MAX_KEYS:
                continue
            try:
                keys = read_one_time_keys(named)
            except MatrixError:
                continue
            # One key for each that was asked for.
            for key in keys:
                if key.algorithm == algorithm[:MAX_ALGORITHM_CHARACTERS]:
                    found.setdefault(user, {})[device_id] = {key.name: orjson.Fragment(key.content)}
                    break
    return found
