"""Local users who join a room that replaces another one find there what they have set for the old one.

Follows the feed, whatever way somebody came in. Anybody can make a room that claims to replace another one; so the old
room's tombstone must name the new one, and the user must have been in the old one.

LIMIT: settings of who joined just before a crash are not copied.

Spec: client-server API, "Room Upgrades", "Server behaviour", the last sentence.
"""

from __future__ import annotations

from homeserver.errors import NotFound
from homeserver.feed.feed import Feed, MemberChange, Publication
from homeserver.model.content.create import predecessor_room_id
from homeserver.model.ids import RoomID
from homeserver.model.replacement import TOMBSTONE, replacement_room_id
from homeserver.runtime.tasks import Tasks

from .door import RoomDoor
from .upgrade import CarryOver


class Successors:
    """Has settings carried over."""

    def __init__(self, door: RoomDoor, feed: Feed, tasks: Tasks, *, carry_over: CarryOver) -> None:
        self._door = door
        self._feed = feed
        self._tasks = tasks
        self._carry_over = carry_over
        feed.listen(self._on_publication)

    def _on_publication(self, publication: Publication) -> None:
        for member in publication.members:
            if member.is_local and member.membership == "join" and member.before != "join":
                self._tasks.start("settings of an upgraded room", self._follow(publication.room_id, member))

    async def _follow(self, new_id: RoomID, member: MemberChange) -> None:
        try:
            claimed = predecessor_room_id((await self._door.tip(new_id)).create.event)
            if claimed is None:
                return
            old_id = RoomID(claimed)
            user = await self._feed.user(member.user_id, member.user_nid)
            if old_id not in user.rooms:
                return
            tombstone = await self._door.state_event(old_id, TOMBSTONE)
        except NotFound:
            return
        if tombstone is not None and replacement_room_id(tombstone.event) == new_id:
            await self._carry_over(member.user_id, old_id, new_id)
