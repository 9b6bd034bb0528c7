"""The soak: rooms, users who do things at random, a server that is stopped and killed, and the reckoning at the end.

Everything that is chosen is chosen from the seed; what the machine's timing makes of it is not repeatable.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

from .client import MAX_PENDING, Mishaps, StreamUser
from .http import call, read_history, request, segment
from .judge import Hall, judge
from .library import LibraryUser
from .polling import PollingUser
from .reckoning import Report, compare_messages, compare_places, compare_sent, compare_sides
from .server import SoakServer

PASSWORD: Final = "correct horse battery"
DRAIN_TIMEOUT_S: Final = 60.0
MAKERS: Final[dict[str, type[StreamUser]]] = {"poll": PollingUser, "library": LibraryUser}
_TYPES: Final = ("m.room.message",) * 8 + ("org.soak.tick",)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how many, how wild."""

    seconds: float = 600
    users: int = 40
    rooms: int = 8
    seed: int = 1
    # Actions of a user, on average.
    actions_per_s: float = 0.8
    # Between two bursts of anybody, and between two ends of the server.
    burst_every_s: float = 15
    end_every_s: float = 40
    # Of the users, in turn.
    kinds: tuple[str, ...] = ("ws", "library", "lines", "ws", "library", "ws", "lines", "library", "poll")
    mishaps: Mishaps = field(default_factory=Mishaps)
    max_rss_kib: int = 450 * 1024


