"""The room summary of sync: whom a nameless room is named after, and how many are in it.

Spec: client-server API, `GET /sync`, "RoomSummary".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from .content.member import Membership
from .ids import UserID

HERO_COUNT: Final = 5


@dataclass(frozen=True, slots=True)
class RoomSummary:
    """Heroes and counts as one user sees them; `heroes` is empty for a room that has a name or canonical alias."""

    heroes: tuple[UserID, ...]
    joined_count: int
    invited_count: int

    def to_wire(self) -> dict[str, Any]:
        """Return the `summary` object of a joined room in a sync response."""
        return {
            "m.heroes": list(self.heroes),
            "m.joined_member_count": self.joined_count,
            "m.invited_member_count": self.invited_count,
        }


def select_heroes(members: Iterable[tuple[UserID, Membership]], viewer: UserID) -> tuple[UserID, ...]:
    """Return the first five members who are joined or invited, else the first five who left or were banned.

    `members` come in the order of the stream positions of their membership, oldest first.  The viewer is never
    among the heroes.  Stops reading as soon as five are found.
    """
    present: list[UserID] = []
    gone: list[UserID] = []
    for user_id, membership in members:
        if user_id == viewer:
            continue
        if membership is Membership.JOIN or membership is Membership.INVITE:
            present.append(user_id)
            if len(present) == HERO_COUNT:
                break
        elif membership is not Membership.KNOCK and len(gone) < HERO_COUNT:
            gone.append(user_id)
    # Spec: "When no joined or invited members are available, this should consist of the banned and left users."
    return tuple(present or gone)


def count_members(memberships: Iterable[Membership]) -> tuple[int, int]:
    """Return how many are joined and how many are invited."""
    joined = invited = 0
    for membership in memberships:
        if membership is Membership.JOIN:
            joined += 1
        elif membership is Membership.INVITE:
            invited += 1
    return joined, invited
