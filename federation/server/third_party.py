"""Invites by e-mail address or phone number: other servers and identity servers tell whose the address is.

An identity server has no key that it could sign a request with: what it says on `onbind` counts only as far as it is
signed by the keys that are in the room. So strangers can make this server ask others, and are counted by address.

Spec: server-server API, "Third-party invites".
"""

from __future__ import annotations

from collections.abc import Callable

from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import RoomID, UserID
from homeserver.rooms.third_party_invites import ThirdPartyInvites
from homeserver.web.params import require_list, require_str
from homeserver.web.request import WebRequest
from homeserver.web.response import HandlerResult
from homeserver.web.router import Route

from .auth import Signed


class ThirdParty:
    """`exchange_third_party_invite` and `3pid/onbind`."""

    def __init__(
        self, invites: ThirdPartyInvites, *, limit_address: Callable[[WebRequest], None] = lambda request: None
    ) -> None:
        """`limit_address` counts a request that nobody has signed, by its address; it raises LimitExceeded."""
        self._invites = invites
        self._limit_address = limit_address

    def routes(self, signed: Signed) -> list[Route]:
        """Return the routes."""
        prefix = "/_matrix/federation/v1"
        return [
            signed.route("PUT", f"{prefix}/exchange_third_party_invite/{{roomId}}", self.put_exchange),
            Route("PUT", f"{prefix}/3pid/onbind", self.put_onbind),
        ]

    async def put_exchange(self, request: WebRequest, origin: str, content: JsonObject | None) -> HandlerResult:
        """Invite a user of the other server whom a local user has invited by address."""
        await self._invites.exchange(origin, RoomID.parse(request.args["roomId"]), content or {})
        return {}

    async def put_onbind(self, request: WebRequest) -> HandlerResult:
        """Claim the invites that waited for an address of a local user."""
        self._limit_address(request)
        body = request.json()
        require_str(body, "medium")
        require_str(body, "address")
        await self._invites.bound(UserID.parse(require_str(body, "mxid")), require_list(body, "invites"))
        return {}
