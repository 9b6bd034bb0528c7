"""The verdict on an event: what the rules say of it, as a value.

`storage` takes only `Judged` events, so an event that no rule has seen cannot be stored.

Spec: server-server API, "Checks performed on receipt of a PDU".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .auth.rules import StateView, check_state_dependent, check_state_independent
from .event import Event
from .room_versions import RoomVersion


class Verdict(Enum):
    """What becomes of an event."""

    ACCEPTED = "accepted"
    # Stored, but never part of the state and never shown.
    REJECTED = "rejected"
    # Valid where it was sent, not valid now: stored, not shown, no extremity.
    SOFT_FAILED = "soft-failed"


@dataclass(frozen=True, slots=True)
class Judged:
    """An event with its verdict."""

    event: Event
    verdict: Verdict


def judge_local(version: RoomVersion, event: Event, state: StateView, create: Event) -> Judged:
    """Judge an event that this server made on top of `state`; raise AuthRuleBroken where a rule refuses it.

    Our own events select their auth events from the same state that they are judged against, so one check decides.
    `create` is the room's create event (the event itself where it is that).
    """
    if event.type == "m.room.create":
        check_state_independent(version, event, (), frozenset(), create)
    check_state_dependent(version, event, state, create)
    return Judged(event, Verdict.ACCEPTED)
