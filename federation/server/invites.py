"""Users of other servers invite local ones.

Spec: server-server API, "Inviting to a room".
"""

from __future__ import annotations

from collections.abc import Callable

from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import RoomID
from homeserver.rooms.remote_invites import RemoteInvites, read_invite
from homeserver.web.request import WebRequest
from homeserver.web.response import HandlerResult, raw_json
from homeserver.web.router import Route

from .auth import Signed
from .joins import room_and_event


class Invites:
    """`invite` in both versions."""

    def __init__(
        self, invites: RemoteInvites, *, limit_invite: Callable[[RoomID, str], None] = lambda room_id, origin: None
    ) -> None:
        """`limit_invite` counts an invite to a room by a server; it raises LimitExceeded."""
        self._invites = invites
        self._limit_invite = limit_invite

    def routes(self, signed: Signed) -> list[Route]:
        """Return the routes."""
        where = "invite/{roomId}/{eventId}"
        return [
            signed.route("PUT", f"/_matrix/federation/v1/{where}", self.put_invite_v1),
            signed.route("PUT", f"/_matrix/federation/v2/{where}", self.put_invite),
        ]

    async def put_invite(self, request: WebRequest, origin: str, content: JsonObject | None) -> HandlerResult:
        """Take in an invite; answer it with our signature."""
        return raw_json(b'{"event":' + await self._accept(request, origin, is_v1=False) + b"}")

    async def put_invite_v1(self, request: WebRequest, origin: str, content: JsonObject | None) -> HandlerResult:
        """Do the same for an old server, whose answer is a list of a number and the object."""
        return raw_json(b'[200,{"event":' + await self._accept(request, origin, is_v1=True) + b"}]")

    async def _accept(self, request: WebRequest, origin: str, *, is_v1: bool) -> bytes:
        room_id, event_id = room_and_event(request)
        invite = read_invite(room_id, event_id, request.body_bytes(), is_v1=is_v1)
        self._limit_invite(room_id, origin)
        return await self._invites.accept(origin, invite)
