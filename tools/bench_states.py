"""Measures stored state: bytes on disk, and how long states take to load, on SQLite and MariaDB.

    python -m tools.bench_states [--members N] [--changes N]

A room gets its members, then as many random changes of them, each a member event with signature and hashes. States are
loaded cold, at several places of the line; then 500 states of a fork at the line's unluckiest place.
MariaDB is a private one that ends with the program; without mariadbd only SQLite is measured.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import orjson
from sqlalchemy import text
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from homeserver.runtime.threads import Threads
from storage.database import Database
from storage.schema import migrate
from storage.state_groups import Chain, differing_keys, extend, load_chains, state_of, states_of
from storage.tables.rooms import state_groups
from storage.transaction import Transaction
from tests.support.databases import MariadbUnavailable, shared_mariadb

COLUMNS = ("state_group", "room_nid", "parent", "chain_index", "delta")
FORKS = 500
T = TypeVar("T")
Row = tuple[int, int, int | None, int, bytes]


def event_bytes(number: int) -> int:
    """Return the length of a member event as it is stored."""
    return len(
        orjson.dumps(
            {
                "auth_events": [f"${letter * 43}" for letter in "abc"],
                "content": {"displayname": f"Member {number}", "membership": "join"},
                "depth": number,
                "hashes": {"sha256": "h" * 43},
                "origin_server_ts": 1_700_000_000_000 + number,
                "prev_events": ["$" + "p" * 43],
                "room_id": "!" + "r" * 43,
                "sender": f"@member{number}:example.org",
                "signatures": {"example.org": {"ed25519:a_test": "s" * 86}},
                "state_key": f"@member{number}:example.org",
                "type": "m.room.member",
                "unsigned": {},
            }
        )
    )


def best_ms(function: Callable[[], Any], times: int = 7) -> tuple[float, float]:
    """Return the least and the middle time that a function took, in ms."""
    took = []
    for _ in range(times):
        started = time.perf_counter()
        function()
        took.append((time.perf_counter() - started) * 1000)
    took.sort()
    return took[0], took[times // 2]


def make_line(members: int, changes: int, unlucky: int) -> tuple[list[Row], list[Row], int]:
    """Return the rows of the room's line, those of a fork at change `unlucky`, and the bytes of all events."""
    chance = random.Random(1)
    chain: Chain = ()
    line: list[Row] = []
    forks: list[Row] = []
    total = 0
    for number in range(1, members + changes + 1):
        key = number if number <= members else chance.randint(1, members)
        total += event_bytes(key)
        new, chain = extend(chain, 1, number, {key: 1_000_000 + number})
        line.append(new.row())
        if number == unlucky:
            for fork in range(FORKS):
                group = 10_000_000 + fork
                side, _ = extend(chain, 1, group, {chance.randint(1, members): group}, is_side=True)
                forks.append(side.row())
    return line, forks, total


