"""The schema's history: it ends in the tables of the code, is applied once, and foreign databases are left alone."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text

from homeserver.errors import Misconfigured
from storage.database import _engine, parse_url
from storage.migrations import HEAD, VERSION_TABLE
from storage.migrations.environment import scripts, upgrade
from storage.schema import find_version, migrate
from storage.tables import all_tables

ROOT = Path(__file__).parents[2]


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[Engine]:
    engine = _engine(parse_url(empty_database_url), 1)
    yield engine
    engine.dispose()


def _execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def _tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def test_head_is_the_newest_revision() -> None:
    assert [HEAD] == scripts().get_heads()


def test_revisions_end_in_the_tables_of_the_code(engine: Engine) -> None:
    with engine.begin() as connection:
        upgrade(connection)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert [] == compare_metadata(context, all_tables())


def _definitions(engine: Engine) -> dict[str, list[str]]:
    """Return what the database says of each of its tables, a line per column, key or option."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")).all()
        else:
            names = connection.execute(text("SHOW TABLES")).scalars().all()
            rows = [connection.execute(text(f"SHOW CREATE TABLE {name}")).one() for name in names]
    # SQLite appends the text of a new column as it is, MariaDB puts it last.
    return {name: sorted(part.strip() for part in re.split(r"[,\n()]", str(sql)) if part.strip()) for name, sql in rows}


def test_empty_database_gets_what_the_revisions_make(engine: Engine) -> None:
    with engine.begin() as connection:
        upgrade(connection)
    by_revisions = _definitions(engine)
    _execute(engine, *(f"DROP TABLE {name}" for name in _tables(engine)))
    migrate(engine)
    at_once = _definitions(engine)
    for ours in (by_revisions, at_once):
        # Alembic's own; it names its key.
        del ours[VERSION_TABLE]
    assert by_revisions == at_once


def test_older_database_gets_the_revisions_it_lacks(engine: Engine) -> None:
    with engine.begin() as connection:
        upgrade(connection, to="0001")
    _execute(engine, f"UPDATE {VERSION_TABLE} SET version_num = '0000'")
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.migrations.environment.upgrade", lambda connection: seen.append("upgrade"))
        migrate(engine)
    assert ["upgrade"] == seen


def test_rooms_of_the_first_version_get_their_places_in_the_auth_graph(engine: Engine) -> None:
    with engine.begin() as connection:
        upgrade(connection, to="0001")
    create = '{"type":"m.room.create","auth_events":[]}'
    join = '{"type":"m.room.member","auth_events":["$create"]}'
    columns = "event_nid, event_id, room_nid, position, depth, type, key_nid, sender_nid, origin_server_ts, received_ts"
    _execute(
        engine,
        "INSERT INTO rooms (room_nid, room_id, version, is_published, created_ts) VALUES (1, '!a', '11', 0, 0)",
        f"INSERT INTO events ({columns}, flags, json) VALUES"
        f" (5, '$create', 1, 5, 1, 'm.room.create', 2, 3, 0, 0, 0, '{create}'),"
        f" (6, '$join', 1, 6, 2, 'm.room.member', 4, 3, 0, 0, 0, '{join}')",
    )
    migrate(engine)
    with engine.connect() as connection:
        places = connection.execute(text("SELECT event_nid, chain, key_nid FROM auth_chains ORDER BY event_nid")).all()
        links = connection.execute(text("SELECT chain, event_nid, to_chain, to_nid FROM auth_links")).all()
    assert [(5, 5, 2), (6, 6, 4)] == [tuple(row) for row in places]
    assert [(6, 6, 5, 5)] == [tuple(row) for row in links]


def test_tables_compare_bytes(empty_mariadb_url: str) -> None:
    engine = create_engine(empty_mariadb_url)
    with engine.begin() as connection:
        upgrade(connection)
    query = "SELECT DISTINCT engine, table_collation FROM information_schema.tables WHERE table_schema = DATABASE()"
    with engine.connect() as connection:
        rows = connection.execute(text(query + f" AND table_name <> '{VERSION_TABLE}'")).all()
    engine.dispose()
    assert [("InnoDB", "utf8mb4_nopad_bin")] == [tuple(row) for row in rows]


