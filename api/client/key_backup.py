"""Backups of room keys.

Spec: client-server API, "Server-side key backups".
"""

from __future__ import annotations

from typing import Any, Final

from homeserver.users.key_backup import KeyBackups, read_room_key, read_rooms, read_sessions
from homeserver.users.sessions import Requester
from homeserver.web.request import WebRequest
from homeserver.web.response import JSON, FileResponse
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access

# LIMIT: clients send a few hundred keys at a time.
_MAX_BODY_BYTES: Final = 8 * 1024**2


class KeyBackupApi:
    """`/room_keys/…`."""

    def __init__(self, backups: KeyBackups) -> None:
        self._backups = backups

    def routes(self) -> list[Route]:
        """Return the routes."""
        prefix = "/_matrix/client/v3/room_keys"
        version, keys = f"{prefix}/version", f"{prefix}/keys"
        routes = [
            Route("POST", version, self.post_version, auth=Access.USERS),
            Route("GET", version, self.get_version, auth=Access.USERS),
            Route("GET", f"{version}/{{version}}", self.get_version, auth=Access.USERS),
            Route("PUT", f"{version}/{{version}}", self.put_version, auth=Access.USERS),
            Route("DELETE", f"{version}/{{version}}", self.delete_version, auth=Access.USERS),
        ]
        for where in ("", "/{roomId}", "/{roomId}/{sessionId}"):
            routes += [
                Route("PUT", f"{keys}{where}", self.put_keys, auth=Access.USERS, max_body_bytes=_MAX_BODY_BYTES),
                Route("GET", f"{keys}{where}", self.get_keys, auth=Access.USERS),
                Route("DELETE", f"{keys}{where}", self.delete_keys, auth=Access.USERS),
            ]
        return [each for route in routes for each in expand_prefixes(route)]

    async def post_version(self, request: WebRequest) -> dict[str, Any]:
        """Make a backup."""
        requester: Requester = request.requester
        return {"version": await self._backups.create(requester.user_nid, request.json())}

    async def get_version(self, request: WebRequest) -> dict[str, Any]:
        """A backup, or the newest."""
        requester: Requester = request.requester
        return await self._backups.get(requester.user_nid, request.args.get("version"))

    async def put_version(self, request: WebRequest) -> dict[str, Any]:
        """Replace a backup's own data."""
        requester: Requester = request.requester
        await self._backups.update(requester.user_nid, request.args["version"], request.json())
        return {}

    async def delete_version(self, request: WebRequest) -> dict[str, Any]:
        """Delete a backup."""
        requester: Requester = request.requester
        await self._backups.delete(requester.user_nid, request.args["version"])
        return {}

    async def put_keys(self, request: WebRequest) -> dict[str, Any]:
        """Store keys: of rooms, of one room, or one."""
        requester: Requester = request.requester
        version, body = request.require_query("version"), request.json()
        room_id, session_id = _where(request)
        if room_id is None:
            keys = read_rooms(body)
        elif session_id is None:
            keys = read_sessions(room_id, body)
        else:
            keys = [read_room_key(room_id, session_id, body)]
        return await self._backups.put_keys(requester.user_nid, version, keys)

    async def get_keys(self, request: WebRequest) -> dict[str, Any] | FileResponse:
        """The keys: of all rooms, of one room, or one."""
        requester: Requester = request.requester
        version, (room_id, session_id) = request.require_query("version"), _where(request)
        if room_id is not None and session_id is not None:
            return await self._backups.get_key(requester.user_nid, version, room_id, session_id)
        found = await self._backups.get_keys(requester.user_nid, version, room_id)
        return FileResponse(found.file, found.length, JSON)  # type: ignore[arg-type]

    async def delete_keys(self, request: WebRequest) -> dict[str, Any]:
        """Delete keys."""
        requester: Requester = request.requester
        version = request.require_query("version")
        return await self._backups.delete_keys(requester.user_nid, version, *_where(request))


def _where(request: WebRequest) -> tuple[str | None, str | None]:
    return request.args.get("roomId"), request.args.get("sessionId")
