"""Measures the index over the auth graph in large rooms, on SQLite and, where it is installed, MariaDB.

    python tools/bench_auth_index.py [sqlite|mariadb]...

Each room has 50,000 members and 100,000 power levels in one chain. What is measured has not been read before by the
functions; the database has it in memory. Best of three.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sqlalchemy import func, select  # noqa: E402

from storage.auth_index import (  # noqa: E402
    NewAuthEvent,
    add,
    auth_chain,
    auth_difference,
    conflicted_subgraph,
)
from storage.database import _engine, parse_url  # noqa: E402
from storage.schema import migrate  # noqa: E402
from storage.tables.auth_chains import auth_links  # noqa: E402
from storage.transaction import Transaction  # noqa: E402
from tests.support.databases import shared_mariadb  # noqa: E402

MEMBERS = 50_000
LEVELS = 100_000
CREATE, POWER_LEVELS, JOIN_RULES, ADMIN, OTHER_ADMIN = 1, 2, 3, 4, 5
FIRST_USER = 1_000


class Room:
    """Makes the events of a room; `state` is the number of the event of each key."""

    def __init__(self, tx: Transaction, first: int) -> None:
        self.tx = tx
        self.next = first
        self.state: dict[int, int] = {}
        self.new: list[NewAuthEvent] = []

    def send(self, key: int, *cited: int, state: dict[int, int] | None = None) -> int:
        """Send a state event that cites the current create event, power levels and these keys."""
        now = self.state if state is None else state
        keys = dict.fromkeys((CREATE, POWER_LEVELS, *cited))
        nid = self.next
        self.next += 1
        self.new.append(NewAuthEvent(nid, key, tuple(now[each] for each in keys if each in now)))
        now[key] = nid
        if len(self.new) == 500:
            self.store()
        return nid

    def store(self) -> None:
        """Write what was sent."""
        add(self.tx, self.new)
        self.new = []

    def found(self) -> None:
        """Send what every room begins with."""
        self.send(CREATE)
        self.send(ADMIN)
        self.send(POWER_LEVELS, ADMIN)
        self.send(JOIN_RULES, ADMIN)

    def join(self, user: int, state: dict[int, int] | None = None) -> int:
        """Let a user join, or change the name."""
        return self.send(FIRST_USER + user, JOIN_RULES, FIRST_USER + user, state=state)


def large_room(tx: Transaction, first: int) -> Room:
    """100,000 power levels, among them 50,000 joins."""
    room = Room(tx, first)
    room.found()
    for number in range(LEVELS):
        room.send(POWER_LEVELS, ADMIN)
        if number % 2:
            room.join(number // 2)
    room.store()
    return room


def measure(text: str, act: Callable[[], Any]) -> Any:
    """Print how long it takes, and return the result."""
    best = 1e9
    for _ in range(3):
        started = time.perf_counter()
        result = act()
        best = min(best, time.perf_counter() - started)
    print(f"  {text}: {best * 1000:.1f} ms, {len(result)} events")
    return result


def forks(text: str, states: list[dict[int, int]], tx: Transaction) -> None:
    """Measure what resolving these states asks of the index."""
    keys = {key for state in states for key in state if any(state[key] != other.get(key) for other in states[:2])}
    keys |= {key for state in states[2:] for key in state.keys() ^ states[0].keys()}
    keys |= {key for state in states[2:] for key, nid in state.items() if states[0].get(key) != nid}
    sets = [{state[key] for key in keys if key in state} for state in states]
    conflicted = set[int]().union(*sets)
    measure(f"{text} ({len(conflicted)} conflicted): difference", lambda: auth_difference(tx, sets, states[0]))
    measure(f"{text}: subgraph", lambda: conflicted_subgraph(tx, conflicted))


def run(tx: Transaction) -> None:
    """Measure everything on one database."""
    started = time.perf_counter()
    room = large_room(tx, 1)
    count = MEMBERS + LEVELS
    print(f"  adding {count} events, 500 at once: {(time.perf_counter() - started) / count * 1e6:.0f} µs each")
    print(f"  links: {tx.scalar(select(func.count()).select_from(auth_links)) / count:.2f} an event")
    alone: list[float] = []
    for number in range(200):
        new = NewAuthEvent(
            room.next, 900_000 + number, tuple(room.state[key] for key in (CREATE, POWER_LEVELS, JOIN_RULES))
        )
        room.next += 1
        started = time.perf_counter()
        add(tx, [new])
        alone.append(time.perf_counter() - started)
    print(f"  adding one join by itself: {sorted(alone)[100] * 1e6:.0f} µs")

    one, two = dict(room.state), dict(room.state)
    for number in range(100):
        room.join(number * 2, one)
        room.join(number * 2 + 1, two)
    room.store()
    forks("two forks, 100 users renamed in each", [one, two], tx)
    one, two = dict(room.state), dict(room.state)
    for number in range(100):
        room.send(POWER_LEVELS, ADMIN, state=one)
        room.send(FIRST_USER + number, ADMIN, FIRST_USER + number, state=one)
        room.send(10 + number, FIRST_USER + 30_000 + number, state=two)
    room.store()
    forks("two forks, 100 bans and power levels against 100 names", [one, two], tx)
    old = dict(room.state)
    old[POWER_LEVELS] = POWER_LEVELS + 1
    room.send(POWER_LEVELS, ADMIN, state=old)
    room.store()
    forks("a fork from before all power levels", [dict(room.state), old], tx)
    bare = {key: nid for key, nid in room.state.items() if key != FIRST_USER + 7}
    forks("a member that one fork lacks", [dict(room.state), bare], tx)
    many = []
    for number in range(500):
        state = dict(room.state)
        room.send(200 + number, FIRST_USER + number * 3, state=state)
        many.append(state)
    room.store()
    forks("500 forks, one event each", many, tx)
    many = []
    for number in range(500):
        state = dict(room.state)
        room.send(POWER_LEVELS, ADMIN, state=state)
        room.join(number * 3, state=state)
        many.append(state)
    room.store()
    forks("500 forks, power levels and a name each", many, tx)
    measure("auth chain of one member", lambda: auth_chain(tx, [room.state[FIRST_USER + 40_000]]))
    measure("auth chain of the state", lambda: auth_chain(tx, room.state.values()))
    hostile(tx, room.next + 10)


def hostile(tx: Transaction, first: int) -> None:
    """Rooms made to be slow."""
    room = Room(tx, first)
    room.found()
    half = None
    for number in range(100_000):
        room.send(POWER_LEVELS, ADMIN)
        room.send(ADMIN, ADMIN)
        if number == 50_000:
            half = dict(room.state)
    room.store()
    assert half is not None
    for _ in range(10):
        room.send(POWER_LEVELS, ADMIN, state=half)
    room.store()
    forks("100,000 names and power levels in turn, a fork from the middle", [dict(room.state), half], tx)
    new = [NewAuthEvent(room.next, ADMIN, tuple(room.state[key] for key in (CREATE, POWER_LEVELS, ADMIN)))]
    started = time.perf_counter()
    add(tx, new)
    print(f"  adding to that: {(time.perf_counter() - started) * 1e6:.0f} µs")

    room = Room(tx, room.next + 10)
    room.found()
    for number in range(3_000):
        room.send(FIRST_USER + number, *([FIRST_USER + number - 1] if number else [ADMIN]))
    one, two = dict(room.state), dict(room.state)
    room.send(10, FIRST_USER + 2_999, state=one)
    room.send(11, ADMIN, state=two)
    room.store()
    forks("a line of 3,000 invitations, a name by the last", [one, two], tx)
    measure("auth chain of the last", lambda: auth_chain(tx, [room.state[FIRST_USER + 2_999]]))


def urls(kinds: list[str], stack: ExitStack) -> Iterator[tuple[str, str]]:
    """Yield a name and an empty database for each kind."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sennit-bench-")))
    if "sqlite" in kinds:
        yield "SQLite", f"sqlite:///{folder / 'bench.db'}"
    if "mariadb" in kinds:
        server = shared_mariadb(folder / "mariadb", os.getpid())
        yield "MariaDB", stack.enter_context(server.fresh_database())


def main(kinds: list[str]) -> None:
    """Measure on the kinds of databases given."""
    with ExitStack() as stack:
        for name, url in urls(kinds or ["sqlite", "mariadb"], stack):
            print(name)
            engine = _engine(parse_url(url), 1)
            migrate(engine)
            with engine.begin() as connection:
                run(Transaction(connection, {}))
            engine.dispose()


if __name__ == "__main__":
    main(sys.argv[1:])
