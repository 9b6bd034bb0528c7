"""Searching for users.

Spec: client-server API, "User directory".
"""

from __future__ import annotations

from typing import Any

from homeserver.users.directory import DEFAULT_LIMIT, MAX_LIMIT, UserDirectory
from homeserver.users.sessions import Requester
from homeserver.web.params import optional_int, require_str
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access
from ..ratelimit import Limit


class UserDirectoryAPI:
    """`/user_directory/search`."""

    def __init__(self, directory: UserDirectory) -> None:
        self._directory = directory

    def routes(self) -> list[Route]:
        """Return the routes."""
        path = "/_matrix/client/v3/user_directory/search"
        return expand_prefixes(
            Route("POST", path, self.post_search, auth=Access.USERS, limit=Limit.USER_DIRECTORY, cancel_when_gone=True)
        )

    async def post_search(self, request: WebRequest) -> dict[str, Any]:
        """Find users by name."""
        requester: Requester = request.requester
        body = request.json()
        term = require_str(body, "search_term")
        limit = optional_int(body, "limit", DEFAULT_LIMIT, 0) or 0
        found, is_limited = await self._directory.search(requester.user_nid, term, min(limit, MAX_LIMIT))
        results = []
        for user in found:
            entry = {"user_id": str(user.user_id)}
            if user.display_name is not None:
                entry["display_name"] = user.display_name
            if user.avatar_url is not None:
                entry["avatar_url"] = user.avatar_url
            results.append(entry)
        return {"results": results, "limited": is_limited}
