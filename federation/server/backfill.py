"""The history of a room, for servers in it: what came before some events, and what is missing between some.

Spec: server-server API, "Backfilling and retrieving missing events".
"""

from __future__ import annotations

from homeserver.errors import BadIdentifier, BadJson, InvalidParam, MissingParam
from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import EventID, RoomID
from homeserver.rooms.server_reads import MAX_BACKFILL, MAX_NAMED, ServerReads
from homeserver.runtime.clock import Clock
from homeserver.web.params import optional_int, require_str_list
from homeserver.web.request import WebRequest
from homeserver.web.response import Response, raw_json
from homeserver.web.router import Route

from .auth import Signed
from .events import transaction_of

_DEFAULT_MISSING = 10


class BackfillAPI:
    """What other servers ask about a room's history."""

    def __init__(self, signed: Signed, reads: ServerReads, clock: Clock, server_name: str) -> None:
        self._signed = signed
        self._reads = reads
        self._clock = clock
        self._server_name = server_name

    def routes(self) -> list[Route]:
        """Return the routes."""
        prefix = "/_matrix/federation/v1"
        return [
            self._signed.route("GET", f"{prefix}/backfill/{{roomId}}", self.get_backfill),
            self._signed.route("POST", f"{prefix}/get_missing_events/{{roomId}}", self.post_missing_events),
        ]

    async def get_backfill(self, request: WebRequest, origin: str, content: JsonObject | None) -> Response:
        """Some events and what they build on."""
        room_id = RoomID.parse(request.args["roomId"])
        limit = request.query_int("limit", None, 0, MAX_BACKFILL)
        if limit is None:
            raise MissingParam("the query parameter 'limit' is missing")
        named = request.query_all("v")
        if not named:
            raise MissingParam("the query parameter 'v' is missing")
        if len(named) > MAX_NAMED:
            raise InvalidParam(f"at most {MAX_NAMED} events may be named")
        pdus = await self._reads.backfill(origin, room_id, {EventID.parse(text) for text in named}, limit)
        return transaction_of(self._server_name, self._clock.now_ms(), pdus)

    async def post_missing_events(self, request: WebRequest, origin: str, content: JsonObject | None) -> Response:
        """The events between some and some others."""
        room_id = RoomID.parse(request.args["roomId"])
        body = content or {}
        limit = optional_int(body, "limit", _DEFAULT_MISSING, 0)
        min_depth = optional_int(body, "min_depth", 0)
        pdus = await self._reads.missing_events(
            origin,
            room_id,
            latest=_event_ids(body, "latest_events"),
            earliest=_event_ids(body, "earliest_events"),
            limit=_DEFAULT_MISSING if limit is None else limit,
            min_depth=min_depth or 0,
        )
        return raw_json(b'{"events":[%s]}' % b",".join(pdus))


def _event_ids(body: JsonObject, name: str) -> set[EventID]:
    texts = require_str_list(body, name)
    if len(texts) > MAX_NAMED:
        raise BadJson(f"'{name}' has more than {MAX_NAMED} events")
    try:
        return {EventID.parse(text) for text in texts}
    except BadIdentifier as fault:
        raise BadJson(f"'{name}' must name events") from fault