def test_alembic_can_change_what_was_made_at_once(engine: Engine) -> None:
    migrate(engine)
    with engine.begin() as connection:
        upgrade(connection)
        assert HEAD == find_version(connection)


def test_second_start_changes_nothing_and_no_start_loads_alembic(tmp_path: Path) -> None:
    script = (
        "import sys; from sqlalchemy import create_engine; from storage.schema import migrate\n"
        "migrate(create_engine(sys.argv[1]))\n"
        "print(sorted({'alembic', 'mako'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, f"sqlite:///{tmp_path / 'a.db'}"]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    before = (tmp_path / "a.db").read_bytes()
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ("[]\n", "[]\n") == (first.stdout, second.stdout)
    assert before == (tmp_path / "a.db").read_bytes()


def test_newer_database_is_refused(engine: Engine) -> None:
    migrate(engine)
    _execute(engine, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(Misconfigured, match=rf"version 9999.*up to {HEAD}.*Install the newer"):
        migrate(engine)


@pytest.mark.parametrize("rows", [["x"], ["0001", "0002"]], ids=["no number", "two"])
def test_tampered_version_is_refused(engine: Engine, rows: list[str]) -> None:
    migrate(engine)
    _execute(engine, f"DELETE FROM {VERSION_TABLE}", *(f"INSERT INTO {VERSION_TABLE} VALUES ('{row}')" for row in rows))
    with pytest.raises(Misconfigured, match="restore the database from a backup"):
        migrate(engine)


def test_foreign_database_is_refused_and_left_alone(engine: Engine) -> None:
    _execute(engine, "CREATE TABLE blog (a INTEGER)", "CREATE TABLE alembic_version (version_num VARCHAR(32))")
    with pytest.raises(Misconfigured, match=r"not Sennit's: it holds 2 tables \(alembic_version, blog\)"):
        migrate(engine)
    assert {"blog", "alembic_version"} == _tables(engine)


def test_synapse_database_is_named(engine: Engine) -> None:
    _execute(engine, "CREATE TABLE schema_version (a INTEGER)", "CREATE TABLE applied_schema_deltas (a INTEGER)")
    with pytest.raises(Misconfigured, match="belongs to a Synapse homeserver"):
        migrate(engine)


def _history_with_a_broken_end(folder: Path) -> Path:
    versions = folder / "versions"
    versions.mkdir()
    imports = "from alembic import op\nimport sqlalchemy as sa\n"
    (versions / "a.py").write_text(
        f"{imports}revision = '0001'\ndown_revision = None\n"
        "def upgrade(): op.create_table('kept', sa.Column('a', sa.Integer()))\n"
    )
    (versions / "b.py").write_text(
        f"{imports}revision = '0002'\ndown_revision = '0001'\n"
        "def upgrade():\n"
        "    op.create_table('half', sa.Column('a', sa.Integer()))\n"
        "    op.execute('INSERT INTO kept VALUES (1)')\n"
        "    op.execute('nonsense')\n"
    )
    return folder


def test_failed_revision_is_rolled_back_on_sqlite(empty_sqlite_url: str, tmp_path: Path) -> None:
    engine = _engine(parse_url(empty_sqlite_url), 1)
    folder = _history_with_a_broken_end(tmp_path)
    with engine.begin() as connection:
        upgrade(connection, to="0001", folder=folder)
    with pytest.raises(Exception, match="nonsense"), engine.begin() as connection:
        upgrade(connection, to="0002", folder=folder)
    with engine.connect() as connection:
        assert [] == connection.execute(text("SELECT * FROM kept")).all()
        assert [("0001",)] == connection.execute(text(f"SELECT * FROM {VERSION_TABLE}")).all()
    assert {"kept", VERSION_TABLE} == _tables(engine)
    engine.dispose()


def test_first_start_that_was_broken_off_is_named(engine: Engine) -> None:
    migrate(engine)
    _execute(engine, f"DELETE FROM {VERSION_TABLE}")
    with pytest.raises(Misconfigured, match="broken off"):
        migrate(engine)


def test_refused_change_is_told_with_what_to_do(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: object) -> None:
        connection.execute(text("nonsense"))  # type: ignore[attr-defined]

    monkeypatch.setattr("storage.schema._create", fail)
    with pytest.raises(Misconfigured, match=r"from version none to .*(Nothing was changed|restore the backup)"):
        migrate(engine)