class World:
    """One soak on one server."""

    def __init__(self, server: SoakServer, plan: Plan) -> None:
        self.server = server
        self.plan = plan
        self.rng = random.Random(f"world {plan.seed}")
        self.users: list[StreamUser] = []
        # By user: rooms that the user was in, as far as is known.
        self.inside: dict[str, set[str]] = {}
        self.rooms: dict[str, bool] = {}
        self.counts: Counter[str] = Counter()
        self.versions_s: list[float] = []
        self._witness = ""
        self._over = asyncio.Event()
        # What users do.
        self._wild: list[asyncio.Task[None]] = []

    async def run(self) -> Report:
        """Soak, come to rest, and compare."""
        await self._prepare()
        report = Report()
        running = [asyncio.create_task(user.run()) for user in self.users]
        wild = self._wild
        wild += [asyncio.create_task(self.live(user, number)) for number, user in enumerate(self.users)]
        wild += [asyncio.create_task(work) for work in (self._burst(), self._look())]
        ending = asyncio.create_task(self.end_servers())
        began = time.monotonic()
        try:
            while time.monotonic() < began + self.plan.seconds:
                await asyncio.sleep(0.2)
                for task in (*running, *wild, ending):
                    if task.done():
                        task.result()
                if ending.done():
                    break
            self._over.set()
            await ending
            await _cancel(*wild)
            for user in self.users:
                user.calm_down()
            await self._come_to_rest(report)
            # For what should not come; and nobody types any more.
            await asyncio.sleep(3.5)
            await self._reckon(report)
        finally:
            await _cancel(ending, *wild, *running)
            for user in self.users:
                user.abandon_less(float("inf"))
        await self._count_leftovers(report)
        self._sum_up(report, time.monotonic() - began)
        return report

    # -- before ------------------------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        plan, rng = self.plan, self.rng
        await self.server.start()
        witness = await register(self.server, "witness")
        self._witness = witness["access_token"]
        for number in range(plan.rooms):
            is_shared = number % 3 != 2
            visibility = {"history_visibility": "shared" if is_shared else "joined"}
            body = {
                "preset": "public_chat",
                "initial_state": [{"type": "m.room.history_visibility", "state_key": "", "content": visibility}],
                "power_level_content_override": {"state_default": 0},
            }
            answer = await call(self.server.plain, self._witness, "POST", "/createRoom", body)
            self.rooms[answer["room_id"]] = is_shared
        for number in range(plan.users):
            account = await register(self.server, f"user{number}")
            kind = plan.kinds[number % len(plan.kinds)]
            user = MAKERS.get(kind, StreamUser)(self.server, kind, f"u{number}", account, f"user {plan.seed} {number}")
            user.mishaps = plan.mishaps
            self.users.append(user)
            self.inside[user.user_id] = set()
            for room_id in rng.sample(list(self.rooms), max(1, plan.rooms // 2)):
                await self._join(user, room_id)

    # -- what users do -----------------------------------------------------------------------------------------------

    async def live(self, user: StreamUser, number: int) -> None:
        """Do what a user does, until cancelled."""
        rng = random.Random(f"life {self.plan.seed} {number}")
        actions = {
            self._say: 10,
            self._react: 4,
            self._redact: 2,
            self._set_topic: 1,
            self._type: 3,
            self._read: 4,
            self._write_to_devices: 3,
            self._change_membership: 1.5,
            self._save: 1,
            self._ask: 1,
            self._change_filter: 0.7,
        }
        while True:
            await asyncio.sleep(rng.expovariate(self.plan.actions_per_s))
            if len(user.pending) >= MAX_PENDING:
                continue
            action = rng.choices(list(actions), list(actions.values()))[0]
            try:
                # Not for ever: who waits for an answer does nothing else.
                async with asyncio.timeout(60):
                    await action(user, rng)
            except (OSError, TimeoutError):
                self.counts["actions that failed"] += 1

    def _some_room(self, user: StreamUser, rng: random.Random) -> str | None:
        inside = sorted(self.inside[user.user_id])
        return rng.choice(inside) if inside else None

    async def _say(self, user: StreamUser, rng: random.Random) -> None:
        room_id = self._some_room(user, rng)
        if room_id is not None:
            body = "the quick brown fox jumps over the lazy dög " * rng.choice((0, 1, 1, 2, 30))
            user.send_event(room_id, rng.choice(_TYPES), {"msgtype": "m.text", "body": body})

    def _own_event(self, user: StreamUser, rng: random.Random, room_id: str) -> str | None:
        mine = [serial for serial in user.sent.by_room.get(room_id, ())[-50:] if serial in user.sent.events]
        return rng.choice(mine) if mine else None

    async def _react(self, user: StreamUser, rng: random.Random) -> None:
        room_id = self._some_room(user, rng)
        if room_id is None:
            return
        told = user.journal.rooms.get(room_id)
        known = [entry for entry in told.entries[-30:] if isinstance(entry, str)] if told is not None else []
        if known:
            relation = {"rel_type": "m.annotation", "event_id": rng.choice(known), "key": user.next_serial()}
            user.send_event(room_id, "m.reaction", {"m.relates_to": relation})

    async def _redact(self, user: StreamUser, rng: random.Random) -> None:
        room_id = self._some_room(user, rng)
        target = self._own_event(user, rng, room_id) if room_id is not None else None
        if room_id is not None and target is not None and user.sent.events[target] not in user.sent.redacted:
            user.redact(room_id, target)

    async def _set_topic(self, user: StreamUser, rng: random.Random) -> None:
        room_id = self._some_room(user, rng)
        if room_id is not None:
            user.send_state(room_id, "org.soak.topic", rng.choice(("", "a", user.name)))

    async def _type(self, user: StreamUser, rng: random.Random) -> None:
        room_id = self._some_room(user, rng)
        if room_id is not None:
            is_typing = rng.random() < 0.7
            user.ask("typing", {"room_id": room_id, "typing": is_typing, "timeout": rng.randrange(500, 3000)})

    async def _read(self, user: StreamUser, rng: random.Random) -> None:
        room_id = self._some_room(user, rng)
        told = user.journal.rooms.get(room_id) if room_id is not None else None
        if told is None:
            return
        known = [entry for entry in told.entries[-10:] if isinstance(entry, str)]
        if known:
            if rng.random() < 0.7:
                user.ask("receipt", {"room_id": room_id, "event_id": known[-1]})
            else:
                user.ask("read_markers", {"room_id": room_id, "m.fully_read": known[-1], "m.read": known[-1]})

    async def _write_to_devices(self, user: StreamUser, rng: random.Random) -> None:
        await user.send_to_devices(rng.sample(self.users, rng.choice((1, 1, 3, min(8, len(self.users))))))

    async def _save(self, user: StreamUser, rng: random.Random) -> None:
        base = f"/user/{segment(user.user_id)}"
        room_id = self._some_room(user, rng)
        if room_id is not None and rng.random() < 0.5:
            base += f"/rooms/{segment(room_id)}"
        body = {"value": rng.random()}
        await request(
            self.server.web, "PUT", f"/_matrix/client/v3{base}/account_data/org.soak.data", body, token=user.token
        )

    async def _ask(self, user: StreamUser, rng: random.Random) -> None:
        room_id = self._some_room(user, rng)
        choice = rng.randrange(3)
        if choice == 0 or room_id is None:
            user.ask("ping", {})
        elif choice == 1:
            user.ask("presence", {"presence": rng.choice(("online", "unavailable")), "status_msg": str(rng.random())})
        else:
            user.ask("messages", {"room_id": room_id, "dir": "b", "limit": 20})

    async def _change_filter(self, user: StreamUser, rng: random.Random) -> None:
        await user.change_filter()

    async def _change_membership(self, user: StreamUser, rng: random.Random) -> None:
        inside = self.inside[user.user_id]
        outside = sorted(set(self.rooms) - inside)
        room_id = self._some_room(user, rng)
        if room_id is None or (outside and rng.random() < 0.45):
            await self._join(user, rng.choice(outside))
            return
        inside.discard(room_id)
        leave = f"/rooms/{segment(room_id)}/leave"
        await request(self.server.web, "POST", f"/_matrix/client/v3{leave}", {}, token=user.token)
        self.counts["leaves"] += 1
        if rng.random() < 0.4:
            await self._join(user, room_id)

    async def _join(self, user: StreamUser, room_id: str) -> None:
        path = f"/_matrix/client/v3/rooms/{segment(room_id)}/join"
        answer = await request(self.server.web, "POST", path, {}, token=user.token)
        if answer.status == 200:
            self.inside[user.user_id].add(room_id)
            self.counts["joins"] += 1

    async def _burst(self) -> None:
        rng = random.Random(f"bursts {self.plan.seed}")
        while True:
            await asyncio.sleep(rng.expovariate(1 / self.plan.burst_every_s))
            user = rng.choice(self.users)
            room_id = self._some_room(user, rng)
            if room_id is None or len(user.pending) > MAX_PENDING // 4:
                continue
            self.counts["bursts"] += 1
            if rng.random() < 0.3:
                times = rng.randrange(20, 80)
                self._wild += [asyncio.create_task(self._write_often(each, user, times)) for each in self.users]
                continue
            for _ in range(rng.randrange(100, 400)):
                user.send_event(room_id, "m.room.message", {"msgtype": "m.text", "body": "burst"})

    async def _write_often(self, sender: StreamUser, user: StreamUser, times: int) -> None:
        """Send so many messages to the device of a user, who may be away: more than fit into one response."""
        if not isinstance(sender, PollingUser):
            for _ in range(times):
                await sender.send_to_devices([user])

    # -- what happens to the server ----------------------------------------------------------------------------------

    async def end_servers(self) -> None:
        """End the server and start it again, now and then; where this returns, the soak is over."""
        rng = random.Random(f"ends {self.plan.seed}")
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.plan.end_every_s * rng.uniform(0.4, 1.6)):
                    await self._over.wait()
                return
            self.server.sample()
            await self._end_server(rng)

    async def _end_server(self, rng: random.Random) -> None:
        if rng.random() < 0.5:
            self.counts["server stopped"] += 1
            await self.server.stop()
        else:
            self.counts["server killed"] += 1
            await self.server.kill()
        await asyncio.sleep(rng.choice((0, 0.3, 2)))
        await self.server.start()

    async def _look(self) -> None:
        """Look after the server: what it takes, and how fast it answers."""
        while True:
            await asyncio.sleep(1)
            self.server.sample()
            for user in self.users:
                user.abandon_less(time.monotonic())
            life, began = self.server.life, time.monotonic()
            try:
                await request(self.server.plain, "GET", "/_matrix/client/versions", timeout_s=10)
            except (OSError, TimeoutError):
                self.counts["unanswered /versions"] += 1
                continue
            if life == self.server.life:
                self.versions_s.append(time.monotonic() - began)

    # -- the end -----------------------------------------------------------------------------------------------------

    async def _come_to_rest(self, report: Report) -> None:
        """Wait until everything was answered and everybody was told of the last event of each of their rooms."""
        began = time.monotonic()
        deadline = began + DRAIN_TIMEOUT_S
        while any(user.pending for user in self.users) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        for user in self.users:
            if user.pending:
                report.add(f"{user.name} ({user.kind})", f"{len(user.pending)} requests are never answered")
        report.figures["answered everything after"] = f"{time.monotonic() - began:.1f} s"
        last: dict[str, str] = {}
        for room_id in self.rooms:
            path = f"/rooms/{segment(room_id)}/send/m.room.message/last"
            answer = await call(self.server.plain, self._witness, "PUT", path, {"msgtype": "m.text", "body": "last"})
            last[room_id] = answer["event_id"]
        members = {room_id: await self._members(room_id) for room_id in self.rooms}

        expected: dict[str, set[str]] = {user.user_id: set() for user in self.users}
        for sender in self.users:
            for serial in sender.sent.to_device_answered:
                for user_id in sender.sent.to_device[serial]:
                    expected[user_id].add(serial)

        def is_told(user: StreamUser) -> bool:
            if not expected[user.user_id] <= {received.serial for received in user.journal.to_device}:
                return False
            return all(
                (told := user.journal.rooms.get(room_id)) is not None and event_id in told.entries[-3:]
                for room_id, event_id in last.items()
                if user.user_id in members[room_id]
            )

        began = time.monotonic()
        deadline = began + DRAIN_TIMEOUT_S
        while not all(is_told(user) for user in self.users) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        report.figures["told everything after"] = f"{time.monotonic() - began:.1f} s"

    async def _members(self, room_id: str) -> set[str]:
        path = f"/rooms/{segment(room_id)}/joined_members"
        return set((await call(self.server.plain, self._witness, "GET", path))["joined"])

    async def _reckon(self, report: Report) -> None:
        halls = {}
        for room_id, is_shared in self.rooms.items():
            events = await read_history(self.server.plain, self._witness, room_id)
            halls[room_id] = Hall(room_id, events, is_shared)
        report.figures["events"] = sum(len(hall.events) for hall in halls.values())
        for user in self.users:
            who = f"{user.name} {user.user_id} ({user.kind})"
            for fault in user.faults[:20]:
                report.add(who, fault)
            compare_places(report, who, user, halls, judge)
            compare_sent(report, who, user, halls)
            await compare_sides(report, who, user)
        compare_messages(report, self.users)

    async def _count_leftovers(self, report: Report) -> None:
        """See that the server closes what was left behind by its clients."""
        if not self.server.is_running:
            return
        files = 0
        for _ in range(40):
            sample = self.server.sample()
            files = sample.files if sample is not None else 0
            if files < 60:
                break
            await asyncio.sleep(0.25)
        report.figures["files open without clients"] = files
        if files >= 60:
            report.add("the server", f"has {files} files open, and no client is left")
        await self.server.stop()

    def _sum_up(self, report: Report, seconds: float) -> None:
        counts = self.counts.copy()
        for user in self.users:
            counts.update({f"{user.kind}: {name}": count for name, count in user.counts.items()})
        report.figures["seconds"] = round(seconds)
        report.figures["server lives"] = self.server.life
        report.figures["told to streams"] = sum(user.journal.events for user in self.users if user.kind != "poll")
        resumed = sorted(each for user in self.users for each in user.resumed_s)
        if resumed:
            report.figures["resumed within (median, worst)"] = (
                f"{resumed[len(resumed) // 2]:.2f} s, {resumed[-1]:.2f} s"
            )
        if self.versions_s:
            ordered = sorted(self.versions_s)
            report.figures["/versions (median, worst)"] = (
                f"{ordered[len(ordered) // 2] * 1000:.0f} ms, {ordered[-1] * 1000:.0f} ms"
            )
        samples = self.server.samples
        if samples:
            most = max(samples, key=lambda sample: sample.rss_kib)
            report.figures["most memory"] = f"{most.rss_kib / 1024:.0f} MiB, after {most.at_s:.0f} s of a life"
            report.figures["most files open"] = max(sample.files for sample in samples)
            if most.rss_kib > self.plan.max_rss_kib:
                report.add("the server", f"took {most.rss_kib} KiB")
        for line in self.server.bad_lines()[:20]:
            report.add("the log", line[:2000])
        report.counts = counts


async def register(server: SoakServer, name: str) -> dict[str, Any]:
    """Make an account, and return what the server says of it."""
    body = {"username": name, "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
    return await call(server.plain, None, "POST", "/register", body)


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    left = {task for task in tasks if not task.done()}
    while left:
        # Again, for a cancellation may get lost where what was waited for has just come.
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=1)


@contextlib.asynccontextmanager
async def soaking(server: SoakServer, plan: Plan) -> AsyncIterator[World]:
    """Give a world on a server, and end the server afterwards."""
    try:
        yield World(server, plan)
    finally:
        server.end()
