"""The collector of a server's process: by the clock, over what is new, and everything again when the server ends."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from homeserver.runtime.clock import ManualClock
from homeserver.runtime.garbage import EVERY_S, WHOLE_EVERY_S, GarbageCollection


class Knot:
    """A cycle of one."""

    def __init__(self) -> None:
        self.self = self


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    clock = ManualClock()
    collection = GarbageCollection(clock)
    before = gc.get_threshold()
    collection.start()
    yield clock
    collection.stop()
    assert before == gc.get_threshold()
    assert 0 == gc.get_freeze_count()


def test_new_garbage_goes_with_the_next_turn(clock: ManualClock) -> None:
    gone = weakref.ref(Knot())
    assert gone() is not None
    clock.advance(EVERY_S)
    assert gone() is None


def test_what_has_survived_is_out_of_sight_until_all_is_looked_at(clock: ManualClock) -> None:
    knot: Knot | None = Knot()
    gone = weakref.ref(knot)
    clock.advance(EVERY_S)
    knot = None
    clock.advance(EVERY_S)
    assert gone() is not None
    for _ in range(int(WHOLE_EVERY_S / EVERY_S) + 1):
        clock.advance(EVERY_S)
    assert gone() is None
