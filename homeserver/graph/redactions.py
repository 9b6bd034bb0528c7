"""Which redactions apply, as it follows from the graph, against what is stored of each event.

An event is redacted by the first redaction to come that may redact it. Which of several came first is not asked: it
must be one of those that may, and there must be one if there is any. A redaction that is kept back as redacting nothing
(`INERT`) redacts nothing, and one that was refused does not either. Events that were refused, or have no place, are
redacted or not as it came.

Spec: rooms/v3, "Handling redactions".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from homeserver.model.auth.needed import POWER_LEVELS
from homeserver.model.content.power_levels import PowerLevels
from homeserver.model.event import Event
from homeserver.model.redaction_rules import may_redact
from homeserver.model.room_versions import RoomVersion
from storage.events import HIDDEN, Flag
from storage.inspection import EventRow
from storage.transaction import chunks

from .report import RoomFindings
from .resolving import Resolver
from .states import State
from .stored_events import Known, StoredEvents

# LIMIT: redactions of one event that are remembered.
MAX_OF_ONE: Final = 50
_REFUSED: Final = int(Flag.REJECTED | Flag.OUTLIER)


@dataclass(frozen=True, slots=True)
class _Redaction:
    nid: int
    # The power levels event of the state at the redaction.
    levels_nid: int | None
    is_state_known: bool


class Redactions:
    """Collects the redactions of a room while its graph is walked, and compares in the end."""

    def __init__(self, version: RoomVersion, events: StoredEvents, resolver: Resolver, found: RoomFindings) -> None:
        self._version = version
        self._events = events
        self._resolver = resolver
        self._found = found
        # By the ID of what they redact: those that would be seen to redact it.
        self._of: dict[str, list[_Redaction]] = {}
        # Event -> what is stored as its redaction.
        self._stored: dict[int, int] = {}

    def walk(self, row: EventRow, known: Known | None, after: State | None) -> None:
        """Take the next event of the walk, with the state after it where it can be told."""
        if row.redacted_by is not None:
            self._stored[row.nid] = row.redacted_by
        if known is None or known.event.type != "m.room.redaction" or known.flags & HIDDEN:
            return
        target_id = known.event.redacts
        if target_id is None or target_id == known.event.event_id:
            return
        levels_nid = None if after is None else after.get(self._resolver.key_nid(POWER_LEVELS))
        several = self._of.setdefault(target_id, [])
        if len(several) < MAX_OF_ONE:
            several.append(_Redaction(known.nid, levels_nid, after is not None))

    def compare(self, create: Event | None) -> None:
        """Tell what is redacted and should not be, and the other way round; `create` is the room's create event."""
        numbers: dict[str, int] = {}
        for ids in chunks(self._of):
            numbers.update(self._events.numbers(ids))
        redactions = {numbers[event_id]: several for event_id, several in self._of.items() if event_id in numbers}
        for part in chunks(sorted({*redactions, *self._stored})):
            targets = self._events.get(part)
            for nid in part:
                target = targets.get(nid)
                # What cannot be read is told where it is looked at itself.
                if target is not None:
                    try:
                        self._compare_one(target, redactions.get(nid, ()), create)
                    except Exception as fault:
                        self._found.fails(target.event.event_id, "redaction", fault)

    def _compare_one(self, target: Known, redactions: list[_Redaction] | tuple[()], create: Event | None) -> None:
        event_id, stored_nid = target.event.event_id, self._stored.get(target.nid)
        applying = [each.nid for each in redactions if self._applies(each, target, create) is not False]
        if stored_nid is None:
            sure = [each.nid for each in redactions if self._applies(each, target, create)]
            if sure and not target.flags & _REFUSED:
                self._found.differs(event_id, "redaction", f"by {self._name(sure[0])}", "none")
        elif stored_nid not in applying and len(redactions) < MAX_OF_ONE:
            expected = f"by {self._name(applying[0])}" if applying else "none"
            why = self._why_not(stored_nid, target)
            if why:
                self._found.differs(event_id, "redaction", expected, f"by {self._name(stored_nid)}, {why}")

    def _applies(self, redaction: _Redaction, target: Known, create: Event | None) -> bool | None:
        """Tell whether a redaction applies to what it names; None if that cannot be told."""
        known = self._events.find(redaction.nid)
        if known is None or not redaction.is_state_known or create is None:
            return None
        levels_event = self._events.find(redaction.levels_nid)
        if levels_event is None and redaction.levels_nid is not None:
            return None
        levels = PowerLevels.from_events(self._version, create, None if levels_event is None else levels_event.event)
        return may_redact(self._version, known.event, target.event, levels)

    def _why_not(self, nid: int, target: Known) -> str:
        """Return why a stored redaction redacts nothing; nothing if it cannot be read, which is told elsewhere."""
        known = self._events.find(nid)
        if known is None:
            return "" if self._events.read_rows((nid,)) else "which is no event of the room"
        if known.event.type != "m.room.redaction" or known.event.redacts != target.event.event_id:
            return "which does not name it"
        if known.flags & Flag.INERT:
            return "which is kept back as redacting nothing"
        if known.flags & HIDDEN:
            return "which was not accepted"
        return "whose sender may not redact it"

    def _name(self, nid: int) -> str:
        return self._resolver.ids((nid,)).get(nid) or f"event number {nid}"
