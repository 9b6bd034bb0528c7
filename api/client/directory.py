"""Room aliases and the published rooms.

Spec: client-server API, "Room aliases", "Published room directory".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from homeserver.config import Rooms as RoomsConfig
from homeserver.errors import BadJson, InvalidParam, NotAllowed
from homeserver.model.ids import RoomAlias, RoomID, ServerName
from homeserver.rooms.directory import MAX_TERM_CHARACTERS, Directory
from homeserver.rooms.publishing import Publishing
from homeserver.users.sessions import Requester
from homeserver.web.params import (
    optional_bool,
    optional_int,
    optional_list,
    optional_object,
    optional_str,
    require_str,
)
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access, refuse_suspended
from ..ratelimit import ClientRates, Limit

CheckNamespace = Callable[[RoomAlias, Requester], bool]
"""Raises Exclusive where the requester may not touch an alias; True where it is the requester's in any room."""

RemoteRooms = Callable[[ServerName, Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Asks another server for its published rooms, with the body of a POST /publicRooms."""

_VISIBILITIES: Final = {"public": True, "private": False}


class DirectoryAPI:
    """`/directory/room/…`, `/directory/list/room/…`, `/rooms/{roomId}/aliases`, `/publicRooms`."""

    def __init__(
        self,
        directory: Directory,
        publishing: Publishing,
        config: RoomsConfig,
        *,
        server_name: ServerName,
        rates: ClientRates,
        remote: RemoteRooms | None = None,
        check_namespace: CheckNamespace = lambda alias, requester: False,
    ) -> None:
        self._directory = directory
        self._publishing = publishing
        self._config = config
        self._server_name = server_name
        self._rates = rates
        self._remote = remote
        self._check_namespace = check_namespace

    def routes(self) -> list[Route]:
        """Return the routes."""
        prefix = "/_matrix/client/v3"
        alias = f"{prefix}/directory/room/{{roomAlias}}"
        listed = f"{prefix}/directory/list/room/{{roomId}}"
        reading = Access.OPTIONAL if self._config.public_rooms_without_login else Access.GUESTS
        routes = [
            Route("GET", alias, self.get_alias, cancel_when_gone=True),
            Route("PUT", alias, self.put_alias, auth=Access.USERS, limit=Limit.MESSAGE),
            Route("DELETE", alias, self.delete_alias, auth=Access.USERS),
            Route("GET", f"{prefix}/rooms/{{roomId}}/aliases", self.get_aliases, auth=Access.USERS),
            Route("GET", listed, self.get_visibility),
            Route("PUT", listed, self.put_visibility, auth=Access.USERS),
            Route("GET", f"{prefix}/publicRooms", self.get_public_rooms, auth=reading, cancel_when_gone=True),
            Route("POST", f"{prefix}/publicRooms", self.post_public_rooms, auth=reading, cancel_when_gone=True),
        ]
        unstable = "/_matrix/client/unstable/org.matrix.msc2432/rooms/{roomId}/aliases"
        expanded = [each for route in routes for each in expand_prefixes(route)]
        # MSC2432: the name of this endpoint before r0.6.1.
        return [*expanded, Route("GET", unstable, self.get_aliases, auth=Access.USERS)]

    # -- aliases -----------------------------------------------------------------------------------------------------

    async def get_alias(self, request: WebRequest) -> dict[str, Any]:
        """The room of an alias."""
        alias = _alias(request)
        if alias.server_name != self._server_name:
            # Nobody need be logged in, and it costs another server a request.
            self._rates.check_address(Limit.PROBING, request)
        room_id, servers = await self._directory.resolve_with_servers(alias)
        return {"room_id": room_id, "servers": list(servers or (alias.server_name,))}

    async def put_alias(self, request: WebRequest) -> dict[str, Any]:
        """Make an alias."""
        requester: Requester = request.requester
        refuse_suspended(requester)
        alias = _alias(request)
        room_id = RoomID.parse(require_str(request.json(), "room_id"))
        self._check_namespace(alias, requester)
        await self._publishing.add_alias(requester.user_id, alias, room_id)
        return {}

    async def delete_alias(self, request: WebRequest) -> dict[str, Any]:
        """Remove an alias."""
        requester: Requester = request.requester
        refuse_suspended(requester)
        alias = _alias(request)
        # Spec: application service API, "Server admin style permissions": "full control" over its aliases.
        is_own = self._check_namespace(alias, requester)
        await self._publishing.remove_alias(requester.user_id, alias, is_admin=requester.is_admin or is_own)
        return {}

    async def get_aliases(self, request: WebRequest) -> dict[str, Any]:
        """The local aliases of a room."""
        requester: Requester = request.requester
        room_id = RoomID.parse(request.args["roomId"])
        return {"aliases": await self._publishing.aliases_of(requester.user_id, room_id, is_admin=requester.is_admin)}

    # -- the list ----------------------------------------------------------------------------------------------------

    async def get_visibility(self, request: WebRequest) -> dict[str, Any]:
        """Whether a room is listed."""
        is_published = await self._publishing.is_published(RoomID.parse(request.args["roomId"]))
        return {"visibility": "public" if is_published else "private"}

    async def put_visibility(self, request: WebRequest) -> dict[str, Any]:
        """List a room, or take it out."""
        requester: Requester = request.requester
        refuse_suspended(requester)
        room_id = RoomID.parse(request.args["roomId"])
        visibility = optional_str(request.json(), "visibility", "public")
        if visibility not in _VISIBILITIES:
            raise InvalidParam("'visibility' must be public or private")
        is_published = _VISIBILITIES[visibility]
        await self._publishing.publish(requester.user_id, room_id, is_published, is_admin=requester.is_admin)
        return {}

    async def get_public_rooms(self, request: WebRequest) -> dict[str, Any]:
        """A page of the published rooms."""
        limit = request.query_int("limit", None, 0, 10**9)
        body: dict[str, Any] = {} if limit is None else {"limit": limit}
        since = request.query("since")
        if since is not None:
            body["since"] = since
        return await self._public_rooms(request, body)

    async def post_public_rooms(self, request: WebRequest) -> dict[str, Any]:
        """A page of the published rooms that match."""
        return await self._public_rooms(request, request.json_or_empty())

    async def _public_rooms(self, request: WebRequest, body: Mapping[str, Any]) -> dict[str, Any]:
        limit = optional_int(body, "limit", None, 0)
        since = optional_str(body, "since")
        wanted = optional_object(body, "filter") or {}
        term = optional_str(wanted, "generic_search_term")
        room_types = _room_types(wanted)
        instance = optional_str(body, "third_party_instance_id")
        if optional_bool(body, "include_all_networks") and instance:
            # Spec: `third_party_instance_id`: "Can only be used if `include_all_networks` is false".
            raise InvalidParam("'third_party_instance_id' cannot be used together with 'include_all_networks'")
        server = request.query("server")
        if server is not None and server != self._server_name:
            name = ServerName.parse(server)
            if self._remote is None:
                raise NotAllowed("This server does not ask others for their rooms")
            if request.requester is None:
                self._rates.check_address(Limit.PROBING, request)
            else:
                self._rates.check_user(Limit.PROBING, request.requester)
            return await self._remote(name, body)
        if term is not None and len(term) > MAX_TERM_CHARACTERS:
            raise InvalidParam(f"'generic_search_term' has at most {MAX_TERM_CHARACTERS} characters")
        # No network of an application service has a list of its own here.
        if not self._config.publish_search or instance:
            return {"chunk": [], "total_room_count_estimate": 0}
        page = await self._directory.page(term=term, room_types=room_types, since=since, limit=limit)
        return page.to_wire()


def _alias(request: WebRequest) -> RoomAlias:
    return RoomAlias.parse(request.args["roomAlias"])


def _room_types(wanted: Mapping[str, Any]) -> tuple[str | None, ...] | None:
    found = optional_list(wanted, "room_types")
    if found is None:
        return None
    for kind in found:
        if kind is not None and not isinstance(kind, str):
            raise BadJson("'room_types' must be an array of strings and null")
    return tuple(found)
