"""Judging a stored event anew: by what it cites, and by the state before it.

Spec: server-server API, "Checks performed on receipt of a PDU", 4 and 5. Soft failure (6) is about a moment that is
gone, and is not judged again.
"""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.errors import AuthRuleBroken
from homeserver.model.auth.needed import CREATE, needed_state
from homeserver.model.auth.rules import check_state_dependent, check_state_independent
from homeserver.model.event import Event, StateKey
from homeserver.model.room_versions import RoomVersion

from .stored_events import Known


def why_not_by_citation(
    version: RoomVersion, event: Event, cited: Sequence[Known], create: Known | None
) -> AuthRuleBroken | None:
    """Return the rule that refuses an event because of itself or its auth events, None if none does."""
    rejected = {known.event.event_id for known in cited if known.is_rejected}
    if create is not None and create.is_rejected:
        rejected.add(create.event.event_id)
    try:
        check_state_independent(
            version,
            event,
            [known.event for known in cited],
            rejected,
            None if create is None else create.event,
        )
    except AuthRuleBroken as broken:
        return broken
    state = {(known.event.type, known.event.state_key or ""): known.event for known in cited}
    return why_not_by_state(version, event, state, create)


def why_not_by_state(
    version: RoomVersion, event: Event, state: dict[StateKey, Event], create: Known | None
) -> AuthRuleBroken | None:
    """Return the rule that refuses an event in a state, None if none does."""
    if event.type == "m.room.create":
        create_event: Event | None = event
    else:
        create_event = state.get(CREATE) if create is None else create.event
    if create_event is None:
        return AuthRuleBroken("3", "there is no create event")
    try:
        check_state_dependent(version, event, state, create_event)
    except AuthRuleBroken as broken:
        return broken
    return None


def needed_by(version: RoomVersion, event: Event) -> tuple[StateKey, ...]:
    """Return the keys of the state that the rules look at."""
    return needed_state(version, type=event.type, sender=event.sender, state_key=event.state_key, content=event.content)
