"""Judging a stored event anew: by what it cites, and by the state before it.

Spec: server-server API, "Checks performed on receipt of a PDU", 4 and 5. Soft failure (6) is about a moment that is
gone, and is not judged again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from homeserver.errors import AuthRuleBroken
from homeserver.model.auth.needed import CREATE, needed_state
from homeserver.model.auth.rules import check_state_dependent, check_state_independent
from homeserver.model.event import Event, StateKey
from homeserver.model.event_format import event_from_wire
from homeserver.model.redaction import redact
from homeserver.model.room_versions import RoomVersion
from storage.events import Flag
from storage.inspection import EventRow

from .report import Report, RoomFindings
from .resolving import Resolver
from .states import EMPTY, State
from .stored_events import Known, StoredEvents


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


class _CannotJudge(Exception):
    """Something that the rules look at is not stored, or cannot be read."""


class Verdicts:
    """Judges the events of one room, in the order of the walk."""

    def __init__(
        self,
        version: RoomVersion,
        events: StoredEvents,
        resolver: Resolver,
        create: Known | None,
        found: RoomFindings,
        report: Report,
    ) -> None:
        self._version = version
        self._events = events
        self._resolver = resolver
        self._create = create
        self._found = found
        self._report = report
        self._first_create: str | None = None

    def check(self, row: EventRow, known: Known, cited_nids: Sequence[int | None], before: State | None) -> None:
        """Compare the verdict on an event; `cited_nids` are its auth events, None for what is not stored."""
        by_nid = self._events.get([nid for nid in cited_nids if nid is not None])
        cited = [by_nid[nid] for nid in cited_nids if nid is not None and nid in by_nid]
        event = known.event
        is_rejected = bool(row.flags & Flag.REJECTED)
        try:
            if len(cited) < len(cited_nids):
                raise _CannotJudge
            broken, by = self._why_not(event, cited, before)
            if is_rejected != (broken is not None) and any(each.is_redacted for each in cited):
                # Redaction keeps what the rules look at, nearly; which form they were shown depends on what came first.
                again, _ = self._why_not(event, [self._as_redacted(each) for each in cited], before)
                broken = again if is_rejected == (again is not None) else broken
        except _CannotJudge:
            # What is missing or cannot be read is told by itself.
            self._report.unknown_auth += 1
            return
        if event.type == "m.room.create" and broken is None:
            self._first_create = self._first_create or event.event_id
            if self._first_create != event.event_id:
                broken = AuthRuleBroken("1", "the room has a create event")
        if is_rejected != (broken is not None):
            expected = "accepted" if broken is None else f"rejected by {by} (rule {broken.rule}: {broken.message})"
            self._found.differs(row.event_id, "verdict", expected, "rejected" if is_rejected else "accepted")

    def _why_not(self, event: Event, cited: Sequence[Known], before: State | None) -> tuple[AuthRuleBroken | None, str]:
        """Return the rule that refuses an event, None if none does, and by what it refuses."""
        if self._version.room_id_is_create_hash and self._create is None and event.type != "m.room.create":
            raise _CannotJudge
        broken = why_not_by_citation(self._version, event, cited, self._create)
        if broken is not None or before is None:
            return broken, "what it cites"
        if before is EMPTY and event.type != "m.room.create":
            return AuthRuleBroken("1", "it builds on nothing, or on what does"), "its place"
        by_id = {each.event.event_id: each.event for each in cited}
        state = {key: by_id.get(each.event_id, each) for key, each in self._needed(event, before).items()}
        # In a line the state before an event is what it cites, and need not be asked twice.
        if state == {(each.event.type, each.event.state_key or ""): each.event for each in cited}:
            return None, ""
        return why_not_by_state(self._version, event, state, self._create), "the state before it"

    def _as_redacted(self, known: Known) -> Known:
        if not known.is_redacted:
            return known
        event = known.event
        wire = redact(self._version, event.wire)
        return replace(known, event=event_from_wire(self._version, wire, event.event_id, event.room_id))

    def _needed(self, event: Event, state: State) -> dict[StateKey, Event]:
        keys = needed_by(self._version, event)
        wanted = {key: nid for key in keys if (nid := state.get(self._resolver.key_nid(key))) is not None}
        known = self._events.get(wanted.values())
        if len(known) < len({*wanted.values()}):
            raise _CannotJudge
        return {key: known[nid].event for key, nid in wanted.items()}
