"""Which state an event must cite as its auth events.

Spec: server-server API, "Auth events selection"; rooms/v12: the create event is not selected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..content.member import third_party_token
from ..event import StateKey
from ..room_versions import RoomVersion

CREATE: Final[StateKey] = ("m.room.create", "")
POWER_LEVELS: Final[StateKey] = ("m.room.power_levels", "")
JOIN_RULES: Final[StateKey] = ("m.room.join_rules", "")
MEMBER: Final = "m.room.member"
THIRD_PARTY_INVITE: Final = "m.room.third_party_invite"


def needed_state(
    version: RoomVersion,
    *,
    type: str,
    sender: str,
    state_key: str | None,
    content: Mapping[str, Any],
) -> tuple[StateKey, ...]:
    """Return the keys of the state to cite, without repeats: create, power levels, sender, then those of a membership.

    Keys that the state lacks are simply not cited.  Also what the rules will look at, the create event aside.
    """
    if type == "m.room.create":
        return ()
    keys: tuple[StateKey, ...] = (POWER_LEVELS, (MEMBER, sender))
    if not version.create_is_implicit_auth_event:
        keys = (CREATE, *keys)
    if type != MEMBER:
        return keys
    return tuple(dict.fromkeys((*keys, *_for_membership(version, state_key, content))))


def _for_membership(version: RoomVersion, state_key: str | None, content: Mapping[str, Any]) -> list[StateKey]:
    keys: list[StateKey] = []
    if state_key is not None:
        keys.append((MEMBER, state_key))
    membership = content.get("membership")
    if membership in ("join", "invite", "knock"):
        keys.append(JOIN_RULES)
    if membership == "invite" and (token := third_party_token(content)) is not None:
        keys.append((THIRD_PARTY_INVITE, token))
    if membership == "join" and version.restricted_joins:
        authoriser = content.get("join_authorised_via_users_server")
        if isinstance(authoriser, str):
            keys.append((MEMBER, authoriser))
    return keys
