"""Events that relate to an event.

Spec: client-server API, "Relationships API".
"""

from __future__ import annotations

from homeserver.model.ids import EventID, RoomID
from homeserver.rooms.relations import DEFAULT_LIMIT, MAX_LIMIT, RelationReads
from homeserver.web.request import WebRequest
from homeserver.web.response import Response, raw_json
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access
from .reading import read_direction, read_limit, read_token


class Relations:
    """`/rooms/{roomId}/relations/{eventId}`, and by relation type and event type."""

    def __init__(self, relations: RelationReads) -> None:
        self._relations = relations

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/_matrix/client/v1/rooms/{roomId}/relations/{eventId}"
        templates = (one, f"{one}/{{relType}}", f"{one}/{{relType}}/{{eventType}}")
        routes = [
            Route("GET", template, self.get_relations, auth=Access.GUESTS, cancel_when_gone=True)
            for template in templates
        ]
        return [each for route in routes for each in expand_prefixes(route, "unstable")]

    async def get_relations(self, request: WebRequest) -> Response:
        """A page of children."""
        recurse: bool | None = None
        # MSC3981: the name before v1.10.
        for name in ("org.matrix.msc3981.recurse", "recurse"):
            if request.query(name) is not None:
                recurse = request.query_bool(name)
        return raw_json(
            await self._relations.children(
                request.requester,
                RoomID.parse(request.args["roomId"]),
                EventID.parse(request.args["eventId"]),
                rel_type=request.args.get("relType"),
                event_type=request.args.get("eventType"),
                start=read_token(request, "from"),
                stop=read_token(request, "to"),
                backwards=read_direction(request, "b"),
                limit=read_limit(request, DEFAULT_LIMIT, MAX_LIMIT),
                recurse=recurse,
            )
        )
