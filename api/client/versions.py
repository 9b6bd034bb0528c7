"""Which versions of the specification this server speaks.

Spec: client-server API, "API Versions".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from homeserver.web.request import WebRequest
from homeserver.web.response import Response, encode_json, raw_json
from homeserver.web.router import Route

SPEC_VERSIONS: Final = ("r0.6.1", *(f"v1.{minor}" for minor in range(1, 20)))

UNSTABLE_FEATURES: Final[Mapping[str, bool]] = MappingProxyType(
    {
        # Profile fields, under their unstable and their stable paths.
        "uk.tcpip.msc4133": True,
        "uk.tcpip.msc4133.stable": True,
        # Bridges ask for this before they ask to be pinged.
        "fi.mau.msc2659.stable": True,
    }
)
"""Those of the endpoints in this folder that have an unstable name."""


class Versions:
    """`/versions`."""

    def __init__(
        self,
        *,
        versions: Sequence[str] = SPEC_VERSIONS,
        unstable_features: Mapping[str, bool] = UNSTABLE_FEATURES,
    ) -> None:
        answer: dict[str, Any] = {"versions": list(versions), "unstable_features": dict(unstable_features)}
        self._answer = raw_json(encode_json(answer))

    def routes(self) -> list[Route]:
        """Return the routes; the answer is the same for all users, so no token is looked at."""
        return [Route("GET", "/_matrix/client/versions", self.get_versions)]

    async def get_versions(self, request: WebRequest) -> Response:
        """The versions of the specification, and features that are not in it yet."""
        return self._answer
