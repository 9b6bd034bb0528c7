"""`m.room.join_rules`: how users come in.

Spec: client-server API, `m.room.join_rules`; rooms/v8 and v10 for the restricted ones.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from ..event import Event
from ..ids import RoomID
from ..room_versions import RoomVersion
from .reading import sequence, text

# LIMIT: conditions beyond these are not looked at; each may cost a look at another room.
MAX_ALLOW_CONDITIONS: Final = 100


class JoinRule(StrEnum):
    """The join rules that the spec defines."""

    PUBLIC = "public"
    INVITE = "invite"
    KNOCK = "knock"
    RESTRICTED = "restricted"
    KNOCK_RESTRICTED = "knock_restricted"
    PRIVATE = "private"


_JOIN_RULES: Final = {rule.value: rule for rule in JoinRule}


def join_rule_of(join_rules: Event | None) -> JoinRule | None:
    """Return the room's join rule; `invite` where there is no event, None where its value is not known.

    The rule counts only in room versions that have it, see `is_restricted` and `is_knockable`.
    """
    if join_rules is None:
        return JoinRule.INVITE
    value = text(join_rules.content, "join_rule")
    return None if value is None else _JOIN_RULES.get(value)


def is_restricted(version: RoomVersion, rule: JoinRule | None) -> bool:
    """Tell whether members of other rooms may join under this rule in this room version."""
    if rule is JoinRule.RESTRICTED:
        return version.restricted_joins
    return rule is JoinRule.KNOCK_RESTRICTED and version.knock_restricted_joins


def is_knockable(version: RoomVersion, rule: JoinRule | None) -> bool:
    """Tell whether users may knock under this rule in this room version."""
    if rule is JoinRule.KNOCK:
        return version.knocking
    return rule is JoinRule.KNOCK_RESTRICTED and version.knock_restricted_joins


def allowed_room_ids(join_rules: Event) -> tuple[RoomID, ...]:
    """Return the rooms whose members may join, in the order of `allow`; at most `MAX_ALLOW_CONDITIONS`.

    Conditions of unknown types and without a room are passed over.
    """
    found: dict[RoomID, None] = {}
    for condition in sequence(join_rules.content, "allow")[:MAX_ALLOW_CONDITIONS]:
        if isinstance(condition, dict) and condition.get("type") == "m.room_membership":
            room_id = condition.get("room_id")
            if isinstance(room_id, str) and room_id.startswith("!"):
                found[RoomID(room_id)] = None
    return tuple(found)
