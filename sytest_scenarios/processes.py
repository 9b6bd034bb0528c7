"""Who tells the stories of a run: this process alone, or several that it starts, each with servers of its own.

    teller = OneProcess(world, settings)    or ManyProcesses(3, order, settings)
    await teller.open()
    results = await teller.tell_all(stories, on_result)
    await teller.close()

With several, this process tells nothing itself. It hands out the stories one by one, as the others become free, and
puts together what they found. The stories that need the same further servers (federation, a setting) go to the same
process, so that it alone starts them, unless it would have to do all of them when the others have nothing left.

The others run `telling`: its docstring says what is said between them. One that dies takes with it the stories
that it was telling: those failed, and the others go on. When this process dies, theirs end by themselves.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Protocol

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from .clock import REACTOR
from .expect import Failed
from .launching import CannotStart
from .runner import Kept, Outcome, Result, Settings, all_done, as_given, in_order, tell_all
from .story import Story
from .telling import LARGEST_MESSAGE_BYTES, TELLING, WorldOrder
from .world import World

# As long as a server may take to stop, for some of them.
CLOSING_LIMIT_S: Final = 60.0
GIVING_UP_LIMIT_S: Final = 3.0

OnResult = Callable[[Result], None]


class Teller(Protocol):
    """Who tells the stories."""

    @property
    def title(self) -> str:
        """What the report calls the server."""
        ...

    async def open(self) -> None:
        """Have the first server there; Failed if it cannot be judged, CannotStart if it does not start."""
        ...

    async def tell_all(self, stories: Sequence[Story], on_result: OnResult) -> list[Result]:
        """Tell the stories and return how they ended, in their order."""
        ...

    async def close(self) -> None:
        """Stop what was started."""
        ...

    def give_up(self) -> Deferred[None]:
        """Kill what was started, as the run is interrupted; the Deferred fires when that is done."""
        ...


class OneProcess:
    """This process."""

    def __init__(self, world: World, settings: Settings) -> None:
        self._world = world
        self._settings = settings

    @property
    def title(self) -> str:
        """What the world calls itself."""
        return self._world.title

    async def open(self) -> None:
        """Open the world."""
        await self._world.open()

    async def tell_all(self, stories: Sequence[Story], on_result: OnResult) -> list[Result]:
        """Tell them."""
        return await tell_all(stories, self._world, self._settings, on_result)

    async def close(self) -> None:
        """Close the world."""
        await self._world.close()

    def give_up(self) -> Deferred[None]:
        """Kill the servers, and tidy up after them."""
        self._world.kill_all()
        return Deferred.fromCoroutine(self._world.close())


class ManyProcesses:
    """Several others."""

    def __init__(self, count: int, order: WorldOrder, settings: Settings) -> None:
        self._order = order
        self._settings = settings
        self._processes = [_Process(number) for number in range(1, count + 1)]
        self._left: list[Story] = []
        self._owners: dict[object, _Process] = {}

    @property
    def title(self) -> str:
        """What the first of them calls its world."""
        return next((each.title for each in self._processes if each.title), "no server")

    async def open(self) -> None:
        """Start them all, and wait until each has its world, or has none; one is enough."""
        for each in self._processes:
            each.start(self._order, self._settings)
        found = [await each.opened for each in self._processes]
        faults = [each for each in found if each is not None]
        if len(faults) == len(found):
            raise faults[0]
        for fault in faults:
            print(f"sennit-scenarios: one process less tells stories: {fault}", file=sys.stderr)

    async def tell_all(self, stories: Sequence[Story], on_result: OnResult) -> list[Result]:
        """Hand the stories out, and gather how they ended."""
        self._left = in_order(stories, self._settings)
        results: list[Result] = []
        kept = Kept()

        async def keep_busy(process: _Process) -> None:
            while (story := self._next_for(process)) is not None:
                result = kept.keep(await process.tell(story))
                results.append(result)
                on_result(result)

        # Once more for what was left to a process that has died meanwhile.
        while self._left and (willing := [each for each in self._processes if each.is_willing]):
            busy = [Deferred.fromCoroutine(keep_busy(each)) for each in willing for _ in range(self._settings.jobs)]
            await all_done(busy)
        for story in self._left:
            ends = "; ".join(dict.fromkeys(each.end for each in self._processes if each.end))
            result = Result(story, Outcome.NOT_TOLD, ends or "no process is left to tell it")
            results.append(result)
            on_result(result)
        return as_given(results, stories)

    async def close(self) -> None:
        """Let them end, and wait for it."""
        await self._end(CLOSING_LIMIT_S)

    def give_up(self) -> Deferred[None]:
        """Let them end at once; the stories that they tell have no end then."""
        for each in self._processes:
            each.forget()
        return Deferred.fromCoroutine(self._end(GIVING_UP_LIMIT_S))

    async def _end(self, limit_s: float) -> None:
        started = [each for each in self._processes if each.transport is not None]
        for each in started:
            each.finish()
        timer = REACTOR.callLater(limit_s, self._kill_all)
        for each in started:
            await each.ended
        if timer.active():
            timer.cancel()

    def _kill_all(self) -> None:
        for each in self._processes:
            each.kill()

    def _next_for(self, process: _Process) -> Story | None:
        """Take the next story for a process; None if there is none for it."""
        if not process.is_willing:
            return None
        owners = {group: owner for group, owner in self._owners.items() if owner.is_willing}
        waiting = Counter(map(_group, self._left))
        # What is for anybody or its own; else some of what others have more of than they can tell at once.
        fits: tuple[Callable[[object], bool], ...] = (
            lambda group: group is None or owners.get(group, process) is process,
            lambda group: waiting[group] > self._settings.jobs,
        )
        for fit in fits:
            for place, story in enumerate(self._left):
                group = _group(story)
                if fit(group):
                    if group is not None and group not in owners:
                        self._owners[group] = process
                    return self._left.pop(place)
        return None


def _group(story: Story) -> object:
    """Return what the servers that a story needs have in common with those of others; None if it is nothing of note."""
    needs = story.needs
    if needs.own_servers or (needs.servers == 1 and needs.setting is None):
        return None
    return needs.setting, needs.servers > 1


class _Process(ProcessProtocol):
    """One of the others, as this process sees it."""

    def __init__(self, number: int) -> None:
        self.title = ""
        self.opened: Deferred[Exception | None] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self.end = ""
        """Why it tells no more."""
        self._number = number
        self._inbox = _Inbox(self)
        self._telling: dict[int, tuple[Story, Deferred[Result]]] = {}
        self._asked = 0

    @property
    def is_willing(self) -> bool:
        """Whether it tells stories."""
        return bool(self.title) and not self.end

    def start(self, order: WorldOrder, settings: Settings) -> None:
        """Start it."""
        command = [sys.executable, "-m", "sytest_scenarios", TELLING]
        REACTOR.spawnProcess(self, sys.executable, command, env=os.environ, childFDs={0: "w", 1: "r", 2: 2})
        self._send("open", replace(order, folder=order.folder / f"process{self._number}"), settings)

    def tell(self, story: Story) -> Deferred[Result]:
        """Have it tell a story."""
        self._asked += 1
        told: Deferred[Result] = Deferred()
        self._telling[self._asked] = story, told
        self._send("tell", self._asked, story.name)
        return told

    def forget(self) -> None:
        """Expect nothing more of the stories that it tells."""
        self._telling.clear()

    def finish(self) -> None:
        """Let it stop its servers and end."""
        self.end = self.end or "the run is over"
        assert self.transport is not None
        self.transport.closeStdin()

    def kill(self) -> None:
        """Kill it; its servers end with it."""
        if self.transport is not None and not self.ended.called:
            self.transport.signalProcess("KILL")

    def heard(self, kind: str, *said: Any) -> None:
        """Take in what it says."""
        if kind == "opened":
            (self.title,) = said
            self.opened.callback(None)
        elif kind == "failed":
            self.opened.callback(Failed(*said))
        elif kind == "cannot start":
            self.opened.callback(CannotStart(*said))
        elif kind == "told":
            number, fields = said
            if number in self._telling:
                story, told = self._telling.pop(number)
                told.callback(Result(story, **fields))
        elif kind == "ends":
            (self.end,) = said

    # -- of Twisted --------------------------------------------------------------------------------------------------

    def outReceived(self, data: bytes) -> None:
        """Take in a part of what it says."""
        self._inbox.dataReceived(data)

    def processEnded(self, reason: Failure) -> None:
        """Tell what it leaves behind."""
        how = _how(reason.value)
        died = f"a process that told stories ended {how}"
        self.end = self.end or died
        if not self.opened.called:
            self.opened.callback(CannotStart(died))
        telling, self._telling = self._telling, {}
        for story, told in telling.values():
            sentence = f"expected the process that tells the story to go on; got its end {how}"
            told.callback(Result(story, Outcome.FAILED, sentence))
        self.ended.callback(None)

    def _send(self, *message: object) -> None:
        assert self.transport is not None
        data = pickle.dumps(message)
        # Its input may be closed already: then its end is about to be told.
        with suppress(KeyError):
            self.transport.writeToChild(0, struct.pack("!I", len(data)) + data)


def _how(end: BaseException | None) -> str:
    if isinstance(end, error.ProcessTerminated) and end.signal is not None:
        return f"by signal {end.signal}"
    return f"with status {getattr(end, 'exitCode', None)}"


# Not annotated.
_Messages: Any = Int32StringReceiver


class _Inbox(_Messages):  # type: ignore[misc]
    """Cuts what comes into messages."""

    MAX_LENGTH = LARGEST_MESSAGE_BYTES

    def __init__(self, process: _Process) -> None:
        self._process = process

    def stringReceived(self, string: bytes) -> None:
        """Hand on a message; it is of a process of ours."""
        self._process.heard(*pickle.loads(string))
