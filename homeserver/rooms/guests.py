"""Guests leave a room that stops letting guests in.

Follows the feed, whoever changed the room. Each guest leaves by an event of their own through the write door.

LIMIT: guests of a room whose setting was stored just before a crash stay until it is set again.

Spec: client-server API, "Guest Access", "Server behaviour".
"""

from __future__ import annotations

import logging
from typing import Final

from homeserver.errors import MatrixError
from homeserver.feed.feed import Feed, Publication
from homeserver.model.content.guest_access import guests_may_join
from homeserver.model.event import EventTemplate
from homeserver.model.ids import RoomID, UserID
from homeserver.runtime.tasks import Tasks
from storage.accounts import load_guests
from storage.store import Store

from .door import RoomDoor

logger = logging.getLogger(__name__)

_GUEST_ACCESS: Final = "m.room.guest_access"


class Guests:
    """Makes guests leave."""

    def __init__(self, store: Store, door: RoomDoor, feed: Feed, tasks: Tasks) -> None:
        self._store = store
        self._door = door
        self._tasks = tasks
        feed.listen(self._on_publication)

    def _on_publication(self, publication: Publication) -> None:
        event = publication.stored.event
        is_closed = event.type == _GUEST_ACCESS and event.state_key == "" and not guests_may_join(event)
        # Where ends of the room's graph met, the setting may be that of another branch.
        if is_closed or publication.stored.tip_group is not None:
            self._tasks.start("guests leave", self._leave(publication.room_id, publication.stored.room_nid))

    async def _leave(self, room_id: RoomID, room_nid: int) -> None:
        for name in await self._store.database.read(lambda tx: load_guests(tx, room_nid)):
            # The room may have thought better of it, or the guest have become a user.
            if guests_may_join(
                found.event if (found := await self._door.state_event(room_id, _GUEST_ACCESS)) else None
            ):
                return
            guest = UserID(name)
            member = await self._door.state_event(room_id, "m.room.member", guest)
            if member is None or member.event.membership != "join":
                continue
            try:
                await self._door.send(
                    room_id, EventTemplate("m.room.member", {"membership": "leave"}, guest, state_key=guest)
                )
            except MatrixError as refusal:
                logger.warning("the guest %s cannot leave %s: %s", guest, room_id, refusal.message)
