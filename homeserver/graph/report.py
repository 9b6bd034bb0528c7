"""What a check finds: differences between what is stored and what follows from the events, and counts of what was done.

A difference is a value with the room, the event where there is one, and two texts: what was expected and what is
stored; or one, a sentence, where that says it better. Of what a single fault can bring about many times, the first few
are told, and how many more there are. Everything in them may come from other servers, so `line` writes it with nothing
that a terminal would obey.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from homeserver.model.graph_drawing import plain
from storage.inspection import is_disconnection

# LIMIT: a room that is wrong from the start on differs at every event; more than these are only counted.
MAX_DIFFERENCES: Final = 1_000
_MAX_TEXT: Final = 300
# LIMIT: differences of one kind that are told one by one, of kinds that come in numbers.
MAX_OF_A_KIND: Final = 5


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is stored otherwise than it should be; `aspect` is a word or two that say what.

    With `expected` None, `stored` is a sentence. `times` is how many there are where they are told together.
    """

    room_id: str
    event_id: str | None
    aspect: str
    expected: str | None
    stored: str
    times: int = 1

    def line(self) -> str:
        """Return one line of printable text."""
        event = f" {plain(self.event_id, _MAX_TEXT)}" if self.event_id is not None else ""
        place = f"{plain(self.room_id, _MAX_TEXT)}{event} {plain(self.aspect, _MAX_TEXT)}: "
        if self.expected is None:
            return place + plain(self.stored, _MAX_TEXT)
        return f"{place}expected {plain(self.expected, _MAX_TEXT)}, stored {plain(self.stored, _MAX_TEXT)}"


@dataclass(slots=True)
class Report:
    """What was checked of one or more rooms, and what differs."""

    differences: list[Difference] = field(default_factory=list)
    # Beyond the bound of a room.
    further: int = 0
    rooms: int = 0
    # Of these, those whose members are not all known yet.
    partial_rooms: int = 0
    events: int = 0
    signatures: int = 0
    # Signatures by keys that are not known here.
    unknown_keys: int = 0
    # Redacted events, whose content hash is of what they were.
    unknown_hashes: int = 0
    resolutions: int = 0
    # States that follow from events that are not stored here, or that another server told, and were taken as they are.
    taken_states: int = 0
    # Events that cite what is not stored here.
    unknown_auth: int = 0

    @property
    def found(self) -> int:
        """How many differences there are, told or not."""
        return sum(difference.times for difference in self.differences) + self.further

    @property
    def is_sound(self) -> bool:
        """Whether nothing differs."""
        return not self.differences and not self.further

    def add(self, other: Report) -> None:
        """Take in the counts of another report; of its differences only how many there are."""
        self.further += other.found
        self.rooms += other.rooms
        self.partial_rooms += other.partial_rooms
        self.events += other.events
        self.signatures += other.signatures
        self.unknown_keys += other.unknown_keys
        self.unknown_hashes += other.unknown_hashes
        self.resolutions += other.resolutions
        self.taken_states += other.taken_states
        self.unknown_auth += other.unknown_auth

    def lines(self) -> Iterator[str]:
        """Yield a line for each difference."""
        for difference in self.differences:
            yield difference.line()
        if self.further:
            yield f"and {self.further} more"

    def summary(self, seconds: float) -> str:
        """Return one line with the counts."""
        found = self.found
        parts = [
            _count(self.rooms, "room"),
            f"{self.partial_rooms} of them without all members yet" if self.partial_rooms else "",
            _count(self.events, "event"),
            f"{_count(self.signatures, 'signature')} checked",
            f"{_count(self.unknown_keys, 'signature')} not checked (keys not known)" if self.unknown_keys else "",
            f"{_count(self.unknown_hashes, 'content hash', 'es')} not checked (redacted)"
            if self.unknown_hashes
            else "",
            f"{_count(self.resolutions, 'fork')} resolved" if self.resolutions else "",
            f"{_count(self.taken_states, 'state')} taken as stored (events before are not here)"
            if self.taken_states
            else "",
            f"{_count(self.unknown_auth, 'event')} not judged (auth events are not here)" if self.unknown_auth else "",
            f"{_count(found, 'difference')}" if found else "no differences",
            f"{seconds:.1f} s",
        ]
        return ", ".join(part for part in parts if part)


class RoomFindings:
    """Takes the differences of one room, or of the database, into a report."""

    def __init__(self, report: Report, room_id: str) -> None:
        self._report = report
        self._room_id = room_id
        self._taken = 0
        self._kinds: dict[str, tuple[int, str]] = {}

    def differs(self, event_id: str | None, aspect: str, expected: object, stored: object) -> None:
        """Note a difference; the room's, where `event_id` is None."""
        self._take(Difference(self._room_id, event_id, aspect, str(expected), str(stored)))

    def tells(self, event_id: str | None, aspect: str, sentence: str, *, kind: str = "") -> None:
        """Note a difference as a sentence; those of one `kind`, where it is given, only a few times."""
        if kind:
            count, _ = self._kinds.get(kind, (0, ""))
            self._kinds[kind] = count + 1, aspect
            if count >= MAX_OF_A_KIND:
                return
        self._take(Difference(self._room_id, event_id, aspect, None, sentence))

    def close(self) -> None:
        """Note how many more there are of what is told a few times only."""
        for count, aspect in self._kinds.values():
            further = count - MAX_OF_A_KIND
            if further > 0:
                self._take(Difference(self._room_id, None, aspect, None, f"and {further} more like this", further))
        self._kinds.clear()

    def fails(self, event_id: str | None, aspect: str, fault: Exception) -> None:
        """Note that something could not be checked: nothing stored may keep the rest from being checked.

        Raises the fault again if it is the connection to the database that is gone.
        """
        if is_disconnection(fault):
            raise fault
        text = f"{type(fault).__name__}: {fault}"
        self.tells(event_id, aspect, f"cannot be checked, because what is stored is odd ({text})", kind=aspect)

    def _take(self, difference: Difference) -> None:
        self._taken += 1
        if self._taken > MAX_DIFFERENCES:
            self._report.further += difference.times
        else:
            self._report.differences.append(difference)


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"
