"""Positions are published in their order, numbers are never used again."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import ensureDeferred, gatherResults

from homeserver.errors import StorageUnavailable
from storage import positions as module
from storage.database import Database
from storage.positions import Positions, Sequence
from tests.storage.core import database  # noqa: F401


class Numbers:
    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        self.last += 1
        return self.last


def positions() -> Positions:
    made = Positions(Numbers())  # type: ignore[arg-type]
    made.start()
    return made


@given(order=st.permutations(range(12)), abandoned=st.sets(st.integers(0, 11)), broken=st.sets(st.integers(0, 11)))
def test_any_order_of_finishing_publishes_in_the_order_of_positions(
    order: list[int], abandoned: set[int], broken: set[int]
) -> None:
    made = positions()
    taken = [made.allocate() for _ in range(12)]
    seen: list[int] = []
    done: set[int] = set()

    def publish(number: int) -> None:
        assert number == made.watermark
        seen.append(number)
        if number - 1 in broken:
            raise LookupError("a reader failed")

    for index in order:
        number = taken[index].number
        if index in abandoned:
            taken[index].abandon()
        else:
            taken[index].finish(lambda number=number: publish(number))  # type: ignore[misc]
        taken[index].finish(lambda: seen.append(-1))
        done.add(index)
        low = next((each for each in range(12) if each not in done), 12)
        assert low == made.watermark
    assert [each.number for index, each in enumerate(taken) if index not in abandoned] == seen


def test_a_publication_may_finish_others_without_recursion() -> None:
    made = positions()
    taken = [made.allocate() for _ in range(3_000)]
    seen: list[int] = []

    def publish(index: int) -> None:
        seen.append(index)
        if index + 1 < len(taken):
            taken[index + 1].finish(lambda: publish(index + 1))
        made.allocate().abandon()

    taken[0].finish(lambda: publish(0))
    assert list(range(3_000)) == seen
    assert 6_000 == made.watermark


def watch(work: Any) -> None:
    ensureDeferred(work)


@pytest_twisted.ensureDeferred
async def test_no_number_is_used_again_after_a_crash(
    database: Database,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BLOCK", 10)
    used: list[int] = []
    for _ in range(4):
        sequence = Sequence(database, "s", watch=watch)
        await sequence.start()
        assert not used or sequence.last >= used[-1]
        for _ in range(37):
            used.append(sequence.next())
            if len(used) % 3 == 0:
                await database.write(lambda tx: None)
    assert len(set(used)) == len(used)
    assert sorted(used) == used


@pytest_twisted.ensureDeferred
async def test_many_who_leap_at_once_all_find_room(
    database: Database,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Joins of rooms of other servers, several of which wait for the same reservation."""
    monkeypatch.setattr(module, "BLOCK", 10)
    sequence = Sequence(database, "s", watch=watch)
    await sequence.start()
    leapt: list[int] = []

    async def leap() -> None:
        await sequence.make_room(1_000)
        leapt.append(sequence.next(1_000))

    await gatherResults([ensureDeferred(leap()) for _ in range(8)])
    assert all(later - earlier > 1_000 for earlier, later in pairwise([0, *leapt]))


@pytest_twisted.ensureDeferred
async def test_without_reserved_numbers_there_are_none(
    database: Database,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BLOCK", 10)
    sequence = Sequence(database, "s", watch=lambda work: work.close())
    await sequence.start()
    for _ in range(10):
        sequence.next()
    with pytest.raises(StorageUnavailable):
        sequence.next()
