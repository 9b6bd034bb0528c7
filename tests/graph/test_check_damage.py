"""Whatever is changed in a sound room by a hand that should not, the checker tells it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import delete, update

from homeserver.graph.check import check_room
from homeserver.graph.report import Report
from homeserver.model.redaction import redact
from homeserver.model.room_versions import V10, V12
from storage.database import Database
from storage.inspection import RoomRow
from storage.state_groups import encode_delta
from storage.tables import rooms as t
from storage.transaction import Transaction

from .graph_builder import ALICE, BOB, CAROL, OUTLIER, REJECTED, SOFT_FAILED, GraphBuilder, check_graph, recheck

Damage = Callable[[Transaction, int, int], object]


def _set(**values: Any) -> Damage:
    """Change columns of the message."""
    return lambda tx, message, _name: tx.execute(
        update(t.events).where(t.events.c.event_nid == message).values(**values)
    )


def _set_name(**values: Any) -> Damage:
    return lambda tx, _message, name: tx.execute(update(t.events).where(t.events.c.event_nid == name).values(**values))


def _table(table: Any, **values: Any) -> Damage:
    return lambda tx, _message, _name: tx.execute(update(table).values(**values))


def _empty_group(tx: Transaction, message: int, _name: int) -> None:
    group = tx.scalar(
        t.events.select().with_only_columns(t.events.c.state_group).where(t.events.c.event_nid == message)
    )
    tx.execute(update(t.state_groups).where(t.state_groups.c.state_group == group).values(delta=encode_delta({})))


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("damage", "aspects"),
    [
        pytest.param(_set(json=b"{"), {"format"}, id="not JSON"),
        pytest.param(_set(json=b"[]"), {"format"}, id="no object"),
        pytest.param(_set(json=b"[" * 100_000), {"format"}, id="deep"),
        pytest.param(_set(depth=99), {"depth"}, id="depth column"),
        pytest.param(_set(type="m.other"), {"type"}, id="type column"),
        pytest.param(_set(sender_nid=4), {"sender"}, id="unknown sender"),
        pytest.param(_set(origin_server_ts=4), {"time"}, id="time column"),
        pytest.param(_set(event_id="$other"), {"event ID"}, id="event ID"),
        pytest.param(_set(flags=REJECTED), {"verdict", "forward extremities", "forward extremity"}, id="rejected"),
        pytest.param(_set(flags=SOFT_FAILED), {"forward extremities", "forward extremity"}, id="soft-failed end"),
        pytest.param(_set(state_group=4), {"state group"}, id="no such group"),
        pytest.param(_set(state_group=None), {"state group"}, id="no group"),
        pytest.param(_set(redacted_by=4), {"redaction"}, id="redacted by nothing"),
        pytest.param(_set(tip_group=4), {"room state"}, id="no such room state"),
        pytest.param(_set(position=None), {"position", "forward extremities"}, id="no position"),
        pytest.param(_set_name(replaces_nid=4), {"replaced event"}, id="replaced event"),
        pytest.param(_set_name(key_nid=None), {"state key"}, id="no state key"),
        pytest.param(_empty_group, {"state after"}, id="empty state"),
        pytest.param(_table(t.room_tips, extremities=b"[]"), {"forward extremities"}, id="no end"),
        pytest.param(_table(t.room_tips, extremities=b"{}"), {"forward extremities"}, id="odd end"),
        pytest.param(_table(t.room_tips, extremities=b'[[1],"x"]'), {"forward extremities"}, id="odder end"),
        pytest.param(_table(t.room_tips, depth=1), {"depth"}, id="shallow end"),
        pytest.param(_table(t.room_tips, state_group=4), {"current state"}, id="no current state"),
        pytest.param(_table(t.room_stats, joined_members=7), {"room_stats, joined_members"}, id="joined members"),
        pytest.param(_table(t.room_stats, name="x"), {"room_stats, name"}, id="name of the directory"),
        pytest.param(_table(t.memberships, membership="ban"), {"membership of '@"}, id="memberships"),
        pytest.param(lambda tx, *_: tx.execute(delete(t.memberships)), {"membership of '@"}, id="no memberships"),
        pytest.param(lambda tx, *_: tx.execute(delete(t.room_stats)), {"room_stats"}, id="no stats"),
        pytest.param(lambda tx, *_: tx.execute(delete(t.room_tips)), {"forward extremities"}, id="no tip"),
        pytest.param(lambda tx, *_: tx.execute(delete(t.event_edges)), {"edge", "forward extremities"}, id="no edges"),
        pytest.param(
            lambda tx, message, name: tx.execute(t.event_edges.insert(), {"event_nid": name, "prev_nid": message}),
            {"graph"},
            id="circle",
        ),
        pytest.param(
            lambda tx, message, _: tx.execute(t.event_edges.insert(), {"event_nid": message, "prev_nid": 4}),
            {"edge"},
            id="edge to nothing",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_damage_is_told(database: Database, damage: Damage, aspects: set[str]) -> None:
    graph = GraphBuilder(V12)
    graph.create(BOB)
    name = graph.add("m.room.name", ALICE, {"name": "n"}, "")
    message = graph.add("m.room.message", BOB, {"body": "b"})
    assert [] == list((await check_graph(graph, database)).lines())
    nids = graph.built[message.event_id].nid, graph.built[name.event_id].nid
    await database.write(lambda tx: damage(tx, *nids))
    found = {difference.aspect for difference in (await recheck(graph, database)).differences}
    missing = {aspect for aspect in aspects if not any(each.startswith(aspect) for each in found)}
    assert (set(), True) == (missing, bool(found)), found


def _change_content(wire: dict[str, Any]) -> None:
    wire["content"] = {"body": "changed"}


def _change_signature(wire: dict[str, Any]) -> None:
    wire["signatures"] = {"a.example": {key: "A" * 86 for key in wire["signatures"]["a.example"]}}


def _drop_signature(wire: dict[str, Any]) -> None:
    wire["signatures"] = {}


def _other_key(wire: dict[str, Any]) -> None:
    wire["signatures"] = {"a.example": {"ed25519:other": "A" * 86}}


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(_change_content, ["content hash"], id="content"),
        pytest.param(_change_signature, ["signature"], id="wrong signature"),
        pytest.param(_drop_signature, ["signature"], id="no signature"),
        pytest.param(_other_key, [], id="signature by an unknown key"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_hashes_and_signatures_are_checked(
    database: Database, change: Callable[[dict[str, Any]], None], expected: list[str]
) -> None:
    graph = GraphBuilder(V12)
    graph.create(BOB)
    message = graph.add("m.room.message", BOB, {"body": "b"})
    change(graph.built[message.event_id].wire)
    report = await check_graph(graph, database)
    assert expected == [difference.aspect for difference in report.differences]
    assert (change is _other_key) == bool(report.unknown_keys)


@pytest_twisted.ensureDeferred
async def test_event_that_is_kept_redacted_is_sound(database: Database) -> None:
    graph = GraphBuilder(V12)
    graph.create(BOB)
    message = graph.built[graph.add("m.room.message", BOB, {"body": "b"}).event_id]
    message.wire = redact(V12, message.wire)
    report = await check_graph(graph, database)
    assert ([], 1) == (list(report.lines()), report.unknown_hashes)


@pytest_twisted.ensureDeferred
async def test_forbidden_event_must_be_rejected(database: Database) -> None:
    graph = GraphBuilder(V10)
    graph.create(BOB)
    graph.add("m.room.message", CAROL, {"body": "I am not here"})
    [difference] = (await check_graph(graph, database)).differences
    assert ("verdict", "accepted") == (difference.aspect, difference.stored)
    # Spec: rooms/v10, "Authorisation rules", 5.
    assert difference.expected.startswith("rejected by what it cites (rule 5:")


@pytest_twisted.ensureDeferred
async def test_event_that_cites_an_older_state_is_judged_by_the_state_before_it(database: Database) -> None:
    graph = GraphBuilder(V12)
    joined = graph.create(BOB)
    levels = graph.events[graph.state["m.room.power_levels", ""]]
    graph.add("m.room.member", ALICE, {"membership": "ban"}, BOB)
    graph.add("m.room.message", BOB, {"body": "I was here"}, auth=[levels, joined])
    [difference] = (await check_graph(graph, database)).differences
    assert "verdict" == difference.aspect
    assert difference.expected.startswith("rejected by the state before it (rule 6")


@pytest_twisted.ensureDeferred
async def test_citing_a_rejected_event_must_be_rejected(database: Database) -> None:
    graph = GraphBuilder(V12)
    graph.create(BOB)
    bad = graph.add("m.room.member", CAROL, {"membership": "ban"}, BOB, flags=REJECTED)
    levels = graph.events[graph.state["m.room.power_levels", ""]]
    graph.add("m.room.message", BOB, {"body": "b"}, auth=[levels, bad])
    assert ["verdict"] == [difference.aspect for difference in (await check_graph(graph, database)).differences]


@pytest_twisted.ensureDeferred
async def test_event_may_have_been_judged_by_the_redacted_form_of_what_it_cites(database: Database) -> None:
    graph = GraphBuilder(V10)
    graph.create(BOB)
    # Spec: rooms/v10, "Redactions": `invite` is not kept.
    levels = graph.add("m.room.power_levels", ALICE, {"users": {str(ALICE): 100}, "invite": 90}, "")
    redaction = graph.add("m.room.redaction", ALICE, {})
    graph.built[levels.event_id].redacted_by = graph.built[redaction.event_id].nid
    graph.add("m.room.member", BOB, {"membership": "invite"}, CAROL)
    report = await check_graph(graph, database)
    assert ["redaction"] == [difference.aspect for difference in report.differences]


@pytest_twisted.ensureDeferred
async def test_outliers_have_no_state(database: Database) -> None:
    graph = GraphBuilder(V12)
    graph.create(BOB)
    graph.add("m.room.member", CAROL, {"membership": "join"}, CAROL, flags=OUTLIER)
    assert [] == list((await check_graph(graph, database)).lines())


@pytest_twisted.ensureDeferred
async def test_state_that_follows_from_what_is_not_here_is_taken_as_stored(database: Database) -> None:
    graph = GraphBuilder(V12)
    graph.create(BOB)
    gap = graph.add("m.room.message", BOB, {"body": "not here"})
    graph.add("m.room.message", BOB, {"body": "here"})
    del graph.built[gap.event_id]
    report = await check_graph(graph, database)
    # Without the edge nothing tells that the last event of before is no end.
    assert 1 == report.taken_states
    assert ["forward extremities"] == [difference.aspect for difference in report.differences]


@pytest_twisted.ensureDeferred
async def test_accepted_event_behind_a_soft_failed_one_takes_the_end_before_it(database: Database) -> None:
    graph = GraphBuilder(V12)
    base = graph.create(BOB)
    late = graph.add("m.room.message", BOB, {"body": "late"}, prev=[base], flags=SOFT_FAILED)
    graph.add("m.room.message", ALICE, {"body": "next"}, prev=[late])
    graph.extremities = graph.extremities[-1:]
    graph.tip_groups.clear()
    assert [] == list((await check_graph(graph, database)).lines())


@pytest_twisted.ensureDeferred
async def test_hostile_names_stay_one_line(database: Database) -> None:
    graph = GraphBuilder(V12)
    graph.create(BOB)
    graph.add("m.room.message", CAROL, {"body": "b"})
    event = graph.add("m.\x1b[2J\n\u202e" + "x" * 200, CAROL, {}, "\r\n")
    graph.built[event.event_id].wire["content"] = {"body": "changed"}
    report = await check_graph(graph, database)
    assert not report.is_sound
    assert all(line.isprintable() for line in report.lines())


@pytest_twisted.ensureDeferred
async def test_unknown_room_version_is_told(database: Database) -> None:
    report = Report()
    await database.read(lambda tx: check_room(tx, RoomRow(1, "!r", "x\n"), {}, report))
    assert ["!r room version: expected one that is known, stored x\\u{a}"] == list(report.lines())
