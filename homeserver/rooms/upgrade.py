"""Upgrading a room: another room of another version takes its place.

Two rooms change, and no transaction spans both.  So an upgrade is a row of steps in one room each, in this order:

1. The new room is made, its bans and power levels included.  Nobody knows of it yet: if we stop here, a room with one
   member is left over, and the old one goes on as if nothing had been asked.
2. The tombstone is sent into the old room.  From here on the upgrade is a fact, and clients can follow it.
3. The local aliases and the place in the room directory move, in one transaction.  After the tombstone, because an
   alias that leads to the old room leads on to the new one, while the other way round newcomers would be let into a
   room whose members know nothing of it.
4. The canonical alias is said in the new room, then taken back in the old one: it is never in neither.
5. Power in the old room is raised so that nobody goes on talking there.
6. The settings that the user has for the old room are copied; other users' follow when they join.

Asked again, by the same user and for the same version, an upgrade that has passed step 2 goes on with 3: these steps
may be done twice.  So neither a lost answer nor a crash makes a second replacement.  While an upgrade runs, the same
request waits for its answer, and any other one for this room is refused.

Steps 4 and 5 are done "if possible": the user may send tombstones and yet not be allowed those.

A room that has been replaced may be replaced again, by another room: the one before may be of a version that nobody
wanted, or out of reach of who asks.  The spec does not forbid it, and its tombstone is state like any other.  The third
room gets the power levels that the first had before it was closed, and the aliases that went from the first room to the
second by the earlier upgrade come on to the third, if the user may take them there.  The second room is else let be.

Spec: client-server API, "Room Upgrades".
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import select
from twisted.internet.defer import Deferred

from homeserver.errors import BadRequest, MatrixError, NotAllowed, NotFound
from homeserver.model.content.create import predecessor_room_id, room_type
from homeserver.model.content.member import Membership, membership_of
from homeserver.model.content.power_levels import PowerLevels
from homeserver.model.event import Event, EventTemplate, StateKey
from homeserver.model.ids import RoomID, UserID
from homeserver.model.replacement import (
    COPIED_TYPES,
    POWER_LEVELS,
    SPACE,
    SPACE_CHILD,
    TOMBSTONE,
    OldRoom,
    closed_power_levels,
    opened_power_levels,
    replacement_events,
    replacement_room_id,
    split_canonical_alias,
    tombstone_content,
)
from homeserver.model.room_versions import RoomVersion, get_room_version
from storage.events import StoredEvent
from storage.store import Store
from storage.tables.rooms import memberships
from storage.transaction import chunks

from .creation import OpaqueID
from .directory import Directory
from .door import RoomDoor
from .membership import ProfileOf
from .tip import RoomTip

logger = logging.getLogger(__name__)

CarryOver = Callable[[UserID, RoomID, RoomID], Awaitable[None]]
"""Copies what a local user has set for a room (tags, push rules) to the one that replaces it; does not raise."""

# LIMIT: former tombstones and power levels of a room that are looked at to find those of before it was replaced.
MAX_FORMER: Final = 50
# LIMIT: events of one transaction; a room with thousands of bans is made in several.
BATCH: Final = 200

_CANONICAL_ALIAS: Final = "m.room.canonical_alias"
_OLD_STATE: Final[tuple[StateKey, ...]] = tuple((kind, "") for kind in (*COPIED_TYPES, POWER_LEVELS))


@dataclass(slots=True)
class _Running:
    """An upgrade that is being made, and who waits for the same."""

    user_id: UserID
    version: RoomVersion
    waiting: list[Deferred[RoomID]] = field(default_factory=list)


class Upgrades:
    """Replaces rooms for local users."""

    def __init__(
        self,
        store: Store,
        door: RoomDoor,
        directory: Directory,
        *,
        profile_of: ProfileOf,
        opaque_id: OpaqueID,
        carry_over: CarryOver,
    ) -> None:
        """`opaque_id` gives the random part of a room ID."""
        self._store = store
        self._door = door
        self._directory = directory
        self._profile_of = profile_of
        self._opaque_id = opaque_id
        self._carry_over = carry_over
        self._running: dict[RoomID, _Running] = {}

    async def upgrade(
        self, user_id: UserID, room_id: RoomID, version: str, additional_creators: Sequence[UserID] = ()
    ) -> RoomID:
        """Replace a room by one of another version, or of the same; return the ID of the new room.

        `additional_creators` are left aside where the version has none. Raises UnsupportedRoomVersion; NotAllowed where
        the user may not send a tombstone, or there is no such room; BadRequest while another upgrade of it runs.
        """
        wanted = get_room_version(version)
        running = self._running.get(room_id)
        if running is not None:
            # The permission is not asked: who started the upgrade had it.
            if (running.user_id, running.version) == (user_id, wanted):
                waiter: Deferred[RoomID] = Deferred()
                running.waiting.append(waiter)
                return await waiter
            await self._require_permission(user_id, room_id)
            raise BadRequest("An upgrade of this room is under way")
        running = self._running[room_id] = _Running(user_id, wanted)
        try:
            new_id = await self._upgrade(user_id, room_id, wanted, additional_creators)
        except BaseException as fault:
            for waiter in self._ended(room_id):
                waiter.errback(fault)
            raise
        for waiter in self._ended(room_id):
            waiter.callback(new_id)
        return new_id

    def _ended(self, room_id: RoomID) -> list[Deferred[RoomID]]:
        return self._running.pop(room_id).waiting

    # -- the steps ---------------------------------------------------------------------------------------------------

    async def _upgrade(
        self, user_id: UserID, old_id: RoomID, version: RoomVersion, additional_creators: Sequence[UserID]
    ) -> RoomID:
        tip = await self._require_permission(user_id, old_id)
        new_id = await self._find_replacement(user_id, old_id, version)
        if new_id is None:
            new_id = await self._create(user_id, tip, version, additional_creators)
            await self._send_tombstone(user_id, old_id, new_id)
        new_tip = await self._door.tip(new_id)
        await self._directory.move(tip.room_nid, new_tip.room_nid)
        earlier = await self._find_earlier_replacement(user_id, old_id, new_id)
        if earlier is not None:
            made_ms = earlier.create.received_ts
            await self._directory.move(earlier.room_nid, new_tip.room_nid, made_before_ms=made_ms)
            await self._move_canonical_alias(user_id, earlier.room_id, new_id, new_tip.room_nid)
        await self._move_canonical_alias(user_id, old_id, new_id, new_tip.room_nid)
        await self._close(user_id, old_id, tip.version)
        await self._carry_over(user_id, old_id, new_id)
        return new_id

    async def _require_permission(self, user_id: UserID, room_id: RoomID) -> RoomTip:
        """Return the room's tip if the user may send a tombstone. Spec: "Server behaviour", 1."""
        member_key = ("m.room.member", str(user_id))
        try:
            tip = await self._door.tip(room_id)
            found = await self._door.state_events(room_id, (member_key, (POWER_LEVELS, "")))
        except NotFound as fault:
            # Strangers are not told which rooms there are.
            raise NotAllowed("You are not in this room") from fault
        member, levels_event = found.get(member_key), found.get((POWER_LEVELS, ""))
        if membership_of(_event(member)) is not Membership.JOIN:
            raise NotAllowed("You are not in this room")
        levels = PowerLevels.from_events(tip.version, tip.create.event, _event(levels_event))
        if levels.of(user_id) < levels.needed_for(TOMBSTONE, is_state=True):
            raise NotAllowed("You may not upgrade this room")
        return tip

    async def _find_replacement(self, user_id: UserID, old_id: RoomID, version: RoomVersion) -> RoomID | None:
        """Return the room that this very upgrade has made before, if the user is still in it."""
        tombstone = _event(await self._door.state_event(old_id, TOMBSTONE))
        named = replacement_room_id(tombstone)
        if tombstone is None or tombstone.sender != user_id or named is None:
            return None
        new_id = RoomID(named)
        try:
            tip = await self._door.tip(new_id)
            member = _event(await self._door.state_event(new_id, "m.room.member", user_id))
        except NotFound:
            return None
        create = tip.create.event
        is_ours = create.sender == user_id and predecessor_room_id(create) == old_id and tip.version is version
        return new_id if is_ours and membership_of(member) is Membership.JOIN else None

    async def _find_earlier_replacement(self, user_id: UserID, old_id: RoomID, new_id: RoomID) -> RoomTip | None:
        """Return the room that replaced the old one before, if the user may change its aliases.

        It must be what an upgrade made: a tombstone may name any room.
        """
        former = await self._former(await self._door.state_event(old_id, TOMBSTONE), 2)
        named = replacement_room_id(former[1].event) if len(former) > 1 else None
        if named is None or named == new_id:
            return None
        earlier_id, member_key = RoomID(named), ("m.room.member", str(user_id))
        try:
            tip = await self._door.tip(earlier_id)
            found = await self._door.state_events(earlier_id, (member_key, (POWER_LEVELS, "")))
        except NotFound:
            return None
        create = tip.create.event
        if create.sender != former[1].event.sender or predecessor_room_id(create) != old_id:
            return None
        levels = PowerLevels.from_events(tip.version, create, _event(found.get((POWER_LEVELS, ""))))
        may = levels.of(user_id) >= levels.needed_for(_CANONICAL_ALIAS, is_state=True)
        return tip if may and membership_of(_event(found.get(member_key))) is Membership.JOIN else None

    async def _create(
        self, user_id: UserID, tip: RoomTip, version: RoomVersion, additional_creators: Sequence[UserID]
    ) -> RoomID:
        old = OldRoom(
            room_id=tip.room_id,
            version=tip.version,
            create=tip.create.event,
            state=await self._copied_state(tip),
            bans=await self._bans(tip.room_nid),
            last_event_id=tip.extremities[-1][1],
            levels=await self._opened_levels(tip),
        )
        profile = await self._profile_of(user_id)
        events = replacement_events(old, version, user_id, additional_creators=additional_creators, profile=profile)
        new_id = None
        if not version.room_id_is_create_hash:
            new_id = RoomID(f"!{self._opaque_id()}:{user_id.server_name}")
        new_id = await self._door.create(version, events[0], new_id, events[1:BATCH])
        try:
            for start in range(BATCH, len(events), BATCH):
                await self._door.send_all(new_id, events[start : start + BATCH])
        except MatrixError:
            await self._abandon(user_id, new_id)
            raise
        return new_id

    async def _send_tombstone(self, user_id: UserID, old_id: RoomID, new_id: RoomID) -> None:
        try:
            await self._door.send(old_id, _state(user_id, TOMBSTONE, tombstone_content(new_id)))
        except MatrixError:
            # Power was taken from the user meanwhile, or a gate denies it.
            await self._abandon(user_id, new_id)
            raise

    async def _abandon(self, user_id: UserID, new_id: RoomID) -> None:
        """Leave the new room, which nobody else can have found."""
        await self._try(user_id, new_id, "m.room.member", {"membership": "leave"}, user_id)

    async def _move_canonical_alias(self, user_id: UserID, old_id: RoomID, new_id: RoomID, new_nid: int) -> None:
        present = _event(await self._door.state_event(old_id, _CANONICAL_ALIAS))
        if present is None:
            return
        said, left = split_canonical_alias(present.content, frozenset(await self._directory.aliases_of(new_nid)))
        if not said:
            return
        if await self._door.state_event(new_id, _CANONICAL_ALIAS) is None:
            await self._try(user_id, new_id, _CANONICAL_ALIAS, said)
        await self._try(user_id, old_id, _CANONICAL_ALIAS, left)

    async def _close(self, user_id: UserID, old_id: RoomID, version: RoomVersion) -> None:
        present = _event(await self._door.state_event(old_id, POWER_LEVELS))
        if present is None:
            # The first such event would have to name all who have power, and nobody has but the creator.
            return
        content = closed_power_levels(version, present.content)
        if content is not None:
            await self._try(user_id, old_id, POWER_LEVELS, content)

    async def _try(
        self, user_id: UserID, room_id: RoomID, kind: str, content: Mapping[str, Any], state_key: str = ""
    ) -> None:
        try:
            await self._door.send(room_id, _state(user_id, kind, content, state_key))
        except MatrixError as refusal:
            logger.info("the upgrade leaves %s of %s as it is: %s", kind, room_id, refusal.message)

    # -- reading the old room ----------------------------------------------------------------------------------------

    async def _copied_state(self, tip: RoomTip) -> dict[StateKey, Event]:
        keys = list(_OLD_STATE)
        if room_type(tip.create.event) == SPACE:
            interner = self._store.interner
            unknown = [key_nid for key_nid in tip.state if interner.known_key_name(key_nid) is None]
            names = await interner.key_names(unknown) if unknown else {}
            for key_nid in tip.state:
                name = interner.known_key_name(key_nid) or names.get(key_nid)
                if name is not None and name[0] == SPACE_CHILD:
                    keys.append(name)
        found = await self._door.state_events(tip.room_id, keys)
        return {key: stored.event for key, stored in found.items()}

    async def _opened_levels(self, tip: RoomTip) -> Mapping[str, Any] | None:
        """Return the power levels without the closing of an earlier upgrade; None where there was none."""
        tombstones = await self._former(await self._door.state_event(tip.room_id, TOMBSTONE), MAX_FORMER)
        closed_since = tombstones[-1].position if tombstones else None
        if closed_since is None:
            return None
        levels = await self._former(await self._door.state_event(tip.room_id, POWER_LEVELS), MAX_FORMER)
        # Those since the first tombstone, and the one that they began with.
        count = sum(stored.position is not None and stored.position > closed_since for stored in levels)
        history = [stored.event.content for stored in levels[: count + 1]]
        return opened_power_levels(tip.version, history) if history else None

    async def _former(self, stored: StoredEvent | None, limit: int) -> list[StoredEvent]:
        """Return a state event and those that it has replaced, newest first."""
        found: list[StoredEvent] = []
        while stored is not None and len(found) < limit:
            found.append(stored)
            before = stored.replaces_nid
            stored = None if before is None else (await self._store.events.get([before])).get(before)
        return found

    async def _bans(self, room_nid: int) -> list[Event]:
        rows = await self._store.database.read(
            lambda tx: tx.all(
                select(memberships.c.event_nid)
                .where(memberships.c.room_nid == room_nid, memberships.c.membership == "ban")
                .order_by(memberships.c.position)
            )
        )
        bans: list[Event] = []
        for nids in chunks([row[0] for row in rows]):
            found = await self._store.events.get(nids)
            bans += [found[nid].event for nid in nids if nid in found]
        return bans


def _event(stored: Any) -> Event | None:
    return stored.event if stored is not None else None


def _state(sender: UserID, kind: str, content: Mapping[str, Any], state_key: str = "") -> EventTemplate:
    return EventTemplate(type=kind, content=content, sender=sender, state_key=state_key)
