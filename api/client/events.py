"""One event, and the ways to follow rooms from before /sync.

Spec: client-server API, "Getting events for a room"; "Room Previews"; "Syncing" (its deprecated endpoints).
"""

from __future__ import annotations

from typing import Any

from homeserver.errors import GuestForbidden
from homeserver.model.ids import EventID, RoomID
from homeserver.rooms.event_stream import DEFAULT_TIMEOUT_S, EventStream
from homeserver.rooms.history import DEFAULT_LIMIT, MAX_CONTEXT, MAX_LIMIT, History
from homeserver.web.request import WebRequest
from homeserver.web.response import Response, raw_json
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access
from .reading import MAX_TIMEOUT_MS, read_direction, read_limit, read_token, read_wanted


class Events:
    """`/rooms/{roomId}/event`, `/context`, `/timestamp_to_event`, `/initialSync`; `/events`, `/initialSync`."""

    def __init__(self, history: History, stream: EventStream) -> None:
        self._history = history
        self._stream = stream

    def routes(self) -> list[Route]:
        """Return the routes."""
        prefix = "/_matrix/client/v3"
        room = f"{prefix}/rooms/{{roomId}}"
        v1 = "/_matrix/client/v1/rooms/{roomId}/timestamp_to_event"
        routes = [
            Route("GET", f"{room}/event/{{eventId}}", self.get_event, auth=Access.GUESTS),
            Route("GET", f"{room}/context/{{eventId}}", self.get_context, auth=Access.GUESTS, cancel_when_gone=True),
            Route("GET", f"{room}/initialSync", self.get_room_initial_sync, auth=Access.GUESTS, cancel_when_gone=True),
            Route("GET", f"{prefix}/initialSync", self.get_initial_sync, auth=Access.USERS, cancel_when_gone=True),
            Route(
                "GET",
                f"{prefix}/events",
                self.get_events,
                auth=Access.GUESTS,
                cancel_when_gone=True,
                is_long_poll=True,
            ),
            Route("GET", f"{prefix}/events/{{eventId}}", self.get_one_event, auth=Access.USERS),
        ]
        by_time = Route("GET", v1, self.get_event_at, auth=Access.GUESTS, cancel_when_gone=True)
        return [
            *(each for route in routes for each in expand_prefixes(route)),
            *expand_prefixes(by_time, "/_matrix/client/unstable/org.matrix.msc3030"),
        ]

    async def get_event(self, request: WebRequest) -> Response:
        """One event."""
        room_id, event_id = RoomID.parse(request.args["roomId"]), EventID.parse(request.args["eventId"])
        return raw_json(await self._history.event(request.requester, room_id, event_id))

    async def get_one_event(self, request: WebRequest) -> Response:
        """One event of whatever room (deprecated)."""
        event_id = EventID.parse(request.args["eventId"])
        return raw_json(await self._history.event_anywhere(request.requester, event_id))

    async def get_context(self, request: WebRequest) -> Response:
        """What happened around an event."""
        room_id, event_id = RoomID.parse(request.args["roomId"]), EventID.parse(request.args["eventId"])
        wanted = read_wanted(request)
        # Here a limit of 0 is one: the event alone.
        default = wanted.filter.limit if wanted.filter.limit is not None else DEFAULT_LIMIT
        limit = request.query_int("limit", min(default, MAX_CONTEXT), 0, MAX_CONTEXT) or 0
        return raw_json(await self._history.context(request.requester, room_id, event_id, limit=limit, wanted=wanted))

    async def get_event_at(self, request: WebRequest) -> dict[str, Any]:
        """The event closest to a time."""
        room_id = RoomID.parse(request.args["roomId"])
        request.require_query("ts")
        ts = request.query_int("ts", 0, 0) or 0
        event_id, found_ts = await self._history.event_at(
            request.requester, room_id, ts, backwards=read_direction(request)
        )
        return {"event_id": event_id, "origin_server_ts": found_ts}

    async def get_room_initial_sync(self, request: WebRequest) -> Response:
        """A room's state and newest events."""
        limit = read_limit(request, DEFAULT_LIMIT, MAX_CONTEXT)
        room_id = RoomID.parse(request.args["roomId"])
        return raw_json(await self._stream.room_initial_sync(request.requester, room_id, limit=limit))

    async def get_initial_sync(self, request: WebRequest) -> Response:
        """All rooms of the user (deprecated)."""
        limit = read_limit(request, DEFAULT_LIMIT, MAX_LIMIT)
        archived = request.query_bool("archived")
        return raw_json(await self._stream.initial_sync(request.requester, limit=limit, archived=archived))

    async def get_events(self, request: WebRequest) -> Response:
        """Wait for events: of one room, or (deprecated) of all that the user is in."""
        room = request.query("room_id")
        # Spec: "Guest Access", client behaviour: guests may follow a room that they look into, and no more.
        if room is None and request.requester.is_guest:
            raise GuestForbidden("Guests must say which room, by room_id")
        timeout_ms = request.query_int("timeout", int(DEFAULT_TIMEOUT_S * 1000), 0, MAX_TIMEOUT_MS) or 0
        return raw_json(
            await self._stream.events(
                request.requester,
                room_id=RoomID.parse(room) if room is not None else None,
                start=read_token(request, "from"),
                timeout_s=timeout_ms / 1000,
            )
        )
