"""The databases that tests are given are empty, durable and collated as the server demands."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import OperationalError

from .databases import Mariadb


def test_given_database_is_fresh(database_url: str) -> None:
    engine = create_engine(database_url)
    try:
        assert [] == inspect(engine).get_table_names()
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE a (b INTEGER)"))
    finally:
        engine.dispose()


def test_second_test_sees_nothing_of_the_first(database_url: str) -> None:
    engine = create_engine(database_url)
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
