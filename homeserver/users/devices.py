"""Devices of local users: listing, renaming, deleting.

A device goes together with its tokens and with whatever else belongs to it: `erasers` are called in the same
transaction (keys, queues, pushers), so a crash leaves all or nothing. `observe` is called after the commit, for what is
only in memory (open connections, device list updates).

Spec: client-server API, "Device Management".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.errors import NotFound
from homeserver.model.ids import UserID
from storage import devices as storage
from storage.database import Database
from storage.devices import DeviceRow
from storage.transaction import Transaction

from .device_overview import DeviceLine, list_device_lines
from .sessions import MAX_DEVICE_ID_CHARACTERS, Requester, Sessions, check_device_name

DeviceEraser = Callable[[Transaction, int, Sequence[int]], None]
"""Deletes what belongs to devices: called with (transaction, user_nid, device_nids)."""


@dataclass(frozen=True, slots=True)
class DevicesDeleted:
    """Devices of a user are gone, with their tokens; pairs of (device_nid, device_id)."""

    user_id: UserID
    user_nid: int
    devices: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class DeviceRenamed:
    """A device has another display name."""

    user_id: UserID
    user_nid: int
    device_nid: int
    device_id: str


DeviceObserver = Callable[[DevicesDeleted | DeviceRenamed], None]


class Devices:
    """What users and their administrators do with devices."""

    def __init__(
        self,
        database: Database,
        sessions: Sessions,
        *,
        erasers: Sequence[DeviceEraser] = (),
        observe: DeviceObserver | None = None,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._erasers = tuple(erasers)
        self._observe = observe

    async def list_devices(self, user_nid: int) -> list[dict[str, Any]]:
        """Return a user's devices in the form that clients know, oldest first."""
        rows = await self._database.read(lambda tx: storage.list_devices(tx, user_nid))
        return [self._to_wire(row) for row in rows]

    async def list_lines(self, user_id: UserID, user_nid: int) -> list[DeviceLine]:
        """Return a user's devices as whoever runs the server sees them, oldest first."""
        return await list_device_lines(self._database, self._sessions, user_id, user_nid)

    async def get_device(self, user_nid: int, device_id: str) -> dict[str, Any]:
        """Return one device in the form that clients know; NotFound."""
        return self._to_wire(await self._get(user_nid, device_id))

    async def find_nid(self, user_nid: int, device_id: str) -> int | None:
        """Return the number of a user's device, or None."""
        if len(device_id) > MAX_DEVICE_ID_CHARACTERS:
            return None
        row = await self._database.read(lambda tx: storage.find_device(tx, user_nid, device_id))
        return None if row is None else row.device_nid

    async def create(self, user_nid: int, device_id: str, display_name: str | None) -> bool:
        """Give a user a device without a session; False when there is one of this ID already. InvalidParam."""
        return await self._sessions.create_device(user_nid, device_id, display_name)

    async def rename(self, user_id: UserID, user_nid: int, device_id: str, display_name: str | None) -> None:
        """Change a device's display name; None only checks that there is such a device. NotFound, InvalidParam."""
        check_device_name(display_name)
        row = await self._get(user_nid, device_id)
        if display_name is None or display_name == row.display_name:
            return
        await self._database.write(lambda tx: storage.set_device_name(tx, row.device_nid, display_name))
        if self._observe is not None:
            self._observe(DeviceRenamed(user_id, user_nid, row.device_nid, device_id))

    async def delete(self, user_id: UserID, user_nid: int, device_ids: Sequence[str]) -> None:
        """Delete those of the devices that exist, with their tokens."""
        wanted = frozenset(device_ids)
        await self._delete(user_id, user_nid, lambda row: row.device_id in wanted)

    async def delete_all(self, user_id: UserID, user_nid: int, *, except_device: int | None = None) -> None:
        """Delete all devices of a user but one, and the tokens that have no device."""
        await self._delete(user_id, user_nid, lambda row: row.device_nid != except_device, except_device, True)

    async def log_out(self, requester: Requester) -> None:
        """End the session that asks, and its device.

        Spec: `POST /logout`: "The device associated with the access token is also deleted".
        """
        if requester.device_id is None:
            await self._sessions.log_out_token(requester)
        else:
            await self.delete(requester.user_id, requester.user_nid, [requester.device_id])

    def delete_in(self, tx: Transaction, user_nid: int, keep: Callable[[DeviceRow], bool]) -> list[DeviceRow]:
        """Delete a user's devices but those to `keep` in a transaction of the caller; tell `deleted` afterwards."""
        rows = [row for row in storage.list_devices(tx, user_nid) if not keep(row)]
        nids = [row.device_nid for row in rows]
        for erase in self._erasers:
            erase(tx, user_nid, nids)
        storage.delete_devices(tx, nids)
        return rows

    def deleted(self, user_id: UserID, user_nid: int, rows: Sequence[DeviceRow]) -> None:
        """Forget deleted devices and tell the observer, after the commit."""
        self._sessions.forget_user(user_nid)
        if rows and self._observe is not None:
            pairs = tuple((row.device_nid, row.device_id) for row in rows)
            self._observe(DevicesDeleted(user_id, user_nid, pairs))

    async def _delete(
        self,
        user_id: UserID,
        user_nid: int,
        is_wanted: Callable[[DeviceRow], bool],
        except_device: int | None = None,
        with_loose_tokens: bool = False,
    ) -> None:
        def write(tx: Transaction) -> list[DeviceRow]:
            rows = self.delete_in(tx, user_nid, lambda row: not is_wanted(row))
            if with_loose_tokens:
                storage.delete_tokens_of_user(tx, user_nid, except_device=except_device)
            return rows

        self.deleted(user_id, user_nid, await self._database.write(write))

    async def _get(self, user_nid: int, device_id: str) -> DeviceRow:
        row = await self._database.read(lambda tx: storage.find_device(tx, user_nid, device_id))
        if row is None:
            raise NotFound("You have no device with this ID")
        return row

    def _to_wire(self, row: DeviceRow) -> dict[str, Any]:
        device: dict[str, Any] = {"device_id": row.device_id}
        if row.display_name is not None:
            device["display_name"] = row.display_name
        last_seen_ts, address = self._sessions.last_seen(row.device_nid) or (row.last_seen_ts, row.last_seen_ip)
        if last_seen_ts is not None:
            device["last_seen_ts"] = last_seen_ts
        if address is not None:
            device["last_seen_ip"] = address
        return device
