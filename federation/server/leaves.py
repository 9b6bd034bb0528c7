"""Users of other servers leave rooms of this one, decline invites to them and take back knocks.

Spec: server-server API, "Leaving Rooms (Rejecting Invites)".
"""

from __future__ import annotations

from homeserver.model.canonical_json import JsonObject
from homeserver.rooms.handshakes import Handshakes
from homeserver.rooms.templates import Templates
from homeserver.web.request import WebRequest
from homeserver.web.response import HandlerResult, json_response
from homeserver.web.router import Route

from .auth import Signed
from .joins import MAX_EVENT_BODY_BYTES, room_and_event, room_and_user, template_body


class Leaves:
    """`make_leave`, and `send_leave` in both versions."""

    def __init__(self, templates: Templates, handshakes: Handshakes) -> None:
        self._templates = templates
        self._handshakes = handshakes

    def routes(self, signed: Signed) -> list[Route]:
        """Return the routes."""
        prefix, where = "/_matrix/federation", "send_leave/{roomId}/{eventId}"
        most = MAX_EVENT_BODY_BYTES
        return [
            signed.route("GET", f"{prefix}/v1/make_leave/{{roomId}}/{{userId}}", self.get_make_leave),
            signed.route("PUT", f"{prefix}/v1/{where}", self.put_send_leave_v1, max_body_bytes=most),
            signed.route("PUT", f"{prefix}/v2/{where}", self.put_send_leave, max_body_bytes=most),
        ]

    async def get_make_leave(self, request: WebRequest, origin: str, content: JsonObject | None) -> HandlerResult:
        """Answer what the other server needs to make a leave."""
        room_id, user_id = room_and_user(request)
        return template_body(await self._templates.make_leave(origin, room_id, user_id))

    async def put_send_leave(self, request: WebRequest, origin: str, content: JsonObject | None) -> HandlerResult:
        """Take in a leave."""
        room_id, event_id = room_and_event(request)
        await self._handshakes.accept_leave(origin, room_id, event_id, request.body_bytes())
        return {}

    async def put_send_leave_v1(self, request: WebRequest, origin: str, content: JsonObject | None) -> HandlerResult:
        """Do the same for an old server, whose answer is a list of a number and the object."""
        await self.put_send_leave(request, origin, content)
        return json_response([200, {}])
