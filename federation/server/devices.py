"""Devices and keys of this server's users, for other servers.

Keys are public: whoever may write to a user needs them, before a room is shared as well. So the answer depends on the
user alone; display names are told only where the configuration says so.

Spec: server-server API, "Device Management", "End-to-End Encryption".
"""

from __future__ import annotations

from typing import Any

from homeserver.errors import BadJson
from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import ServerName, UserID, server_name_of
from homeserver.users.device_keys import DeviceKeys
from homeserver.users.one_time_keys import OneTimeKeys, read_claim
from homeserver.web.request import WebRequest
from homeserver.web.router import Route

from .auth import Signed


class DevicesAPI:
    """`/user/devices` and `/user/keys/…`."""

    def __init__(
        self, signed: Signed, device_keys: DeviceKeys, one_time_keys: OneTimeKeys, server_name: ServerName
    ) -> None:
        self._signed = signed
        self._device_keys = device_keys
        self._one_time_keys = one_time_keys
        self._server_name = server_name

    def routes(self) -> list[Route]:
        """Return the routes."""
        prefix = "/_matrix/federation/v1/user"
        return [
            self._signed.route("GET", f"{prefix}/devices/{{userId}}", self.get_devices),
            self._signed.route("POST", f"{prefix}/keys/query", self.post_query),
            self._signed.route("POST", f"{prefix}/keys/claim", self.post_claim),
        ]

    async def get_devices(self, request: WebRequest, origin: str, content: JsonObject | None) -> dict[str, Any]:
        """All devices of a user that have keys, and the user's public cross-signing keys."""
        return await self._device_keys.list_for_server(UserID.parse(request.args["userId"]))

    async def post_query(self, request: WebRequest, origin: str, content: JsonObject | None) -> dict[str, Any]:
        """Keys of users of this server."""
        return await self._device_keys.query_local(_object(content))

    async def post_claim(self, request: WebRequest, origin: str, content: JsonObject | None) -> dict[str, Any]:
        """One-time keys of users of this server."""
        wanted = read_claim(_object(content))
        local = {user: each for user, each in wanted.items() if server_name_of(user) == self._server_name}
        return {"one_time_keys": await self._one_time_keys.claim_local(local)}


def _object(content: JsonObject | None) -> JsonObject:
    if content is None:
        raise BadJson("the body must be a JSON object")
    return content
