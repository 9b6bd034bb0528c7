"""Whose OpenID token this is. Whoever has the token may ask, whether a homeserver or not: the request is not signed.

Spec: server-server API, "OpenID".
"""

from __future__ import annotations

from typing import Any

from homeserver.errors import MissingToken
from homeserver.runtime.clock import Clock
from homeserver.users.openid import OpenID
from homeserver.web.ratelimit import Bucket, RateLimits
from homeserver.web.request import WebRequest
from homeserver.web.router import Route

# LIMIT: guesses from one address.
_QUESTIONS = Bucket(per_second=10.0, burst_count=100.0)


class OpenIDAPI:
    """`/openid/userinfo`."""

    def __init__(self, openid: OpenID, clock: Clock) -> None:
        self._openid = openid
        self._rates = RateLimits(clock)

    def routes(self) -> list[Route]:
        """Return the route."""
        return [Route("GET", "/_matrix/federation/v1/openid/userinfo", self.get_userinfo)]

    async def get_userinfo(self, request: WebRequest) -> dict[str, Any]:
        """The user who asked for the token."""
        refusal = self._rates.check(request.client_ip, _QUESTIONS)
        if refusal is not None:
            raise refusal
        token = request.query("access_token")
        if not token:
            raise MissingToken("The query parameter 'access_token' is missing")
        return {"sub": str(await self._openid.user_of(token))}
