"""Pages of a room's timeline.

Spec: client-server API, "Getting events for a room", `GET /rooms/{roomId}/messages`.
"""

from __future__ import annotations

from homeserver.model.ids import RoomID
from homeserver.rooms.history import DEFAULT_LIMIT, MAX_LIMIT, History
from homeserver.web.request import WebRequest
from homeserver.web.response import Response, raw_json
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access
from .reading import read_direction, read_limit, read_token, read_wanted


class Messages:
    """`/rooms/{roomId}/messages`."""

    def __init__(self, history: History) -> None:
        self._history = history

    def routes(self) -> list[Route]:
        """Return the routes."""
        template = "/_matrix/client/v3/rooms/{roomId}/messages"
        return expand_prefixes(Route("GET", template, self.get_messages, auth=Access.GUESTS, cancel_when_gone=True))

    async def get_messages(self, request: WebRequest) -> Response:
        """A page, backwards or forwards."""
        wanted = read_wanted(request)
        return raw_json(
            await self._history.messages(
                request.requester,
                RoomID.parse(request.args["roomId"]),
                start=read_token(request, "from"),
                stop=read_token(request, "to"),
                backwards=read_direction(request),
                limit=read_limit(request, DEFAULT_LIMIT, MAX_LIMIT, wanted),
                wanted=wanted,
            )
        )
