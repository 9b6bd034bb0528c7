"""May this server ask about this room?

Every request of another server that names a room passes here first, whatever it wants to read or to append. The guard
answers for the room as a whole, as it is now; which single events may be shown is decided for each, by what the room
was when they were sent (`model.visibility`).

A room in which this server has no joined user is as one that it never knew: nobody here could tell what has become of
it. Where only servers in the room may ask, an unknown room, a room that was left, an ACL that keeps the server out and
a server without members are all refused in the same words.

Spec: server-server API, "Server Access Control Lists (ACLs)", "Backfilling and retrieving missing events".
"""

from __future__ import annotations

from typing import Final

from homeserver.errors import NotAllowed, NotFound
from homeserver.model.acl import ServerACL
from homeserver.model.ids import RoomID
from storage.store import Store

from .door import RoomDoor
from .tip import RoomTip

# The one answer where only servers in the room may ask, and for servers that the room keeps out.
NOT_IN_ROOM: Final = "Server is not in the room"
ROOM_NOT_FOUND: Final = "Room not found"


class ServerGuard:
    """Says whether other servers may ask about rooms."""

    def __init__(self, store: Store, door: RoomDoor, server_name: str) -> None:
        self._store = store
        self._door = door
        self._server_name = server_name

    async def admit(self, room_id: RoomID, server: str) -> RoomTip:
        """Return the end of a room that this server is in and whose ACL lets the other one take part.

        Raises NotFound for a room that this server is not in, NotAllowed where the ACL keeps the other one out.
        """
        try:
            tip = await self._door.tip(room_id)
        except NotFound as fault:
            raise NotFound(ROOM_NOT_FOUND) from fault
        if self._server_name not in tip.servers:
            raise NotFound(ROOM_NOT_FOUND)
        # Spec: "Server Access Control Lists (ACLs)": "MUST reply with a 403 HTTP status code".
        if not (await self._acl(room_id)).allows(server):
            raise NotAllowed(NOT_IN_ROOM)
        return tip

    async def require_in_room(self, room_id: RoomID, server: str) -> RoomTip:
        """Return the end of a room as `admit` does, for a server that has a joined user in it.

        Raises NotAllowed, in the same words whatever the reason.
        """
        try:
            tip = await self.admit(room_id, server)
        except NotFound as fault:
            raise NotAllowed(NOT_IN_ROOM) from fault
        if server not in tip.servers:
            raise NotAllowed(NOT_IN_ROOM)
        return tip

    async def allows(self, room_id: RoomID, server: str) -> bool:
        """Tell whether the room's ACL lets a server take part; False for an unknown room."""
        try:
            return (await self._acl(room_id)).allows(server)
        except NotFound:
            return False

    async def _acl(self, room_id: RoomID) -> ServerACL:
        stored = await self._door.state_event(room_id, "m.room.server_acl")
        return ServerACL.from_event(stored.event if stored is not None else None)
