"""The index over the auth graph says what a plain walk along the auth events says."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, select, text, update
from sqlalchemy.event import listen

from storage.auth_index import (
    NewAuthEvent,
    add,
    auth_chain,
    auth_difference,
    check,
    conflicted_subgraph,
    reach,
    rebuild,
)
from storage.auth_places import auth_nids_of
from storage.database import _engine, parse_url
from storage.events import Flag
from storage.schema import migrate
from storage.tables.auth_chains import auth_chains, auth_links
from storage.tables.rooms import events, rooms
from storage.transaction import Transaction

Graph = Mapping[int, NewAuthEvent]


@pytest.fixture
def tx(database_url: str) -> Iterator[Transaction]:
    """A transaction on an empty database."""
    yield from _transaction(database_url)


@pytest.fixture
def tx_of_sqlite(sqlite_url: str) -> Iterator[Transaction]:
    """The same on SQLite only."""
    yield from _transaction(sqlite_url)


def _transaction(url: str) -> Iterator[Transaction]:
    engine = _engine(parse_url(url), 1)
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


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32))
def test_what_is_read_in_parts_is_the_same(seed: int) -> None:
    chance = random.Random(seed)
    graph = random_graph(chance, 120, chance.choice((3, 8, 20)), forks=0.3)
    with pytest.MonkeyPatch.context() as patch, transaction_in_memory() as tx:
        patch.setattr("storage.auth_index.SHORT", 1)
        patch.setattr("storage.auth_walks.PAGES", (1, 2, 5, 2**62))
        patch.setattr("storage.auth_walks.CHUNK", 2)
        patch.setattr("storage.auth_index._RECENT_LINKS", 1)
        patch.setattr("storage.auth_places.UNION", 2)
        store(tx, chance, graph)
        for _ in range(4):
            assert_same(tx, chance, graph)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32))
def test_an_event_that_is_not_stored_stands_for_what_it_cites(seed: int) -> None:
    chance = random.Random(seed)
    graph = random_graph(chance, 60, chance.choice((3, 8)), forks=0.3)
    last = max(graph)
    with transaction_in_memory() as tx:
        store(tx, chance, {nid: new for nid, new in graph.items() if nid != last})
        states = random_states(chance, graph, 2, 0.2)
        states[0][graph[last].key_nid] = last
        if states[1].get(graph[last].key_nid) == last:
            del states[1][graph[last].key_nid]
        sets = separated(states)
        conflicted = sets[0] | sets[1]
        cited = {last: graph[last].auth_nids}
        expected = walk_difference(graph, [set(state.values()) for state in states]) - conflicted
        assert expected == auth_difference(tx, sets, states[1], cited)
        assert walk_subgraph(graph, conflicted) == conflicted_subgraph(tx, conflicted, cited)


def test_nothing_in_conflict_is_no_difference() -> None:
    with transaction_in_memory() as tx:
        assert set() == auth_difference(tx, [], {})
        assert set() == auth_difference(tx, [set(), set()], {0: 1})
        assert set() == conflicted_subgraph(tx, set())
        assert set() == auth_chain(tx, [])
        assert {} == reach(tx, [])


def test_a_transaction_that_is_repeated_adds_nothing(tx: Transaction) -> None:
    graph = random_graph(random.Random(1), 100, 8)
    add(tx, list(graph.values()))
    before = [tx.all(select(auth_chains)), tx.all(select(auth_links))]
    add(tx, list(graph.values())[20:])
    assert before == [tx.all(select(auth_chains)), tx.all(select(auth_links))]


def test_long_chains_of_one_key_have_one_name_and_few_links(tx: Transaction) -> None:
    """1: create, 2: member, 3: power levels; the sender of the power levels stays the same."""
    new = [NewAuthEvent(1, 0, ()), NewAuthEvent(2, 1, (1,)), NewAuthEvent(3, 2, (1, 2))]
    new += [NewAuthEvent(nid, 2, (1, 2, nid - 1)) for nid in range(4, 2_000)]
    for start in range(0, len(new), 70):
        add(tx, new[start : start + 70])
    assert {1: 1, 2: 2, 3: 1_999} == reach(tx, [1_999])
    assert [(2, 2, 1, 1), (3, 3, 2, 2)] == [tuple(row) for row in tx.all(select(auth_links))]


def test_a_batch_takes_the_same_number_of_statements_however_long(tx: Transaction) -> None:
    new = [NewAuthEvent(1, 0, ()), NewAuthEvent(2, 1, (1,)), NewAuthEvent(3, 2, (1, 2)), NewAuthEvent(4, 3, (1, 2, 3))]
    add(tx, new)
    statements: list[str] = []
    listen(tx.connection, "before_cursor_execute", lambda *args: statements.append(args[2]))
    for size in (1, 50):
        first = 100 * size
        add(tx, [NewAuthEvent(first + number, first + number, (1, 3, 4)) for number in range(size)])
        assert 3 == len(statements)
        statements.clear()
        add(tx, [NewAuthEvent(2 * first + n, first + n, (1, 3, 4, first + n)) for n in range(size)])
        # Nothing new to link to.
        assert 3 == len(statements)
        statements.clear()


# -- against the JSON of events -----------------------------------------------------------------------------------

ROOM = 77


def store_events(
    tx: Transaction, version: str, cites: Mapping[int, Sequence[int]], rejected: Sequence[int] = ()
) -> None:
    """Store events as little as is needed; the key is the number modulo 10."""
    tx.insert_many(
        rooms, ("room_nid", "room_id", "version", "is_published", "created_ts"), [(ROOM, "!r:x", version, False, 0)]
    )
    for nid, cited in cites.items():
        references: list[Any] = [f"${each}" for each in cited]
        if version in ("1", "2"):
            references = [[each, {"sha256": "aa"}] for each in references]
        row = {
            "event_nid": nid,
            "event_id": f"${nid}",
            "room_nid": ROOM,
            "depth": 1,
            "type": "m.room.member",
            "key_nid": None if nid >= 900 else nid % 10,
            "sender_nid": 1,
            "origin_server_ts": 1,
            "received_ts": 1,
            "flags": int(Flag.REJECTED) if nid in rejected else 0,
            "json": orjson.dumps({"auth_events": references}),
        }
        tx.execute(events.insert().values(**row))


CITES = {1: (), 2: (1,), 3: (1, 2), 12: (2, 3), 13: (12, 3), 4: (1, 13), 900: (13, 12, 5_000), 14: (4, 13)}


@pytest.mark.parametrize("version", ["1", "11"])
def test_what_events_cite_is_read_from_their_json(tx: Transaction, version: str) -> None:
    store_events(tx, version, CITES)
    assert {13: (12, 3), 900: (13, 12), 1: ()} == auth_nids_of(tx, [13, 900, 1, 8_000])
    rebuild(tx, ROOM)
    assert {1, 2, 3, 12, 13} == auth_chain(tx, [900])
    assert {1, 2, 3, 12} == auth_chain(tx, [13, 12, 2])
    assert {1, 2, 3, 12, 13} == auth_chain(tx, [900, 12])


def test_index_built_anew_is_the_index(tx: Transaction) -> None:
    graph = random_graph(random.Random(3), 300, 10)
    store_events(tx, "10", {new.nid: new.auth_nids for new in graph.values()})
    rebuild(tx, ROOM)
    before = [tx.all(select(auth_chains)), tx.all(select(auth_links))]
    assert [] == check(tx, ROOM)
    rebuild(tx, ROOM)
    assert before == [tx.all(select(auth_chains)), tx.all(select(auth_links))]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        ("DELETE FROM auth_chains WHERE event_nid = 13", "event 13 has no place"),
        ("DELETE FROM auth_links WHERE chain = 3 AND event_nid = 13", "event 13 cites event 12"),
        ("UPDATE auth_links SET to_nid = 13 WHERE chain = 2 AND event_nid = 12", "event 12 has a link to event 13"),
        ("UPDATE auth_chains SET chain = 1 WHERE event_nid = 2", "event 2 has key 2, its place 2, its chain 1"),
        ("UPDATE auth_chains SET chain = 13 WHERE event_nid = 14", "event 14 is the first of chain 13"),
        ("UPDATE auth_chains SET key_nid = 9 WHERE event_nid = 4", "event 4 has key 4, its place 9"),
        ("INSERT INTO auth_links VALUES (3, 14, 2, 12)", "event 14 has links from chain 3"),
        ("INSERT INTO auth_chains VALUES (25, 25, 5)", "event 25 is rejected, is cited by none and has a place"),
    ],
    ids=[
        "place missing",
        "link missing",
        "link to what is not cited",
        "chain of another key",
        "first is not the name",
        "another key",
        "link from another chain",
        "rejected",
    ],
)
def test_damage_is_found(tx_of_sqlite: Transaction, damage: str, line: str) -> None:
    tx = tx_of_sqlite
    store_events(tx, "11", {**CITES, 25: (1,)}, rejected=[25])
    rebuild(tx, ROOM)
    assert [] == check(tx, ROOM)
    tx.execute(text(damage))
    found = check(tx, ROOM)
    assert any(each.startswith(line) for each in found), found


def test_rejected_event_that_others_cite_may_keep_its_place(tx_of_sqlite: Transaction) -> None:
    """An outlier is rejected only when the state before it is known."""
    tx = tx_of_sqlite
    store_events(tx, "11", CITES)
    rebuild(tx, ROOM)
    tx.execute(update(events).where(events.c.event_nid == 12).values(flags=int(Flag.REJECTED)))
    assert [] == check(tx, ROOM)
