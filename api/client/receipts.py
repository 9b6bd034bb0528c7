"""Read receipts and read markers.

Spec: client-server API, "Receipts", "Read and unread markers".
"""

from __future__ import annotations

from typing import Any

from homeserver.model.ids import EventID, RoomID
from homeserver.model.receipts import parse_read_markers
from homeserver.users.receipts import Receipts
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access


class ReceiptsApi:
    """`/rooms/{roomId}/receipt/…` and `/rooms/{roomId}/read_markers`."""

    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts

    def routes(self) -> list[Route]:
        """Return the routes."""
        room = "/_matrix/client/v3/rooms/{roomId}"
        routes = [
            Route("POST", f"{room}/receipt/{{receiptType}}/{{eventId}}", self.post_receipt, auth=Access.USERS),
            Route("POST", f"{room}/read_markers", self.post_read_markers, auth=Access.USERS),
        ]
        return [each for route in routes for each in expand_prefixes(route)]

    async def post_receipt(self, request: WebRequest) -> dict[str, Any]:
        """Set one receipt."""
        args = request.args
        await self._receipts.send(
            request.requester,
            RoomID.parse(args["roomId"]),
            args["receiptType"],
            EventID.parse(args["eventId"]),
            # COMPAT: clients send no body where it would be `{}`.
            request.json_or_empty(),
        )
        return {}

    async def post_read_markers(self, request: WebRequest) -> dict[str, Any]:
        """Set the read marker and receipts at once."""
        room_id = RoomID.parse(request.args["roomId"])
        await self._receipts.set_markers(request.requester, room_id, parse_read_markers(request.json()))
        return {}
