"""Where clients learn about this server before they know it.

Spec: client-server API, "Well-known URIs".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.config import Server
from homeserver.errors import NotFound
from homeserver.web.request import WebRequest
from homeserver.web.router import Route


def client_discovery(server: Server, *, allow_encryption: bool = True) -> dict[str, Any] | None:
    """Return the discovery information for clients, or None where the server's public address is not configured."""
    if server.public_base_url is None:
        return None
    # COMPAT(element): so that it does not begin rooms with what the server will refuse.
    extra = {} if allow_encryption else {"io.element.e2ee": {"default": False, "force_disable": True}}
    return {**extra, **server.client_wellknown_extra, "m.homeserver": {"base_url": str(server.public_base_url)}}


def support_contact(server: Server) -> dict[str, Any] | None:
    """Return how to reach the operator, or None where that is not configured as anything the spec has a field for."""
    contact = server.admin_contact
    if contact is None:
        return None
    if contact.startswith(("http://", "https://")):
        return {"support_page": contact}
    if contact.startswith("@") and ":" in contact:
        return {"contacts": [{"matrix_id": contact, "role": "m.role.admin"}]}
    address = contact.removeprefix("mailto:")
    if "@" in address:
        return {"contacts": [{"email_address": address, "role": "m.role.admin"}]}
    return None


class WellKnown:
    """`/.well-known/matrix/client` and `/.well-known/matrix/support`."""

    def __init__(self, *, client: Mapping[str, Any] | None, support: Mapping[str, Any] | None) -> None:
        self._client = client
        self._support = support

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("GET", "/.well-known/matrix/client", self.get_client),
            Route("GET", "/.well-known/matrix/support", self.get_support),
        ]

    async def get_client(self, request: WebRequest) -> dict[str, Any]:
        """Discovery information for clients; 404 where there is none."""
        return _or_not_found(self._client)

    async def get_support(self, request: WebRequest) -> dict[str, Any]:
        """How to reach the operator; 404 where that is not told."""
        return _or_not_found(self._support)


def _or_not_found(document: Mapping[str, Any] | None) -> dict[str, Any]:
    if document is None:
        raise NotFound("No information is available here")
    return dict(document)