def make_forked_room(members: int, changes: int) -> tuple[int, int]:
    """Return the bytes of differences, and the longest chain, where every change is a fork of two that is resolved."""
    chance = random.Random(1)
    chain: Chain = ()
    group = stored = longest = 0
    for key in range(1, members + 1):
        group += 1
        new, chain = extend(chain, 1, group, {key: group})
    for _ in range(changes // 3):
        sides = []
        for _ in range(2):
            group += 1
            new, side = extend(chain, 1, group, {chance.randint(1, members): group}, is_side=True)
            stored += len(new.row()[4])
            sides.append((new, side))
        group += 1
        # What the other side set goes on top of the one.
        new, chain = extend(sides[0][1], 1, group, {chance.randint(1, members): group}, is_side=True)
        stored += len(new.row()[4])
        longest = max(longest, len(chain))
    return stored, longest


def measure_two_forks(members: int) -> None:
    """Print how long it takes to find where two lines of 100 changes differ, wherever in the room they part."""
    chance = random.Random(2)
    chain: Chain = ()
    worst = []
    watched = {1 << bit for bit in range(members.bit_length())} | {members, members * 3 // 4}
    for number in range(1, members + 1):
        _, chain = extend(chain, 1, number, {number: number})
        if number in watched:
            ends = []
            for start in (1_000_000, 2_000_000):
                end = chain
                for group in range(start, start + 100):
                    _, end = extend(end, 1, group, {chance.randint(1, members): group}, is_side=start > 1_000_000)
                ends.append(end)
            states = [state_of(end) for end in ends]
            unshared = sum(len(node.delta) for end in ends for node in end if node not in chain)
            worst.append((best_ms(lambda: differing_keys(ends, states), 5)[1], number, unshared))  # noqa: B023
    took, number, unshared = max(worst)
    print(
        f"Two forks of 100 changes each: differing keys found in {took:.1f} ms at most,"
        f" where they part at change {number} and do not share {unshared} entries"
    )


def write(tx: Transaction, rows: list[Row]) -> None:
    for start in range(0, len(rows), 500):
        tx.insert_many(state_groups, COLUMNS, rows[start : start + 500])


def disk_bytes(tx: Transaction) -> int:
    """Return what the table takes on disk, as the database says."""
    if tx.is_sqlite:
        pages = tx.scalar(text("PRAGMA page_count")) - tx.scalar(text("PRAGMA freelist_count"))
        return int(pages * tx.scalar(text("PRAGMA page_size")))
    tx.execute(text("ANALYZE TABLE state_groups"))
    return int(
        tx.scalar(
            text(
                "SELECT data_length + index_length FROM information_schema.tables"
                " WHERE table_schema = DATABASE() AND table_name = 'state_groups'"
            )
        )
    )


async def measure(name: str, url: str, reactor: Any, members: int, changes: int) -> None:
    threads = Threads(reactor, 4)
    database = Database(url, reactor=reactor, threads=threads)
    await database.start(migrate)
    count = members + changes
    # Its index is the one before the greatest power of two: the longest chain, and the costliest next step.
    unlucky = 1 << (count.bit_length() - 1)
    line, forks, total = make_line(members, changes, unlucky)
    try:
        empty = await database.read(disk_bytes)
        started = time.perf_counter()
        for start in range(0, len(line), 1000):
            part = line[start : start + 1000]
            await database.write(lambda tx, part=part: write(tx, part))  # type: ignore[misc]
        took = time.perf_counter() - started
        stored = await database.read(disk_bytes) - empty
        deltas = sum(len(row[4]) for row in line)
        print(f"{name}: {members} members, {changes} changes; {total / count:.0f} bytes an event")
        print(f"  differences {deltas / count:.0f} bytes a change, {deltas / total:.3f} of the events")
        print(f"  the table   {stored / count:.0f} bytes a change, {stored / total:.3f} of the events")
        print(f"  written in  {took / count * 1e6:.0f} µs a change")
        await database.write(lambda tx: write(tx, forks))
        fork_bytes = sorted(len(row[4]) for row in forks)
        print(
            f"  {FORKS} forks at change {unlucky}: differences {sum(fork_bytes) / FORKS:.0f} bytes each,"
            f" {fork_bytes[-1]} at most"
        )

        def loads(tx: Transaction) -> None:
            for place in sorted({members // 2, members, count // 2, unlucky // 2, unlucky, unlucky * 3 // 4, count}):
                chains = load_chains(tx, [place])
                least, middle = best_ms(lambda place=place: state_of(load_chains(tx, [place])[place]))  # type: ignore[misc]
                size = sum(len(node.delta) for node in chains[place])
                print(
                    f"  load at {place:6}: {middle:5.1f} ms ({least:.1f} at best);"
                    f" {len(chains[place])} rows, {size} entries"
                )
            groups = [row[0] for row in forks]
            _, middle = best_ms(lambda: load_chains(tx, groups), 3)
            chains = load_chains(tx, groups)
            _, middle_states = best_ms(lambda: states_of(chains), 3)
            states = [state for state, _ in states_of(chains).values()]
            _, middle_keys = best_ms(lambda: differing_keys(list(chains.values()), states), 3)
            print(
                f"  {FORKS} forks: chains {middle:.0f} ms, states {middle_states:.0f} ms,"
                f" differing keys {middle_keys:.1f} ms ({len(differing_keys(list(chains.values()), states))} of them)"
            )

        await database.read(loads)
    finally:
        await database.stop()
        await threads.stop()


async def main(reactor: Any, members: int, changes: int) -> None:
    measure_two_forks(members)
    stored, longest = make_forked_room(members, changes)
    print(
        f"Every change forked and resolved: differences {stored / changes:.0f} bytes a group, {longest} nodes at most"
    )
    folder = Path(tempfile.mkdtemp(prefix="sennit-bench-"))
    try:
        await measure("SQLite", f"sqlite:///{folder / 'homeserver.db'}", reactor, members, changes)
        try:
            server = shared_mariadb(folder / "mariadb", os.getpid())
        except MariadbUnavailable as missing:
            print(f"MariaDB: {missing}")
            return
        with server.fresh_database() as url:
            await measure("MariaDB", url, reactor, members, changes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=5_000)
    parser.add_argument("--changes", type=int, default=10_000)
    given = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, given.members, given.changes)))
