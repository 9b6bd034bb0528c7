"""The databases that tests are given are empty, durable and collated as the server demands."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import OperationalError

from storage.migrations import HEAD, VERSION_TABLE
from storage.schema import find_version

from .databases import Mariadb


def test_given_database_is_fresh(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    try:
        assert [] == inspect(engine).get_table_names()
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE a (b INTEGER)"))
    finally:
        engine.dispose()


def test_second_test_sees_nothing_of_the_first(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    try:
        assert [] == inspect(engine).get_table_names()
    finally:
        engine.dispose()


def test_mariadb_keeps_its_durability_and_compares_bytes(mariadb_url: str) -> None:
    engine = create_engine(mariadb_url)
    try:
        with engine.connect() as connection:
            row = connection.execute(
                text("SELECT @@innodb_flush_log_at_trx_commit, @@collation_database, @@character_set_connection")
            ).one()
    finally:
        engine.dispose()
    assert (1, "utf8mb4_bin", "utf8mb4") == tuple(row)


def test_open_transaction_does_not_block_the_drop(mariadb: Mariadb) -> None:
    with mariadb.fresh_database() as url:
        engine = create_engine(url)
        connection = engine.connect()
        connection.execute(text("CREATE TABLE a (b INTEGER)"))
        connection.execute(text("INSERT INTO a VALUES (1)"))
    with pytest.raises(OperationalError):
        connection.execute(text("SELECT 1"))
    connection.invalidate()
    connection.close()
    engine.dispose()


def test_prepared_database_has_the_tables_and_no_rows(database_url: str) -> None:
    engine = create_engine(database_url)
    try:
        with engine.begin() as connection:
            assert HEAD == find_version(connection)
            assert 0 == connection.execute(text("SELECT count(*) FROM rooms")).scalar()
    finally:
        engine.dispose()


def test_used_database_is_emptied_for_the_next_test(mariadb: Mariadb) -> None:
    with mariadb.database() as first:
        engine = create_engine(first)
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO user_ids (user_nid, user_id) VALUES (1, '@a:b')"))
        left_open = engine.connect()
        left_open.execute(text("INSERT INTO user_ids (user_nid, user_id) VALUES (2, '@b:b')"))
    left_open.invalidate()
    engine.dispose()
    with mariadb.database() as second:
        engine = create_engine(second)
        with engine.connect() as connection:
            assert 0 == connection.execute(text("SELECT count(*) FROM user_ids")).scalar()
        engine.dispose()
    assert first == second


@pytest.mark.parametrize(
    "change", ["DROP TABLE rooms", "ALTER TABLE rooms ADD COLUMN more INTEGER", f"DELETE FROM {VERSION_TABLE}"]
)
def test_changed_database_is_not_used_again(mariadb: Mariadb, change: str) -> None:
    with mariadb.database() as first:
        engine = create_engine(first)
        with engine.begin() as connection:
            connection.execute(text(change))
        engine.dispose()
    with mariadb.database() as second:
        assert first != second
