"""Profiles of users.

Spec: client-server API, "Profiles".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from homeserver.config import Profiles as ProfilesConfig
from homeserver.errors import MissingParam, NotAllowed
from homeserver.model.ids import ServerName, UserID
from homeserver.users.profiles import Profiles, check_key
from homeserver.users.sessions import Requester
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access
from ..ratelimit import ClientRates, Limit

# MSC4133: the name of these endpoints before v1.16.
_UNSTABLE: Final = "/_matrix/client/unstable/uk.tcpip.msc4133"
# LIMIT: a profile has 64 KiB; escaping can make its JSON six times as long.
_MAX_BODY_BYTES: Final = 512 * 1024

SharesRoom = Callable[[Requester, UserID], Awaitable[bool]]


class Profile:
    """`/profile/…`."""

    def __init__(
        self,
        profiles: Profiles,
        config: ProfilesConfig,
        rates: ClientRates,
        *,
        server_name: ServerName,
        shares_room: SharesRoom,
    ) -> None:
        """`shares_room` tells whether the requester and a user are in a room together; asked only if configured."""
        self._profiles = profiles
        self._config = config
        self._rates = rates
        self._server_name = server_name
        self._shares_room = shares_room

    def routes(self) -> list[Route]:
        """Return the routes."""
        whole = "/_matrix/client/v3/profile/{userId}"
        one = f"{whole}/{{keyName}}"
        reading = Access.GUESTS if self._config.need_login or self._config.need_shared_room else None
        routes = [
            Route("GET", whole, self.get_profile, auth=reading),
            Route("GET", one, self.get_field, auth=reading),
            Route("PUT", one, self.put_field, auth=Access.GUESTS, max_body_bytes=_MAX_BODY_BYTES),
            Route("DELETE", one, self.delete_field, auth=Access.GUESTS),
        ]
        return [each for route in routes for each in expand_prefixes(route, _UNSTABLE)]

    async def get_profile(self, request: WebRequest) -> dict[str, Any]:
        """The whole profile of a user."""
        return await self._profiles.get(await self._readable(request))

    async def get_field(self, request: WebRequest) -> dict[str, Any]:
        """One field of a user's profile."""
        field = request.args["keyName"]
        return {field: await self._profiles.get_field(await self._readable(request), field)}

    async def put_field(self, request: WebRequest) -> dict[str, Any]:
        """Set one field of one's own profile."""
        user_id, field = UserID.parse(request.args["userId"]), request.args["keyName"]
        check_key(field)
        body = request.json()
        if field not in body:
            raise MissingParam(f"'{field}' is missing")
        await self._profiles.set_field(request.requester, user_id, field, body[field])
        return {}

    async def delete_field(self, request: WebRequest) -> dict[str, Any]:
        """Delete one field of one's own profile."""
        user_id = UserID.parse(request.args["userId"])
        await self._profiles.delete_field(request.requester, user_id, request.args["keyName"])
        return {}

    async def _readable(self, request: WebRequest) -> UserID:
        user_id = UserID.parse(request.args["userId"])
        requester: Requester | None = request.requester
        if (
            self._config.need_shared_room
            and requester is not None
            and requester.user_id != user_id
            and not await self._shares_room(requester, user_id)
        ):
            raise NotAllowed("Profile lookup is disabled on this homeserver")
        if user_id.server_name != self._server_name:
            # It may cost another server a request, and it may be one that somebody has made up.
            if requester is None:
                self._rates.check_address(Limit.PROBING, request)
            else:
                self._rates.check_user(Limit.PROBING, requester)
        return user_id
