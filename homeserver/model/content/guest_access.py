"""`m.room.guest_access`: whether guests may join.

Spec: client-server API, "Guest access".
"""

from __future__ import annotations

from ..event import Event


def guests_may_join(event: Event | None) -> bool:
    """Tell whether guests may join: only where the event says `can_join`."""
    return event is not None and event.content.get("guest_access") == "can_join"
