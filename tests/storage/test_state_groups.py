"""Stored state: any state reads back as what it was, at a bounded cost."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, DeferredList

from storage.database import Database
from storage.state_groups import Chain, StateCache, decode_delta, encode_delta, extend, load_chain, state_of
from storage.tables.rooms import state_groups
from storage.transaction import Transaction
from tests.storage.core import database  # noqa: F401

_COLUMNS = ("state_group", "room_nid", "parent", "chain_index", "delta")
_CHANGES = st.dictionaries(st.integers(1, 12), st.integers(1, 1000), min_size=1, max_size=3)


@given(st.lists(st.tuples(st.integers(0, 10_000), _CHANGES), min_size=1, max_size=60))
def test_a_state_is_what_was_put_on_top_of_its_group_wherever_it_forks(
    steps: list[tuple[int, dict[int, int]]],
) -> None:
    groups: list[tuple[Chain, dict[int, int]]] = [((), {})]
    for number, (fork, change) in enumerate(steps, 1):
        chain, state = groups[fork % len(groups)]
        new, longer = extend(chain, 1, number, change)
        assert new.delta == decode_delta(encode_delta(new.delta))
        assert len(longer) <= new.chain_index.bit_length() + 1
        groups.append((longer, {**state, **change}))
    for chain, state in groups:
        assert state == dict(state_of(chain).items())


@pytest_twisted.ensureDeferred
async def test_stored_states_read_back(database: Database) -> None:  # noqa: F811
    chance = random.Random(7)
    groups: list[tuple[int, Chain, dict[int, int]]] = [(0, (), {})]
    rows = []
    for number in range(1, 300):
        _, chain, state = chance.choice(groups[-5:] if chance.random() < 0.9 else groups)
        change = {chance.randint(1, 40): number for _ in range(chance.randint(1, 3))}
        new, longer = extend(chain, 1, number, change)
        rows.append(new.row())
        groups.append((number, longer, {**state, **change}))
    await database.write(lambda tx: tx.insert_many(state_groups, _COLUMNS, rows))
    cache = StateCache(database, budget_bytes=20_000)
    for _ in range(3):
        wanted = chance.sample(groups[1:], 40)
        found = await cache.get_many(number for number, _, _ in wanted)
        assert {number: state for number, _, state in wanted} == {
            key: dict(each.items()) for key, each in found.items()
        }
    number, chain, _ = groups[-1]
    loaded = await database.read(lambda tx: load_chain(tx, number))
    assert [(node.state_group, dict(node.delta)) for node in chain] == [
        (node.state_group, dict(node.delta)) for node in loaded
    ]


@pytest_twisted.ensureDeferred
async def test_states_that_are_dropped_while_others_are_read_are_still_given(database: Database) -> None:  # noqa: F811
    rows = [extend((), 1, number, {1: number})[0].row() for number in range(1, 21)]
    await database.write(lambda tx: tx.insert_many(state_groups, _COLUMNS, rows))
    cache = StateCache(database, budget_bytes=1)
    await cache.get(1)
    waiting: list[Any] = [Deferred.fromCoroutine(cache.get_many([number, 1, 20])) for number in range(2, 20)]
    for is_well, found in await DeferredList(waiting, consumeErrors=True):
        assert is_well, found
        assert all({1: number} == dict(state.items()) for number, state in found.items())


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_ten_thousand_changes_in_a_large_room_stay_small_and_quick(
    database: Database,  # noqa: F811
) -> None:
    chance = random.Random(1)
    chain: Chain = ()
    rows = []
    for number in range(1, 15_001):
        key = number if number <= 5_000 else chance.randint(1, 5_000)
        new, chain = extend(chain, 1, number, {key: 1_000_000 + number})
        rows.append(new.row())

    def write(tx: Transaction) -> None:
        for start in range(0, len(rows), 500):
            tx.insert_many(state_groups, _COLUMNS, rows[start : start + 500])

    await database.write(write)
    stored_bytes = sum(len(row[4]) for row in rows)
    # A member event is about 1,000 bytes with its signature and hashes.
    assert stored_bytes <= 2 * 1_000 * len(rows)
    started = time.perf_counter()
    state = await database.read(lambda tx: state_of(load_chain(tx, 14_999)))
    took_ms = (time.perf_counter() - started) * 1000
    print(f"{stored_bytes / len(rows):.0f} bytes a change, {took_ms:.1f} ms to load")
    assert 5_000 == len(state)
