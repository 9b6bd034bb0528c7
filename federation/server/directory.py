"""The published rooms of this server, for other servers.

Spec: server-server API, "Published Room Directory".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.config import Rooms as RoomsConfig
from homeserver.errors import BadJson, InvalidParam, NotAllowed
from homeserver.model.canonical_json import JsonObject
from homeserver.rooms.directory import MAX_TERM_CHARACTERS, Directory
from homeserver.web.params import optional_bool, optional_int, optional_list, optional_object, optional_str
from homeserver.web.request import WebRequest
from homeserver.web.router import Route

from .auth import Signed


class DirectoryAPI:
    """`/publicRooms`."""

    def __init__(self, signed: Signed, directory: Directory, config: RoomsConfig) -> None:
        self._signed = signed
        self._directory = directory
        self._config = config

    def routes(self) -> list[Route]:
        """Return the routes."""
        path = "/_matrix/federation/v1/publicRooms"
        return [
            self._signed.route("GET", path, self.get_public_rooms),
            self._signed.route("POST", path, self.post_public_rooms),
        ]

    async def get_public_rooms(self, request: WebRequest, origin: str, content: JsonObject | None) -> dict[str, Any]:
        """A page of the published rooms."""
        body: dict[str, Any] = {
            "limit": request.query_int("limit", None, 0, 10**9),
            "since": request.query("since"),
            "include_all_networks": request.query_bool("include_all_networks"),
            "third_party_instance_id": request.query("third_party_instance_id"),
        }
        return await self._page(body)

    async def post_public_rooms(self, request: WebRequest, origin: str, content: JsonObject | None) -> dict[str, Any]:
        """A page of the published rooms that match."""
        return await self._page(content or {})

    async def _page(self, body: Mapping[str, Any]) -> dict[str, Any]:
        if not self._config.public_rooms_over_federation:
            raise NotAllowed("This server does not show its rooms to other servers")
        limit = optional_int(body, "limit", None, 0)
        since = optional_str(body, "since")
        wanted = optional_object(body, "filter") or {}
        term = optional_str(wanted, "generic_search_term")
        if term is not None and len(term) > MAX_TERM_CHARACTERS:
            raise InvalidParam(f"'generic_search_term' has at most {MAX_TERM_CHARACTERS} characters")
        room_types = optional_list(wanted, "room_types")
        if room_types is not None and not all(kind is None or isinstance(kind, str) for kind in room_types):
            raise BadJson("'room_types' must be an array of strings and null")
        instance = optional_str(body, "third_party_instance_id")
        if optional_bool(body, "include_all_networks") and instance:
            # Spec: `third_party_instance_id`: "Can only be used if `include_all_networks` is false".
            raise InvalidParam("'third_party_instance_id' cannot be used together with 'include_all_networks'")
        # No network of an application service has a list of its own here.
        if not self._config.publish_search or instance:
            return {"chunk": [], "total_room_count_estimate": 0}
        page = await self._directory.page(
            term=term,
            room_types=None if room_types is None else tuple(room_types),
            is_federated=True,
            since=since,
            limit=limit,
        )
        return page.to_wire()
