"""Filters: uploading them and reading them back.

Spec: client-server API, "Filtering".
"""

from __future__ import annotations

from typing import Any

from homeserver.users.filters import Filters
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access
from .account_data import check_own


class FiltersApi:
    """`/user/{userId}/filter`."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters

    def routes(self) -> list[Route]:
        """Return the routes."""
        base = "/_matrix/client/v3/user/{userId}/filter"
        routes = [
            Route("POST", base, self.post_filter, auth=Access.USERS),
            Route("GET", f"{base}/{{filterId}}", self.get_filter, auth=Access.USERS),
        ]
        return [each for route in routes for each in expand_prefixes(route)]

    async def post_filter(self, request: WebRequest) -> dict[str, Any]:
        """Upload a filter."""
        check_own(request, "Cannot create filters for other users.")
        return {"filter_id": await self._filters.add(request.requester.user_nid, request.json())}

    async def get_filter(self, request: WebRequest) -> dict[str, Any]:
        """Read a filter back."""
        check_own(request, "Cannot get filters of other users.")
        return (await self._filters.get(request.requester.user_nid, request.args["filterId"])).to_json()
