"""Users of other servers knock on rooms of this one.

Spec: server-server API, "Knocking upon a room".
"""

from __future__ import annotations

from homeserver.errors import MissingParam
from homeserver.model.canonical_json import JsonObject
from homeserver.rooms.handshakes import Handshakes
from homeserver.rooms.templates import Templates
from homeserver.web.request import WebRequest
from homeserver.web.response import HandlerResult, raw_json
from homeserver.web.router import Route

from .auth import Signed
from .joins import MAX_EVENT_BODY_BYTES, room_and_event, room_and_user, template_body


class Knocks:
    """`make_knock` and `send_knock`."""

    def __init__(self, templates: Templates, handshakes: Handshakes) -> None:
        self._templates = templates
        self._handshakes = handshakes

    def routes(self, signed: Signed) -> list[Route]:
        """Return the routes."""
        prefix = "/_matrix/federation/v1"
        return [
            signed.route("GET", f"{prefix}/make_knock/{{roomId}}/{{userId}}", self.get_make_knock),
            signed.route(
                "PUT",
                f"{prefix}/send_knock/{{roomId}}/{{eventId}}",
                self.put_send_knock,
                max_body_bytes=MAX_EVENT_BODY_BYTES,
            ),
        ]

    async def get_make_knock(self, request: WebRequest, origin: str, content: JsonObject | None) -> HandlerResult:
        """Answer what the other server needs to make a knock."""
        room_id, user_id = room_and_user(request)
        versions = request.query_all("ver")
        if not versions:
            raise MissingParam("the query parameter 'ver' is missing")
        return template_body(await self._templates.make_knock(origin, room_id, user_id, versions))

    async def put_send_knock(self, request: WebRequest, origin: str, content: JsonObject | None) -> HandlerResult:
        """Take in a knock; answer what the room shows of itself."""
        room_id, event_id = room_and_event(request)
        shown = await self._handshakes.accept_knock(origin, room_id, event_id, request.body_bytes())
        return raw_json(b'{"knock_room_state":[' + b",".join(shown) + b"]}")
