"""When Python's cyclic garbage collector runs, for a process that is a server.

A full collection looks at every object there is and lets nothing else run meanwhile: with the caches full that is
hundreds of milliseconds in which nobody is answered, and by default it comes whenever the heap has grown by a quarter.
Nearly all of the old objects live on and are in no cycle. So what has survived is put out of the collector's sight
(`gc.freeze`), full collections come by the clock and look at what is new since the last one, and only every few hours
is all looked at. Garbage in cycles that was frozen is kept until then: connections and failures, not data.

This is for the whole process, so it is done where a server owns it, and left to the host where one is embedded.
"""

from __future__ import annotations

import gc
from typing import Any, Final

from .clock import Clock

EVERY_S: Final = 5.0
# How often everything is looked at.
WHOLE_EVERY_S: Final = 6 * 3600.0
# Allocations between collections of the youngest, and how many of these between those of the middle-aged. What lives on
# is looked at in each, so they come seldom; what is in a cycle is mostly young.
_THRESHOLDS: Final = (50_000, 500)
_NEVER: Final = 1_000_000_000


class GarbageCollection:
    """Sees to the garbage of the process, from `start` to `stop`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._before: tuple[int, int, int] | None = None
        self._timer: Any = None
        self._whole_at = 0.0

    def start(self) -> None:
        """Take over from Python's own timing."""
        self._before = gc.get_threshold()
        gc.set_threshold(*_THRESHOLDS, _NEVER)
        self._collect_whole()
        self._timer = self._clock.call_later(EVERY_S, self._collect)

    def stop(self) -> None:
        """Leave the process as it was."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._before is not None:
            gc.unfreeze()
            gc.set_threshold(*self._before)
            self._before = None

    def _collect(self) -> None:
        if self._clock.monotonic() >= self._whole_at:
            self._collect_whole()
        else:
            gc.collect()
            gc.freeze()
        self._timer = self._clock.call_later(EVERY_S, self._collect)

    def _collect_whole(self) -> None:
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._whole_at = self._clock.monotonic() + WHOLE_EVERY_S
