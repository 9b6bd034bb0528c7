"""A route for load balancers and monitors: the server is up and answers."""

from __future__ import annotations

from homeserver.web.request import WebRequest
from homeserver.web.response import Response
from homeserver.web.router import Route


class Health:
    """`/health`."""

    def routes(self) -> list[Route]:
        """Return the route."""
        return [Route("GET", "/health", self.get_health)]

    async def get_health(self, request: WebRequest) -> Response:
        """Answer OK, as Synapse does."""
        return Response(200, b"OK", "text/plain")
