"""Stored state: any state reads back as what it was, at a bounded cost."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, DeferredList

from homeserver.errors import BrokenInvariant
from storage.database import Database
from storage.state_groups import (
    Chain,
    StateCache,
    decode_delta,
    difference,
    differing_keys,
    encode_delta,
    extend,
    load_chain,
    load_chains,
    state_of,
    states_of,
)
from storage.tables.rooms import state_groups
from storage.transaction import Transaction
from tests.storage.core import database  # noqa: F401

_COLUMNS = ("state_group", "room_nid", "parent", "chain_index", "delta")
# Event 0 removes a key.
_CHANGES = st.dictionaries(st.integers(1, 12), st.integers(0, 5), max_size=3)
_STEPS = st.lists(st.tuples(st.integers(0, 10_000), _CHANGES, st.booleans()), min_size=1, max_size=60)
_Made = tuple[Chain, dict[int, int]]


def grow(steps: list[tuple[int, dict[int, int], bool]]) -> list[_Made]:
    """Return the empty state and those made by steps: on which one, what is changed, whether others may stand there."""
    groups: list[_Made] = [((), {})]
    for number, (fork, change, is_side) in enumerate(steps, 1):
        chain, state = groups[fork % len(groups)]
        new, longer = extend(chain, 1, number, change, is_side=is_side)
        assert new.delta == decode_delta(encode_delta(new.delta))
        assert new.parent == (longer[-2].state_group if len(longer) > 1 else None)
        assert new.state_group == longer[-1].state_group
        assert all(earlier.chain_index < later.chain_index for earlier, later in pairwise(longer))
        after = {**state, **change}
        groups.append((longer, {key: nid for key, nid in after.items() if nid}))
    return groups


def without(chain: Chain, length: int) -> Chain:
    """Return a chain like this one whose first groups are others with the same differences."""
    return (*(replace(node, state_group=-node.state_group) for node in chain[:length]), *chain[length:])


@given(_STEPS)
def test_a_state_is_what_was_put_on_top_of_its_group_wherever_it_forks(
    steps: list[tuple[int, dict[int, int], bool]],
) -> None:
    for chain, state in grow(steps):
        assert state == dict(state_of(chain).items())


@given(_STEPS)
def test_states_that_are_made_together_are_those_made_alone(steps: list[tuple[int, dict[int, int], bool]]) -> None:
    groups = grow(steps)
    random.Random(len(steps)).shuffle(groups)
    known = {chain[-1].state_group: state_of(chain) for chain, _ in groups[::3] if chain}
    made = states_of({number: chain for number, (chain, _) in enumerate(groups)}, known)
    assert {number: state for number, (_, state) in enumerate(groups)} == {
        number: dict(state.items()) for number, (state, _) in made.items()
    }
    assert all(0 <= fresh <= len(state) for state, fresh in made.values())


@given(_STEPS, st.lists(st.integers(0, 10_000), max_size=8), st.integers(0, 5))
def test_the_keys_that_are_found_are_those_on_which_states_differ(
    steps: list[tuple[int, dict[int, int], bool]], chosen: list[int], cut: int
) -> None:
    groups = grow(steps)
    picked = [groups[number % len(groups)] for number in chosen]
    if picked and cut:
        # A chain that shares nothing with the others.
        picked[0] = (without(picked[0][0], len(picked[0][0])), picked[0][1])
    keys = range(1, 13)
    expected = {key for key in keys if len({state.get(key) for _, state in picked}) > 1}
    assert expected == differing_keys([chain for chain, _ in picked], [state_of(chain) for chain, _ in picked])
    for (ours, our_state), (theirs, their_state) in pairwise(picked):
        assert {
            key: (our_state.get(key), their_state.get(key))
            for key in keys
            if our_state.get(key) != their_state.get(key)
        } == difference(ours, theirs)


def test_a_line_stands_as_in_a_fenwick_tree() -> None:
    chain: Chain = ()
    groups = {}
    for number in range(1, 200):
        new, chain = extend(chain, 1, number, {number: number})
        groups[number] = new
        index = number - 1
        assert index == new.chain_index
        assert (None if not index else (index & index - 1) + 1) == new.parent
        assert (index & -index if index else 1) == len(new.delta)


def test_a_line_that_stands_on_sides_stays_short() -> None:
    chance = random.Random(3)
    chain: Chain = ()
    stored = 0
    for number in range(1, 5_001):
        new, chain = extend(chain, 1, number, {number: number}, is_side=chance.random() < number / 5_000)
        stored += len(new.delta)
        assert len(chain) <= 2 + new.chain_index.bit_length()
    assert chain[-1].chain_index < 1 << 40
    assert stored / 5_000 < 2 * 13


def test_forks_at_an_unlucky_place_store_little() -> None:
    chain: Chain = ()
    for number in range(1, 4_097):
        _, chain = extend(chain, 1, number, {number: number})
    unlucky, _ = extend(chain, 1, 5_000, {1: 5_000})
    assert len(unlucky.delta) == 4_095 + 1
    sides = [extend(chain, 1, group, {1: group}, is_side=True)[0] for group in range(10_000, 10_500)]
    assert sum(len(side.delta) for side in sides) / 500 < 3 * 12
    # Numbers may come in steps.
    sides = [extend(chain, 1, group, {1: group}, is_side=True)[0] for group in range(1 << 20, 1 << 29, 1 << 20)]
    assert sum(len(side.delta) for side in sides) / len(sides) < 3 * 12


def test_a_large_change_is_not_carried_along_by_small_ones() -> None:
    chain: Chain = ()
    for number in range(1, 100):
        _, chain = extend(chain, 1, number, {number: number})
    for is_side in (False, True):
        large, on_large = extend(chain, 1, 200, dict.fromkeys(range(1_000, 3_000), 200), is_side=is_side)
        assert len(large.delta) <= 2_000 + 99
        carried = 0
        for number in range(300, 400):
            new, on_large = extend(on_large, 1, number, {number: number}, is_side=is_side)
            carried += len(new.delta) >= 2_000
        assert carried <= 1


def test_states_of_forks_share_what_they_have_in_common() -> None:
    chain: Chain = ()
    for number in range(1, 2_001):
        _, chain = extend(chain, 1, number, {number: number})
    forks = {group: extend(chain, 1, group, {group: group}, is_side=True)[1] for group in range(3_000, 3_200)}
    made = states_of(forks)
    assert all(len(state) == 2_001 for state, _ in made.values())
    assert sum(fresh for _, fresh in made.values()) < 2_000 + 200 * 3 * 11


@pytest_twisted.ensureDeferred
async def test_stored_states_read_back(database: Database) -> None:  # noqa: F811
    chance = random.Random(7)
    groups: list[tuple[int, Chain, dict[int, int]]] = [(0, (), {})]
    rows = []
    for number in range(1, 300):
        _, chain, state = chance.choice(groups[-5:] if chance.random() < 0.9 else groups)
        change = {chance.randint(1, 40): number for _ in range(chance.randint(1, 3))}
        new, longer = extend(chain, 1, number, change, is_side=chance.random() < 0.2)
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
    many = await database.read(lambda tx: load_chains(tx, [number for number, _, _ in groups[1:]]))
    assert {number: chain for number, chain, _ in groups[1:]} == many
    nodes = [node for chain in many.values() for node in chain]
    assert len({id(node) for node in nodes}) == len({node.state_group for node in nodes})
    cache.drop([number for number, _, _ in groups])
    assert not cache._size
    with pytest.raises(BrokenInvariant):
        await cache.get_many([number, 1_000])


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
