"""Deletion: what hangs on an event goes with it, state groups go with their last reference, rooms go whole."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
import pytest_twisted
from sqlalchemy import delete, func, select, update

from homeserver.errors import BrokenInvariant
from storage.database import Database
from storage.deletion import count_refs, delete_events, delete_room, release
from storage.held_events import MISSING, HeldEvent, hold
from storage.state_groups import Chain, NewGroup, extend, load_chain, state_of
from storage.tables import all_tables
from storage.tables import federation_rooms as f
from storage.tables import rooms as t
from storage.tables.auth_chains import auth_chains, auth_links
from storage.tables.identity import user_ids
from storage.tables.user_state import account_data, receipts
from storage.transaction import Transaction
from tests.storage.core import database  # noqa: F401
from tests.support.rooms import RoomServer, rooms  # noqa: F401

_GROUP_COLUMNS = ("state_group", "room_nid", "parent", "chain_index", "delta")
# Key 1 is the create event, 2 a topic, 3 and up are the members with user_nid 103 and up.
TOPIC = 2
MEMBER = 3


@dataclass(slots=True)
class Graph:
    """Rows of a room as appends write them, each event on the one before or on an earlier one."""

    room_nid: int
    first: int
    groups: list[NewGroup] = field(default_factory=list)
    events: dict[int, tuple[int, int | None, int | None]] = field(default_factory=dict)
    after: dict[int, tuple[int, Chain]] = field(default_factory=dict)
    edges: list[tuple[int, int]] = field(default_factory=list)
    number: int = 0

    def group(self, chain: Chain, change: Mapping[int, int], *, is_side: bool = False) -> tuple[int, Chain]:
        self.number += 1
        group = self.first + 100_000 + self.number
        new, longer = extend(chain, self.room_nid, group, change, is_side=is_side)
        self.groups.append(new)
        return group, longer

    def event(self, prev: int | None, key: int | None = None, *, is_side: bool = False, tip: bool = False) -> int:
        """Return the number of a new event; `tip`: the room's state after it is another than the event's."""
        nid = self.first + len(self.events)
        state = self.after[prev] if prev is not None else (0, ())
        if key is not None:
            state = self.group(state[1], {key: nid}, is_side=is_side)
        tip_group = self.group(state[1], {TOPIC: nid}, is_side=True)[0] if tip else None
        self.after[nid] = state
        self.events[nid] = (state[0], tip_group, key)
        if prev is not None:
            self.edges.append((nid, prev))
        return nid

    def write(self, tx: Transaction) -> None:
        room = self.room_nid
        tx.insert_many(
            t.rooms,
            ("room_nid", "room_id", "version", "is_published", "created_ts"),
            [(room, f"!room{room}:a", "12", False, 0)],
        )
        tx.insert_many(t.state_groups, _GROUP_COLUMNS, [group.row() for group in self.groups])
        columns = [
            *("event_nid", "event_id", "room_nid", "position", "depth", "type", "key_nid", "sender_nid"),
            *("origin_server_ts", "received_ts", "state_group", "tip_group", "replaces_nid", "redacted_by"),
            *("flags", "json"),
        ]
        tx.insert_many(
            t.events,
            tuple(columns),
            [
                (nid, f"${nid}", room, nid, 1, "m.any", key, 1, 0, 0, group, tip_group, None, None, 0, b"{}")
                for nid, (group, tip_group, key) in self.events.items()
            ],
        )
        tx.insert_many(t.event_edges, ("event_nid", "prev_nid"), self.edges)
        refs = Counter(group for row in self.events.values() for group in row[:2] if group is not None)
        refs.update(group.parent for group in self.groups if group.parent is not None)
        tx.insert_many(t.state_group_refs, ("state_group", "refs"), list(refs.items()))
        last = max(self.events)
        tx.insert_many(
            t.room_tips,
            ("room_nid", "extremities", "depth", "state_group", "position"),
            [(room, orjson.dumps([last]), 1, self.events[last][1] or self.events[last][0], last)],
        )


def line(room_nid: int, first: int, length: int) -> Graph:
    """Return a room whose topic is set again and again, with two members."""
    graph = Graph(room_nid, first)
    last = graph.event(None, 1)
    for key in (MEMBER, MEMBER + 1, *[TOPIC, None] * length):
        last = graph.event(last, key)
    return graph


def write_further_rows(tx: Transaction, graph: Graph) -> None:
    """Write rows of every table that a room has something in; all of them hang on its third event or on its users."""
    room, nid = graph.room_nid, graph.first + 2
    tx.insert_many(t.state_keys, ("key_nid", "type", "state_key"), [(MEMBER, "m.room.member", "@a:a")], ignore=True)
    tx.insert_many(t.state_keys, ("key_nid", "type", "state_key"), [(MEMBER + 1, "m.room.member", "@b:a")], ignore=True)
    tx.insert_many(user_ids, ("user_nid", "user_id"), [(103, "@a:a"), (104, "@b:a")], ignore=True)
    tx.insert_many(
        t.memberships,
        ("room_nid", "user_nid", "membership", "event_nid", "position", "sender_nid", "is_local", "is_forgotten"),
        [(room, 104, "join", nid, nid, 104, True, False)],
    )
    tx.insert_many(
        t.membership_changes,
        ("user_nid", "position", "room_nid", "event_nid", "membership"),
        [(104, nid, room, nid, "join"), (104, nid + 1, room, nid + 1, "leave")],
    )
    relation = ("event_nid", "room_nid", "target_id", "rel_type", "aggregation_key", "type", "sender_nid", "position")
    tx.insert_many(
        t.relations,
        relation,
        [
            (nid, room, f"${nid + 1}", "m.thread", None, "m.any", 1, nid),
            (nid + 3, room, f"${nid}", "m.thread", None, "m.any", 1, nid + 3),
            (nid + 4, room, f"${nid + 1}", "m.thread", None, "m.any", 1, nid + 4),
        ],
    )
    tx.insert_many(
        t.redactions,
        ("redaction_nid", "room_nid", "target_id"),
        [(nid, room, f"${nid + 2}"), (nid + 3, room, f"${nid}"), (nid + 4, room, f"${nid + 1}")],
    )
    tx.insert_many(
        t.transaction_ids,
        ("device_nid", "txn_key", "txn_id", "event_nid", "created_ts"),
        [(1, str(each).encode().ljust(32), str(each), each, 0) for each in (nid, nid + 1)],
    )
    tx.insert_many(
        account_data, ("user_nid", "room_nid", "type", "content", "position"), [(104, room, "m.tag", b"", 1)]
    )
    tx.insert_many(
        receipts,
        ("room_nid", "user_nid", "receipt_type", "thread_id", "event_id", "event_position", "ts", "position"),
        [(room, 105, "m.read", "", f"${nid}", nid, 0, 1)],
    )
    tx.insert_many(f.room_servers, ("room_nid", "server", "joined"), [(room, "a", 1), (room, "b", 0)])
    tx.insert_many(f.destination_rooms, ("destination", "room_nid", "position"), [("b", room, nid), ("c", room, nid)])
    missing = [(nid, "$far", room, False), (nid + 2, "$z", room, False)]
    tx.insert_many(f.missing_prevs, ("event_nid", "prev_id", "room_nid", "is_inherited"), missing)
    # Neither `nid` nor what builds on it is in the block.
    block = (room, graph.first + 1, max(graph.first - 100, 0), graph.first)
    tx.insert_many(f.history_blocks, ("room_nid", "top", "floor", "next_position"), [block])
    tx.insert_many(f.stripped_state, ("room_nid", "user_nid", "json"), [(room, 106, b"[]")])
    partial = ("room_nid", "join_nid", "base_group", "via", "servers", "started_ts")
    tx.insert_many(f.partial_rooms, partial, [(room, nid, graph.events[nid][0], "b", b"[]", 0)])
    hold(tx, room, MISSING, [HeldEvent("$held", room, "b", b"{}", 0)])
    tx.insert_many(t.room_aliases, ("alias", "room_nid", "creator_nid", "created_ts"), [(f"#a{room}:a", room, 1, 0)])
    tx.insert_many(
        t.room_stats, ("room_nid", "is_federated", "joined_members", "invited_members"), [(room, True, 1, 0)]
    )


def rows_of(tx: Transaction, room_nid: int) -> dict[str, int]:
    """Return how many rows each table has of a room."""
    return {
        table.name: tx.scalar(select(func.count()).select_from(table).where(table.c.room_nid == room_nid))
        for table in all_tables().sorted_tables
        if "room_nid" in table.c
    }


def all_rows(tx: Transaction) -> dict[str, Sequence[Any]]:
    return {table.name: [tuple(row) for row in tx.all(select(table))] for table in all_tables().sorted_tables}


def groups_in(tx: Transaction) -> set[int]:
    return {row[0] for row in tx.all(select(t.state_groups.c.state_group))}


@pytest_twisted.ensureDeferred
async def test_a_state_group_goes_with_its_last_reference_and_lets_its_parent_go(database: Database) -> None:  # noqa: F811
    graph = Graph(1, 1)
    first = graph.event(None, 1)
    second = graph.event(first, TOPIC)
    third = graph.event(second)
    groups = [graph.events[nid][0] for nid in (first, second)]
    assert [None, groups[0]] == [group.parent for group in graph.groups]

    def run(tx: Transaction) -> None:
        graph.write(tx)
        tx.execute(delete(t.events).where(t.events.c.event_nid.in_([first, third])))
        assert [] == release(tx, {groups[0]: 1, groups[1]: 1})
        assert [] == count_refs(tx, 1)
        tx.execute(delete(t.events))
        assert [groups[1], groups[0]] == release(tx, {groups[1]: 1})
        assert set() == groups_in(tx)
        assert 0 == tx.scalar(select(func.count()).select_from(t.state_group_refs))
        with pytest.raises(BrokenInvariant):
            release(tx, {groups[0]: 1})

    await database.write(run)


@pytest_twisted.ensureDeferred
async def test_references_stay_exact_and_states_whole_while_events_are_deleted(database: Database) -> None:  # noqa: F811
    chance = random.Random(5)
    graph = Graph(1, 1)
    nids = [graph.event(None, 1)]
    for _ in range(700):
        is_side = chance.random() < 0.3
        prev = chance.choice(nids[-10:]) if is_side else nids[-1]
        key = chance.randint(TOPIC, 30) if chance.random() < 0.7 else None
        nids.append(graph.event(prev, key, is_side=is_side, tip=chance.random() < 0.1))
    states = {group: dict(state_of(chain).items()) for group, chain in graph.after.values()}
    await database.write(graph.write)
    current = set(state_of(graph.after[nids[-1]][1]).values()) | {nids[-1]}
    if graph.events[nids[-1]][1] is not None:
        current.add(nids[-1])
    doomed = [nid for nid in nids if nid not in current]
    chance.shuffle(doomed)
    before = await database.read(groups_in)
    for start, end in ((0, 1), (1, 20), (20, 600), (600, len(doomed))):
        gone = await database.write(lambda tx, part=doomed[start:end]: delete_events(tx, 1, part))  # type: ignore[misc]
        kept = await database.read(groups_in)
        assert kept == before - set(gone)
        before = kept
        assert [] == await database.read(lambda tx: count_refs(tx, 1))
        for nid in set(nids) - set(doomed[:end]):
            group = graph.events[nid][0]
            found = await database.read(lambda tx, group=group: state_of(load_chain(tx, group)))  # type: ignore[misc]
            assert states[group] == dict(found.items())
    assert set(await database.read(lambda tx: [row[0] for row in tx.all(select(t.events.c.event_nid))])) == (
        set(nids) - set(doomed)
    )


@pytest_twisted.ensureDeferred
async def test_what_hangs_on_an_event_goes_with_it(database: Database) -> None:  # noqa: F811
    graph, other = line(1, 1, 5), line(2, 1_000, 5)

    def write(tx: Transaction) -> None:
        for each in (graph, other):
            each.write(tx)
            write_further_rows(tx, each)
        # What another room says of the event is that room's.
        tx.execute(update(t.redactions).where(t.redactions.c.redaction_nid == 1_006).values(target_id="$3"))
        # The topic is what may be deleted; here the member is not in the current state either.
        tx.execute(update(t.room_tips).where(t.room_tips.c.room_nid == 1).values(state_group=graph.events[1][0]))

    await database.write(write)
    before = await database.read(all_rows)
    await database.write(lambda tx: delete_events(tx, 1, [3, 1_003, 77_777]))
    after = await database.read(all_rows)
    gone = {name: sorted(set(rows) - set(after[name])) for name, rows in before.items() if rows != after[name]}
    assert {(4, 3), (3, 2)} == set(gone.pop("event_edges"))
    assert [3] == [row[0] for row in gone.pop("events")]
    assert [(104, 3, 1, 3, "join")] == gone.pop("membership_changes")
    assert [(3, "$far", 1, False)] == gone.pop("missing_prevs")
    assert [3, 6] == [row[0] for row in gone.pop("relations")]
    assert [3, 6] == [row[0] for row in gone.pop("redactions")]
    assert ["3"] == [row[2] for row in gone.pop("transaction_ids")]
    # Its state group is still stood on.
    assert {"state_group_refs"} == gone.keys()
    assert all(set(after[name]) <= set(rows) for name, rows in before.items() if name != "state_group_refs")
    assert [] == await database.read(lambda tx: count_refs(tx, 1))


@pytest_twisted.ensureDeferred
async def test_what_was_fetched_and_builds_on_a_deleted_event_comes_after_a_gap_again(database: Database) -> None:  # noqa: F811
    graph = line(1, 1, 5)
    await database.write(graph.write)
    block = [(1, 6, 1, 1)]
    write, read = database.write, database.read
    await write(lambda tx: tx.insert_many(f.history_blocks, ("room_nid", "top", "floor", "next_position"), block))
    await write(lambda tx: tx.execute(update(t.room_tips).values(state_group=graph.events[1][0])))
    await write(lambda tx: delete_events(tx, 1, [2, 3, 7]))
    assert [(4, "$3", 1, False)] == await read(lambda tx: [tuple(row) for row in tx.all(select(f.missing_prevs))])


@pytest.mark.parametrize("kind", ["extremity", "current state"])
@pytest_twisted.ensureDeferred
async def test_the_end_of_the_graph_and_the_current_state_are_not_deleted(database: Database, kind: str) -> None:  # noqa: F811
    graph = line(1, 1, 5)
    await database.write(graph.write)
    before = await database.read(all_rows)
    last = max(graph.events)
    current = graph.events[last][0]
    topic = state_of(graph.after[last][1])[TOPIC]
    assert current == graph.events[topic][0]
    with pytest.raises(BrokenInvariant):
        await database.write(lambda tx: delete_events(tx, 1, [4, 5, last if kind == "extremity" else topic]))
    assert before == await database.read(all_rows)


@pytest_twisted.ensureDeferred
async def test_a_room_is_deleted_in_parts_and_nothing_of_it_remains(database: Database) -> None:  # noqa: F811
    graph, other = line(1, 1, 30), line(2, 1_000, 5)

    def write(tx: Transaction) -> None:
        for each in (graph, other):
            each.write(tx)
            write_further_rows(tx, each)

    await database.write(write)
    neighbour = await database.read(lambda tx: rows_of(tx, 2))
    calls = 0
    events = [len(graph.events)]
    while await database.write(lambda tx: delete_room(tx, 1, 20)):
        calls += 1
        events.append((await database.read(lambda tx: rows_of(tx, 1)))["events"])
        assert events[-2] - events[-1] <= 20
    assert calls >= len(graph.events) // 20
    left = await database.read(lambda tx: rows_of(tx, 1))
    assert dict.fromkeys(left, 0) == left
    # There was something in every table to be deleted.
    assert {name for name, count in neighbour.items() if not count} <= {"room_tips"}
    assert neighbour == await database.read(lambda tx: rows_of(tx, 2))
    assert [] == await database.read(lambda tx: count_refs(tx, 2))
    refs = await database.read(lambda tx: {row[0] for row in tx.all(select(t.state_group_refs.c.state_group))})
    assert refs == await database.read(groups_in)
    edges = await database.read(lambda tx: [tuple(row) for row in tx.all(select(t.event_edges))])
    assert sorted(other.edges) == sorted(edges)
    assert not await database.write(lambda tx: delete_room(tx, 1))


@pytest_twisted.ensureDeferred
async def test_wrong_counts_are_told(database: Database) -> None:  # noqa: F811
    graph = line(1, 1, 5)
    await database.write(graph.write)
    assert [] == await database.read(lambda tx: count_refs(tx, 1))
    wrong, missing, lonely = graph.events[2][0], graph.events[max(graph.events)][0], 999_999
    refs = t.state_group_refs

    def spoil(tx: Transaction) -> None:
        tx.execute(update(refs).where(refs.c.state_group == wrong).values(refs=7))
        tx.execute(delete(t.state_groups).where(t.state_groups.c.state_group == missing))
        tx.insert_many(t.state_groups, _GROUP_COLUMNS, [(lonely, 1, None, 0, b"")])

    await database.write(spoil)
    parent = next(group.parent for group in graph.groups if group.state_group == missing)
    told = await database.read(lambda tx: count_refs(tx, 1))
    assert [group for group in sorted({wrong, missing, lonely, parent}) if group is not None] == [
        int(sentence.split()[2]) for sentence in told
    ]
    assert "State group 999999 is kept, but nothing refers to it." in told


@pytest_twisted.ensureDeferred
async def test_a_room_whose_history_was_deleted_goes_on(rooms: RoomServer) -> None:  # noqa: F811
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, members=[bob])
    old = []
    for number in range(20):
        old.append(await rooms.say(room, bob))
        old.append(await rooms.relate(room, alice, old[-1], "m.annotation", "x"))
        old.append(await rooms.send(room, alice, "m.room.topic", {"topic": str(number)}, ""))
    old.append(await rooms.redact(room, alice, old[0]))
    kept = old.pop(-2)
    assert kept.event.type == "m.room.topic"
    await rooms.say(room, bob)
    write, read = rooms.store.database.write, rooms.store.database.read
    gone = await write(lambda tx: delete_events(tx, kept.room_nid, [stored.nid for stored in old]))
    assert gone
    assert [] == await read(lambda tx: count_refs(tx, kept.room_nid))
    for is_cold in (False, True):
        if is_cold:
            rooms.forget_memory()
        last = await rooms.send(room, alice, "m.room.topic", {"topic": "new"}, "")
        assert last.state_group is not None
        state = await rooms.store.states.get(last.state_group)
        assert set(state.values()) == set((await rooms.store.events.get(state.values())).keys())
        assert [] == await read(lambda tx: count_refs(tx, kept.room_nid))
    while await write(lambda tx: delete_room(tx, kept.room_nid, 7)):
        pass
    left = await read(lambda tx: rows_of(tx, kept.room_nid))
    assert dict.fromkeys(left, 0) == left
    for table in (auth_chains, auth_links):
        assert [] == await read(lambda tx, table=table: tx.all(select(table)))  # type: ignore[misc]
