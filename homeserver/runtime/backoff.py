"""How long to wait before the next attempt: twice as long each time, a little of it by chance, never over a bound."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """The waits between attempts at one thing."""

    __slots__ = ("_chance", "_first_s", "_most_s", "failures")

    def __init__(self, first_s: float, most_s: float, *, chance: Callable[[], float] = random.random) -> None:
        """`chance` gives numbers from 0 to 1; what failed together should not all come back together."""
        self._first_s = first_s
        self._most_s = most_s
        self._chance = chance
        self.failures = 0

    def next_s(self) -> float:
        """Note a failure and return the seconds to wait: between half and all of the present step."""
        # 2**40 is over any bound already; the exponent stays small however long this goes on.
        step = min(self._most_s, self._first_s * 2.0 ** min(self.failures, 40))
        self.failures += 1
        return step * (0.5 + 0.5 * self._chance())

    def reset(self) -> None:
        """Note that it went well."""
        self.failures = 0
