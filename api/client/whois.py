"""Where a user is logged in, for the user and for administrators.

Spec: client-server API, "Server Administration": `GET /admin/whois/{userId}`.
"""

from __future__ import annotations

from typing import Any

from homeserver.errors import NotAllowed
from homeserver.model.ids import UserID
from homeserver.users.accounts import Accounts
from homeserver.users.device_overview import DeviceLine
from homeserver.users.devices import Devices
from homeserver.users.sessions import Requester
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access


class Whois:
    """`/admin/whois`."""

    def __init__(self, accounts: Accounts, devices: Devices) -> None:
        self._accounts = accounts
        self._devices = devices

    def routes(self) -> list[Route]:
        """Return the routes."""
        return expand_prefixes(
            Route("GET", "/_matrix/client/v3/admin/whois/{userId}", self.get_whois, auth=Access.USERS)
        )

    async def get_whois(self, request: WebRequest) -> dict[str, Any]:
        """The devices of a user, with when and from where they were last seen."""
        requester: Requester = request.requester
        user_id = request.args["userId"]
        if user_id != requester.user_id and not requester.is_admin:
            raise NotAllowed("Only an administrator may look up other users")
        account = await self._accounts.get(user_id)
        lines = await self._devices.list_lines(UserID(account.user_id), account.user_nid)
        return {"user_id": account.user_id, "devices": {line.device_id: _to_wire(line) for line in lines}}


def _to_wire(line: DeviceLine) -> dict[str, Any]:
    connection = {
        "ip": line.last_seen_ip,
        "last_seen": line.last_seen_ts,
        "user_agent": line.last_seen_user_agent,
    }
    known = {name: value for name, value in connection.items() if value is not None}
    # A device has one session; of its connections the last one is known.
    return {"sessions": [{"connections": [known]}] if known else []}
