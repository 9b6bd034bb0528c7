"""A space and its children, as far as another server's users might be able to look into them or join them.

What is told of each room is what `summaries` tells; here is decided for a whole server what is decided there for a
user: the rooms that are for everybody, that it is in or invited to, or that members of a room it is in may join.
A room that this server is not in, and one whose ACL keeps the other out, is nobody's to be told of.

Spec: server-server API, `GET /hierarchy/{roomId}`.
"""

from __future__ import annotations

from typing import Any, Final

from homeserver.errors import BadIdentifier, NotAllowed, NotFound
from homeserver.model.ids import RoomID
from storage.server_members import has_invited_user
from storage.store import Store

from .server_guard import ROOM_NOT_FOUND, ServerGuard
from .summaries import KnownRoom, Summaries, is_space, stripped_child, summary_of

# LIMIT: children told about; the others are left out as if they were not known here.
MAX_TOLD: Final = 100
# LIMIT: rooms looked at for one answer: children, and rooms whose members may join them.
MAX_LOOKED_AT: Final = 300


class ServerHierarchy:
    """Tells other servers about spaces."""

    def __init__(self, store: Store, summaries: Summaries, guard: ServerGuard) -> None:
        self._store = store
        self._summaries = summaries
        self._guard = guard

    async def hierarchy(self, server: str, room_id: RoomID, *, suggested_only: bool) -> dict[str, Any]:
        """Return `room`, `children` and `inaccessible_children`; raise NotFound for a room the server may not know."""
        asker = _Asker(self._store, self._guard, server)
        root = await self._find(asker, room_id)
        if root is None or not await asker.may_know(root):
            raise NotFound(ROOM_NOT_FOUND)
        events = await self._summaries.children(root, suggested_only) if is_space(root) else []
        children: list[dict[str, Any]] = []
        inaccessible: list[str] = []
        for event in events:
            try:
                child_id = RoomID.parse(event.event.state_key or "")
            except BadIdentifier:
                continue
            if len(children) == MAX_TOLD or asker.is_tired:
                break
            child = await self._find(asker, child_id)
            # Spec: "Rooms which the responding server cannot provide details on will be outright excluded".
            if child is None:
                if asker.is_kept_out_of(child_id):
                    inaccessible.append(str(child_id))
            elif await asker.may_know(child):
                children.append(summary_of(child))
            else:
                inaccessible.append(str(child_id))
        return {
            "room": {**summary_of(root), "children_state": [stripped_child(event) for event in events]},
            "children": children,
            "inaccessible_children": inaccessible,
        }

    async def _find(self, asker: _Asker, room_id: RoomID) -> KnownRoom | None:
        return await self._summaries.find(room_id) if await asker.is_admitted(room_id) else None


class _Asker:
    """The server that asks, and what was found out about it for this answer."""

    def __init__(self, store: Store, guard: ServerGuard, server: str) -> None:
        self._store = store
        self._guard = guard
        self._server = server
        self._kept_out: set[RoomID] = set()
        self._is_in: dict[RoomID, bool] = {}
        self._looked_at = 0

    @property
    def is_tired(self) -> bool:
        """Whether enough rooms have been looked at."""
        return self._looked_at >= MAX_LOOKED_AT

    def is_kept_out_of(self, room_id: RoomID) -> bool:
        """Tell whether a room that was asked about is known here, and its ACL keeps the server out."""
        return room_id in self._kept_out

    async def is_admitted(self, room_id: RoomID) -> bool:
        """Tell whether this server is in a room, and its ACL lets the other one take part."""
        self._looked_at += 1
        try:
            await self._guard.admit(room_id, self._server)
        except NotFound:
            return False
        except NotAllowed:
            self._kept_out.add(room_id)
            return False
        return True

    async def may_know(self, room: KnownRoom) -> bool:
        """Tell whether users of the server might be able to look into a room or join it."""
        if room.is_for_all or self._server in room.tip.servers:
            return True
        room_nid = room.tip.room_nid
        if await self._store.database.read(lambda tx: has_invited_user(tx, room_nid, self._server)):
            return True
        for allowed in room.allowed_room_ids:
            if self.is_tired:
                return False
            if await self._is_member_of(allowed):
                return True
        return False

    async def _is_member_of(self, room_id: RoomID) -> bool:
        known = self._is_in.get(room_id)
        if known is None:
            self._looked_at += 1
            try:
                await self._guard.require_in_room(room_id, self._server)
                known = True
            except NotAllowed:
                known = False
            self._is_in[room_id] = known
        return known
