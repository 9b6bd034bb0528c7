"""Reading the state of a room.

Spec: client-server API, "Getting events for a room", `GET /rooms/{roomId}/state…`.
"""

from __future__ import annotations

from homeserver.errors import InvalidParam
from homeserver.model.ids import RoomID
from homeserver.rooms.members import StateReads
from homeserver.web.request import WebRequest
from homeserver.web.response import Response, raw_json
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access


class State:
    """`GET /rooms/{roomId}/state`, alone or with a type and a key."""

    def __init__(self, state: StateReads) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        """Return the routes."""
        whole = "/_matrix/client/v3/rooms/{roomId}/state"
        routes = [
            Route("GET", whole, self.get_state, auth=Access.GUESTS, cancel_when_gone=True),
            # Spec: for an empty state key "the trailing slash on this endpoint is optional".
            Route("GET", f"{whole}/{{eventType}}", self.get_state_event, auth=Access.GUESTS),
            Route("GET", f"{whole}/{{eventType}}/", self.get_state_event, auth=Access.GUESTS),
            Route("GET", f"{whole}/{{eventType}}/{{stateKey}}", self.get_state_event, auth=Access.GUESTS),
        ]
        return [each for route in routes for each in expand_prefixes(route)]

    async def get_state(self, request: WebRequest) -> Response:
        """The whole state."""
        return raw_json(await self._state.all(request.requester, RoomID.parse(request.args["roomId"])))

    async def get_state_event(self, request: WebRequest) -> Response:
        """The content of one state event, or the event."""
        chosen = request.query("format") or "content"
        if chosen not in ("content", "event"):
            raise InvalidParam("'format' must be content or event")
        read = self._state.event if chosen == "event" else self._state.content
        room_id = RoomID.parse(request.args["roomId"])
        key = request.args.get("stateKey", "")
        return raw_json(await read(request.requester, room_id, request.args["eventType"], key))
