"""Tokens by which users show other services who they are.

Spec: client-server API, "OpenID".
"""

from __future__ import annotations

from typing import Any

from homeserver.errors import NotAllowed
from homeserver.model.ids import ServerName
from homeserver.users.openid import LIFETIME_S, OpenID
from homeserver.users.sessions import Requester
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access
from ..ratelimit import Limit


class OpenIDAPI:
    """`/user/{userId}/openid/request_token`."""

    def __init__(self, openid: OpenID, *, server_name: ServerName) -> None:
        self._openid = openid
        self._server_name = server_name

    def routes(self) -> list[Route]:
        """Return the routes."""
        path = "/_matrix/client/v3/user/{userId}/openid/request_token"
        return expand_prefixes(
            Route("POST", path, self.post_request_token, auth=Access.USERS, limit=Limit.PROBING),
        )

    async def post_request_token(self, request: WebRequest) -> dict[str, Any]:
        """A token of the requester's own."""
        requester: Requester = request.requester
        request.json_or_empty()
        if request.args["userId"] != requester.user_id:
            raise NotAllowed("Cannot request tokens for other users")
        return {
            "access_token": await self._openid.request_token(requester.user_nid),
            "token_type": "Bearer",
            "matrix_server_name": str(self._server_name),
            "expires_in": LIFETIME_S,
        }
