"""The verdict on an event: what the rules say of it, as a value.

`storage` takes only `Judged` events, so an event that no rule has seen cannot be stored.  Our own events are refused by
an exception, for somebody waits for the answer; those of others get a verdict, for they are stored whatever it is.

Spec: server-server API, "Checks performed on receipt of a PDU", 4 to 6.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from homeserver.errors import AuthRuleBroken

from .auth.needed import CREATE
from .auth.numbering import rule_number
from .auth.rules import StateView, check_state_dependent, check_state_independent
from .event import Event
from .ids import EventID
from .receipt_of_events import CheckedEvent as CheckedEvent
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
    """An event with its verdict, and the reason of one that is not good, for the log."""

    event: Event
    verdict: Verdict
    reason: str | None = None


def judge_local(version: RoomVersion, event: Event, state: StateView, create: Event) -> Judged:
    """Judge an event that this server made on top of `state`; raise AuthRuleBroken where a rule refuses it.

    Our own events select their auth events from the same state that they are judged against, so one check decides.
    `create` is the room's create event (the event itself where it is that).
    """
    if event.type == "m.room.create":
        check_state_independent(version, event, (), frozenset(), create)
    check_state_dependent(version, event, state, create)
    return Judged(event, Verdict.ACCEPTED)


def judge_outlier(
    version: RoomVersion,
    checked: CheckedEvent,
    *,
    auth_events: Sequence[Event],
    rejected_ids: Collection[EventID],
    create: Event | None,
) -> Judged:
    """Judge an event of another server by the events that it cites alone, because the state before it is not known.

    `auth_events` has one event for each of `event.auth_event_ids` in their order; if some are missing, the event is
    rejected.  `rejected_ids` are those of them, and of the create event, that were rejected.  `create` is the room's
    create event, or None if there is none yet; room versions that name it in the auth events do without.
    """
    event = checked.event
    fault = _fault_by_auth_events(version, checked, auth_events, rejected_ids, create)
    return Judged(event, Verdict.ACCEPTED) if fault is None else Judged(event, Verdict.REJECTED, fault)


def judge_remote(
    version: RoomVersion,
    checked: CheckedEvent,
    *,
    auth_events: Sequence[Event],
    rejected_ids: Collection[EventID],
    state_before: StateView,
    current_state: StateView | None,
    create: Event | None,
) -> Judged:
    """Judge an event of another server by what it cites, by the state before it and by the room's current state.

    Never raises for a refusal.  `current_state` None leaves out the last check: for history, which is not new.  For
    the others see `judge_outlier`; the states are asked for the keys of `needed_state` and for the create event.
    """
    event = checked.event
    # 4
    fault = _fault_by_auth_events(version, checked, auth_events, rejected_ids, create)
    if fault is not None:
        return Judged(event, Verdict.REJECTED, f"by its auth events: {fault}")
    # 5
    fault = _fault_by_state(version, event, state_before, create)
    if fault is not None:
        return Judged(event, Verdict.REJECTED, f"by the state before it: {fault}")
    # 6
    fault = None if current_state is None else _fault_by_state(version, event, current_state, create)
    if fault is not None:
        return Judged(event, Verdict.SOFT_FAILED, f"by the current state: {fault}")
    return Judged(event, Verdict.ACCEPTED)


def _fault_by_auth_events(
    version: RoomVersion,
    checked: CheckedEvent,
    auth_events: Sequence[Event],
    rejected_ids: Collection[EventID],
    create: Event | None,
) -> str | None:
    event = checked.event
    if not checked.is_vouched_for:
        return f"{rule_number(version, '5.2.1')}: the server of the authorising user has not signed"
    if tuple(auth_event.event_id for auth_event in auth_events) != event.auth_event_ids:
        return "an auth event is missing"
    if event.type == CREATE[0] and create is not None and create != event:
        # The rules let a second one pass that names no prev event, but nothing can come of it.
        return "the room has another create event"
    try:
        check_state_independent(version, event, auth_events, rejected_ids, create)
    except AuthRuleBroken as broken:
        return f"{broken.rule}: {broken.message}"
    cited = {(each.type, each.state_key): each for each in auth_events if each.state_key is not None}
    return _fault_by_state(version, event, cited, create)


def _fault_by_state(version: RoomVersion, event: Event, state: StateView, create: Event | None) -> str | None:
    if create is None:
        create = event if event.type == CREATE[0] else state.get(CREATE)
    if create is None:
        return "the room has no create event"
    try:
        check_state_dependent(version, event, state, create)
    except AuthRuleBroken as broken:
        return f"{broken.rule}: {broken.message}"
    return None
