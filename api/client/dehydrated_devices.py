"""The dehydrated device of the user.

Unstable: MSC3814 (`org.matrix.msc3814.v1`).
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from homeserver.users.dehydrated_devices import MAX_MESSAGES, DehydratedDevices
from homeserver.users.sessions import Requester
from homeserver.web.params import optional_str
from homeserver.web.request import WebRequest
from homeserver.web.router import Route

from ..auth import Access

_PATH: Final = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
# LIMIT: a thousand one-time keys with their signatures, and the device's own data.
_MAX_BODY_BYTES: Final = 3 * 1024**2


class DehydratedDevicesApi:
    """`/dehydrated_device`."""

    def __init__(self, devices: DehydratedDevices) -> None:
        self._devices = devices

    def routes(self) -> list[Route]:
        """Return the routes."""
        events = f"{_PATH}/{{deviceId}}/events"
        return [
            Route("GET", _PATH, self.get_device, auth=Access.USERS),
            Route("PUT", _PATH, self.put_device, auth=Access.USERS, max_body_bytes=_MAX_BODY_BYTES),
            Route("DELETE", _PATH, self.delete_device, auth=Access.USERS),
            Route("GET", events, self.get_events, auth=Access.USERS),
            Route("POST", events, self.post_events, auth=Access.USERS),
        ]

    async def get_device(self, request: WebRequest) -> dict[str, Any]:
        """The device, as it was stored."""
        requester: Requester = request.requester
        return await self._devices.get(requester.user_nid)

    async def put_device(self, request: WebRequest) -> dict[str, Any]:
        """Store a device with its keys; the one before is deleted."""
        return {"device_id": await self._devices.store(request.requester, request.json())}

    async def delete_device(self, request: WebRequest) -> dict[str, Any]:
        """Delete the device."""
        return {"device_id": await self._devices.delete(request.requester)}

    async def get_events(self, request: WebRequest) -> dict[str, Any]:
        """Messages for the device; who asks this way has all when there is no `next_batch`."""
        return await self._events(request, request.query("from") or None, always=False)

    async def post_events(self, request: WebRequest) -> dict[str, Any]:
        """Messages for the device; who asks this way has all when there are no `events`.

        COMPAT: the way of an earlier draft of the proposal, which clients in use take.
        """
        return await self._events(request, optional_str(request.json_or_empty(), "next_batch"), always=True)

    async def _events(self, request: WebRequest, token: str | None, *, always: bool) -> dict[str, Any]:
        requester: Requester = request.requester
        limit = request.query_int("limit", MAX_MESSAGES, 1, MAX_MESSAGES) or MAX_MESSAGES
        batch = await self._devices.messages(requester.user_nid, request.args["deviceId"], token, limit)
        answer: dict[str, Any] = {"events": [orjson.Fragment(each) for each in batch.messages]}
        if always or not batch.is_last:
            answer["next_batch"] = batch.next_token
        return answer
