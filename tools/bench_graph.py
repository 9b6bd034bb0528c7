"""Measures forks in whole rooms, as they are taken in, resolved and stored, on SQLite and MariaDB.

    python -m tools.bench_graph [--members N] [--differing N] [--ends N] [--database sqlite|mariadb]

A room gets its members; then two branches of it grow, one here and one that comes from elsewhere, until they differ in
so many events. Another room gets a fork with so many ends, each with a state event of its own. Told are the CPU time
of resolving, and what the rest of the server feels of it meanwhile: how late the reactor comes to a timer, and how long
a send to a third room takes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.task import LoopingCall, react

import homeserver.rooms.state_at as state_at_module
from homeserver.model.auth.needed import needed_state
from homeserver.model.compose import GraphPlace, compose
from homeserver.model.event import EventTemplate
from homeserver.model.ids import RoomID
from homeserver.model.receipt_of_events import trust_own
from homeserver.runtime.clock import RealClock
from homeserver.runtime.garbage import GarbageCollection
from storage.events import StoredEvent
from tests.support.databases import shared_mariadb
from tests.support.rooms import Person, RoomServer

BATCH = 250
TIMER_S = 0.005


class Meanwhile:
    """What the rest of the server feels while something is done."""

    def __init__(self, server: RoomServer, room_id: RoomID, sender: Person) -> None:
        self._server, self._room_id, self._sender = server, room_id, sender
        self.gaps: list[float] = []
        self.sends: list[float] = []
        self._last = 0.0
        self._is_over = False

    async def watch(self, work: Callable[[], Awaitable[Any]]) -> Any:
        self._last = time.perf_counter()
        timer = LoopingCall(self._tick)
        ticking = timer.start(TIMER_S)
        sending = ensureDeferred(self._send())
        try:
            return await work()
        finally:
            self._is_over = True
            timer.stop()
            await ticking
            await sending

    def _tick(self) -> None:
        now = time.perf_counter()
        self.gaps.append(now - self._last)
        self._last = now

    async def _send(self) -> None:
        while not self._is_over:
            start = time.perf_counter()
            await self._server.say(self._room_id, self._sender)
            self.sends.append(time.perf_counter() - start)
            await pause(0.01)

    def told(self) -> str:
        gaps, sends = sorted(self.gaps), sorted(self.sends)
        return (
            f"reactor late at most {1000 * (gaps[-1] - TIMER_S):.0f} ms; a send elsewhere takes "
            f"{1000 * statistics.median(sends):.0f} ms (median), {1000 * sends[-1]:.0f} ms (longest)"
        )


class Resolutions:
    """Counts what resolving takes, loading included: CPU time of its thread, and time on the wall."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []
        load, resolve_points = state_at_module._load, state_at_module._resolve_points
        start = (0.0, 0.0)

        def loading(*args: Any) -> Any:
            nonlocal start
            start = (time.thread_time(), time.perf_counter())
            return load(*args)

        def resolving(*args: Any) -> Any:
            try:
                return resolve_points(*args)
            finally:
                self.cpu.append(time.thread_time() - start[0])
                self.wall.append(time.perf_counter() - start[1])

        state_at_module._load = loading
        state_at_module._resolve_points = resolving

    def told(self) -> str:
        return (
            f"resolved {len(self.cpu)} times; the last: {1000 * self.cpu[-1]:.0f} ms of CPU, "
            f"{1000 * self.wall[-1]:.0f} ms; the longest: {1000 * max(self.cpu):.0f} ms of CPU, "
            f"{1000 * max(self.wall):.0f} ms"
        )


def pause(seconds: float) -> Deferred[None]:
    woken: Deferred[None] = Deferred()
    reactor.callLater(seconds, woken.callback, None)  # type: ignore[attr-defined]
    return woken


async def branch(server: RoomServer, room_id: RoomID, at: StoredEvent, template: EventTemplate) -> StoredEvent:
    """Take in an event that was made elsewhere on top of `at`."""
    tip = await server.door.tip(room_id)
    state = await server.store.states.get(at.state_group or 0)
    keys = needed_state(
        tip.version,
        type=template.type,
        sender=template.sender,
        state_key=template.state_key,
        content=template.content,
    )
    found = await server.door._tips.events_of(state, keys)
    place = GraphPlace((at.event_id,), tuple(found[key].event_id for key in keys if key in found), at.event.depth + 1)
    server.clock.advance(0.001)
    event = compose(
        tip.version,
        template,
        room_id=room_id,
        place=place,
        server_name=server.identity.server_name,
        key=server.identity.key,
        now_ms=server.clock.now_ms(),
    )
    return await server.door.receive(room_id, trust_own(event))


