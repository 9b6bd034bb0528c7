"""The index over the auth graph says what a plain walk along the auth events says."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, select

from storage.auth_index import NewAuthEvent, add, auth_chain, auth_difference, conflicted_subgraph, reach
from storage.database import _engine, parse_url
from storage.schema import migrate
from storage.tables.auth_chains import auth_chains, auth_links
from storage.transaction import Transaction

Graph = Mapping[int, NewAuthEvent]


@pytest.fixture
def tx(database_url: str) -> Iterator[Transaction]:
    """A transaction on an empty database."""
    engine = _engine(parse_url(database_url), 1)
    migrate(engine)
    with engine.connect() as connection:
        yield Transaction(connection, {})
    engine.dispose()


@contextmanager
def transaction_in_memory() -> Iterator[Transaction]:
    with _memory_engine().connect() as connection, connection.begin() as begun:
        yield Transaction(connection, {})
        begun.rollback()


_engines: list[Engine] = []


def _memory_engine() -> Engine:
    if not _engines:
        engine = create_engine("sqlite://")
        auth_chains.metadata.create_all(engine, [auth_chains, auth_links])
        _engines.append(engine)
    return _engines[0]


# -- what the index must say, the slow way ------------------------------------------------------------------------


def walk(graph: Graph, nids: Sequence[int] | set[int]) -> set[int]:
    """The auth chain of these events together."""
    found: set[int] = set()
    stack = [cited for nid in nids for cited in graph[nid].auth_nids]
    while stack:
        nid = stack.pop()
        if nid not in found:
            found.add(nid)
            stack.extend(graph[nid].auth_nids)
    return found


def walk_difference(graph: Graph, states: Sequence[set[int]]) -> set[int]:
    chains = [walk(graph, state) for state in states]
    return set.union(*chains) - set.intersection(*chains)


def walk_subgraph(graph: Graph, conflicted: set[int]) -> set[int]:
    below = walk(graph, conflicted)
    return {nid for nid in below if conflicted & ({nid} | walk(graph, [nid]))} | conflicted


# -- random graphs and states -------------------------------------------------------------------------------------


def random_graph(
    chance: random.Random, size: int, keys: int, *, first: int = 1, forks: float = 0.2
) -> dict[int, NewAuthEvent]:
    """A room: event 1 is its root, keys over 2/3 of the range are cited by nobody."""
    graph: dict[int, NewAuthEvent] = {}
    by_key: dict[int, list[int]] = {}
    nid = first
    for _ in range(size):
        key = chance.randint(1, keys) if graph else 0
        cited = {0: first} if graph else {}
        for other in {key, *(chance.randint(1, keys) for _ in range(chance.randint(0, 3)))}:
            if by_key.get(other) and (other == key or other * 3 <= keys * 2) and chance.random() < 0.85:
                versions = by_key[other]
                cited[other] = chance.choice(versions) if chance.random() < forks else versions[-1]
        if chance.random() < 0.1:
            cited.pop(0, None)
        graph[nid] = NewAuthEvent(nid, key, tuple(cited.values()))
        by_key.setdefault(key, []).append(nid)
        # Other rooms' events are stored in between.
        nid += chance.choice((1, 1, 1, 3))
    return graph


def random_states(chance: random.Random, graph: Graph, forks: int, conflicts: float) -> list[dict[int, int]]:
    """States that agree on most keys."""
    by_key: dict[int, list[int]] = {}
    for new in graph.values():
        by_key.setdefault(new.key_nid, []).append(new.nid)
    common = {key: chance.choice(versions[-3:]) for key, versions in by_key.items() if chance.random() < 0.9}
    states = []
    for _ in range(forks):
        state = dict(common)
        for key, versions in by_key.items():
            if chance.random() < conflicts:
                if chance.random() < 0.2:
                    state.pop(key, None)
                else:
                    state[key] = chance.choice(versions)
        states.append(state)
    return states


def separated(states: Sequence[Mapping[int, int]]) -> list[set[int]]:
    """The conflicted state events of each state."""
    same = {key for key, nid in states[0].items() if all(state.get(key) == nid for state in states)}
    return [{nid for key, nid in state.items() if key not in same} for state in states]


def assert_same(tx: Transaction, chance: random.Random, graph: Graph) -> None:
    states = random_states(chance, graph, chance.choice((1, 2, 2, 3, 5)), chance.choice((0.02, 0.2, 0.6)))
    sets = separated(states)
    conflicted = set[int]().union(*sets)
    expected = walk_difference(graph, [set(state.values()) for state in states]) - conflicted
    assert expected == auth_difference(tx, sets, chance.choice(states))
    assert walk_subgraph(graph, conflicted) == conflicted_subgraph(tx, conflicted)
    some = set(chance.sample(sorted(graph), min(len(graph), chance.randint(1, 4))))
    assert walk(graph, some) == auth_chain(tx, some)
    reached = walk(graph, some) | some
    chains = dict(
        tx.all(select(auth_chains.c.event_nid, auth_chains.c.chain).where(auth_chains.c.event_nid.in_(graph)))
    )
    tops = reach(tx, some)
    assert reached == {nid for nid, chain in chains.items() if nid <= tops.get(chain, 0)}


def store(tx: Transaction, chance: random.Random, graph: Graph) -> None:
    """Add the events in batches of all sizes."""
    left = list(graph.values())
    while left:
        size = chance.choice((1, 2, 5, 50))
        add(tx, left[:size])
        left = left[size:]


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**32), st.integers(1, 80), st.integers(1, 15), st.sampled_from([0.0, 0.1, 0.5]))
def test_index_says_what_a_walk_says(seed: int, size: int, keys: int, forks: float) -> None:
    chance = random.Random(seed)
    graph = random_graph(chance, size, keys, forks=forks)
    with transaction_in_memory() as tx:
        store(tx, chance, graph)
        for _ in range(4):
            assert_same(tx, chance, graph)


def test_both_kinds_of_databases_say_what_a_walk_says(tx: Transaction) -> None:
    chance = random.Random(5)
    for room in range(12):
        graph = random_graph(chance, 150, 5 + room * 3, first=room * 1_000 + 1, forks=0.2)
        store(tx, chance, graph)
        for _ in range(5):
            assert_same(tx, chance, graph)
