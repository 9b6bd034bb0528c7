"""A user who stays connected through the live stream, and stumbles.

The client keeps to docs/stream.md: an update and its `next_batch` are kept together; after a loss it comes back with
the last `next_batch` and repeats, under the same IDs, what it sent that must happen. What befalls a connection is in
`Mishaps`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .journal import Journal, Snapshot, position
from .server import SoakServer
from .wire import Closed, Pace, Refused, Wire, open_lines, open_websocket

# Errors that are no fault: a user who has left a room meanwhile, a message that was redacted or is not there any more.
EXPECTED_ERRORS: Final = frozenset({"M_FORBIDDEN", "M_NOT_FOUND"})
MAX_PENDING: Final = 800
_PACES: Final = (Pace(1024, 0.5), Pace(2048, 0.25), Pace(200, 0.02), Pace(4096, 1.0))


@dataclass(frozen=True, slots=True)
class Choice:
    """A filter; `left_out` are the types of events that it refuses, `is_lazy` if it leaves out members."""

    filter: dict[str, Any] | None
    left_out: frozenset[str] = frozenset()
    is_lazy: bool = False


FILTERS: Final = (
    Choice(None),
    Choice({"room": {"timeline": {"limit": 1}}}),
    Choice({"room": {"timeline": {"limit": 20}}, "presence": {"not_types": ["*"]}}),
    Choice({"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 5}}}, is_lazy=True),
    Choice({"room": {"timeline": {"not_types": ["m.reaction"]}}}, frozenset({"m.reaction"})),
    Choice(
        {"room": {"timeline": {"not_types": ["org.soak.tick", "m.room.redaction"], "limit": 3}}},
        frozenset({"org.soak.tick", "m.room.redaction"}),
    ),
)


@dataclass(frozen=True, slots=True)
class Mishaps:
    """How often what happens; times in seconds."""

    mean_life_s: float = 8.0
    # Relative weights of what ends, or disturbs, a connection.
    close: float = 2
    cut: float = 4
    slow: float = 3
    freeze: float = 2
    leave_open: float = 2
    # Chance that a client stays away for a while.
    stay_away: float = 0.1
    # Chances, for each update and each new connection.
    die_in_update: float = 0.003
    begin_anew: float = 0.02
    restore: float = 0.05
    change_filter: float = 0.2


CALM: Final = Mishaps(1e9, die_in_update=0, begin_anew=0, restore=0, change_filter=0, stay_away=0)


class Died(Exception):
    """The client died before it had taken in an update."""


@dataclass(slots=True)
class Pending:
    """A request without an answer yet; `lasting` ones are sent again."""

    message: dict[str, Any]
    lasting: bool
    answered: asyncio.Future[dict[str, Any] | None]


@dataclass(slots=True)
class Sent:
    """What came of what was sent: by serial, the event; in the order of sending, by room."""

    events: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    by_room: dict[str, list[str]] = field(default_factory=dict)
    # Serial -> recipients, of messages to devices; those answered.
    to_device: dict[str, tuple[str, ...]] = field(default_factory=dict)
    to_device_answered: set[str] = field(default_factory=set)
    redacted: dict[str, str] = field(default_factory=dict)


class StreamUser:
    """One user with one device on the stream; `kind` is "ws" or "lines"."""

    def __init__(self, server: SoakServer, kind: str, name: str, account: Mapping[str, str], seed: str) -> None:
        self.server = server
        self.kind = kind
        self.name = name
        self.user_id, self.token = account["user_id"], account["access_token"]
        self.device_id = account["device_id"]
        self.rng = random.Random(seed)
        self.mishaps = Mishaps()
        self.journal = Journal()
        # Journals that were given up for an initial sync.
        self.archive: list[Journal] = []
        # Serials of messages to the device that may come twice, for the client went back behind them.
        self.unsure: set[str] = set()
        self.sent = Sent()
        self.pending: dict[str, Pending] = {}
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.abandoned: list[tuple[float, Wire]] = []
        self.was_lazy = False
        self.choice = FILTERS[0]
        self.resumed_s: list[float] = []
        self._acknowledged = 0
        self._life = 0
        # Where each connection began; for what is told of faults.
        self.openings: list[str | None] = []
        self._note: Pending | None = None
        self._noting = asyncio.Lock()
        self._snapshot: Snapshot | None = None
        self._numbers = 0
        self._queue: asyncio.Queue[dict[str, Any]] | None = None
        self._calm = asyncio.Event()
        self._delay_s = 0.1
        self.max_delay_s = 3.0

    @property
    def is_connected(self) -> bool:
        return self._queue is not None

    def calm_down(self) -> None:
        """From now on let nothing befall the connection."""
        self.mishaps = CALM
        self._calm.set()
        if self._queue is not None and self.journal.since is not None:
            # What was never acknowledged may be waited for.
            self.ask("ack", {"next_batch": self.journal.since})

    # -- requests ----------------------------------------------------------------------------------------------------

    def next_serial(self) -> str:
        self._numbers += 1
        return f"{self.name}-{self._numbers}"

    def ask(
        self, method: str, params: Mapping[str, Any], *, serial: str | None = None, lasting: bool = False
    ) -> Pending:
        """Send a request, now or as soon as there is a connection."""
        serial = serial or self.next_serial()
        message = {"id": serial, "method": method, "params": dict(params)}
        pending = Pending(message, lasting, asyncio.get_running_loop().create_future())
        if self._queue is None and not lasting:
            pending.answered.set_result(None)
            return pending
        self.pending[serial] = pending
        if self._queue is not None:
            self._queue.put_nowait(message)
        return pending

    def send_event(self, room_id: str, event_type: str, content: Mapping[str, Any]) -> Pending:
        """Send an event whose content tells its serial."""
        serial = self._numbered(room_id)
        params = {"room_id": room_id, "event_type": event_type, "content": {**content, "serial": serial}}
        return self.ask("send", params, serial=serial, lasting=True)

    def send_state(self, room_id: str, event_type: str, state_key: str) -> Pending:
        serial = self._numbered(room_id)
        params = {"room_id": room_id, "event_type": event_type, "state_key": state_key, "content": {"serial": serial}}
        return self.ask("state", params, serial=serial)

    def redact(self, room_id: str, target: str) -> Pending:
        """Redact one of the user's own events, by its serial."""
        serial = self._numbered(room_id)
        event_id = self.sent.events[target]
        self.sent.redacted[event_id] = target
        return self.ask(
            "redact", {"room_id": room_id, "event_id": event_id, "reason": serial}, serial=serial, lasting=True
        )

    async def send_to_devices(self, users: Iterable[StreamUser]) -> None:
        """Send a message to the devices of users, and wait until that is certain."""
        users = list(users)
        async with self._noting:
            # One after the other, for they come in that order; also where nobody waits for one any more.
            if self._note is not None:
                await asyncio.wait({self._note.answered})
            serial = self.next_serial()
            self.sent.to_device[serial] = tuple(user.user_id for user in users)
            messages = {
                user.user_id: {user.device_id if self.rng.random() < 0.5 else "*": {"serial": serial}} for user in users
            }
            params = {"event_type": "org.soak.note", "messages": messages}
            self._note = self.ask("to_device", params, serial=serial, lasting=True)

            def answered(done: asyncio.Future[dict[str, Any] | None]) -> None:
                if not done.cancelled() and "result" in (done.result() or {}):
                    self.sent.to_device_answered.add(serial)

            self._note.answered.add_done_callback(answered)
            await asyncio.wait({self._note.answered})

    async def change_filter(self) -> None:
        """Have the server filter otherwise from now on."""
        choice = self.rng.choice(FILTERS)
        # Until the answer came, the old one or the new may hold; and the new one, whatever happens now.
        self.journal.set_sieve(self.journal.sieve | choice.left_out)
        self.choice, self.was_lazy = choice, self.was_lazy or choice.is_lazy
        answer = await self.ask("sync", {"filter": choice.filter}).answered
        if answer is not None and "result" in answer and self.choice is choice:
            self.journal.set_sieve(choice.left_out)

    def _numbered(self, room_id: str) -> str:
        serial = self.next_serial()
        self.sent.by_room.setdefault(room_id, []).append(serial)
        return serial

    # -- connections -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Stay connected until cancelled."""
        lost_at = time.monotonic()
        while True:
            try:
                await self._session(lost_at)
            except Refused as refused:
                self.counts[f"refused {refused.status}"] += 1
                if refused.status not in (429, 503):
                    self.faults.append(f"refused with {refused}")
                    self._delay_s = 5
                self._delay_s = max(self._delay_s, refused.body.get("retry_after_ms", 0) / 1000)
            except Closed as closed:
                self.counts[f"closed {closed.code}"] += 1
                if closed.code not in (1000, 1001, 4408, 4429):
                    self.faults.append(f"closed with {closed}")
            except (OSError, TimeoutError) as error:
                self.counts[f"lost: {type(error).__name__}"] += 1
            except Died:
                self.counts["died"] += 1
            except AssertionError as fault:
                self.faults.append(f"broke the protocol: {fault}")
            lost_at = time.monotonic()
            if self.rng.random() < self.mishaps.stay_away:
                self.counts["stayed away"] += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.rng.uniform(3, 30)):
                        await self._calm.wait()
            await asyncio.sleep(self._delay_s * self.rng.uniform(0.3, 1))
            self._delay_s = min(self._delay_s * 1.7, self.max_delay_s)

    async def _session(self, lost_at: float) -> None:
        self._look_back()
        self.openings.append(self.journal.since)
        # What it sends may still be read when it has ended.
        self._life = self.server.life
        wire = await self._open()
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for serial, pending in list(self.pending.items()):
            if pending.lasting:
                queue.put_nowait(pending.message)
                self.counts["repeated"] += 1
            else:
                del self.pending[serial]
                if not pending.answered.done():
                    pending.answered.set_result(None)
        self._queue = queue
        self.counts["connections"] += 1
        reading = asyncio.create_task(self._read(wire, lost_at))
        writing = asyncio.create_task(self._write(wire, queue))
        fate = asyncio.create_task(self._suffer(wire))
        how = "cut"
        try:
            done, _ = await asyncio.wait({reading, writing, fate}, return_when=asyncio.FIRST_COMPLETED)
            if fate in done and fate.exception() is None:
                how = fate.result()
            self.counts[how if fate in done else "lost"] += 1
            for task in done:
                if task is not fate:
                    task.result()
        finally:
            self._queue = None
            for task in (reading, writing, fate):
                task.cancel()
            await asyncio.gather(reading, writing, fate, return_exceptions=True)
            wire.channel.thaw.set()
            if how == "close":
                wire.channel.pace = None
                with contextlib.suppress(OSError):
                    await wire.close()
            elif how == "leave open":
                wire.channel.thaw.clear()
                self.abandoned.append((time.monotonic() + self.rng.uniform(3, 40), wire))
            else:
                wire.abort()
            self.abandon_less(time.monotonic())

    def abandon_less(self, now: float) -> None:
        """Cut connections that were left open, until long enough ago."""
        for until, wire in self.abandoned[:]:
            if until <= now:
                wire.abort()
                self.abandoned.remove((until, wire))

    def _look_back(self) -> None:
        """Sometimes forget everything, or what came lately, as a client does whose data were lost or restored."""
        chance = self.rng.random()
        journal = self.journal
        if journal.since is None:
            return
        if chance < self.mishaps.begin_anew:
            self._forget()
            self.archive.append(journal)
            self.journal = Journal(account_data={}, to_device=journal.to_device, sieve=journal.sieve)
            self._snapshot = None
            self.counts["began anew"] += 1
        elif chance < self.mishaps.begin_anew + self.mishaps.restore and self._snapshot is not None:
            self._forget()
            journal.restore(self._snapshot)
            self.counts["restored"] += 1
        elif self.rng.random() < 0.3:
            self._snapshot = journal.snapshot()

    def _forget(self) -> None:
        for received in reversed(self.journal.to_device):
            if position(received.token) <= self._acknowledged:
                break
            self.unsure.add(received.serial)

    async def _open(self) -> Wire:
        rng = self.rng
        if rng.random() < self.mishaps.change_filter:
            self.choice = rng.choice(FILTERS)
            self.was_lazy = self.was_lazy or self.choice.is_lazy
        self.journal.set_sieve(self.choice.left_out)
        small = rng.choice((None, None, None, 2048, 16_384))
        params: dict[str, Any] = {}
        if self.journal.since is not None:
            params["since"] = self.journal.since
        if self.choice.filter is not None:
            params["filter"] = self.choice.filter
        if self.kind == "ws" and rng.random() < 0.6:
            query = {key: value if isinstance(value, str) else json.dumps(value) for key, value in params.items()}
            token: str | None = self.token
            if rng.random() < 0.3:
                query["access_token"], token = self.token, None
            deflate = rng.random() < 0.5
            return await open_websocket(
                self.server.web, query, token=token, deflate=deflate, receive_buffer=small, rng=rng
            )
        wire: Wire
        if self.kind == "ws":
            wire = await open_websocket(self.server.web, {}, token=None, receive_buffer=small, rng=rng)
        else:
            wire = await open_lines(self.server.lines, receive_buffer=small)
        try:
            async with asyncio.timeout(30):
                auth = {"id": "auth", "method": "auth", "params": {"access_token": self.token, **params}}
                await wire.send(auth)
                answer = await wire.receive()
            expected = {"user_id": self.user_id, "device_id": self.device_id}
            assert answer == {"id": "auth", "result": expected}, answer
        except BaseException:
            wire.abort()
            raise
        return wire

    async def _suffer(self, wire: Wire) -> str:
        """Wait for what befalls the connection, and return how it ends."""
        rng, mishaps = self.rng, self.mishaps
        while mishaps.mean_life_s < 1e6 and not self._calm.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.expovariate(1 / mishaps.mean_life_s)):
                    await self._calm.wait()
                break
            names = ("close", "cut", "slow", "freeze", "leave open")
            weights = (mishaps.close, mishaps.cut, mishaps.slow, mishaps.freeze, mishaps.leave_open)
            what = rng.choices(names, weights)[0]
            if what not in ("slow", "freeze"):
                return what
            self.counts[what] += 1
            channel = wire.channel
            if what == "slow":
                channel.pace = rng.choice(_PACES)
            else:
                channel.thaw.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(1, 20)):
                    await self._calm.wait()
            channel.pace = None
            channel.thaw.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def _write(self, wire: Wire, queue: asyncio.Queue[dict[str, Any]]) -> None:
        while True:
            await wire.send(await queue.get())

    async def _read(self, wire: Wire, lost_at: float) -> None:
        since = self.journal.since
        is_first = True
        while True:
            message = await wire.receive()
            if is_first:
                self._delay_s, is_first = 0.1, False
                self.resumed_s.append(time.monotonic() - lost_at)
            if "next_batch" not in message:
                self._answered(message)
                continue
            if since is not None:
                # By coming with it, everything up to it was acknowledged; certain once something came of it.
                self._acknowledged = max(self._acknowledged, position(since))
            if self.rng.random() < self.mishaps.die_in_update:
                raise Died
            self._take_in(message)

    def _take_in(self, update: Mapping[str, Any]) -> None:
        self.journal.apply(update, self._life)
        self.counts["updates"] += 1
        if len(update) == 1:
            self.counts["empty updates"] += 1
        if "to_device" in update and (self._calm.is_set() or self.rng.random() < 0.9):
            token = update["next_batch"]
            serial = self.next_serial()
            pending = self.ask("ack", {"next_batch": token}, serial=serial)

            def acknowledged(answered: asyncio.Future[dict[str, Any] | None]) -> None:
                answer = None if answered.cancelled() else answered.result()
                if answer is not None and "result" in answer:
                    self._acknowledged = max(self._acknowledged, position(token))

            pending.answered.add_done_callback(acknowledged)

    def _answered(self, answer: dict[str, Any]) -> None:
        serial = answer.get("id")
        pending = self.pending.pop(serial, None) if isinstance(serial, str) else None
        if pending is None:
            self.faults.append(f"an answer to nothing: {json.dumps(answer)[:300]}")
            return
        method = pending.message["method"]
        self.counts[f"answered {method}"] += 1
        if "error" in answer:
            errcode = answer["error"].get("errcode")
            self.counts[f"{method}: {errcode}"] += 1
            self.sent.refused[str(serial)] = errcode
            if errcode not in EXPECTED_ERRORS:
                self.faults.append(f"{pending.message} was refused: {answer['error']}")
        elif "event_id" in answer["result"]:
            self.sent.events[str(serial)] = answer["result"]["event_id"]
        if not pending.answered.done():
            pending.answered.set_result(answer)
