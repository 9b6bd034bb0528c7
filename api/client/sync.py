"""The sync endpoint.

Spec: client-server API, "Syncing".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from homeserver.errors import InvalidParam
from homeserver.feed.sync import Sync as FeedSync
from homeserver.feed.sync import SyncRequest
from homeserver.model.canonical_json import JsonObject
from homeserver.model.filters import Filter
from homeserver.model.ids import UserID
from homeserver.model.tokens import StreamToken
from homeserver.users.sessions import Requester
from homeserver.web.request import WebRequest, parse_json_object
from homeserver.web.response import Response
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access

FindFilter = Callable[[UserID, int, str], Awaitable[Filter]]
"""Returns a user's stored filter by its ID; raises NotFound."""

ParseFilter = Callable[[JsonObject], Filter]
"""Returns the filter that a JSON object describes; raises BadJson or TooLarge."""

Seen = Callable[[Requester, str | None, float], None]
"""Told that a device is here, with its `set_presence`, and for how many seconds it may wait."""

_UNSTABLE_STATE_AFTER: Final = "org.matrix.msc4222.use_state_after"
# LIMIT: inline filters that are kept parsed; clients send the same one with every request.
_MAX_FILTERS: Final = 500
_MAX_FILTER_TEXT: Final = 65_536


class Sync:
    """`/sync`."""

    def __init__(self, sync: FeedSync, find_filter: FindFilter, parse_filter: ParseFilter, seen: Seen) -> None:
        self._sync = sync
        self._parse_filter = parse_filter
        self._find_filter = find_filter
        self._seen = seen
        self._inline: dict[str, Filter] = {}

    def routes(self) -> list[Route]:
        """Return the routes."""
        route = Route(
            "GET",
            "/_matrix/client/v3/sync",
            self.get_sync,
            auth=Access.GUESTS,
            cancel_when_gone=True,
            is_long_poll=True,
        )
        return expand_prefixes(route)

    async def get_sync(self, request: WebRequest) -> Response:
        """Return what has happened since a token, or wait until something does."""
        requester: Requester = request.requester
        since_text = request.query("since")
        since = StreamToken.parse(since_text).position if since_text else None
        chosen = await self.filter_of(requester, request.query("filter"))
        presence = request.query("set_presence")
        if presence not in (None, "offline", "online", "unavailable"):
            raise InvalidParam("'set_presence' must be offline, online or unavailable")
        timeout_ms = request.query_int("timeout", 0, 0, 600_000) or 0
        self._seen(requester, presence, timeout_ms / 1000)
        state_after = None
        if request.query_bool("use_state_after"):
            state_after = "state_after"
        elif request.query_bool(_UNSTABLE_STATE_AFTER):
            state_after = "org.matrix.msc4222.state_after"
        body = await self._sync.respond(
            SyncRequest(
                user_id=requester.user_id,
                user_nid=requester.user_nid,
                device_nid=requester.device_nid,
                since=since,
                filter=chosen,
                timeout_s=timeout_ms / 1000,
                full_state=request.query_bool("full_state"),
                state_after=state_after,
            )
        )
        return Response(200, body)

    async def filter_of(self, requester: Requester, text: str | None) -> Filter:
        """Return the filter that a query parameter gives, inline or by ID."""
        if not text:
            return Filter.default()
        if not text.startswith("{"):
            return await self._find_filter(requester.user_id, requester.user_nid, text)
        known = self._inline.get(text)
        if known is None:
            if len(text) > _MAX_FILTER_TEXT:
                raise InvalidParam("the filter is too long: store it and give its ID")
            known = self._parse_filter(parse_json_object(text.encode()))
            if len(self._inline) >= _MAX_FILTERS:
                self._inline.clear()
            if len(text) < 4096:
                self._inline[text] = known
        return known
