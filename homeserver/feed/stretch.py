"""The newest part of a room's timeline, made once for all who ask for it.

In a busy room many receivers stand at the same place and ask one after the other for the same events. For all who were
in the room before, and look without a filter, the answer is the same, down to the bytes: only those whose own messages
are in it are told their transaction IDs besides. It is kept in the feed of the room until something happens there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .feed import RoomFeed
from .visible import Seen

# For how long encoded events are told to others, whose `age` is off by that.
ENCODED_MS: Final = 50


@dataclass(slots=True)
class Stretch:
    """The newest `limit` events at `after` < position <= `upto`; `state_group` is the state behind them."""

    after: int
    upto: int
    limit: int
    events: list[Seen]
    is_limited: bool
    state_group: int | None
    has_state: bool
    # Whose own messages are in it, by number.
    devices: frozenset[int]
    # The member events of the senders, by key, once somebody has asked.
    members: dict[int, int] | None = None
    _encoded: bytes = b""
    _encoded_ms: int = 0

    def encoded(self, now_ms: int, encode: Callable[[], bytes]) -> bytes:
        """Return what `encode` makes, or has made a moment ago."""
        if not self._encoded or not 0 <= now_ms - self._encoded_ms < ENCODED_MS:
            self._encoded, self._encoded_ms = encode(), now_ms
        return self._encoded


def find_stretch(room: RoomFeed | None, after: int | None, upto: int, limit: int) -> Stretch | None:
    """Return the stretch of a room that somebody else has asked for just now, if it is this one."""
    stretch: Stretch | None = room.stretch if room is not None else None
    if stretch is None or (stretch.after, stretch.upto, stretch.limit) != (after, upto, limit):
        return None
    return stretch


def keep_stretch(
    room: RoomFeed | None,
    after: int,
    upto: int,
    limit: int,
    events: list[Seen],
    *,
    is_limited: bool,
    state_group: int | None,
) -> Stretch | None:
    """Keep what was found in a room for others; None where it is not the same for them.

    Nothing may have been waited for since: that is so where all of it was in memory.
    """
    if room is None or room.floor > after or not events:
        return None
    stored = [seen.stored for seen in events]
    # Of events of other branches, it depends on the reader who may see them.
    if any(each.tip_group is not None or each.flags for each in stored):
        return None
    room.stretch = stretch = Stretch(
        after,
        upto,
        limit,
        events,
        is_limited,
        state_group,
        any(each.key_nid is not None for each in stored),
        frozenset(each.transaction[0] for each in stored if each.transaction is not None),
    )
    return stretch
