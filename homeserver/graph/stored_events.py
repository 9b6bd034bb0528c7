"""Events of one room by number or ID, read when they are asked for and kept within a bound.

They come as they were sent, whether redacted since or not: so the rules saw them, and so they are hashed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from homeserver.model.event import Event
from homeserver.model.event_format import event_from_wire
from homeserver.model.event_json import load_event
from homeserver.model.ids import EventID, RoomID
from homeserver.model.room_versions import RoomVersion
from storage.events import Flag
from storage.inspection import EventRow, find_event_nids, read_events
from storage.transaction import Transaction

# LIMIT: events that are kept in memory, at about 4 KiB each.
MAX_KEPT: Final = 10_000
MAX_NUMBERS: Final = 200_000


@dataclass(frozen=True, slots=True)
class Known:
    """An event that can be read, with what the server has decided about it."""

    event: Event
    nid: int
    key_nid: int | None
    sender_nid: int
    flags: int
    is_redacted: bool

    @property
    def is_rejected(self) -> bool:
        return bool(self.flags & Flag.REJECTED)


class StoredEvents:
    """The events of one room."""

    def __init__(self, tx: Transaction, room_nid: int, room_id: str, version: RoomVersion) -> None:
        self.version = version
        self._tx = tx
        self._room_nid = room_nid
        self._room_id = RoomID(room_id)
        self._kept: OrderedDict[int, Known] = OrderedDict()
        self._nids: OrderedDict[str, int] = OrderedDict()

    def read_rows(self, nids: Iterable[int]) -> dict[int, EventRow]:
        """Return the rows of these events."""
        return read_events(self._tx, self._room_nid, nids)

    def numbers(self, event_ids: Iterable[str]) -> dict[str, int]:
        """Return the numbers of those of these events that are stored in this room."""
        found = {event_id: nid for event_id in event_ids if (nid := self._nids.get(event_id)) is not None}
        missing = [event_id for event_id in set(event_ids) if event_id not in found]
        if missing:
            # What is no Unicode text is no ID of a stored event, and cannot be asked for.
            missing = [event_id for event_id in missing if _is_text(event_id)]
            fresh = find_event_nids(self._tx, self._room_nid, missing)
            self.note(fresh.items())
            found.update(fresh)
        return found

    def note(self, named: Iterable[tuple[str, int]]) -> None:
        """Remember the numbers of events."""
        self._nids.update(named)
        while len(self._nids) > MAX_NUMBERS:
            self._nids.popitem(last=False)

    def take(self, row: EventRow, wire: Mapping[str, Any]) -> Known:
        """Return the event of a row whose format was checked, and keep it if others may cite it."""
        event = event_from_wire(self.version, wire, EventID(row.event_id), self._room_id)
        known = Known(event, row.nid, row.key_nid, row.sender_nid, row.flags, row.redacted_by is not None)
        if row.key_nid is not None:
            self._keep(known)
        return known

    def get(self, nids: Iterable[int]) -> dict[int, Known]:
        """Return those of these events that are in this room and can be read."""
        found: dict[int, Known] = {}
        missing: list[int] = []
        for nid in nids:
            known = self._kept.get(nid)
            if known is None:
                missing.append(nid)
            else:
                self._kept.move_to_end(nid)
                found[nid] = known
        if missing:
            for nid, row in self.read_rows(missing).items():
                fresh = self._parse(row)
                if fresh is not None:
                    found[nid] = fresh
                    self._keep(fresh)
        return found

    def find(self, nid: int | None) -> Known | None:
        """Return one event."""
        return None if nid is None else self.get((nid,)).get(nid)

    def _parse(self, row: EventRow) -> Known | None:
        try:
            return self.take(row, load_event(self.version, row.json))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            # Told where it is checked itself.
            return None

    def _keep(self, known: Known) -> None:
        self._kept[known.nid] = known
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)


def _is_text(event_id: str) -> bool:
    try:
        event_id.encode()
    except UnicodeEncodeError:
        return False
    return True


class EventsByID(Mapping[EventID, Event]):
    """The events of a room as state resolution asks for them: by ID, one at a time."""

    def __init__(self, events: StoredEvents) -> None:
        self._events = events

    def __getitem__(self, event_id: EventID) -> Event:
        nid = self._events.numbers((event_id,)).get(event_id)
        known = self._events.find(nid)
        if known is None:
            raise KeyError(event_id)
        return known.event

    def __iter__(self) -> Iterator[EventID]:
        raise TypeError("the events of a room are not listed")

    def __len__(self) -> int:
        raise TypeError("the events of a room are not counted")
