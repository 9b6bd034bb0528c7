"""The sync endpoint.

Spec: client-server API, "Syncing".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from homeserver.errors import InvalidParam
from homeserver.feed.response import SyncRequest
from homeserver.feed.sync import Sync as FeedSync
from homeserver.model.tokens import StreamToken
from homeserver.users.sessions import Requester
from homeserver.web.request import WebRequest
from homeserver.web.response import Response
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access
from .chosen_filter import ChosenFilters

Seen = Callable[[Requester, str | None, float], None]
"""Told that a device is here, with its `set_presence`, and for how many seconds it may wait."""

_UNSTABLE_STATE_AFTER: Final = "org.matrix.msc4222.use_state_after"


class Sync:
    """`/sync`."""

    def __init__(self, sync: FeedSync, filters: ChosenFilters, seen: Seen) -> None:
        self._sync = sync
        self._filters = filters
        self._seen = seen

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
        chosen = await self._filters.of_text(requester, request.query("filter"))
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
