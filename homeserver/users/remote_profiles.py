"""Profiles of users of other servers: asked of their server, cleaned, and believed for some minutes.

A profile is asked for as a whole and each field is taken out of it, so that a user costs one question.

Spec: client-server API, "Profiles"; server-server API, `GET /query/profile`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from homeserver.errors import (
    MatrixError,
    NotAllowed,
    NotFound,
    RemoteError,
    RemoteProtocolError,
    RemoteRefused,
    UselessServers,
)
from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import UserID
from homeserver.ports import RemoteServers
from homeserver.runtime.asked import Asked
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import Tasks

from .profiles import MAX_PROFILE_BYTES, MEMBER_FIELDS, check_key

KEPT_S: Final = 300.0
REFUSED_S: Final = 60.0
ASK_S: Final = 20.0
# LIMIT: fields of a profile that are looked at.
MAX_FIELDS: Final = 200


class RemoteProfiles:
    """Asks other servers; implements `homeserver.users.profiles.RemoteProfiles`."""

    def __init__(self, servers: RemoteServers, clock: Clock, tasks: Tasks) -> None:
        self._servers = servers
        self._asked: Asked[UserID, JsonObject] = Asked(
            clock, tasks, "profile", kept_s=KEPT_S, refused_s=REFUSED_S, within_s=ASK_S, weigh=_size
        )

    async def __call__(self, user_id: UserID, field: str | None) -> Mapping[str, Any]:
        """Return the profile of a user of another server, or one field of it; the mapping lacks what is not there.

        Raises NotFound, NotAllowed where the other server does not tell, UselessServers where it cannot be asked.
        """
        try:
            profile = await self._asked.get(user_id, lambda: self._ask(user_id))
        except RemoteError as fault:
            raise _error_of(fault) from fault
        if field is None:
            return profile
        return {field: profile[field]} if field in profile else {}

    async def _ask(self, user_id: UserID) -> JsonObject:
        profile = cleaned(await self._servers.query_profile(user_id.server_name, user_id))
        if _size(profile) > MAX_PROFILE_BYTES:
            raise RemoteProtocolError(user_id.server_name, "the profile is too large")
        return profile


def cleaned(profile: Mapping[str, Any]) -> JsonObject:
    """Return a profile without what no profile may have."""
    found: JsonObject = {}
    for field in list(profile)[:MAX_FIELDS]:
        value = profile[field]
        try:
            check_key(field)
        except MatrixError:
            continue
        # COMPAT(synapse): it says null of these two where they are not set.
        if field not in MEMBER_FIELDS or isinstance(value, str):
            found[field] = value
    return found


def _size(profile: Mapping[str, Any]) -> int:
    try:
        return len(orjson.dumps(profile))
    except (TypeError, ValueError):
        # Integers that no other server may send, or text that is none.
        return MAX_PROFILE_BYTES + 1


def _error_of(fault: RemoteError) -> MatrixError:
    detail = str(fault)[:1000]
    if isinstance(fault, RemoteRefused):
        if fault.status == 404:
            return NotFound("Profile not found", detail=detail)
        if fault.status == 403:
            return NotAllowed("The server of the user does not tell", detail=detail)
    return UselessServers("The profile could not be fetched", detail=detail)
