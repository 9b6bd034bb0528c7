"""What an application service that encrypts is told of devices: messages for those of its users, changed lists, keys.

A service has too many users for each of them to sync. So it is told in its transactions what syncs would tell:

- Messages are taken out of the inboxes in the write that stores the transaction: they are in the one or in the other,
  whatever happens between. Those of a user whom the service shares with people are left to syncs while somebody is
  logged in on the device.
- Changed lists are those of users who share a room with one of the service's, and of its own. They are read behind a
  place in the stream that is never ahead of the events' place, so after a restart some are told twice and none is lost.
- How many keys a device has left is told with the messages for it, and with the next transaction after keys were
  claimed.

LIMIT: of services whose namespaces overlap, the first to look gets the messages for the users they share.

Unstable: MSC4203 (to-device), MSC3202 (the others). Fields have their stable and their unstable names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import orjson

from homeserver.feed.feed import Feed
from storage import appservice_devices as storage
from storage.appservice_devices import ServedDevice, WaitingMessage
from storage.store import Store
from storage.transaction import CHUNK, Transaction

from .registry import Appservice

# LIMIT: messages, and bytes of them, in one transaction.
MAX_MESSAGES: Final = 100
MAX_BYTES: Final = 512 * 1024
# Changed lists that are looked at in one read.
LISTS_AT_ONCE: Final = 1_000
# LIMIT: members of rooms that the service comes into, or leaves, who are told of.
MAX_MEMBERS: Final = 5_000
# LIMIT: devices that are kept in memory: those with messages (else the database is looked through), and those whose
# keys changed (else the counts of the oldest are told later).
MAX_DEVICES: Final = 100_000
MAX_TOUCHED: Final = 10_000

_TO_DEVICE: Final = ("to_device", "de.sorunome.msc2409.to_device")
_LISTS: Final = ("device_lists", "org.matrix.msc3202.device_lists")
_FALLBACK: Final = ("device_unused_fallback_key_types", "org.matrix.msc3202.device_unused_fallback_key_types")
# COMPAT(synapse): the last is a misspelling that services in use know.
_COUNTS: Final = (
    "device_one_time_keys_count",
    "org.matrix.msc3202.device_one_time_keys_count",
    "org.matrix.msc3202.device_one_time_key_counts",
)


@dataclass(frozen=True, slots=True)
class News:
    """Members of a transaction, each after a comma; `taken`: up to where the messages of devices are in it."""

    members: bytes = b""
    taken: Mapping[int, int] = field(default_factory=dict)


NO_NEWS: Final = News()


@dataclass(slots=True)
class _Moves:
    """Who came into rooms with users of the service, and left them, and which rooms those came into and left."""

    joined: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    entered: set[int] = field(default_factory=set)
    departed: set[int] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.joined or self.left or self.entered or self.departed)


@dataclass(frozen=True, slots=True)
class _Messages:
    chosen: Sequence[WaitingMessage] = ()
    served: Mapping[int, ServedDevice] = field(default_factory=dict)
    # Devices of which nothing is left.
    done: Collection[int] = ()


class DeviceNews:
    """One service's news; on the reactor's thread."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        service: Appservice,
        concerning: Callable[[Collection[int]], Awaitable[Collection[int]]],
    ) -> None:
        """`concerning` gives those of some rooms (room_nids) that the service is interested in."""
        self._store = store
        self._feed = feed
        self._service = service
        self._concerning = concerning
        # Devices of the service's users with messages, and whether there may be others.
        self._waiting: set[int] = set()
        self._must_look = True
        # Up to where changed lists were told, and whether there may be others.
        self._lists_place = 0
        self._are_lists_changed = True
        self._moves = _Moves()
        self._touched: dict[int, None] = {}

    def start(self, place: int) -> None:
        """Begin with the lists that changed after this place in the stream."""
        self._lists_place = place

    @property
    def is_waiting(self) -> bool:
        """Whether there may be something to tell by itself."""
        return bool(self._waiting) or self._must_look or self._are_lists_changed

    # -- in ----------------------------------------------------------------------------------------------------------

    def on_messages(self, devices: Mapping[int, str]) -> bool:
        """Messages were stored for devices (device_nid -> user ID); return whether for any of the service's."""
        own = [device_nid for device_nid, user_id in devices.items() if self._service.is_user(user_id)]
        self._waiting.update(own)
        if len(self._waiting) > MAX_DEVICES:
            self._waiting.clear()
            self._must_look = True
        return bool(own)

    def on_lists(self) -> None:
        """Somebody's list has changed."""
        self._are_lists_changed = True

    def on_counts(self, device_nids: Sequence[int]) -> None:
        """Keys of devices were uploaded, claimed or deleted."""
        self._touched.update(dict.fromkeys(device_nids))
        while len(self._touched) > MAX_TOUCHED:
            del self._touched[next(iter(self._touched))]

    def on_member(self, user_id: str, room_nid: int, *, is_join: bool, was_joined: bool, others: int) -> None:
        """Somebody came into a room or left it, as the loop of the service passes the event.

        `others`: how many of the service's users are in the room besides.
        """
        if is_join == was_joined:
            return
        moves = self._moves
        if self._service.is_user(user_id):
            if not others:
                (moves.entered if is_join else moves.departed).add(room_nid)
                (moves.departed if is_join else moves.entered).discard(room_nid)
        elif others:
            (moves.joined if is_join else moves.left).add(user_id)
            (moves.left if is_join else moves.joined).discard(user_id)

    # -- out ---------------------------------------------------------------------------------------------------------

    async def take(self, *, is_sending: bool) -> News:
        """Return what the next transaction tells; `is_sending`: there is one, whatever this returns.

        What was returned counts as told, so nothing may be waited for between this and keeping it. Where this raises,
        nothing does.
        """
        # What comes from here on is looked for again.
        upto = self._feed.watermark
        waiting, self._waiting = self._waiting, set()
        must_look, self._must_look = self._must_look, False
        are_lists_changed, self._are_lists_changed = self._are_lists_changed, False
        try:
            if must_look:
                found = await self._store.database.read(storage.load_waiting_devices)
                waiting.update(device_nid for device_nid, user_id in found if self._service.is_user(user_id))
            messages = await self._read_messages(waiting, upto) if waiting else _Messages()
            lists_upto = upto if are_lists_changed else self._lists_place
            lists = await self._read_lists(lists_upto)
            recipients = {message.device_nid for message in messages.chosen}
            touched = tuple(self._touched) if is_sending or recipients or lists else ()
            counts = await self._read_counts(recipients.union(touched)) if recipients or touched else {}
        except BaseException:
            self._waiting |= waiting
            self._must_look |= must_look
            self._are_lists_changed |= are_lists_changed
            raise
        self._waiting |= waiting.difference(messages.done)
        self._lists_place = lists_upto
        self._moves = _Moves()
        for device_nid in touched:
            self._touched.pop(device_nid, None)
        return _render(messages, lists, counts)

    async def _read_messages(self, waiting: Collection[int], upto: int) -> _Messages:
        def read(tx: Transaction) -> _Messages:
            served = storage.load_served(tx, waiting)
            wanted = [nid for nid, device in served.items() if self._is_told(device)]
            done = set(waiting).difference(wanted)
            chosen: list[WaitingMessage] = []
            size = 0
            for start in range(0, len(wanted), CHUNK):
                part = wanted[start : start + CHUNK]
                for message in storage.load_waiting(tx, part, upto, MAX_MESSAGES + 1 - len(chosen)):
                    size += len(message.content)
                    if len(chosen) == MAX_MESSAGES or (chosen and size > MAX_BYTES):
                        return _Messages(chosen, served, done)
                    chosen.append(message)
                done.update(part)
            return _Messages(chosen, served, done)

        return await self._store.database.read(read)

    def _is_told(self, device: ServedDevice) -> bool:
        """Tell whether the messages for a device are told in transactions."""
        if device.is_dehydrated:
            return False
        # MSC4203, "when to delete a to-device message": users of the service's own do not sync, others may.
        return not device.has_session or self._service.has_for_itself(device.user_id)

    async def _read_lists(self, upto: int) -> dict[str, list[str]]:
        """Return whose lists changed up to there, and with whom no room is shared any more; all of it."""
        after, moves = self._lists_place, self._moves
        if upto <= after and not moves:
            return {}
        is_user = self._service.is_user
        told = set(moves.joined)
        while after < upto:
            changed, after = await self._store.database.read(
                partial(storage.load_changed_lists, after=after, upto=upto, limit=LISTS_AT_ONCE)
            )
            sharing = await self._sharing(changed)
            told.update(name for nid, name in changed.items() if nid in sharing or is_user(name))
        left: set[str] = set()
        if moves.entered:
            members = await self._members(moves.entered)
            told.update(name for name in members.values() if not is_user(name))
        if moves.left or moves.departed:
            gone = {nid: name for name, nid in (await self._store.interner.find_users(moves.left)).items()}
            gone.update(await self._members(moves.departed))
            sharing = await self._sharing(gone)
            left = {name for nid, name in gone.items() if nid not in sharing and not is_user(name)} - told
        return {"changed": sorted(told), "left": sorted(left)} if told or left else {}

    async def _members(self, room_nids: Collection[int]) -> dict[int, str]:
        return await self._store.database.read(lambda tx: storage.load_room_members(tx, room_nids, MAX_MEMBERS))

    async def _sharing(self, user_nids: Collection[int]) -> set[int]:
        """Return those of the users who are in a room that the service is interested in."""
        rooms = await self._store.database.read(lambda tx: storage.load_joined_rooms(tx, user_nids))
        concerning = await self._concerning({room_nid for each in rooms.values() for room_nid in each})
        return {user_nid for user_nid, each in rooms.items() if not each.isdisjoint(concerning)}

    async def _read_counts(self, device_nids: Collection[int]) -> dict[str, dict[str, storage.DeviceCounts]]:
        """Return the counts of those devices that are of users of the service: user ID -> device ID -> counts."""
        is_user = self._service.is_user

        def read(tx: Transaction) -> tuple[list[ServedDevice], dict[int, storage.DeviceCounts]]:
            own = [device for device in storage.load_served(tx, device_nids).values() if is_user(device.user_id)]
            return own, storage.load_counts(tx, [device.device_nid for device in own])

        own, counts = await self._store.database.read(read)
        found: dict[str, dict[str, storage.DeviceCounts]] = {}
        for device in own:
            found.setdefault(device.user_id, {})[device.device_id] = counts[device.device_nid]
        return found


