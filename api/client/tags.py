"""Tags of rooms.

Spec: client-server API, "Room Tagging".
"""

from __future__ import annotations

from typing import Any

from homeserver.model.ids import RoomID
from homeserver.users.account_data import AccountData
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access
from .account_data import check_own


class TagsApi:
    """`/user/{userId}/rooms/{roomId}/tags`."""

    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    def routes(self) -> list[Route]:
        """Return the routes."""
        tags = "/_matrix/client/v3/user/{userId}/rooms/{roomId}/tags"
        routes = [
            Route("GET", tags, self.get_tags, auth=Access.USERS),
            Route("PUT", f"{tags}/{{tag}}", self.put_tag, auth=Access.USERS),
            Route("DELETE", f"{tags}/{{tag}}", self.delete_tag, auth=Access.USERS),
        ]
        return [each for route in routes for each in expand_prefixes(route)]

    async def get_tags(self, request: WebRequest) -> dict[str, Any]:
        """The tags of a room."""
        return {"tags": await self._account_data.tags(request.requester, _room_id(request))}

    async def put_tag(self, request: WebRequest) -> dict[str, Any]:
        """Put a tag on a room."""
        room_id = _room_id(request)
        await self._account_data.set_tag(request.requester, room_id, request.args["tag"], request.json_or_empty())
        return {}

    async def delete_tag(self, request: WebRequest) -> dict[str, Any]:
        """Take a tag off a room."""
        await self._account_data.delete_tag(request.requester, _room_id(request), request.args["tag"])
        return {}


def _room_id(request: WebRequest) -> RoomID:
    check_own(request, "Cannot use tags of other users.")
    return RoomID.parse(request.args["roomId"])
