"""Typing notifications.

Spec: client-server API, "Typing Notifications".
"""

from __future__ import annotations

from typing import Any

from homeserver.model.ids import RoomID, UserID
from homeserver.users.typing import Typing
from homeserver.web.params import optional_int, require_bool
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access


class TypingApi:
    """`/rooms/{roomId}/typing/{userId}`."""

    def __init__(self, typing: Typing) -> None:
        self._typing = typing

    def routes(self) -> list[Route]:
        """Return the routes."""
        route = Route("PUT", "/_matrix/client/v3/rooms/{roomId}/typing/{userId}", self.put_typing, auth=Access.USERS)
        return expand_prefixes(route)

    async def put_typing(self, request: WebRequest) -> dict[str, Any]:
        """Say that one is typing, or not any more."""
        room_id, user_id = RoomID.parse(request.args["roomId"]), UserID.parse(request.args["userId"])
        body = request.json()
        is_typing = require_bool(body, "typing")
        timeout_ms = optional_int(body, "timeout", minimum=0) if is_typing else None
        await self._typing.set(request.requester, room_id, user_id, is_typing=is_typing, timeout_ms=timeout_ms)
        return {}
