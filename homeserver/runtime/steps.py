"""Running a coroutine whose end is told to a function, without a Deferred of its own.

For what happens thousands of times a second and mostly waits for nothing: then `drive` has called `done` by the time it
returns. The coroutine runs in a context of its own, so context variables do not leak from one to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


def drive(
    coroutine: Coroutine[Deferred[Any], Any, T],
    done: Callable[[T], object],
    failed: Callable[[BaseException], object],
) -> None:
    """Run a coroutine; call `done(result)` or `failed(error)` once, at once if nothing is waited for."""
    _Steps(coroutine, done, failed).step(None)


class _Steps:
    __slots__ = ("_context", "_coroutine", "_done", "_failed")

    def __init__(
        self,
        coroutine: Coroutine[Deferred[Any], Any, Any],
        done: Callable[[Any], object],
        failed: Callable[[BaseException], object],
    ) -> None:
        self._coroutine = coroutine
        self._done = done
        self._failed = failed
        self._context: Context = copy_context()

    def step(self, result: object) -> None:
        """Go on, with a Failure or whatever the Deferred that was waited for has got."""
        try:
            if isinstance(result, Failure):
                waiting_for = self._context.run(result.throwExceptionIntoGenerator, self._coroutine)
            else:
                # The coroutine takes a good result from the Deferred itself, which is in the midst of calling us.
                waiting_for = self._context.run(self._coroutine.send, None)
        except StopIteration as end:
            self._done(end.value)
        except BaseException as error:
            self._failed(error)
        else:
            waiting_for.addBoth(self.step)
