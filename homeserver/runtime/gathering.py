"""Waiting for several works that were begun together.

Twisted's `gatherResults` wraps the first error into its own `FirstError`, which nobody looks for: who tells a fault of
the storage from a fault of the program would take the one for the other.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

T = TypeVar("T")


async def gather(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Begin all works and return their results in order, or raise the first error as it is; the others go on."""
    running = [Deferred.fromCoroutine(work) for work in works]
    try:
        return await gatherResults(running, consumeErrors=True)
    except FirstError as first:
        fault: BaseException = first.subFailure.value  # type: ignore[assignment]
    raise fault
