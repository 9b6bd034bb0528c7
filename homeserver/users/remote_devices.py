"""Copies of the device lists of users of other servers, kept as long as those users share a room with one of ours.

A list is fetched when somebody here first asks for it, and from then on follows the updates that the other server
sends. One that builds on something unknown is a gap: the list is worth nothing until it has been fetched again, which
is done in the background, one fetch for a user at a time and a few in all; an update that comes meanwhile makes the
fetch void. A user whose list nobody here asked for costs one row, however many updates come.

What others say is checked like an upload of our own, and left out where it is not right: keys of one user never come
from another's server, nor under another device's ID.

Spec: server-server API, "Device Management", `m.device_list_update`, `m.signing_key_update`, `GET /user/devices`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from homeserver.errors import LimitExceeded, MatrixError, RemoteError
from homeserver.feed.changes import store_change
from homeserver.feed.feed import Feed, Publication
from homeserver.feed.streams.device_lists import DeviceListsStream
from homeserver.model.canonical_json import MAX_INTEGER, JsonObject
from homeserver.model.device_keys import (
    MASTER,
    MAX_DISPLAY_NAME_CHARACTERS,
    SELF_SIGNING,
    check_cross_signing_key,
    check_device_keys,
    is_device_id,
)
from homeserver.model.edu import DeviceListUpdate, parse_device_list_update, parse_signing_key_update
from homeserver.model.ids import UserID
from homeserver.ports import RemoteServers
from homeserver.runtime.lanes import Lanes
from homeserver.runtime.slots import Slots
from homeserver.runtime.tasks import Tasks
from storage import device_keys as keys_storage
from storage import device_lists as storage
from storage.device_keys import CrossSigningKey
from storage.device_lists import RemoteDevice
from storage.store import Store
from storage.transaction import Transaction

logger = logging.getLogger(__name__)

# LIMIT: devices of one user of another server, and bytes of their keys; what is over it is not kept.
MAX_DEVICES: Final = 1_000
MAX_BYTES: Final = 4 * 1024**2
# Of how many users is asked at once whether they share a room.
_SWEPT: Final = 500
# LIMIT: lists that are fetched at once, and that wait for it: the others are fetched when somebody asks.
_AT_ONCE: Final = 10
_MOST_WAITING: Final = 1_000


@dataclass(frozen=True, slots=True)
class RemoteList:
    """The devices of a user as they were told, checked: device ID -> (canonical JSON, display name)."""

    devices: Mapping[str, tuple[bytes, str | None]]
    # usage -> (public key, canonical JSON)
    keys: Mapping[str, tuple[str, bytes]]
    stream_id: int | None = None


class RemoteDevices:
    """Keeps the copies."""

    def __init__(
        self, store: Store, feed: Feed, tasks: Tasks, *, servers: RemoteServers, stream: DeviceListsStream
    ) -> None:
        self._store = store
        self._feed = feed
        self._tasks = tasks
        self._servers = servers
        self._stream = stream
        self._lanes: Lanes[str] = Lanes()
        self._slots = Slots(_AT_ONCE, most_waiting=_MOST_WAITING)
        self._resyncing: set[str] = set()
        # Users who are being asked for -> how many updates came since: a list from before an update is not kept.
        self._asked: dict[str, list[int]] = {}
        feed.listen(self._on_publication)

    async def sweep(self) -> None:
        """Forget the lists of those who share no room with us, where a crash or a deleted room has left them."""
        after = 0
        while True:
            known = await self._store.database.read(partial(storage.list_remote_lists, after=after, limit=_SWEPT))
            shared = await self._store.database.read(partial(storage.shared_with_us, others=known))
            left = [nid for nid in known if nid not in shared]
            if left:
                await self._store.database.write(partial(_forget_unshared, user_nids=left))
            if len(known) < _SWEPT:
                return
            after = known[-1]

    # -- updates of other servers ------------------------------------------------------------------------------------

    async def on_device_list_update(self, origin: str, content: JsonObject) -> None:
        """Take in an `m.device_list_update` of a server about its own user; raises BadJson."""
        update = parse_device_list_update(content)
        user_id, device_id = update.user_id, update.device_id
        keys: bytes | None = None
        is_deleted = update.is_deleted or update.keys is None
        if not is_deleted:
            keys = check_device_keys(update.keys, user_id, device_id)
        is_good = is_device_id(device_id)

        def write(tx: Transaction, user_nid: int, position: int) -> bool:
            known = storage.load_remote_lists(tx, [user_nid]).get(user_nid)
            if known is None or not known.is_fetched:
                # Nobody here has the list; whoever follows the user hears that it changed.
                storage.touch_list(tx, user_nid, position)
                return False
            if known.stream_id is not None and _is_known(update, known.stream_id):
                raise _Known
            follows = known.stream_id is not None and update.prev_ids and max(update.prev_ids) == known.stream_id
            count, size = storage.measure_remote_devices(tx, user_nid, but=device_id) if keys is not None else (0, 0)
            is_full = keys is not None and (count >= MAX_DEVICES or size + len(keys) > MAX_BYTES)
            if not follows or not is_good or is_full:
                storage.set_list(tx, user_nid, known.stream_id, position, is_fetched=False)
                return not is_full
            if keys is None:
                storage.delete_remote_device(tx, user_nid, device_id)
            else:
                storage.set_remote_devices(tx, [RemoteDevice(user_nid, device_id, keys, update.display_name)])
            storage.set_list(tx, user_nid, update.stream_id, position, is_fetched=True)
            return False

        if await self._change(user_id, write):
            self._resync(user_id)

    async def on_signing_key_update(self, origin: str, content: JsonObject) -> None:
        """Take in an `m.signing_key_update` of a server about its own user; raises BadJson, InvalidParam."""
        update = parse_signing_key_update(content)
        found: dict[str, tuple[str, bytes]] = {}
        for usage, key in ((MASTER, update.master_key), (SELF_SIGNING, update.self_signing_key)):
            if key is not None:
                found[usage] = check_cross_signing_key(key, update.user_id, usage)

        def write(tx: Transaction, user_nid: int, position: int) -> bool:
            known = storage.load_remote_lists(tx, [user_nid]).get(user_nid)
            if known is not None and known.is_fetched:
                _keep_keys(tx, user_nid, found)
            storage.touch_list(tx, user_nid, position)
            return False

        await self._change(update.user_id, write)

    async def _change(self, user_id: UserID, write: Callable[[Transaction, int, int], bool]) -> bool:
        """Store a change of a user who shares a room with one of ours, and tell of it."""
        if user_id in self._asked:
            self._asked[user_id][0] += 1
        # Whoever shares a room has a number.
        user_nid = (await self._store.interner.find_users([user_id])).get(user_id)
        if user_nid is None:
            return False

        def submit(tx: Transaction, position: int) -> tuple[bool, tuple[str, ...]]:
            if user_nid not in storage.shared_with_us(tx, [user_nid]):
                return False, ()
            answer = write(tx, user_nid, position)
            return answer, storage.rooms_and_servers(tx, user_nid)[0]

        async with self._lanes.enter(user_id):
            try:
                answer, _ = await store_change(
                    self._store.positions,
                    lambda position: self._store.database.write(lambda tx: submit(tx, position)),
                    lambda position, result: self._stream.publish(user_id, result[1], position),
                )
            except _Known:
                return False
        return answer

    # -- fetching ----------------------------------------------------------------------------------------------------

    def _resync(self, user_id: UserID) -> None:
        if user_id in self._resyncing or len(self._resyncing) >= _MOST_WAITING:
            return
        self._resyncing.add(user_id)
        self._tasks.start(f"fetch devices of {user_id}", self._fetch(user_id))

    async def _fetch(self, user_id: UserID) -> None:
        async def ask() -> None:
            async def fetch() -> dict[str, RemoteList]:
                answer = await self._servers.user_devices(user_id.server_name, user_id)
                return {user_id: read_user_devices(answer, user_id)}

            await self.fetch_and_keep([user_id], fetch)

        try:
            await self._slots.run(ask)
        except (RemoteError, LimitExceeded, MatrixError) as fault:
            # Whoever asks for the keys next fetches them.
            logger.info("The devices of %s could not be fetched: %s", user_id, fault)
        finally:
            self._resyncing.discard(user_id)

    async def fetch_and_keep(
        self, users: Iterable[str], fetch: Callable[[], Awaitable[dict[str, RemoteList]]]
    ) -> dict[str, RemoteList]:
        """Return what `fetch` gives, and keep the lists of those who share a room and have not changed meanwhile."""
        wanted = list(users)
        before: dict[str, int] = {}
        for user_id in wanted:
            counter = self._asked.setdefault(user_id, [0, 0])
            counter[1] += 1
            before[user_id] = counter[0]
        try:
            found = await fetch()
            nids = await self._store.interner.find_users(found)
            # Nothing is waited for between this and the writing: an update that comes later is written after it.
            same = {user: found[user] for user in wanted if user in nids and self._asked[user][0] == before[user]}
            if same:
                await self._keep(same, nids)
            return found
        finally:
            for user_id in wanted:
                counter = self._asked[user_id]
                counter[1] -= 1
                if not counter[1]:
                    del self._asked[user_id]

    async def _keep(self, lists: Mapping[str, RemoteList], nids: Mapping[str, int]) -> None:
        def write(tx: Transaction) -> None:
            shared = storage.shared_with_us(tx, [nids[user_id] for user_id in lists])
            for user_id, known in lists.items():
                user_nid = nids[user_id]
                if user_nid not in shared:
                    continue
                devices = [RemoteDevice(user_nid, each, *device) for each, device in known.devices.items()]
                storage.keep_remote_list(tx, user_nid, devices, known.stream_id)
                gone = [each.usage for each in keys_storage.load_cross_signing(tx, [user_nid])]
                _keep_keys(tx, user_nid, known.keys)
                keys_storage.delete_cross_signing(tx, user_nid, [usage for usage in gone if usage not in known.keys])

        await self._store.database.write(write)

    # -- who shares a room -------------------------------------------------------------------------------------------

    def _on_publication(self, publication: Publication) -> None:
        for member in publication.members:
            joins = member.membership == "join"
            if joins == (member.before == "join"):
                continue
            room_nid = publication.stored.room_nid
            # Of a room that is shared no more, nobody tells us; and of one that is again, what was missed is unknown.
            work = (
                self._forget_members(room_nid, joins)
                if member.is_local
                else self._forget(member.user_nid, room_nid, joins)
            )
            self._tasks.start(f"forget devices that are told of no more in room {room_nid}", work)

    async def _forget(self, user_nid: int, room_nid: int, joins: bool) -> None:
        def write(tx: Transaction) -> None:
            known = storage.load_remote_lists(tx, [user_nid])
            if known and not storage.shared_with_us(tx, [user_nid], except_room=room_nid):
                storage.forget_remote_lists(tx, [user_nid], is_shared=joins)

        await self._store.database.write(write)

    async def _forget_members(self, room_nid: int, joins: bool) -> None:
        def find(tx: Transaction) -> list[int]:
            if storage.count_local_members(tx, room_nid, 2) > (1 if joins else 0):
                # Another local user is there: the room was, and is, shared.
                return []
            others = storage.remote_members(tx, room_nid)
            known = [nid for nid, each in storage.load_remote_lists(tx, others).items() if each.is_fetched]
            shared = storage.shared_with_us(tx, known, except_room=room_nid)
            return [nid for nid in known if nid not in shared]

        gone = await self._store.database.read(find)
        if gone:
            await self._store.database.write(lambda tx: storage.forget_remote_lists(tx, gone, is_shared=joins))


class _Known(Exception):
    """The update is known already."""


def _forget_unshared(tx: Transaction, user_nids: Sequence[int]) -> None:
    # Somebody may have come since they were looked for.
    shared = storage.shared_with_us(tx, user_nids)
    storage.forget_remote_lists(tx, [nid for nid in user_nids if nid not in shared])


def _keep_keys(tx: Transaction, user_nid: int, keys: Mapping[str, tuple[str, bytes]]) -> None:
    """Store the cross-signing keys of a user; signatures that were made over a replaced one go with it."""
    for old in keys_storage.load_cross_signing(tx, [user_nid]):
        if old.usage in keys and keys[old.usage][0] != old.public_key:
            keys_storage.delete_signatures_of(tx, user_nid, [old.public_key])
    keys_storage.set_cross_signing(tx, [CrossSigningKey(user_nid, usage, *key) for usage, key in keys.items()])


def _is_known(update: DeviceListUpdate, stream_id: int) -> bool:
    # One that is behind and builds on nothing begins the list anew: its server has lost count.
    return update.stream_id == stream_id or (update.stream_id < stream_id and bool(update.prev_ids))


# -- what other servers answer ---------------------------------------------------------------------------------------


def read_user_devices(answer: JsonObject, user_id: str) -> RemoteList:
    """Return what `GET /user/devices` answered; devices and keys that are not right are left out."""
    devices: dict[str, Any] = {}
    told = answer.get("devices")
    for each in told if isinstance(told, list) else ():
        if isinstance(each, dict) and isinstance(each.get("device_id"), str):
            devices[each["device_id"]] = each.get("keys")
    names = {
        each["device_id"]: each.get("device_display_name")
        for each in (told if isinstance(told, list) else ())
        if isinstance(each, dict) and isinstance(each.get("device_id"), str)
    }
    stream_id = answer.get("stream_id")
    is_number = type(stream_id) is int and 0 <= stream_id <= MAX_INTEGER
    keys = {MASTER: answer.get("master_key"), SELF_SIGNING: answer.get("self_signing_key")}
    return read_list(user_id, devices, names, keys, stream_id if is_number else None)


def read_list(
    user_id: str,
    devices: Mapping[str, Any],
    names: Mapping[str, Any],
    keys: Mapping[str, Any],
    stream_id: int | None = None,
) -> RemoteList:
    """Return the devices and cross-signing keys that are in order."""
    found: dict[str, tuple[bytes, str | None]] = {}
    size = 0
    for device_id, content in devices.items():
        if len(found) >= MAX_DEVICES or size > MAX_BYTES:
            break
        if not is_device_id(device_id):
            continue
        try:
            encoded = check_device_keys(content, user_id, device_id)
        except MatrixError as fault:
            logger.debug("Keys of %s %s were left out: %s", user_id, device_id[:100], fault)
            continue
        size += len(encoded)
        found[device_id] = (encoded, _name(names.get(device_id)))
    good: dict[str, tuple[str, bytes]] = {}
    for usage, key in keys.items():
        if key is None:
            continue
        try:
            good[usage] = check_cross_signing_key(key, user_id, usage)
        except MatrixError as fault:
            logger.debug("The %s key of %s was left out: %s", usage, user_id, fault)
    return RemoteList(found, good, stream_id)


def _name(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return None
    return value[:MAX_DISPLAY_NAME_CHARACTERS].replace("\x00", "")
