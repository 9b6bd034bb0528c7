"""Spaces, for other servers.

Spec: server-server API, "Spaces".
"""

from __future__ import annotations

from typing import Any

from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import RoomID
from homeserver.rooms.server_hierarchy import ServerHierarchy
from homeserver.web.request import WebRequest
from homeserver.web.router import Route

from .auth import Signed


class HierarchyAPI:
    """`/hierarchy/{roomId}`."""

    def __init__(self, signed: Signed, hierarchy: ServerHierarchy) -> None:
        self._signed = signed
        self._hierarchy = hierarchy

    def routes(self) -> list[Route]:
        """Return the route."""
        return [self._signed.route("GET", "/_matrix/federation/v1/hierarchy/{roomId}", self.get_hierarchy)]

    async def get_hierarchy(self, request: WebRequest, origin: str, content: JsonObject | None) -> dict[str, Any]:
        """A space and its children."""
        room_id = RoomID.parse(request.args["roomId"])
        return await self._hierarchy.hierarchy(origin, room_id, suggested_only=request.query_bool("suggested_only"))
