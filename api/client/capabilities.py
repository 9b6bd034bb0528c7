"""What this server lets its users do.

Spec: client-server API, "Capabilities negotiation".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.config import Profiles as ProfilesConfig
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access


class Capabilities:
    """`/capabilities`."""

    def __init__(
        self,
        *,
        default_room_version: str,
        room_versions: Mapping[str, bool],
        has_passwords: bool,
        profiles: ProfilesConfig,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """`room_versions`: those that rooms may have, each with whether it is stable; `more`: further capabilities."""
        disallowed = [
            field
            for field, is_allowed in (
                ("displayname", profiles.allow_displayname_changes),
                ("avatar_url", profiles.allow_avatar_changes),
            )
            if not is_allowed
        ]
        profile_fields: dict[str, Any] = {"enabled": True}
        if disallowed:
            profile_fields["disallowed"] = disallowed
        self._capabilities: dict[str, Any] = {
            "m.change_password": {"enabled": has_passwords},
            "m.room_versions": {
                "default": default_room_version,
                "available": {
                    version: "stable" if is_stable else "unstable" for version, is_stable in room_versions.items()
                },
            },
            "m.profile_fields": profile_fields,
            # Spec: the two deprecated ones must agree with `m.profile_fields`.
            "m.set_displayname": {"enabled": profiles.allow_displayname_changes},
            "m.set_avatar_url": {"enabled": profiles.allow_avatar_changes},
            "m.3pid_changes": {"enabled": False},
            "m.get_login_token": {"enabled": False},
            "m.forget_forced_upon_leave": {"enabled": False},
            **(more or {}),
        }

    def routes(self) -> list[Route]:
        """Return the routes."""
        return expand_prefixes(
            Route("GET", "/_matrix/client/v3/capabilities", self.get_capabilities, auth=Access.USERS)
        )

    async def get_capabilities(self, request: WebRequest) -> dict[str, Any]:
        """The capabilities of the server."""
        return {"capabilities": self._capabilities}
