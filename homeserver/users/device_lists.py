"""Changes of local users' devices and keys: told to those who share a room, here and on other servers.

A change is noted in the transaction that makes it (`note`), and told afterwards: it gets its place in the stream, and
in the same transaction EDUs for the servers in the user's rooms are queued. What a crash left untold is told at the
next start. Changes of one user are told one after the other; the position of each is the `stream_id` of the list, and
names the one before as `prev_id`. Of many changes at once a single one without `prev_id` is told: there may be
thousands of servers, and each is better off with asking for the whole list once.

A server that comes to share a room with a user is sent an update without `prev_id`, so that it asks for the whole list.

Spec: server-server API, "Device Management", `m.device_list_update`, `m.signing_key_update`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from homeserver.feed.changes import store_change
from homeserver.feed.feed import Feed, Publication
from homeserver.feed.streams.device_lists import DeviceListsStream
from homeserver.model.canonical_json import JsonObject
from homeserver.model.device_keys import MASTER, SELF_SIGNING, add_signatures
from homeserver.model.ids import ServerName
from homeserver.ports import EduOutbox
from homeserver.runtime.clock import Clock
from homeserver.runtime.lanes import Lanes
from homeserver.runtime.tasks import Tasks
from storage import device_keys as keys_storage
from storage import device_lists as storage
from storage.device_lists import Moved
from storage.outbox import OutboxEdu, store_edus
from storage.room_servers import load_servers
from storage.store import Store
from storage.transaction import Transaction

from .devices import DeviceRenamed, DevicesDeleted

DEVICE_LIST_UPDATE: Final = "m.device_list_update"
SIGNING_KEY_UPDATE: Final = "m.signing_key_update"
SIGNING_KEYS: Final = ""
"""Stands for the cross-signing keys where else a device ID is."""
_BATCH: Final = 1_000
# Of more devices at once than so many, one change is told.
_MOST_TOLD: Final = 20


class DeviceLists:
    """Tells of changes."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        clock: Clock,
        tasks: Tasks,
        *,
        stream: DeviceListsStream,
        server_name: ServerName,
        outbox: EduOutbox,
        tells_names: bool = False,
    ) -> None:
        """`tells_names`: whether other servers are told the display names of devices."""
        self._store = store
        self._feed = feed
        self._clock = clock
        self._tasks = tasks
        self._stream = stream
        self._server_name = server_name
        self._outbox = outbox
        self._tells_names = tells_names
        self._lanes: Lanes[int] = Lanes()
        feed.listen(self._on_publication)

    async def start(self) -> None:
        """Tell what the last run left untold."""
        for user_nid, user_id in await self._store.database.read(storage.load_users_with_untold):
            self._tasks.start(f"tell devices of {user_id}", self.tell(user_id, user_nid))

    # -- making changes ----------------------------------------------------------------------------------------------

    @staticmethod
    def note(tx: Transaction, user_nid: int, device_ids: Iterable[str]) -> None:
        """Note that devices of a user changed, in the transaction that changes them; call `tell` after the commit."""
        storage.note_untold(tx, user_nid, device_ids)

    def erase(self, tx: Transaction, user_nid: int, device_nids: Sequence[int]) -> None:
        """Note that those devices that have keys are about to be deleted; a `DeviceEraser`, the first of them."""
        gone = set(device_nids)
        known = keys_storage.load_device_keys(tx, [user_nid])
        self.note(tx, user_nid, [device.device_id for device in known if device.device_nid in gone])
        keys_storage.delete_keys_of_devices(tx, user_nid, device_nids)

    def observe(self, change: DevicesDeleted | DeviceRenamed) -> None:
        """Tell of a deleted or renamed device; a `DeviceObserver`."""
        work = (
            self._renamed(change) if isinstance(change, DeviceRenamed) else self.tell(change.user_id, change.user_nid)
        )
        self._tasks.start(f"tell devices of {change.user_id}", work)

    async def _renamed(self, change: DeviceRenamed) -> None:
        def write(tx: Transaction) -> None:
            if keys_storage.find_device_keys(tx, change.user_nid, change.device_nid) is not None:
                self.note(tx, change.user_nid, [change.device_id])

        await self._store.database.write(write)
        await self.tell(change.user_id, change.user_nid)

    # -- telling -----------------------------------------------------------------------------------------------------

    async def tell(self, user_id: str, user_nid: int) -> None:
        """Tell of all changes of a user that were noted."""
        while True:
            async with self._lanes.enter(user_nid):
                waiting = await self._store.database.read(lambda tx: storage.load_untold(tx, user_nid, _BATCH))
                devices = [device_id for device_id in waiting if device_id != SIGNING_KEYS]
                if len(devices) < len(waiting):
                    await self._tell_one(user_id, user_nid, [SIGNING_KEYS])
                if len(devices) > _MOST_TOLD:
                    await self._tell_one(user_id, user_nid, devices)
                else:
                    for device_id in devices:
                        await self._tell_one(user_id, user_nid, [device_id])
            if len(waiting) < _BATCH:
                return

    async def _tell_one(self, user_id: str, user_nid: int, device_ids: Sequence[str]) -> None:
        """Tell one change; of several devices that they changed, by one of them."""
        device_id = device_ids[0]
        edu_nid = self._store.numbers.next()
        now_ms = self._clock.now_ms()

        def write(tx: Transaction, position: int) -> tuple[Moved, tuple[str, ...]]:
            is_list = device_id != SIGNING_KEYS
            moved = storage.note_change(tx, user_nid, position, has_stream_id=is_list)
            storage.delete_untold(tx, user_nid, device_ids)
            others = tuple(server for server in moved.servers if server != self._server_name)
            if others:
                if is_list:
                    before = moved.previous_stream_id if len(device_ids) == 1 else None
                    previous = [] if before is None else [before]
                    kind = DEVICE_LIST_UPDATE
                    content = self._update(tx, user_id, user_nid, device_id, position, previous)
                else:
                    kind, content = SIGNING_KEY_UPDATE, _signing_keys(tx, user_id, user_nid)
                store_edus(tx, [OutboxEdu(edu_nid, server, kind, content, now_ms, user_id) for server in others])
            return moved, others

        def publish(position: int, result: tuple[Moved, tuple[str, ...]]) -> None:
            self._stream.publish(user_id, result[0].rooms, position)

        _, others = await store_change(
            self._store.positions,
            lambda position: self._store.database.write(lambda tx: write(tx, position)),
            publish,
        )
        if others:
            self._outbox.wake(others)

    def _update(
        self, tx: Transaction, user_id: str, user_nid: int, device_id: str, stream_id: int, previous: list[int]
    ) -> JsonObject:
        content: JsonObject = {
            "user_id": user_id,
            "device_id": device_id,
            "stream_id": stream_id,
            "prev_id": previous,
        }
        known = [each for each in keys_storage.load_device_keys(tx, [user_nid]) if each.device_id == device_id]
        if not known:
            return {**content, "deleted": True}
        signatures = keys_storage.load_signatures(tx, [user_nid], None)
        content["keys"] = add_signatures(orjson.loads(known[0].content), signatures.get((user_nid, device_id), {}))
        if self._tells_names and known[0].display_name is not None:
            content["device_display_name"] = known[0].display_name
        return content

    # -- servers that come to share a room ---------------------------------------------------------------------------

    def _on_publication(self, publication: Publication) -> None:
        for member in publication.members:
            if member.is_local and member.membership == "join" and member.before != "join":
                self._tasks.start(
                    f"introduce devices of {member.user_id}",
                    self._introduce(member.user_id, member.user_nid, publication.stored.room_nid),
                )

    async def _introduce(self, user_id: str, user_nid: int, room_nid: int) -> None:
        # Spec: updates must be sent "when that user joins a room which contains servers which are not already
        # receiving updates for that user's device list".
        servers, _ = await self._store.database.read(lambda tx: load_servers(tx, room_nid))
        others = [server for server in servers if server != self._server_name]
        if not others:
            return
        edu_nid = self._store.numbers.next()
        now_ms = self._clock.now_ms()

        def write(tx: Transaction) -> list[str]:
            devices = keys_storage.load_device_keys(tx, [user_nid])
            stream_id = storage.find_stream_id(tx, user_nid)
            if not devices or stream_id is None:
                return []
            known = storage.servers_elsewhere(tx, user_nid, room_nid)
            new = [server for server in others if server not in known]
            content = self._update(tx, user_id, user_nid, devices[0].device_id, stream_id, [])
            store_edus(tx, [OutboxEdu(edu_nid, server, DEVICE_LIST_UPDATE, content, now_ms, user_id) for server in new])
            return new

        self._outbox.wake(await self._store.database.write(write))


def _signing_keys(tx: Transaction, user_id: str, user_nid: int) -> JsonObject:
    content: dict[str, Any] = {"user_id": user_id}
    signatures = keys_storage.load_signatures(tx, [user_nid], None)
    for key in keys_storage.load_cross_signing(tx, [user_nid]):
        if key.usage in (MASTER, SELF_SIGNING):
            added = signatures.get((user_nid, key.public_key), {})
            content[f"{key.usage}_key"] = add_signatures(orjson.loads(key.content), added)
    return content
