"""Which versions of the specification this server speaks, and which features under names of their own.

All versions up to the one that this server is written after are told, though parts of the API are not served: what the
versions are for is that a client picks the form of a request, not that it learns what there is. A client that is told
less than v1.11 fetches media without its token and gets none; told less than v1.15 to v1.19, it looks for room
summaries, profile fields, `state_after` and shared rooms under names that were given up. Stopping at an older version
would not be truer either: what is not served (such as search, pushers, third-party identifiers) was there from v1.1
on. For that, clients have other signs, and those are exact: an endpoint that is not there answers
`M_UNRECOGNIZED`, `/capabilities` and the flows of `/login` name what may be used, and `/auth_metadata` is absent where
there is no OAuth.
`r0.6.1` stands for the `r0` prefix, which clients from before v1.1 call.

`unstable_features` has a flag only if the thing works. Flags of what is not served are left out, as "not listed" means
"not supported". Flags of what has come into the specification stay, because clients in use look for them before they
look at the version.

Spec: client-server API, "API Versions"; "Specification Versions"; `GET /versions`.
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
    dict.fromkeys(
        (
            # Room aliases of this server.
            "org.matrix.msc2432",
            # Cross-signing.
            "org.matrix.e2e_cross_signing",
            # Private read receipts.
            "org.matrix.msc2285.stable",
            # Pings of application services.
            "fi.mau.msc2659.stable",
            # Rooms that two users share.
            "uk.half-shot.msc2666.query_mutual_rooms",
            "uk.half-shot.msc2666.query_mutual_rooms.stable",
            # Jump to date.
            "org.matrix.msc3030",
            # Threads, and receipts in them.
            "org.matrix.msc3440.stable",
            "org.matrix.msc3771",
            # The room directory by type of room.
            "org.matrix.msc3827.stable",
            # Media for who is logged in.
            "org.matrix.msc3916.stable",
            # Relations of relations.
            "org.matrix.msc3981",
            # Profile fields, under their unstable and their stable paths.
            "uk.tcpip.msc4133",
            "uk.tcpip.msc4133.stable",
            # Redactions through /send.
            "com.beeper.msc4169",
            # Blocking of invites.
            "org.matrix.msc4380.stable",
        ),
        True,
    )
)
"""What is served and has a name that clients look for."""

STREAM_FEATURE: Final[Mapping[str, bool]] = MappingProxyType({"org.sennit.stream": True})
"""Connections that stay: docs/stream.md."""


def forced_encryption(kind: str) -> dict[str, bool]:
    """Return the flags that say which new rooms are encrypted: `all`, those by `invite` only, or none (`off`).

    Element's own; its clients show in the dialog of a new room what it will be.
    """
    by_invite = kind in ("all", "invite")
    return {
        "io.element.e2ee_forced.public": kind == "all",
        "io.element.e2ee_forced.private": by_invite,
        "io.element.e2ee_forced.trusted_private": by_invite,
    }


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
