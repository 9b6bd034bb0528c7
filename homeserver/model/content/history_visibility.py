"""`m.room.history_visibility`: who may read what was said.

Spec: client-server API, "Room history visibility".
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from ..event import Event


class HistoryVisibility(StrEnum):
    """The four settings."""

    WORLD_READABLE = "world_readable"
    SHARED = "shared"
    INVITED = "invited"
    JOINED = "joined"


_SETTINGS: Final = {setting.value: setting for setting in HistoryVisibility}


def history_visibility_of(event: Event | None) -> HistoryVisibility:
    """Return the setting that this event makes; `shared` where there is none or it is not understood."""
    # Spec: "Room history visibility", "Server behaviour".
    if event is None:
        return HistoryVisibility.SHARED
    value = event.content.get("history_visibility")
    return _SETTINGS.get(value, HistoryVisibility.SHARED) if isinstance(value, str) else HistoryVisibility.SHARED
