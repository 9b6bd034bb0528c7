"""What a stream answers: the changes of one kind that a receiver has not been told yet.

A stream holds the newest changes of its kind in memory, each encoded once for all who receive it, and a `floor`: what
changed at positions over it is all in memory, what is older is read from the database. A change here is the newest
state of something (a receipt, a list of who is typing): of several changes of one thing only the last is told.

`after` is the position that the receiver has been told up to, None for everything there is; `upto` bounds the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from homeserver.feed.feed import UserFeed
from homeserver.model.ids import RoomID


@dataclass(frozen=True, slots=True)
class StreamItem:
    """One event as clients see it; `type` and `sender` (None: nobody sent it) are for filters."""

    type: str
    sender: str | None
    encoded: bytes


class RoomStream(Protocol):
    """A stream of changes in rooms."""

    async def in_rooms(
        self, user: UserFeed, room_nids: Mapping[int, RoomID], after: int | None, upto: int
    ) -> Mapping[int, Sequence[StreamItem]]:
        """Return the items of those rooms that have any, by room number: of changes at after < position <= upto."""


class UserStream(Protocol):
    """A stream of changes that concern a user and no room."""

    async def of_user(self, user: UserFeed, after: int | None, upto: int) -> Sequence[StreamItem]:
        """Return the items of changes at after < position <= upto."""
