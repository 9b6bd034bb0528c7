from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, succeed

from homeserver.errors import LimitExceeded
from homeserver.runtime.slots import Slots


def started(slots: Slots, work: Deferred[str]) -> list[object]:
    results: list[object] = []
    Deferred.fromCoroutine(slots.run(lambda: work)).addBoth(results.append)
    return results


def test_no_more_run_at_once_than_there_are_slots() -> None:
    slots = Slots(2, most_waiting=5)
    begun: list[int] = []
    works: list[Deferred[str]] = [Deferred() for _ in range(3)]

    def begin(number: int) -> Deferred[str]:
        begun.append(number)
        return works[number]

    for number in range(3):
        Deferred.fromCoroutine(slots.run(lambda number=number: begin(number)))
    assert [0, 1] == begun
    works[1].callback("done")
    assert [0, 1, 2] == begun


def test_too_many_waiting_are_refused() -> None:
    slots = Slots(1, most_waiting=1)
    started(slots, Deferred())
    started(slots, Deferred())
    refused: Deferred[str] = Deferred.fromCoroutine(slots.run(Deferred))
    refused.addErrback(lambda failure: failure.trap(LimitExceeded).__name__)
    assert "LimitExceeded" == refused.result


def test_a_failure_frees_the_slot() -> None:
    slots = Slots(1, most_waiting=0)
    work: Deferred[str] = Deferred()
    failed = Deferred.fromCoroutine(slots.run(lambda: work))
    work.errback(ValueError("no"))
    failed.addErrback(lambda failure: failure.trap(ValueError))
    assert ["done"] == started(slots, succeed("done"))


@pytest.mark.parametrize("most_waiting", [0, 3])
def test_a_free_slot_is_never_refused(most_waiting: int) -> None:
    assert ["done"] == started(Slots(1, most_waiting=most_waiting), succeed("done"))
