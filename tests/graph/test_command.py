"""`sennit graph` as it is called: what it prints, how it ends, and that it leaves everything as it was."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_twisted
from sqlalchemy import create_engine, text

from homeserver.config import Config
from homeserver.errors import Misconfigured, NotFound
from homeserver.graph import command
from homeserver.model.signing import key_file_line
from storage.inspection import list_rooms, open_snapshot
from storage.transaction import Transaction
from tests.support.rooms import SERVER, RoomServer

from .graph_builder import KEY

ROOT = Path(__file__).parents[2]


def _config(folder: Path, url: str) -> Config:
    server = {"name": SERVER, "data_dir": str(folder), "signing_key_path": str(folder / "signing.key")}
    return Config.from_mapping({"server": server, "database": {"url": url}})


async def _room(rooms: RoomServer) -> str:
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, members=[bob])
    await rooms.say(room, bob)
    return room


def _url(rooms: RoomServer) -> str:
    return rooms.store.database.url.render_as_string(hide_password=False)


@pytest_twisted.ensureDeferred
async def test_sound_rooms_are_checked_beside_the_running_server(rooms: RoomServer, tmp_path: Path) -> None:
    first, second = await _room(rooms), await _room(rooms)
    (tmp_path / "signing.key").write_text(key_file_line(rooms.identity.key))
    config, out = _config(tmp_path, _url(rooms)), io.StringIO()
    assert 0 == command.check(config, [], out=out, clock=lambda: 1.0)
    assert "2 rooms, 14 events, 14 signatures checked, no differences, 0.0 s\n" == out.getvalue()
    assert 0 == command.check(config, [first, second, first], out=io.StringIO())
    # The server goes on.
    await _room(rooms)


@pytest_twisted.ensureDeferred
async def test_differences_are_printed_and_counted(rooms: RoomServer, tmp_path: Path) -> None:
    room = await _room(rooms)
    await rooms.store.database.write(lambda tx: tx.execute(text("UPDATE room_stats SET joined_members = 9")))
    out = io.StringIO()
    assert 1 == command.check(_config(tmp_path, _url(rooms)), [room], out=out)
    first, last = out.getvalue().splitlines()
    assert f"{room} room_stats, joined_members: expected 2, stored 9" == first
    assert "7 signatures not checked (keys not known), 1 difference, " in last


@pytest_twisted.ensureDeferred
async def test_room_is_drawn_by_id_and_by_alias(rooms: RoomServer, tmp_path: Path) -> None:
    room = await _room(rooms)
    alias = f"#lobby:{SERVER}"
    await rooms.store.database.write(
        lambda tx: tx.execute(
            text(
                "INSERT INTO room_aliases (alias, room_nid, creator_nid, created_ts)"
                " SELECT :alias, room_nid, 1, 1 FROM rooms"
            ),
            {"alias": alias},
        )
    )
    config, by_id, by_alias = _config(tmp_path, _url(rooms)), io.StringIO(), io.StringIO()
    assert 0 == command.draw(config, room, is_dot=False, limit=3, out=by_id)
    assert 0 == command.draw(config, alias, is_dot=False, limit=3, out=by_alias)
    assert by_id.getvalue() == by_alias.getvalue()
    lines = by_id.getvalue().splitlines()
    assert f"{room}, room version 12, 3 events, the newest first" == lines[0]
    assert "m.room.message @bob:example.org" in lines[1]
    assert "[extremity]" in lines[1]
    assert "… and 4 earlier events" == lines[-1]
    dot = io.StringIO()
    assert 0 == command.draw(config, room, is_dot=True, limit=100, out=dot)
    solid = [line for line in dot.getvalue().splitlines() if line.startswith("  e") and line.endswith(";")]
    assert 6 == sum(" -> e" in line and "dashed" not in line for line in solid)


@pytest_twisted.ensureDeferred
async def test_unknown_room_is_not_found(rooms: RoomServer, tmp_path: Path) -> None:
    config = _config(tmp_path, _url(rooms))
    for name in ("!no", "#no:example.org", "no", ""):
        with pytest.raises(NotFound, match="There is no room"):
            command.draw(config, name, is_dot=False, limit=3, out=io.StringIO())


@pytest_twisted.ensureDeferred
async def test_unknown_name_is_told_and_the_others_are_checked(rooms: RoomServer, tmp_path: Path) -> None:
    first, second = await _room(rooms), await _room(rooms)
    out, errors = io.StringIO(), io.StringIO()
    assert 2 == command.check(_config(tmp_path, _url(rooms)), [first, "nope", second], out=out, errors=errors)
    assert "sennit: There is no room nope in the database.\n" == errors.getvalue()
    assert out.getvalue().startswith("2 rooms, 14 events, ")


@pytest_twisted.ensureDeferred
async def test_damage_in_one_room_leaves_the_others_to_be_checked(rooms: RoomServer, tmp_path: Path) -> None:
    first, second = await _room(rooms), await _room(rooms)

    def damage(tx: Transaction) -> None:
        tx.execute(text("UPDATE rooms SET version = '77' WHERE room_id = :room"), {"room": first})
        tx.execute(text("UPDATE room_stats SET joined_members = 9"))
        tx.execute(text("INSERT INTO room_aliases (alias, room_nid, creator_nid, created_ts) VALUES ('#a:b', 4, 1, 1)"))

    await rooms.store.database.write(damage)
    out = io.StringIO()
    assert 1 == command.check(_config(tmp_path, _url(rooms)), [], out=out)
    assert [
        f"{first} room version: expected one that is known, stored 77",
        f"{second} room_stats, joined_members: expected 2, stored 9",
        "database room_aliases: no room of it: #a:b",
    ] == out.getvalue().splitlines()[:-1]


@pytest_twisted.ensureDeferred
async def test_database_of_another_version_is_refused(rooms: RoomServer, tmp_path: Path) -> None:
    config = _config(tmp_path, _url(rooms))
    await rooms.store.database.write(lambda tx: tx.execute(text("UPDATE sennit_schema SET version_num = '0000'")))
    with pytest.raises(Misconfigured, match="has version 0000, and this Sennit reads version"):
        command.check(config, [], out=io.StringIO())


@pytest_twisted.ensureDeferred
async def test_snapshot_cannot_write(rooms: RoomServer) -> None:
    with pytest.raises(Misconfigured, match="cannot be read"), open_snapshot(_url(rooms)) as tx:
        tx.execute(text("UPDATE rooms SET version = '1'"))


@pytest_twisted.ensureDeferred
async def test_snapshot_sees_one_moment(rooms: RoomServer) -> None:
    await _room(rooms)
    with open_snapshot(_url(rooms)) as tx:
        before = list_rooms(tx)
        await _room(rooms)
        assert before == list_rooms(tx)


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "foreign"])
def test_what_is_no_database_of_ours_is_refused_and_left_as_it_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.db"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no database" * 100)
    elif kind == "foreign":
        engine = create_engine(f"sqlite:///{path}")
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE other (a)"))
        engine.dispose()
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(Misconfigured):
        command.check(_config(tmp_path, f"sqlite:///{path}"), [], out=io.StringIO())
    assert before == (path.read_bytes() if path.exists() else None)


@pytest.mark.parametrize("content", [b"nonsense", b"\xff", b""], ids=["text", "bytes", "empty"])
def test_bad_signing_key_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "signing.key").write_bytes(content)
    with pytest.raises(Misconfigured, match="is not a signing key"):
        command.own_keys(_config(tmp_path, "sqlite:///a.db"))


def test_old_keys_are_known_with_their_end(tmp_path: Path) -> None:
    old = {"ed25519:old": {"key": KEY.verify_key_base64, "expired_ts": 5}}
    config = Config.from_mapping({"server": {"name": SERVER, "data_dir": str(tmp_path), "old_signing_keys": old}})
    assert 5 == command.own_keys(config)[SERVER, "ed25519:old"].expired_ts


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "Name the room to draw"),
        ("!a !b", "Only one room is drawn"),
        ("!a --limit 0", "--limit is a number of events"),
        ("!a --auth", "--auth is for --dot"),
        ("--check --dot", "leave --dot out"),
        ("--check --auth", "leave --auth out"),
        ("--check --limit 5", "leave --limit out"),
        ("!a --limit x", "invalid int value"),
    ],
)
def test_wrong_use_is_told_in_a_sentence_and_ends_with_two(tmp_path: Path, arguments: str, sentence: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "SENNIT_CONFIG"}
    done = subprocess.run(
        [sys.executable, "-m", "homeserver", "graph", *arguments.split()],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (2, "") == (done.returncode, done.stdout)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_terminal_without_unicode_gets_what_it_can_show() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    command._writer(out)("├─┐ ● é …")
    out.flush()
    assert b"|-. * \\xe9 .\n" == raw.getvalue()
