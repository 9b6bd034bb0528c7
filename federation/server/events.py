"""Single events, the state before one and what it rests on, for servers in the room.

Spec: server-server API, "Retrieving events", "Authorization rules"; `GET /event`, `/state`, `/state_ids`,
`/event_auth`, `/timestamp_to_event`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homeserver.errors import InvalidParam, MissingParam
from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import EventID, RoomID
from homeserver.rooms.server_reads import JsonFile, ServerReads
from homeserver.runtime.clock import Clock
from homeserver.web.request import WebRequest
from homeserver.web.response import JSON, FileResponse, Response, encode_json, raw_json
from homeserver.web.router import Route

from .auth import Signed


class EventsAPI:
    """What other servers ask about single events."""

    def __init__(self, signed: Signed, reads: ServerReads, clock: Clock, server_name: str) -> None:
        self._signed = signed
        self._reads = reads
        self._clock = clock
        self._server_name = server_name

    def routes(self) -> list[Route]:
        """Return the routes."""
        prefix = "/_matrix/federation/v1"
        return [
            self._signed.route("GET", f"{prefix}/event/{{eventId}}", self.get_event),
            self._signed.route("GET", f"{prefix}/state/{{roomId}}", self.get_state),
            self._signed.route("GET", f"{prefix}/state_ids/{{roomId}}", self.get_state_ids),
            self._signed.route("GET", f"{prefix}/event_auth/{{roomId}}/{{eventId}}", self.get_event_auth),
            self._signed.route("GET", f"{prefix}/timestamp_to_event/{{roomId}}", self.get_timestamp_to_event),
        ]

    async def get_event(self, request: WebRequest, origin: str, content: JsonObject | None) -> Response:
        """One event."""
        event = await self._reads.event(origin, EventID.parse(request.args["eventId"]))
        return transaction_of(self._server_name, self._clock.now_ms(), [event])

    async def get_state(self, request: WebRequest, origin: str, content: JsonObject | None) -> FileResponse:
        """The state before an event, and its auth chain."""
        room_id, event_id = _room_id(request), _event_id(request)
        return _file_response(await self._reads.state(origin, room_id, event_id))

    async def get_state_ids(self, request: WebRequest, origin: str, content: JsonObject | None) -> Response:
        """The same, by IDs."""
        room_id, event_id = _room_id(request), _event_id(request)
        return raw_json(await self._reads.state_ids(origin, room_id, event_id))

    async def get_event_auth(self, request: WebRequest, origin: str, content: JsonObject | None) -> FileResponse:
        """The auth chain of an event."""
        event_id = EventID.parse(request.args["eventId"])
        return _file_response(await self._reads.event_auth(origin, _room_id(request), event_id))

    async def get_timestamp_to_event(
        self, request: WebRequest, origin: str, content: JsonObject | None
    ) -> dict[str, Any]:
        """The event closest to a time."""
        ts, direction = request.query_int("ts", None, 0), request.require_query("dir")
        if ts is None:
            raise MissingParam("the query parameter 'ts' is missing")
        if direction not in ("f", "b"):
            raise InvalidParam("the query parameter 'dir' must be f or b")
        event_id, origin_server_ts = await self._reads.event_at(
            origin, _room_id(request), ts, backwards=direction == "b"
        )
        return {"event_id": event_id, "origin_server_ts": origin_server_ts}


def transaction_of(server_name: str, now_ms: int, pdus: Sequence[bytes]) -> Response:
    """Return events in the form of a transaction. Spec: `GET /event/{eventId}` and `/backfill/{roomId}`, 200."""
    return raw_json(
        b'{"origin":%s,"origin_server_ts":%d,"pdus":[%s]}' % (encode_json(server_name), now_ms, b",".join(pdus))
    )


def _room_id(request: WebRequest) -> RoomID:
    return RoomID.parse(request.args["roomId"])


def _event_id(request: WebRequest) -> EventID:
    return EventID.parse(request.require_query("event_id"))


def _file_response(answer: JsonFile) -> FileResponse:
    return FileResponse(answer.file, answer.length, JSON)  # type: ignore[arg-type]
