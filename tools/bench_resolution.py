"""Print what state resolution costs, in milliseconds: `python tools/bench_resolution.py [members]`.

The rooms are built in memory, of events that nobody signed.  `resolve` is timed with the conflict given, as storage
gives it from its indexes; `resolve_states` with everything found by walking.  The first run reads the
contents of events, which the best of several finds remembered.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from homeserver.model.auth.needed import needed_state
from homeserver.model.event import Event, StateKey
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.resolution.conflicts import Conflict, conflict_of
from homeserver.model.resolution.resolve import resolve, resolve_states
from homeserver.model.room_versions import V11, V12, RoomVersion

ALICE: Final = UserID("@alice:a.example")
ROOM_ID: Final = RoomID("!room:a.example")
POWER_LEVELS: Final[StateKey] = ("m.room.power_levels", "")
State = dict[StateKey, EventID]


class Room:
    """A room of Alice's, and the state after its last event."""

    def __init__(self, version: RoomVersion, members: int) -> None:
        self.version = version
        self.events: dict[EventID, Event] = {}
        self.state: State = {}
        self._numbers: Iterator[int] = itertools.count(1)
        self.create = self.send(self.state, "m.room.create", ALICE, "", {"creator": ALICE, "room_version": "11"})
        self.join(self.state, ALICE)
        self.moderators = [UserID(f"@moderator{number}:m.example") for number in range(20)]
        users = {moderator: 50 for moderator in self.moderators}
        self.levels: dict[str, Any] = {"users": users if version.privileged_creators else {ALICE: 100, **users}}
        self.send(self.state, "m.room.power_levels", ALICE, "", self.levels)
        self.send(self.state, "m.room.join_rules", ALICE, "", {"join_rule": "public"})
        for moderator in self.moderators:
            self.join(self.state, moderator)
        for number in range(members):
            self.join(self.state, UserID(f"@user{number}:s{number % 500}.example"))

    def join(self, state: State, user_id: UserID, name: str = "") -> None:
        self.send(state, "m.room.member", user_id, user_id, {"membership": "join", "displayname": name})

    def send(self, state: State, event_type: str, sender: UserID, state_key: str, content: Mapping[str, Any]) -> Event:
        """Put an event into the state that is passed."""
        needed = needed_state(self.version, type=event_type, sender=sender, state_key=state_key, content=content)
        number = next(self._numbers)
        event = Event(
            event_id=EventID(f"$e{number:042}"),
            room_id=ROOM_ID,
            type=event_type,
            sender=sender,
            content=content,
            state_key=state_key,
            depth=number,
            origin_server_ts=number,
            prev_event_ids=() if event_type == "m.room.create" else (EventID("$prev"),),
            auth_event_ids=tuple(state[key] for key in needed if key in state),
            wire={},
        )
        self.events[event.event_id] = event
        state[event_type, state_key] = event.event_id
        return event


def two_forks(room: Room, differing: int) -> list[State]:
    """Two branches that differ in so many events: members, bans, kicks, names, topics and power."""
    forks = [dict(room.state), dict(room.state)]
    for number in range(differing):
        state = forks[number % 2]
        target = UserID(f"@user{number // 2}:s{number // 2 % 500}.example")
        moderator = room.moderators[number % len(room.moderators)]
        kind = number // 2 % 10
        if kind < 6:
            room.join(state, target, f"name {number}")
        elif kind < 8:
            membership = "ban" if number % 2 else "leave"
            room.send(state, "m.room.member", moderator, target, {"membership": membership})
        elif kind == 8:
            room.send(state, "org.example.state", moderator, str(number), {})
        else:
            room.send(state, "m.room.power_levels", ALICE, "", {**room.levels, "events": {"x": number}})
    return forks


def many_forks(room: Room, count: int, change: Callable[[Room, State, int], object]) -> list[State]:
    forks = []
    for number in range(count):
        state = dict(room.state)
        change(room, state, number)
        forks.append(state)
    return forks


def long_mainline(room: Room, length: int) -> list[State]:
    """Two branches whose events are of all times of a room with so many changes of power."""
    early, late = dict(room.state), dict(room.state)
    for number in range(length):
        room.send(room.state, "m.room.power_levels", ALICE, "", {**room.levels, "events": {"x": number % 90}})
        late[POWER_LEVELS] = room.state[POWER_LEVELS]
        if number % max(1, length // 200) == 0:
            old = dict(room.state)
            for side in (early, late):
                room.send(old, "org.example.state", ALICE, str(number), {"number": number})
                side["org.example.state", str(number)] = old["org.example.state", str(number)]
    early[POWER_LEVELS] = late[POWER_LEVELS]
    return [early, late]


def report(name: str, room: Room, forks: list[State], *, whole: bool = True) -> None:
    conflict: Conflict = conflict_of(room.version, forks, room.events)
    counted = len(conflict.full_conflicted_set)
    first = best(lambda: resolve(room.version, conflict, room.events, create=room.create), runs=1)
    given = best(lambda: resolve(room.version, conflict, room.events, create=room.create))
    walked = best(lambda: resolve_states(room.version, forks, room.events, create=room.create), runs=1)
    algorithm = room.version.state_resolution.value
    times = f"{first:>9.1f} ms first {given:>9.1f} ms best {walked:>9.1f} ms whole"
    print(f"v{algorithm:<4}{name:<46}{counted:>7} events {times}", flush=True)


def best(call: Callable[[], object], runs: int = 5) -> float:
    times = []
    for _ in range(runs):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return min(times) * 1000


def main() -> None:
    members = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    for version in (V11, V12):
        room = Room(version, members)
        report(f"2 forks, 200 events, {members} members", room, two_forks(room, 200))
        report(f"2 forks, 2000 events, {members} members", room, two_forks(room, 2000))
        room = Room(version, 100)
        joins = many_forks(room, 500, lambda r, state, n: r.join(state, UserID(f"@new{n}:n.example")))
        report("500 forks, a join in each", room, joins)
        topics = many_forks(room, 500, lambda r, state, n: r.send(state, "m.room.topic", ALICE, "", {"topic": str(n)}))
        report("500 forks, a topic in each", room, topics)
        power = many_forks(
            room,
            500,
            lambda r, state, n: r.send(state, *POWER_LEVELS[:1], ALICE, "", {**r.levels, "events": {"x": n % 90}}),
        )
        report("500 forks, a change of power in each", room, power)
        for length in (10_000, 100_000):
            room = Room(version, 10)
            report(f"mainline of {length}", room, long_mainline(room, length))


if __name__ == "__main__":
    main()
