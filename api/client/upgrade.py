"""Replacing a room by one of another version.

Spec: client-server API, "Room Upgrades".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.errors import BadJson
from homeserver.model.ids import RoomID, UserID
from homeserver.model.room_versions import get_room_version
from homeserver.rooms.upgrade import Upgrades
from homeserver.users.sessions import Requester
from homeserver.web.params import require_str
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access, refuse_suspended
from ..ratelimit import Limit


class UpgradeApi:
    """`/rooms/{roomId}/upgrade`."""

    def __init__(self, upgrades: Upgrades) -> None:
        self._upgrades = upgrades

    def routes(self) -> list[Route]:
        """Return the routes."""
        # It makes a room.
        path = "/_matrix/client/v3/rooms/{roomId}/upgrade"
        return expand_prefixes(Route("POST", path, self.post_upgrade, auth=Access.USERS, limit=Limit.ROOM_CREATION))

    async def post_upgrade(self, request: WebRequest) -> dict[str, Any]:
        """Replace a room."""
        requester: Requester = request.requester
        refuse_suspended(requester)
        body = request.json()
        version = require_str(body, "new_version")
        # Spec: `additional_creators`: "this field is ignored" where the version does not support it.
        is_used = get_room_version(version).privileged_creators
        additional = _additional_creators(body) if is_used else []
        room_id = RoomID.parse(request.args["roomId"])
        return {"replacement_room": await self._upgrades.upgrade(requester.user_id, room_id, version, additional)}


def _additional_creators(body: Mapping[str, Any]) -> list[UserID]:
    value = body.get("additional_creators")
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise BadJson("'additional_creators' must be an array of strings")
    return [UserID.parse(entry) for entry in value]
