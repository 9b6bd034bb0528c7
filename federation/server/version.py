"""What this server is, for operators and for the tests of other servers.

Spec: server-server API, "Server implementation".
"""

from __future__ import annotations

from typing import Any, Final

from homeserver.web.request import WebRequest
from homeserver.web.router import Route

NAME: Final = "Sennit"


class VersionApi:
    """`GET /_matrix/federation/v1/version`: nobody has to say who asks."""

    def __init__(self, version: str) -> None:
        self._version = version

    def routes(self) -> list[Route]:
        """Return the route."""
        return [Route("GET", "/_matrix/federation/v1/version", self.get_version)]

    async def get_version(self, request: WebRequest) -> dict[str, Any]:
        """Name and version."""
        return {"server": {"name": NAME, "version": self._version}}
