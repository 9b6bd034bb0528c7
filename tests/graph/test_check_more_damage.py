"""Damage that one look at a row does not show: each is told by a line that names the event, and the rest is checked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import pytest_twisted
from sqlalchemy import delete, insert, select, update

from homeserver.graph.check import check_room
from homeserver.graph.indexes import check_database, check_indexes
from homeserver.graph.report import MAX_OF_A_KIND, Report
from homeserver.model.room_versions import V10, V12
from storage import auth_index
from storage.database import Database
from storage.inspection import read_events
from storage.tables import rooms as t
from storage.tables.auth_chains import auth_links
from storage.transaction import Transaction

from .graph_builder import ALICE, BOB, CAROL, OUTLIER, REJECTED, ROOM_NID, SOFT_FAILED, GraphBuilder, recheck

Write = Callable[[Callable[[Transaction], object]], Awaitable[object]]


async def _stored(database: Database) -> tuple[GraphBuilder, dict[str, str]]:
    """Return a sound room, with its state events, a message and what redacts it, by name."""
    graph = GraphBuilder(V12)
    graph.create(BOB, CAROL)
    ids = {"join": graph.state["m.room.member", BOB], "levels": graph.state["m.room.power_levels", ""]}
    ids["name"] = graph.add("m.room.name", ALICE, {"name": "n"}, "").event_id
    message = graph.add("m.room.message", BOB, {"body": "b"})
    ids["message"] = message.event_id
    redaction = graph.add("m.room.redaction", BOB, {"redacts": message.event_id})
    ids["redaction"] = redaction.event_id
    graph.built[message.event_id].redacted_by = graph.built[redaction.event_id].nid
    ids["leave"] = graph.add("m.room.member", CAROL, {"membership": "leave"}, CAROL).event_id
    ids["last"] = graph.add("m.room.message", BOB, {"body": "c"}).event_id
    await graph.store(database)
    await database.write(lambda tx: auth_index.rebuild(tx, ROOM_NID))
    assert [] == list((await recheck(graph, database)).lines())
    return graph, ids


async def _lines(graph: GraphBuilder, database: Database) -> list[str]:
    """Return what the check of the room and of its indexes finds, counts of references left out."""
    report = await recheck(graph, database)
    await database.read(lambda tx: check_indexes(tx, graph.row, report))
    return [line for line in report.lines() if "references to state groups" not in line]


def _on(graph: GraphBuilder, event_id: str, **values: object) -> Callable[[Transaction], object]:
    nid = graph.built[event_id].nid  # type: ignore[index]
    return lambda tx: tx.execute(update(t.events).where(t.events.c.event_nid == nid).values(**values))


@pytest.mark.in_turns
@pytest.mark.parametrize(
    "raw", [b"{{", b'{"type": "m.room.', b"{}", b"[]", b""], ids=["braces", "cut", "{}", "[]", "no"]
)
@pytest.mark.parametrize("name", ["join", "levels", "name"])
@pytest_twisted.ensureDeferred
async def test_unreadable_state_event_is_one_line(database: Database, raw: bytes, name: str) -> None:
    graph, ids = await _stored(database)
    await database.write(_on(graph, ids[name], json=raw))
    lines = await _lines(graph, database)
    assert 1 == len(lines), lines
    [line] = lines
    assert line.startswith(f"{graph.room_id} {ids[name]} format: expected ")


@pytest_twisted.ensureDeferred
async def test_unreadable_state_group_is_named_with_the_event(database: Database) -> None:
    graph, ids = await _stored(database)
    row = await database.read(lambda tx: read_events(tx, ROOM_NID, [graph.built[ids["message"]].nid]))  # type: ignore[index]
    group = next(iter(row.values())).state_group
    table = t.state_groups
    await database.write(
        lambda tx: tx.execute(update(table).where(table.c.state_group == group).values(delta=b"\0\xff"))
    )
    [line] = await _lines(graph, database)
    expected = f"{ids['message']} state group: {group} cannot be had: state group {group} cannot be read"
    assert f"{graph.room_id} {expected}" == line


@pytest.mark.parametrize(
    ("version", "stored"),
    [("77", "one that is known"), ("11", "12, as the create event says")],
    ids=["unknown", "another"],
)
@pytest_twisted.ensureDeferred
async def test_wrong_room_version_is_told(database: Database, version: str, stored: str) -> None:
    graph, _ = await _stored(database)
    report = Report()
    row = type(graph.row)(ROOM_NID, graph.room_id, version)
    await database.read(lambda tx: (check_room(tx, row, {}, report), check_indexes(tx, row, report)))
    assert any(f"room version: expected {stored}, stored {version}" in line for line in report.lines())


@pytest_twisted.ensureDeferred
async def test_forgotten_redaction_is_told(database: Database) -> None:
    graph, ids = await _stored(database)
    await database.write(lambda tx: tx.execute(update(t.events).values(redacted_by=None)))
    assert [f"{graph.room_id} {ids['message']} redaction: expected by {ids['redaction']}, stored none"] == await _lines(
        graph, database
    )


@pytest_twisted.ensureDeferred
async def test_redaction_that_is_kept_back_redacts_nothing(database: Database) -> None:
    graph, ids = await _stored(database)
    await database.write(_on(graph, ids["redaction"], flags=8))
    [line] = await _lines(graph, database)
    told = f"expected none, stored by {ids['redaction']}, which is kept back as redacting nothing"
    assert f"{graph.room_id} {ids['message']} redaction: {told}" == line
    await database.write(_on(graph, ids["message"], redacted_by=None))
    assert [] == await _lines(graph, database)


@pytest_twisted.ensureDeferred
async def test_redaction_by_who_may_not_is_told(database: Database) -> None:
    graph = GraphBuilder(V10)
    graph.create(BOB, CAROL)
    create = graph.add("m.room.create", ALICE, {}, "", flags=REJECTED)
    redaction = graph.add("m.room.redaction", CAROL, {})
    await graph.store(database)
    await database.write(_on(graph, create.event_id, redacted_by=graph.built[redaction.event_id].nid))
    assert any("which does not name it" in line for line in await _lines(graph, database))


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        pytest.param(lambda tx: tx.execute(delete(t.membership_changes)), "change of the membership", id="no changes"),
        pytest.param(
            lambda tx: tx.execute(update(t.membership_changes).values(membership="ban")), "stored to ban", id="changed"
        ),
        pytest.param(
            lambda tx: tx.execute(update(t.membership_changes).values(event_nid=101)), "change of the", id="event"
        ),
        pytest.param(
            lambda tx: tx.execute(update(t.memberships).values(is_local=False)), "of a user of another", id="not local"
        ),
        pytest.param(lambda tx: tx.execute(update(t.memberships).values(position=1)), "stored 1", id="position"),
        pytest.param(
            lambda tx: tx.execute(update(t.room_tips).values(position=1)), "position of the newest event", id="tip"
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_memberships_are_compared(database: Database, damage: Callable[[Transaction], object], told: str) -> None:
    graph, _ = await _stored(database)
    await database.write(damage)
    lines = await _lines(graph, database)
    assert lines and any(told in line for line in lines), lines


@pytest_twisted.ensureDeferred
async def test_membership_without_an_event_is_told(database: Database) -> None:
    graph, _ = await _stored(database)
    row = {"room_nid": ROOM_NID, "user_nid": 9, "membership": "leave", "event_nid": 4, "position": 4, "sender_nid": 4}

    def add(tx: Transaction) -> None:
        tx.connection.exec_driver_sql("INSERT INTO user_ids (user_nid, user_id) VALUES (9, '@x:a.example')")
        tx.connection.execute(insert(t.memberships), [{**row, "is_local": True}])

    await database.write(add)
    told = "membership of '@x:a.example': expected none, stored leave by event number 4"
    assert [f"{graph.room_id} {told}"] == await _lines(graph, database)


@pytest_twisted.ensureDeferred
async def test_positions_must_follow_the_graph(database: Database) -> None:
    graph, ids = await _stored(database)
    await database.write(_on(graph, ids["name"], position=99_999))
    lines = await _lines(graph, database)
    assert any(f"{ids['message']} position: expected one after 99999, which it builds on" in line for line in lines)


@pytest.mark.in_turns
@pytest.mark.parametrize("flags", [SOFT_FAILED, OUTLIER, 16, REJECTED | SOFT_FAILED, 8, 300])
@pytest_twisted.ensureDeferred
async def test_flags_that_contradict_are_told(database: Database, flags: int) -> None:
    graph, ids = await _stored(database)
    await database.write(_on(graph, ids["last"], flags=flags))
    assert any(f"{ids['last']} flags: {flags} says: " in line for line in await _lines(graph, database))


@pytest_twisted.ensureDeferred
async def test_deleted_event_is_named(database: Database) -> None:
    graph, ids = await _stored(database)
    nid = graph.built[ids["message"]].nid  # type: ignore[index]
    await database.write(lambda tx: tx.execute(delete(t.events).where(t.events.c.event_nid == nid)))
    told = f"{graph.room_id} {ids['message']} event: is missing (cited by {ids['redaction']})"
    assert [told] == await _lines(graph, database)


@pytest_twisted.ensureDeferred
async def test_lost_links_are_named_and_summarised(database: Database) -> None:
    graph, _ = await _stored(database)
    await database.write(lambda tx: tx.execute(delete(auth_links)))
    lines = await _lines(graph, database)
    assert MAX_OF_A_KIND + 1 == len(lines)
    assert all(" auth index: event $" in line and " cites event $" in line for line in lines[:-1])
    assert lines[-1].startswith(f"{graph.room_id} auth index: and ")
    assert lines[-1].endswith(" more like this")


@pytest_twisted.ensureDeferred
async def test_rows_of_rooms_that_there_are_not_are_told(database: Database) -> None:
    graph, ids = await _stored(database)
    alias = {"alias": "#a:a.example", "room_nid": 77, "creator_nid": 1, "created_ts": 1}

    def damage(tx: Transaction) -> Report:
        sound, report = Report(), Report()
        check_database(tx, sound)
        assert sound.is_sound, list(sound.lines())
        tx.connection.execute(insert(t.room_aliases), [alias])
        nid = graph.built[ids["last"]].nid  # type: ignore[index]
        tx.execute(update(t.events).where(t.events.c.event_nid == nid).values(room_nid=78))
        check_database(tx, report)
        return report

    assert [
        "database room_aliases: no room of it: #a:a.example",
        f"database events: no room of it: {ids['last']}",
    ] == list((await database.write(damage)).lines())


@pytest_twisted.ensureDeferred
async def test_counts_of_references_are_told_as_sentences(database: Database) -> None:
    graph, _ = await _stored(database)
    report = Report()
    await database.read(lambda tx: check_indexes(tx, graph.row, report))
    group = await database.read(lambda tx: tx.scalar(select(t.state_groups.c.state_group).limit(1)))
    first = next(line for line in report.lines() if f"group {group} " in line)
    told = f"references to state groups: State group {group} is referred to once, but the count says 0."
    assert f"{graph.room_id} {told}" == first
