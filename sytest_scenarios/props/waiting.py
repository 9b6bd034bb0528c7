"""Waiting for what is not told by /sync: the server is asked again and again until its answer is what is wanted."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from ..asking import sleep
from ..expect import Failed, shown

T = TypeVar("T")

WITHIN_S: Final = 10.0
BETWEEN_S: Final = 0.1


async def eventually(
    expected: str, ask: Callable[[], Awaitable[T]], look: Callable[[T], object], *, within_s: float = WITHIN_S
) -> T:
    """Ask until `look` says that the answer is the one that is waited for, and return that answer.

    `expected` ends the sentence "expected …" if it does not come.
    """
    deadline = time.monotonic() + within_s
    while True:
        found = await ask()
        if look(found):
            return found
        if time.monotonic() > deadline:
            raise Failed(f"{expected} within {within_s:g} s", shown(found))
        await sleep(BETWEEN_S)
