"""What may be known of a room without being in it.

Spec: client-server API, "Room Summaries"; "Spaces", `GET /rooms/{roomId}/hierarchy`.
"""

from __future__ import annotations

from typing import Any, Final

from homeserver.model.ids import RoomID
from homeserver.rooms.summaries import (
    DEFAULT_DEPTH,
    DEFAULT_HIERARCHY_LIMIT,
    MAX_DEPTH,
    MAX_HIERARCHY_LIMIT,
    Summaries,
    hierarchy_token,
    parse_hierarchy_token,
)
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access
from ..ratelimit import ClientRates, Limit

# MSC3266: the names of this endpoint before v1.15.
_UNSTABLE: Final = "/_matrix/client/unstable/im.nheko.summary"


class RoomSummaries:
    """`/room_summary/{roomIdOrAlias}` and `/rooms/{roomId}/hierarchy`."""

    def __init__(self, summaries: Summaries, rates: ClientRates) -> None:
        self._summaries = summaries
        self._rates = rates

    def routes(self) -> list[Route]:
        """Return the routes."""
        hierarchy = Route(
            "GET",
            "/_matrix/client/v1/rooms/{roomId}/hierarchy",
            self.get_hierarchy,
            auth=Access.GUESTS,
            cancel_when_gone=True,
        )
        return [
            *(
                Route("GET", template, self.get_summary, auth=Access.OPTIONAL, cancel_when_gone=True)
                for template in (
                    "/_matrix/client/v1/room_summary/{roomIdOrAlias}",
                    f"{_UNSTABLE}/summary/{{roomIdOrAlias}}",
                    f"{_UNSTABLE}/rooms/{{roomIdOrAlias}}/summary",
                )
            ),
            *expand_prefixes(hierarchy, "/_matrix/client/unstable/org.matrix.msc2946"),
        ]

    async def get_summary(self, request: WebRequest) -> dict[str, Any]:
        """The summary of a room."""
        room, requester = request.args["roomIdOrAlias"], request.requester
        if not await self._summaries.is_here(room):
            # Spec: `GET /room_summary/{roomIdOrAlias}`: "rate limiting requests that require a federation request".
            if requester is None:
                self._rates.check_address(Limit.PROBING, request)
            else:
                self._rates.check_user(Limit.PROBING, requester)
        told = await self._summaries.summary(requester, room, request.query_all("via"))
        if request.path.startswith(_UNSTABLE):
            for name, former in (("room_version", "version"), ("encryption", "encryption")):
                if name in told:
                    told[f"im.nheko.summary.{former}"] = told[name]
        return told

    async def get_hierarchy(self, request: WebRequest) -> dict[str, Any]:
        """A part of the tree of a space."""
        limit = request.query_int("limit", DEFAULT_HIERARCHY_LIMIT, 1, MAX_HIERARCHY_LIMIT) or 1
        max_depth = request.query_int("max_depth", DEFAULT_DEPTH, 0, MAX_DEPTH) or 0
        suggested_only = request.query_bool("suggested_only")
        token = request.query("from")
        rooms, end = await self._summaries.hierarchy(
            request.requester,
            RoomID.parse(request.args["roomId"]),
            skip=parse_hierarchy_token(token, max_depth, suggested_only) if token else 0,
            limit=limit,
            max_depth=max_depth,
            suggested_only=suggested_only,
            via=request.query_all("via"),
        )
        answer: dict[str, Any] = {"rooms": rooms}
        if end is not None:
            answer["next_batch"] = hierarchy_token(end, max_depth, suggested_only)
        return answer