def rename(person: Person, name: str) -> EventTemplate:
    return EventTemplate("m.room.member", {"membership": "join", "displayname": name}, person.user_id, person.user_id)


async def populate(server: RoomServer, room_id: RoomID, count: int) -> list[Person]:
    people = await server.users(*[f"member{number}" for number in range(count)])
    for start in range(0, count, BATCH):
        part = people[start : start + BATCH]
        await gatherResults([ensureDeferred(server.join(room_id, person)) for person in part])
    return people


async def two_branches(server: RoomServer, members: int, differing: int, version: str) -> None:
    creator, other = await server.users("creator", "other")
    elsewhere = await server.room(other)
    room_id = await server.room(creator, version=version)
    start = time.perf_counter()
    people = await populate(server, room_id, members)
    print(f"\nversion {version}: {members} members joined in {time.perf_counter() - start:.1f} s")
    base = await server.say(room_id, creator)
    for number in range(differing // 2):
        await server.door.send(room_id, rename(people[number], f"here {number}"))
    at = base
    for number in range(differing // 2 - 10):
        at = await branch(server, room_id, at, rename(people[members // 2 + number], f"there {number}"))
    seen, meanwhile = Resolutions(), Meanwhile(server, elsewhere, other)

    async def work() -> None:
        nonlocal at
        for number in range(differing // 2 - 10, differing // 2):
            at = await branch(server, room_id, at, rename(people[members // 2 + number], f"there {number}"))
        levels = (
            {"users": {str(people[1].user_id): 50}}
            if version == "12"
            else {"users": {str(creator.user_id): 100, str(people[1].user_id): 50}}
        )
        at = await branch(server, room_id, at, EventTemplate("m.room.power_levels", levels, creator.user_id, ""))

    await meanwhile.watch(work)
    print(f"two branches that differ in {differing} events: {seen.told()}")
    print(f"  meanwhile: {meanwhile.told()}")


async def many_ends(server: RoomServer, ends: int, version: str) -> None:
    creator, other = await server.users("creator2", "other2")
    elsewhere = await server.room(other)
    room_id = await server.room(creator, version=version)
    people = await populate(server, room_id, ends)
    base = await server.say(room_id, creator)
    for number in range(ends - 5):
        await branch(server, room_id, base, rename(people[number], f"end {number}"))
    seen, meanwhile = Resolutions(), Meanwhile(server, elsewhere, other)

    async def work() -> None:
        for number in range(ends - 5, ends):
            await branch(server, room_id, base, rename(people[number], f"end {number}"))

    await meanwhile.watch(work)
    tip = await server.door.tip(room_id)
    print(f"\nversion {version}: {len(tip.extremities)} forward extremities: {seen.told()}")
    print(f"  meanwhile: {meanwhile.told()}")
    sent = time.perf_counter()
    await server.say(room_id, creator)
    tip = await server.door.tip(room_id)
    print(f"  a send there takes {1000 * (time.perf_counter() - sent):.0f} ms, {len(tip.extremities)} are left")


async def measure(url: str, name: str, options: argparse.Namespace) -> None:
    print(f"\n== {name}")
    server = await RoomServer.start(url, memory_bytes=256 * 1024 * 1024)
    try:
        for version in ("11", "12"):
            await two_branches(server, options.members, options.differing, version)
            await many_ends(server, options.ends, version)
    finally:
        await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=50_000)
    parser.add_argument("--differing", type=int, default=200)
    parser.add_argument("--ends", type=int, default=500)
    parser.add_argument("--database", choices=("sqlite", "mariadb"))
    options = parser.parse_args()

    async def run() -> None:
        garbage = GarbageCollection(RealClock(reactor))  # type: ignore[arg-type]
        garbage.start()
        with tempfile.TemporaryDirectory() as folder:
            if options.database != "mariadb":
                await measure(f"sqlite:///{folder}/bench.db", "SQLite", options)
            if options.database != "sqlite":
                with shared_mariadb(Path(folder) / "mariadb", os.getpid()).fresh_database() as url:
                    await measure(url, "MariaDB", options)

    react(lambda _: ensureDeferred(run()))


if __name__ == "__main__":
    main()
