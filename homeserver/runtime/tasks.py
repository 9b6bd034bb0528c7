"""Background work with a name, an owner and an end.

No coroutine is dropped: whoever starts work in the background starts it as a task of its `Tasks`, and `stop()` cancels
what still runs and waits until it has ended.  An error ends a single task with a line in the log; in a repeated one it
is logged and the next round comes at its time.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from homeserver.runtime.clock import Clock

logger = logging.getLogger(__name__)

_STOP_PATIENCE_S = 10.0


class Tasks:
    """The background tasks of one owner; `owner` is for the log."""

    def __init__(self, clock: Clock, owner: str) -> None:
        self._clock = clock
        self._owner = owner
        self._running: dict[Deferred[None], str] = {}
        self._is_stopped = False
        self._all_ended: Deferred[None] | None = None

    def start(self, name: str, work: Coroutine[Deferred[Any], Any, Any]) -> None:
        """Run the coroutine `work` in the background, from now on; after `stop` it is closed without having run."""
        if self._is_stopped:
            work.close()
            return
        done: Deferred[None] = copy_context().run(Deferred.fromCoroutine, self._guarded(name, work))
        if not done.called:
            self._running[done] = name
            done.addBoth(self._ended, done)

    def every(self, name: str, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
        """Await `work()` again and again, with `seconds` between the end of one round and the start of the next."""
        self.start(name, self._repeat(name, seconds, work))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tasks that run, in the order of their start."""
        return tuple(self._running.values())

    async def stop(self) -> None:
        """Cancel all tasks and wait until they have ended; one that will not end within ten seconds is left behind."""
        self._is_stopped = True
        for task in tuple(self._running):
            task.cancel()
        if not self._running:
            return
        ended: Deferred[None] = Deferred()
        self._all_ended = ended
        patience = self._clock.call_later(_STOP_PATIENCE_S, self._give_up)
        await ended
        if patience.active():
            patience.cancel()

    async def _guarded(self, name: str, work: Coroutine[Deferred[Any], Any, Any]) -> None:
        try:
            await work
        except CancelledError:
            if not self._is_stopped:
                logger.warning("%s: task %s was cancelled", self._owner, name)
        except Exception:
            logger.exception("%s: task %s failed", self._owner, name)

    async def _repeat(self, name: str, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
        while True:
            await self._clock.sleep(seconds)
            try:
                await work()
            except CancelledError:
                if self._is_stopped:
                    raise
                logger.warning("%s: a round of task %s was cancelled", self._owner, name)
            except Exception:
                logger.exception("%s: a round of task %s failed", self._owner, name)
            if self._is_stopped:
                return

    def _ended(self, _: object, task: Deferred[None]) -> None:
        self._running.pop(task, None)
        if not self._running and self._all_ended is not None:
            ended, self._all_ended = self._all_ended, None
            ended.callback(None)

    def _give_up(self) -> None:
        if self._all_ended is not None:
            logger.error("%s: left behind at the stop: %s", self._owner, ", ".join(self.names))
            ended, self._all_ended = self._all_ended, None
            ended.callback(None)
