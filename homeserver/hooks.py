"""What an embedding application can hang into the server: gates, which may deny, and observers, which are told.

A gate runs before an event is judged, outside the room's lane; it may deny the event or return a changed template.
An observer runs after the commit; nothing it does can fail the event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from homeserver.model.event import Event, EventTemplate
from homeserver.model.ids import RoomID, UserID


class EventGate(Protocol):
    """Asked about every event that a local user wants to send."""

    async def check(self, room_id: RoomID, template: EventTemplate) -> EventTemplate:
        """Return the template to go on with, usually the same; raise `GateDenied` to deny it."""
        ...


@dataclass(frozen=True, slots=True)
class EventCommitted:
    """An event was stored and is visible; `position` is its place in the server's stream."""

    event: Event
    position: int


@dataclass(frozen=True, slots=True)
class UserRegistered:
    """A new account exists."""

    user_id: UserID


Observation = EventCommitted | UserRegistered
Observer = Callable[[Observation], None]


class Extension(Protocol):
    """Adds routes to a server: written on the names that `homeserver` and `homeserver.web` export."""

    def routes(self, services: Any) -> Sequence[Any]:
        """Return the `homeserver.web.router.Route`s to add; `services` are the parts that extensions may use."""
        ...
