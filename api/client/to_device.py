"""Messages from device to device.

Spec: client-server API, "Send-to-Device messaging".
"""

from __future__ import annotations

from typing import Any, Final

from homeserver.users.to_device import ToDevice, read_messages
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access

# LIMIT: hundreds of messages with keys for rooms.
_MAX_BODY_BYTES: Final = 8 * 1024**2


class ToDeviceApi:
    """`/sendToDevice/…`."""

    def __init__(self, to_device: ToDevice) -> None:
        self._to_device = to_device

    def routes(self) -> list[Route]:
        """Return the routes."""
        route = Route(
            "PUT",
            "/_matrix/client/v3/sendToDevice/{eventType}/{txnId}",
            self.put_send,
            auth=Access.GUESTS,
            max_body_bytes=_MAX_BODY_BYTES,
        )
        return expand_prefixes(route)

    async def put_send(self, request: WebRequest) -> dict[str, Any]:
        """Send messages."""
        messages = read_messages(request.json())
        await self._to_device.send(request.requester, request.args["eventType"], request.args["txnId"], messages)
        return {}
