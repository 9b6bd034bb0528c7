"""The user's devices.

Spec: client-server API, "Device Management".
"""

from __future__ import annotations

from typing import Any

from homeserver.users.devices import Devices as UserDevices
from homeserver.users.interactive_auth import PASSWORD, InteractiveAuth, Operation
from homeserver.users.sessions import Requester
from homeserver.web.params import optional_str, require_str_list
from homeserver.web.request import WebRequest
from homeserver.web.response import Response
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access


class Devices:
    """`/devices` and `/delete_devices`."""

    def __init__(self, devices: UserDevices, interactive_auth: InteractiveAuth) -> None:
        self._devices = devices
        self._interactive_auth = interactive_auth

    def routes(self) -> list[Route]:
        """Return the routes."""
        prefix = "/_matrix/client/v3"
        one = f"{prefix}/devices/{{deviceId}}"
        routes = [
            Route("GET", f"{prefix}/devices", self.get_devices, auth=Access.GUESTS),
            Route("GET", one, self.get_device, auth=Access.GUESTS),
            Route("PUT", one, self.put_device, auth=Access.GUESTS),
            Route("DELETE", one, self.delete_device, auth=Access.USERS),
            Route("POST", f"{prefix}/delete_devices", self.post_delete_devices, auth=Access.USERS),
        ]
        return [each for route in routes for each in expand_prefixes(route)]

    async def get_devices(self, request: WebRequest) -> dict[str, Any]:
        """All devices of the user."""
        requester: Requester = request.requester
        return {"devices": await self._devices.list_devices(requester.user_nid)}

    async def get_device(self, request: WebRequest) -> dict[str, Any]:
        """One device of the user."""
        requester: Requester = request.requester
        return await self._devices.get_device(requester.user_nid, request.args["deviceId"])

    async def put_device(self, request: WebRequest) -> dict[str, Any] | Response:
        """Rename a device; an application service may make one so."""
        requester: Requester = request.requester
        display_name = optional_str(request.json(), "display_name")
        # Spec: application service API, "Creating devices".
        if requester.appservice is not None and await self._devices.create(
            requester.user_nid, request.args["deviceId"], display_name
        ):
            return Response(201, b"{}")
        await self._devices.rename(requester.user_id, requester.user_nid, request.args["deviceId"], display_name)
        return {}

    async def delete_device(self, request: WebRequest) -> dict[str, Any]:
        """Delete a device; nothing happens when it is gone already."""
        await self._delete(request, "DELETE /devices", [request.args["deviceId"]], request.json_or_empty())
        return {}

    async def post_delete_devices(self, request: WebRequest) -> dict[str, Any]:
        """Delete several devices; those that are gone already are passed over."""
        body = request.json()
        await self._delete(request, "POST /delete_devices", require_str_list(body, "devices"), body)
        return {}

    async def _delete(self, request: WebRequest, name: str, device_ids: list[str], body: dict[str, Any]) -> None:
        requester: Requester = request.requester
        # Spec: no user-interactive authentication "when used by an application service".
        if requester.appservice is None:
            await self._interactive_auth.require(
                Operation(name, requester, {**body, "devices": device_ids}), [(PASSWORD,)], body.get("auth")
            )
        await self._devices.delete(requester.user_id, requester.user_nid, device_ids)