def _render(
    messages: _Messages, lists: Mapping[str, Any], counts: Mapping[str, Mapping[str, storage.DeviceCounts]]
) -> News:
    members: list[bytes] = []

    def add(names: Sequence[str], value: bytes) -> None:
        members.extend(b"," + orjson.dumps(name) + b":" + value for name in names)

    taken: dict[int, int] = {}
    if messages.chosen:
        rendered: list[bytes] = []
        for message in messages.chosen:
            device = messages.served[message.device_nid]
            head = orjson.dumps({"to_user_id": device.user_id, "to_device_id": device.device_id})
            rendered.append(head[:-1] + b"," + message.content[1:])
            taken[message.device_nid] = message.position
        add(_TO_DEVICE, b"[" + b",".join(rendered) + b"]")
    if lists:
        add(_LISTS, orjson.dumps(lists))
    if counts:
        # A device that ran out of keys is to be told so.
        left = {
            user_id: {name: {"signed_curve25519": 0, **each.one_time} for name, each in devices.items()}
            for user_id, devices in counts.items()
        }
        unused = {
            user_id: {name: each.unused_fallback for name, each in devices.items()}
            for user_id, devices in counts.items()
        }
        add(_COUNTS, orjson.dumps(left))
        add(_FALLBACK, orjson.dumps(unused))
    return News(b"".join(members), taken) if members else NO_NEWS
