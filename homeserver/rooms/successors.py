"""Local users who join a room that replaces another one find there what they have set for the old one.

Their settings are copied before the join is made, as one of the door's gates: whoever sees the room for the first time
sees it with its tags, and what is muted in the old room does not notify in the new one. A crash in between leaves a
copy and no join, and the next attempt finds the copy made. Who comes in another way than through a local join (by
another server's event) is noticed in the feed, and the copy follows the join.

Anybody can make a room that claims to replace another one; so the old room's tombstone must name the new one, and the
user must have been in the old one. Who has been in the new room before gets nothing: what was taken off there stays
off.

LIMIT: where the copy follows the join, settings of who joined just before a crash are not copied.

Spec: client-server API, "Room Upgrades", "Server behaviour", the last sentence.
"""

from __future__ import annotations

import logging
from typing import Final

from sqlalchemy import select

from homeserver.errors import HomeserverError, NotFound
from homeserver.feed.feed import Feed, MemberChange, Publication, UserFeed
from homeserver.model.content.create import predecessor_room_id
from homeserver.model.content.join_rules import JoinRule, is_restricted, join_rule_of
from homeserver.model.event import EventTemplate
from homeserver.model.ids import RoomID, UserID
from homeserver.model.replacement import TOMBSTONE, replacement_room_id
from homeserver.runtime.tasks import Tasks
from storage.store import Store
from storage.tables.rooms import membership_changes

from .door import RoomDoor
from .tip import RoomTip
from .upgrade import CarryOver

logger = logging.getLogger(__name__)

# LIMIT: joins whose copy is made and that are not published yet; beyond, a copy is made twice, which changes nothing.
MAX_AWAITED: Final = 1_000


class Successors:
    """Has settings carried over."""

    def __init__(self, store: Store, door: RoomDoor, feed: Feed, tasks: Tasks, *, carry_over: CarryOver) -> None:
        self._store = store
        self._door = door
        self._feed = feed
        self._tasks = tasks
        self._carry_over = carry_over
        self._awaited: set[tuple[UserID, RoomID]] = set()
        feed.listen(self._on_publication)
        door.add_gate(self)

    async def check(self, room_id: RoomID, template: EventTemplate) -> EventTemplate:
        """Have settings copied before a join; the event is never denied or changed."""
        if (
            template.type == "m.room.member"
            and template.state_key == template.sender
            and template.content.get("membership") == "join"
        ):
            try:
                await self._precede(room_id, template.sender)
            except HomeserverError as fault:
                # Tried again once the join is there.
                logger.warning("settings are not there before %s is in %s: %s", template.sender, room_id, fault)
        return template

    async def _precede(self, new_id: RoomID, user_id: UserID) -> None:
        try:
            tip = await self._door.tip(new_id)
            old_id = await self._replaced(tip)
        except NotFound:
            return
        if old_id is None:
            return
        user = await self._feed.user(user_id, await self._store.interner.user(user_id))
        if await self._may_come_in(tip, user) and await self._carry(user, old_id, tip):
            if len(self._awaited) >= MAX_AWAITED:
                self._awaited.clear()
            self._awaited.add((user_id, new_id))

    def _on_publication(self, publication: Publication) -> None:
        for member in publication.members:
            if not (member.is_local and member.membership == "join" and member.before != "join"):
                continue
            key = (UserID(member.user_id), publication.room_id)
            if key in self._awaited:
                self._awaited.remove(key)
                continue
            position = publication.stored.position
            self._tasks.start("settings of an upgraded room", self._follow(publication.room_id, member, position))

    async def _follow(self, new_id: RoomID, member: MemberChange, position: int | None) -> None:
        try:
            tip = await self._door.tip(new_id)
            old_id = await self._replaced(tip)
        except NotFound:
            return
        if old_id is not None:
            await self._carry(await self._feed.user(member.user_id, member.user_nid), old_id, tip, position)

    async def _replaced(self, tip: RoomTip) -> RoomID | None:
        """Return the room that this one replaces and that says so itself; raises NotFound where it is not known."""
        claimed = predecessor_room_id(tip.create.event)
        if claimed is None:
            return None
        tombstone = await self._door.state_event(RoomID(claimed), TOMBSTONE)
        named = replacement_room_id(tombstone.event) if tombstone is not None else None
        return RoomID(claimed) if named == tip.room_id else None

    async def _may_come_in(self, tip: RoomTip, user: UserFeed) -> bool:
        """Tell whether a join has a chance: nothing is copied to a room for who knocks at a closed door."""
        place = user.rooms.get(tip.room_id)
        membership = place.membership if place is not None else None
        if membership in ("join", "ban", "invite"):
            return membership == "invite"
        stored = await self._door.state_event(tip.room_id, "m.room.join_rules")
        rule = join_rule_of(stored.event if stored is not None else None)
        return rule is JoinRule.PUBLIC or is_restricted(tip.version, rule)

    async def _carry(self, user: UserFeed, old_id: RoomID, tip: RoomTip, joined_at: int | None = None) -> bool:
        """Copy settings unless the user was not in the old room, or in the new one before; tell whether it was done."""
        if old_id not in user.rooms or await self._has_been_in(tip.room_nid, user.user_nid, joined_at):
            return False
        await self._carry_over(user.user_id, old_id, tip.room_id)
        return True

    async def _has_been_in(self, room_nid: int, user_nid: int, before: int | None) -> bool:
        changes = membership_changes.c
        query = select(changes.position).where(
            changes.user_nid == user_nid, changes.room_nid == room_nid, changes.membership == "join"
        )
        if before is not None:
            query = query.where(changes.position < before)
        return await self._store.database.read(lambda tx: tx.scalar(query.limit(1))) is not None
