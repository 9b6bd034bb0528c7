"""Whether a redaction applies to the event that it names.

A redaction event is accepted by the authorization rules whatever it names (but in room versions 1 and 2): whether it
redacts that is asked once both are there, and until then nobody is shown it.

Spec: rooms/v3, "Handling redactions".
"""

from __future__ import annotations

from .content.power_levels import PowerLevels
from .event import Event
from .ids import server_name_of
from .room_versions import RoomVersion


def may_redact(version: RoomVersion, redaction: Event, target: Event, levels: PowerLevels) -> bool:
    """Tell whether a redaction applies to its target, given the power levels at the redaction.

    Spec: room versions 3 and later, "Handling redactions"; in 1 and 2 a rule has asked for that already, but by the
    event ID, for the target need not be known then.
    """
    if target.type == "m.room.create" or target.room_id != redaction.room_id:
        return False
    if version.redactions_have_auth_rule or levels.of(redaction.sender) >= levels.redact:
        return True
    return server_name_of(target.sender) == server_name_of(redaction.sender)
