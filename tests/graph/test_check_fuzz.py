"""Nothing that is stored makes the check raise: random values in random columns of a small database."""

from __future__ import annotations

import io
import random
import sqlite3
from pathlib import Path

import pytest_twisted

from homeserver.config import Config
from homeserver.errors import NotFound
from homeserver.graph import command
from homeserver.model.room_versions import V12
from tests.storage.core import open_database

from .graph_builder import ALICE, BOB, CAROL, SERVER, GraphBuilder

ROUNDS = 60
TABLES = (
    "events",
    "event_edges",
    "rooms",
    "room_tips",
    "state_groups",
    "state_group_refs",
    "state_keys",
    "user_ids",
    "memberships",
    "membership_changes",
    "room_stats",
    "room_aliases",
    "auth_chains",
    "auth_links",
)
VALUES: tuple[object, ...] = (
    b"{{",
    b"",
    b"{}",
    b"[]",
    b"\x00\xff",
    b'{"type": 1}',
    "text",
    "\udc80".encode("utf-8", "surrogatepass"),
    "",
    "$x",
    -1,
    0,
    7,
    101,
    10_001,
    2**62,
    0.5,
    b'[1e9, "x"]',
    b"[" * 5_000,
)


def _config(folder: Path, path: Path) -> Config:
    return Config.from_mapping(
        {"server": {"name": SERVER, "data_dir": str(folder)}, "database": {"url": f"sqlite:///{path}"}}
    )


async def _stored(folder: Path) -> tuple[GraphBuilder, Path]:
    """Return a room with a fork, a redaction and a change of membership, and the database that it is stored in."""
    path = folder / "whole.db"
    database, threads = await open_database(f"sqlite:///{path}")
    try:
        graph = GraphBuilder(V12)
        base = graph.create(BOB, CAROL)
        graph.add("m.room.name", ALICE, {"name": "left"}, "", prev=[base])
        graph.add("m.room.member", CAROL, {"membership": "leave"}, CAROL, prev=[base])
        message = graph.add("m.room.message", BOB, {"body": "met"})
        redaction = graph.add("m.room.redaction", BOB, {"redacts": message.event_id})
        graph.built[message.event_id].redacted_by = graph.built[redaction.event_id].nid
        await graph.store(database)
        await database.write(
            lambda tx: tx.connection.exec_driver_sql(
                "INSERT INTO room_aliases (alias, room_nid, creator_nid, created_ts) VALUES ('#a:a.example', 1, 1, 1)"
            )
        )
    finally:
        await database.stop()
        await threads.stop()
    return graph, path


def _damage(path: Path, chance: random.Random) -> str:
    with sqlite3.connect(path) as connection:
        table = chance.choice(TABLES)
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        value = chance.choice([*VALUES, chance.randbytes(9)])
        column = chance.choice(columns)
        some = "" if chance.random() < 0.3 else f" WHERE abs(random()) % {chance.choice((2, 5))} = 0"
        # Bytes that are no text, stored as text.
        given = "CAST(? AS TEXT)" if isinstance(value, bytes) and chance.random() < 0.3 else "?"
        if chance.random() < 0.15:
            connection.execute(f"DELETE FROM {table}{some}")
            return f"delete {table}"
        try:
            connection.execute(f"UPDATE OR REPLACE {table} SET {column} = {given}{some}", (value,))
        except sqlite3.DatabaseError:
            pass
    return f"{table}.{column} = {value!r}"


@pytest_twisted.ensureDeferred
async def test_no_stored_value_stops_the_check_or_the_drawing(tmp_path: Path) -> None:
    graph, whole = await _stored(tmp_path)
    out = io.StringIO()
    command.check(_config(tmp_path, whole), [graph.room_id], out=out)
    assert "redaction" not in out.getvalue()
    chance = random.Random(5)
    for number in range(ROUNDS):
        path = tmp_path / f"{number}.db"
        path.write_bytes(whole.read_bytes())
        done = [_damage(path, chance) for _ in range(chance.choice((1, 1, 3)))]
        out = io.StringIO()
        try:
            assert command.check(_config(tmp_path, path), [], out=out) in (0, 1)
            for is_dot in (False, True):
                try:
                    command.draw(_config(tmp_path, path), graph.room_id, is_dot=is_dot, limit=9, out=io.StringIO())
                except NotFound:
                    pass
        except Exception as fault:
            raise AssertionError(f"after {done}") from fault
        assert all(line.isprintable() for line in out.getvalue().splitlines())
        path.unlink()
