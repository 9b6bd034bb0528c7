"""A change with its place in the stream: take a position, store, publish in order, answer.

This is decision 3 of the architecture for everything that is not an event. The position is finished whatever happens:
a request that goes away is no reason to hold up the stream.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from storage.positions import Positions

T = TypeVar("T")


def store_change(
    positions: Positions, submit: Callable[[int], Awaitable[T]], publish: Callable[[int, T], None]
) -> Deferred[T]:
    """Store a change by `submit(position)`, then call `publish(position, result)` in order of positions.

    The Deferred fires with the result of `submit` once the change is visible. `submit` is a call of `database.write` or
    `database.submit`.
    """
    position = positions.allocate()
    answer: Deferred[T] = Deferred()

    def stored(result: T) -> None:
        def show() -> None:
            try:
                publish(position.number, result)
            finally:
                answer.callback(result)

        position.finish(show)

    def failed(failure: Any) -> None:
        position.abandon()
        answer.errback(failure)

    try:
        written: Any = submit(position.number)
    except BaseException:
        position.abandon()
        raise
    # Not awaited: whoever asked may go away, the position may not be forgotten.
    written.addCallbacks(stored, failed)
    return answer
