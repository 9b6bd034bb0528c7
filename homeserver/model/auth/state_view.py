"""What the rules see of a room's state."""

from __future__ import annotations

from typing import Protocol

from ..event import Event, StateKey


class StateView(Protocol):
    """A state map that is only asked for single keys; a dict is one, and so is a persistent map."""

    def get(self, key: StateKey, /) -> Event | None:
        """Return the event at `key`, or None."""
        ...
