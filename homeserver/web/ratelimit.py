"""Token buckets: how often something may be done, with a burst.

A bucket of a key is one number, the time at which it will be full again (the "generic cell rate algorithm"), so that a
check is a look-up and an addition.  A full bucket needs no entry; the number of entries is bounded, and the oldest goes
first: whoever makes more keys than that gains a burst, not memory.

Spec: client-server API, "Rate limiting".
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from homeserver.errors import LimitExceeded
from homeserver.runtime.clock import Clock

MAX_KEYS: Final = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class Bucket:
    """`burst_count` at once, then `per_second`.  Two buckets are never the same one, even with the same numbers.

    A rate of zero or less never refills; a burst under one lets nothing through.
    """

    per_second: float
    burst_count: float


class RateLimits:
    """The levels of all buckets, by key."""

    __slots__ = ("_clock", "_levels", "_max_keys")

    def __init__(self, clock: Clock, max_keys: int = MAX_KEYS) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._levels: dict[Bucket, dict[Hashable, float]] = {}

    def check(self, key: Hashable, bucket: Bucket, cost: float = 1.0) -> LimitExceeded | None:
        """Take `cost` out of the bucket of `key`; return the refusal, not raised, if there is not enough in it."""
        now = self._clock.monotonic()
        levels = self._levels.get(bucket)
        if levels is None:
            levels = self._levels[bucket] = {}
        interval = 1.0 / bucket.per_second if bucket.per_second > 0 else 1e9
        full_at = levels.get(key, now)
        if full_at < now:
            full_at = now
        after = full_at + cost * interval
        excess = after - now - bucket.burst_count * interval
        if excess > 1e-9:
            return LimitExceeded(min(int(excess * 1000) + 1, 2**53 - 1))
        if len(levels) >= self._max_keys and key not in levels:
            self._make_room(levels, now)
        levels[key] = after
        return None

    def forget(self, key: Hashable, bucket: Bucket) -> None:
        """Fill the bucket of `key`, as after a successful login."""
        levels = self._levels.get(bucket)
        if levels is not None:
            levels.pop(key, None)

    def _make_room(self, levels: dict[Hashable, float], now: float) -> None:
        # A sixteenth at a time, so that the cost is spread.
        for key in list(islice(levels, max(1, self._max_keys // 16))):
            del levels[key]
        for key in [key for key, full_at in islice(levels.items(), 64) if full_at <= now]:
            del levels[key]
