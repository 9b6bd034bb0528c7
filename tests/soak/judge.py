"""The judge: is what a client was told of a room exactly the room's history while its user was in it?

`Hall` is a room as a member sees it who was there from the beginning: all of its events, in the server's order, and who
was joined at each. A journal is walked along it, event by event:

- The next told event is the next one of the history. Between them may only be what a filter left out.
- After the user has left, or where the user has left and joined since the last told event, the room is told anew: from
  the join or some events before it, without a hole from there on. Each join is told anew once.
- Only an initial sync may begin behind the join, and what is told of a room only when it is over, too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .journal import RoomJournal, Sieved, Told

_CONTEXT: Final = 4


@dataclass(slots=True)
class Hall:
    """A room and its whole history."""

    room_id: str
    events: Sequence[Mapping[str, Any]]
    is_shared: bool = True
    index: dict[str, int] = field(init=False)
    # By user: the places where the membership became or ceased to be `join`, and which it was.
    _turns: dict[str, list[tuple[int, bool]]] = field(init=False)

    def __post_init__(self) -> None:
        self.index = {event["event_id"]: place for place, event in enumerate(self.events)}
        self._turns = {}
        for place, event in enumerate(self.events):
            if event["type"] == "m.room.member":
                turns = self._turns.setdefault(event["state_key"], [])
                joined = event["content"].get("membership") == "join"
                if joined != (bool(turns) and turns[-1][1]):
                    turns.append((place, joined))

    def turns(self, user_id: str) -> list[tuple[int, bool]]:
        return self._turns.get(user_id, [])

    def is_joined_at(self, user_id: str, place: int) -> bool:
        """Tell whether the user was joined just after the event at `place`."""
        turns = self.turns(user_id)
        found = bisect_right(turns, (place, True))
        return found > 0 and turns[found - 1][1]

    def may_see(self, user_id: str, place: int) -> bool:
        """Tell whether a user who is joined later may see the event."""
        event = self.events[place]
        is_own = event["type"] == "m.room.member" and event["state_key"] == user_id
        return self.is_shared or is_own or (place > 0 and self.is_joined_at(user_id, place - 1))


@dataclass(slots=True)
class _Walk:
    """A place in the history, and what is owed there."""

    hall: Hall
    user_id: str
    # The place of the next event that has to be told; None: of nothing was told yet.
    expected: int | None = None
    # Of the user's joins, those up to here have been told.
    joins_told: int = -1
    # The last told event of the user's own was a leave.
    is_out: bool = False
    # What is told now is justified only by one of the user's own memberships, which has to come in it.
    owes_turn: str | None = None
    is_limited: bool = False
    is_initial: bool = False
    # Types that may have been left out since the last told event, and that may be now.
    sieve: frozenset[str] = frozenset()
    active: frozenset[str] = frozenset()

    def take(self, event_id: str) -> str | None:
        """Go on to an event that was told; returns what is wrong with that."""
        place = self.hall.index.get(event_id)
        if place is None:
            return "told of an event that is not in the history"
        if self.expected is not None and place >= self.expected and self._nothing_between(self.expected, place):
            if self.is_out:
                self.owes_turn = self.owes_turn or f"told of place {place}, when the user had left"
        else:
            fault = self.owes_turn or self._begin_anew(place)
            if fault is not None:
                return fault
        self.expected = place + 1
        self.sieve = self.active
        event = self.hall.events[place]
        if event["type"] == "m.room.member" and event["state_key"] == self.user_id:
            if event["content"].get("membership") == "join":
                self.joins_told = max(self.joins_told, place)
                self.is_out, self.owes_turn = False, None
            elif self.hall.is_joined_at(self.user_id, place - 1):
                # What is told of a time that is over already may be its end.
                self.is_out = True
                if self.is_limited:
                    self.owes_turn = None
        return None

    def find_lack(self) -> str | None:
        """Say what is missing at the end of the history."""
        stop = len(self.hall.events)
        is_in = self.hall.is_joined_at(self.user_id, stop - 1)
        if self.expected is None:
            return "never told of this room" if is_in else None
        if self.is_out:
            later = [at for at, joined in self.hall.turns(self.user_id) if joined and at >= self.expected]
            return f"never told of the join at {later[-1]}" if is_in and later else None
        if not is_in:
            return f"never told of the leave, {stop - self.expected} before the end"
        if not self._nothing_between(self.expected, stop):
            return f"ends before place {self.expected}, of {stop}"
        return None

    def _nothing_between(self, start: int, stop: int) -> bool:
        return all(
            self.hall.events[place]["type"] in self.sieve or not self.hall.may_see(self.user_id, place)
            for place in range(start, stop)
        )

    def _begin_anew(self, place: int) -> str | None:
        turns = self.hall.turns(self.user_id)
        is_in = place > 0 and self.hall.is_joined_at(self.user_id, place - 1)
        if not self.is_initial and not any(joined and at > self.joins_told for at, joined in turns):
            where = "nothing" if self.is_out else f"place {self.expected}"
            return f"told of place {place} where {where} was to come"
        if not self.is_limited and not self._nothing_between(0, place):
            return f"told of place {place}, and not that something is before it"
        if self.is_initial and is_in:
            self.joins_told = max(at for at, joined in turns if joined and at < place)
        else:
            self.owes_turn = f"told anew from place {place} to {{}} without a join in it, instead of {self.expected}"
        self.is_out = False
        return None


def judge(journal: RoomJournal, hall: Hall, user_id: str, *, to_the_end: bool) -> str | None:
    """Return the first difference between a journal and the history, with its surroundings; None if there is none.

    `to_the_end`: the journal goes up to the end of the history.
    """
    walk = _Walk(hall, user_id)
    for number, entry in enumerate(journal.entries):
        match entry:
            case Told(limited, initial):
                walk.is_limited, walk.is_initial = limited, initial
            case Sieved(types):
                walk.active = types
                walk.sieve |= types
            case str():
                fault = walk.take(entry)
                if fault is not None:
                    return _told(fault.format(walk.expected), journal, hall, user_id, number)
    fault = walk.owes_turn or (walk.find_lack() if to_the_end else None)
    if fault is None:
        return None
    return _told(fault.format(walk.expected), journal, hall, user_id, len(journal.entries))


def _told(fault: str, journal: RoomJournal, hall: Hall, user_id: str, number: int) -> str:
    lines = [fault, "  told:"]
    for at in range(max(0, number - _CONTEXT), min(len(journal.entries), number + _CONTEXT)):
        entry = journal.entries[at]
        where = f"{hall.index.get(entry)}: {entry}" if isinstance(entry, str) else repr(entry)
        lines.append(f"  {'>' if at == number else ' '} {where}")
    before = [
        hall.index[each] for each in journal.entries[: number + 1] if isinstance(each, str) and each in hall.index
    ]
    for place in sorted({*before[-2:], *(at for at, _ in hall.turns(user_id)[-1:])}):
        lines.append(f"  history around {place}:")
        for at in range(max(0, place - _CONTEXT), min(len(hall.events), place + _CONTEXT + 1)):
            event = hall.events[at]
            what = str(event["content"].get("body", event["content"]))[:60]
            lines.append(f"    {at}: {event['event_id']} {event['type']} {event['sender']} {what}")
    return "\n".join(lines)
