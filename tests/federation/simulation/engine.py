"""One thread that does the work of all servers, step by step, in an order that a seed decides; and their time.

Each server is a `Machine`: it stands for the reactor. What a real one does in threads waits here as a job: reads in no
order, writes in theirs, each done in one step, its result handed over in another. So reads and writes of one server,
and everything of several, are interleaved in many ways. Time passes only when there is nothing left to do.

A machine can be switched off between any two steps, as by a power cut: what it had in memory is gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from functools import partial
from random import Random
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as TwistedClock
from twisted.python.failure import Failure

from homeserver.runtime.batcher import Batcher
from homeserver.runtime.threads import Threads

T = TypeVar("T")
Call = Callable[[], object]

# A step that leads to the next at once, for ever, is a fault.
MAX_STEPS_AT_ONCE: Final = 2_000_000


class Stuck(AssertionError):
    """Work did not end."""


class Engine:
    """The steps and the time of a world."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.time = TwistedClock()
        self.machines: list[Machine] = []
        self.steps = 0

    # -- going on ----------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Do one of the things that can be done now; tell whether there was one."""
        lanes = [lane for machine in self.machines for lane in machine.lanes()]
        if not lanes:
            return False
        self.steps += 1
        lane = lanes[0] if len(lanes) == 1 else self.random.choice(lanes)
        lane.popleft()()
        return True

    def settle(self) -> None:
        """Do everything that can be done without time passing."""
        for _ in range(MAX_STEPS_AT_ONCE):
            if not self.step() and not self._due(0.0):
                return
        raise Stuck("there is always something to do")

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and do what can be done at every moment of it."""
        until = self.time.seconds() + seconds
        self.settle()
        while self._due(until - self.time.seconds()):
            self.settle()
        self.time.advance(max(0.0, until - self.time.seconds()))

    def finish(self, work: Coroutine[Any, Any, T], within_s: float) -> T:
        """Return what `work` gives, letting time pass; raises what it raises, Stuck if it takes longer than that."""
        done = Deferred.fromCoroutine(work)
        until = self.time.seconds() + within_s
        while not done.called:
            if not self.step() and not self._due(until - self.time.seconds()):
                raise Stuck(f"{work!r} does not end within {within_s:g} s")
        found: list[Any] = []
        done.addBoth(found.append)
        if isinstance(found[0], Failure):
            found[0].raiseException()
        result: T = found[0]
        return result

    def _due(self, within_s: float) -> bool:
        """Go on to the next moment for which something is planned; False if that is not within so many seconds."""
        calls = self.time.calls
        if not calls:
            return False
        wait = calls[0].getTime() - self.time.seconds()
        if wait > within_s:
            return False
        self.time.advance(max(0.0, wait))
        return True


class Machine:
    """The reactor of one server, and the threads that it works in."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.is_on = True
        self._soon: deque[Call] = deque()
        self._writes: deque[Call] = deque()
        # LIMIT: as many reads go on at the same time as there are lanes; which comes first is left to chance.
        self._reads: tuple[deque[Call], ...] = (deque(), deque())
        self._timers: set[Any] = set()
        self._lost: list[object] = []
        engine.machines.append(self)

    def lanes(self) -> list[deque[Call]]:
        """Return the queues in which something waits."""
        return [lane for lane in (self._soon, self._writes, *self._reads) if lane]

    def switch_off(self) -> None:
        """Do nothing more of what waits, ever."""
        self.is_on = False
        self.engine.machines.remove(self)
        # Kept, so that nothing of it is cleaned up in the midst of something else.
        self._lost = [*self._soon, *self._writes, *self._reads[0], *self._reads[1], *self._timers]
        for lane in (self._soon, self._writes, *self._reads):
            lane.clear()
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        self._timers = set()

    # -- as a reactor ------------------------------------------------------------------------------------------------

    def seconds(self) -> float:
        return float(self.engine.time.seconds())

    def callLater(self, seconds: float, fn: Callable[..., object], *args: Any, **kwargs: Any) -> Any:
        call: Any = None

        def fire() -> None:
            self._timers.discard(call)
            if self.is_on:
                # In the machine's own turn: another's work may be done before.
                self.soon(partial(fn, *args, **kwargs))

        call = self.engine.time.callLater(seconds, fire)
        self._timers.add(call)
        return _Timer(self, call)

    def callFromThread(self, fn: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        self.soon(partial(fn, *args, **kwargs))

    def soon(self, call: Call) -> None:
        """Have something done in the thread of the reactor."""
        if self.is_on:
            self._soon.append(call)

    def write(self, call: Call) -> None:
        """Have something done in the thread that writes."""
        if self.is_on:
            self._writes.append(call)

    def read(self, call: Call) -> None:
        """Have something done in some other thread."""
        if self.is_on:
            self.engine.random.choice(self._reads).append(call)


class _Timer:
    """A call that was put off; it can be cancelled until it is made."""

    __slots__ = ("_call", "_machine")

    def __init__(self, machine: Machine, call: Any) -> None:
        self._machine = machine
        self._call = call

    def active(self) -> bool:
        return bool(self._call.active())

    def cancel(self) -> None:
        self._machine._timers.discard(self._call)
        self._call.cancel()


class SteppedThreads(Threads):
    """Threads of a machine; the first argument of `Threads` is one."""

    def __init__(self, reactor: Any, size: int, name: str = "worker") -> None:
        self._machine: Machine = reactor

    def run(self, fn: Any, *args: Any, **kwargs: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self._machine.read(partial(self._do, partial(copy_context().run, fn, *args, **kwargs), done))
        return done

    def _do(self, job: Call, done: Deferred[Any]) -> None:
        try:
            result = job()
        except Exception:
            self._machine.soon(partial(done.errback, Failure()))
        else:
            self._machine.soon(partial(done.callback, result))

    async def stop(self) -> None:
        pass


class SteppedBatcher(Batcher[Any]):
    """The writer of a machine: batches gather as in the real one."""

    def start(self) -> None:
        pass

    def _dispatch(self) -> None:
        batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        machine: Machine = self._reactor  # type: ignore[assignment]
        machine.write(partial(self._do, machine, batch))

    def _do(self, machine: Machine, batch: Any) -> None:
        try:
            results = self._work([job for job, _ in batch])
        except Exception as fault:
            results = [fault] * len(batch)
        machine.soon(partial(self._finished, batch, results))
