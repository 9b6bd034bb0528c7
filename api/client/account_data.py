"""Account data, global and of rooms.

Spec: client-server API, "Client Config".
"""

from __future__ import annotations

from typing import Any

from homeserver.errors import NotAllowed
from homeserver.model.ids import RoomID
from homeserver.users.account_data import AccountData
from homeserver.web.request import WebRequest
from homeserver.web.response import HandlerResult, raw_json
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access


class AccountDataApi:
    """`/user/{userId}/account_data/…` and `/user/{userId}/rooms/{roomId}/account_data/…`."""

    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    def routes(self) -> list[Route]:
        """Return the routes."""
        user = "/_matrix/client/v3/user/{userId}"
        routes = [
            Route(method, f"{user}{where}/account_data/{{type}}", handler, auth=Access.USERS)
            for where in ("", "/rooms/{roomId}")
            for method, handler in (("GET", self.get), ("PUT", self.put))
        ]
        return [each for route in routes for each in expand_prefixes(route)]

    async def get(self, request: WebRequest) -> HandlerResult:
        """The content of one type."""
        check_own(request, "Cannot read account data of other users.")
        return raw_json(await self._account_data.get(request.requester, request.args["type"], _room_id(request)))

    async def put(self, request: WebRequest) -> dict[str, Any]:
        """Store the content of one type."""
        check_own(request, "Cannot add account data for other users.")
        await self._account_data.set(request.requester, request.args["type"], request.json(), _room_id(request))
        return {}


def check_own(request: WebRequest, refusal: str) -> None:
    """Raise NotAllowed unless the user in the path is the one who asks."""
    if request.args["userId"] != request.requester.user_id:
        raise NotAllowed(refusal)


def _room_id(request: WebRequest) -> RoomID | None:
    text = request.args.get("roomId")
    return None if text is None else RoomID.parse(text)
