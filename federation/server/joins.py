"""Users of other servers join rooms of this one.

Spec: server-server API, "Joining Rooms", "Restricted rooms".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from homeserver.model.canonical_json import JsonObject
from homeserver.model.event import MAX_PDU_BYTES
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.ports import MembershipTemplate
from homeserver.rooms.handshakes import Handshakes
from homeserver.rooms.templates import Templates
from homeserver.web.request import WebRequest
from homeserver.web.response import JSON, FileResponse, HandlerResult
from homeserver.web.router import Route

from .auth import Signed

# An event, with what other encoders make of it, and `unsigned`.
MAX_EVENT_BODY_BYTES: Final = 4 * MAX_PDU_BYTES
# Spec: make_join, `ver`: "Defaults to `[1]`."
_DEFAULT_VERSIONS: Final = ("1",)


class Joins:
    """`make_join`, and `send_join` in both versions."""

    def __init__(
        self,
        templates: Templates,
        handshakes: Handshakes,
        *,
        limit_join: Callable[[RoomID], None] = lambda room_id: None,
    ) -> None:
        """`limit_join` counts a join of a room; it raises LimitExceeded."""
        self._templates = templates
        self._handshakes = handshakes
        self._limit_join = limit_join

    def routes(self, signed: Signed) -> list[Route]:
        """Return the routes."""
        prefix, where = "/_matrix/federation", "send_join/{roomId}/{eventId}"
        most = MAX_EVENT_BODY_BYTES
        return [
            signed.route("GET", f"{prefix}/v1/make_join/{{roomId}}/{{userId}}", self.get_make_join),
            signed.route("PUT", f"{prefix}/v1/{where}", self.put_send_join_v1, max_body_bytes=most),
            signed.route("PUT", f"{prefix}/v2/{where}", self.put_send_join, max_body_bytes=most),
        ]

    async def get_make_join(self, request: WebRequest, origin: str, content: JsonObject | None) -> HandlerResult:
        """Answer what the other server needs to make a join."""
        room_id, user_id = room_and_user(request)
        versions = request.query_all("ver") or _DEFAULT_VERSIONS
        return template_body(await self._templates.make_join(origin, room_id, user_id, versions))

    async def put_send_join(self, request: WebRequest, origin: str, content: JsonObject | None) -> HandlerResult:
        """Take in a join; answer the state of the room before it."""
        return await self._send_join(request, origin, request.query_bool("omit_members"), as_list=False)

    async def put_send_join_v1(self, request: WebRequest, origin: str, content: JsonObject | None) -> HandlerResult:
        """Do the same for an old server, whose answer is a list of a number and the object."""
        return await self._send_join(request, origin, False, as_list=True)

    async def _send_join(self, request: WebRequest, origin: str, omit_members: bool, *, as_list: bool) -> HandlerResult:
        room_id, event_id = room_and_event(request)
        self._limit_join(room_id)
        answer = await self._handshakes.accept_join(
            origin, room_id, event_id, request.body_bytes(), omit_members=omit_members, as_list=as_list
        )
        return FileResponse(answer.file, answer.length, JSON)


def room_and_user(request: WebRequest) -> tuple[RoomID, UserID]:
    """Return what the path names; raise BadIdentifier."""
    return RoomID.parse(request.args["roomId"]), UserID.parse(request.args["userId"])


def room_and_event(request: WebRequest) -> tuple[RoomID, EventID]:
    """Return what the path names; raise BadIdentifier."""
    return RoomID.parse(request.args["roomId"]), EventID.parse(request.args["eventId"])


def template_body(template: MembershipTemplate) -> JsonObject:
    """Return a template as it is answered."""
    return {"room_version": template.room_version, "event": template.event}
