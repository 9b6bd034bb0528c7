"""Presence.

Spec: client-server API, "Presence".
"""

from __future__ import annotations

from typing import Any

from homeserver.model.ids import UserID
from homeserver.users.presence import Presence
from homeserver.web.params import optional_str, require_str
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access
from ..ratelimit import Limit


class PresenceApi:
    """`/presence/{userId}/status`."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence

    def routes(self) -> list[Route]:
        """Return the routes."""
        status = "/_matrix/client/v3/presence/{userId}/status"
        routes = [
            Route("GET", status, self.get_status, auth=Access.USERS),
            Route("PUT", status, self.put_status, auth=Access.USERS, limit=Limit.PRESENCE),
        ]
        return [each for route in routes for each in expand_prefixes(route)]

    async def get_status(self, request: WebRequest) -> dict[str, Any]:
        """The presence of a user."""
        return await self._presence.get(request.requester, UserID.parse(request.args["userId"]))

    async def put_status(self, request: WebRequest) -> dict[str, Any]:
        """Set one's own presence."""
        user_id = UserID.parse(request.args["userId"])
        body = request.json()
        status_msg = optional_str(body, "status_msg")
        await self._presence.set(request.requester, user_id, require_str(body, "presence"), status_msg)
        return {}
