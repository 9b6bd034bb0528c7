"""Look-ups that other servers make: where an alias leads, what a profile says.

Spec: server-server API, "Querying for information".
"""

from __future__ import annotations

from typing import Any, Final

from homeserver.config import Profiles as ProfilesConfig
from homeserver.errors import InvalidParam, NotAllowed, NotFound, Unrecognized
from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import RoomAlias, ServerName, UserID
from homeserver.rooms.directory import Directory
from homeserver.rooms.door import RoomDoor
from homeserver.users.profiles import Profiles
from homeserver.web.request import WebRequest
from homeserver.web.router import Route

from .auth import Signed

# LIMIT: servers named for a room; any one of them is enough to join.
MAX_SERVERS: Final = 500


class QueryAPI:
    """`/query/…`."""

    def __init__(
        self,
        signed: Signed,
        directory: Directory,
        door: RoomDoor,
        profiles: Profiles,
        config: ProfilesConfig,
        server_name: ServerName,
    ) -> None:
        self._signed = signed
        self._directory = directory
        self._door = door
        self._profiles = profiles
        self._config = config
        self._server_name = server_name

    def routes(self) -> list[Route]:
        """Return the routes."""
        prefix = "/_matrix/federation/v1/query"
        return [
            self._signed.route("GET", f"{prefix}/directory", self.get_directory),
            self._signed.route("GET", f"{prefix}/profile", self.get_profile),
            self._signed.route("GET", f"{prefix}/{{queryType}}", self.get_other),
        ]

    async def get_directory(self, request: WebRequest, origin: str, content: JsonObject | None) -> dict[str, Any]:
        """The room of an alias of this server, and servers that are in it: this one first, if it is."""
        alias = RoomAlias.parse(request.require_query("room_alias"))
        if alias.server_name != self._server_name:
            raise InvalidParam("The room alias is not of this server")
        room_id = await self._directory.resolve(alias)
        try:
            names = (await self._door.tip(room_id)).servers.names
        except NotFound:
            names = ()
        # Where nobody is left, who has the alias is at least named.
        first = (str(self._server_name),) if not names or self._server_name in names else ()
        others = tuple(name for name in names if name != self._server_name)
        return {"room_id": str(room_id), "servers": list((*first, *others)[:MAX_SERVERS])}

    async def get_profile(self, request: WebRequest, origin: str, content: JsonObject | None) -> dict[str, Any]:
        """The profile of a user of this server, or one field of it.

        Refused where profiles are only for who shares a room with the user: which user asks is not said.
        """
        if not self._config.lookup_over_federation or self._config.need_shared_room:
            raise NotAllowed("Profile lookup over federation is disabled on this homeserver")
        user_id = UserID.parse(request.require_query("user_id"))
        if user_id.server_name != self._server_name:
            raise InvalidParam("The user is not of this server")
        field = request.query("field")
        if field is None:
            return await self._profiles.get(user_id)
        return {field: await self._profiles.get_field(user_id, field)}

    async def get_other(self, request: WebRequest, origin: str, content: JsonObject | None) -> dict[str, Any]:
        """What the specification does not know."""
        raise Unrecognized("Unrecognized query type")
