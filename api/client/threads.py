"""The threads of a room.

Spec: client-server API, "Querying threads in a room".
"""

from __future__ import annotations

from homeserver.errors import InvalidParam
from homeserver.model.ids import RoomID
from homeserver.rooms.relations import DEFAULT_LIMIT, MAX_LIMIT, RelationReads
from homeserver.web.request import WebRequest
from homeserver.web.response import Response, raw_json
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access
from .reading import read_token


class Threads:
    """`/rooms/{roomId}/threads`."""

    def __init__(self, relations: RelationReads) -> None:
        self._relations = relations

    def routes(self) -> list[Route]:
        """Return the routes."""
        template = "/_matrix/client/v1/rooms/{roomId}/threads"
        route = Route("GET", template, self.get_threads, auth=Access.GUESTS, cancel_when_gone=True)
        return expand_prefixes(route, "/_matrix/client/unstable/org.matrix.msc3856")

    async def get_threads(self, request: WebRequest) -> Response:
        """A page of thread roots."""
        include = request.query("include") or "all"
        if include not in ("all", "participated"):
            raise InvalidParam("'include' must be all or participated")
        return raw_json(
            await self._relations.threads(
                request.requester,
                RoomID.parse(request.args["roomId"]),
                start=read_token(request, "from"),
                # Spec: "Must be an integer greater than zero".
                limit=request.query_int("limit", DEFAULT_LIMIT, 1, MAX_LIMIT) or DEFAULT_LIMIT,
                participated=include == "participated",
            )
        )
