"""One database transaction, as storage functions see it.

A storage function is synchronous and takes a `Transaction` first. It runs in a database thread and may run more than
once (deadlock, lost connection), so it touches nothing but its transaction and its arguments.

Statements are SQLAlchemy Core. Inserts of many rows go past Core's per-row work: the statement is compiled by Core once
per process and the rows are handed to the driver as tuples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Executable, Table, insert
from sqlalchemy.dialects.mysql import insert as mysql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import CursorResult

# SQLite takes 32,766 variables a statement, MySQL a packet of 16 MiB or more.
CHUNK: Final = 500


class Transaction:
    """A connection inside a transaction, with the few verbs that storage functions need."""

    __slots__ = ("_statements", "connection", "is_sqlite")

    def __init__(self, connection: Connection, statements: dict[Any, str]) -> None:
        self.connection = connection
        self.is_sqlite = connection.dialect.name == "sqlite"
        self._statements = statements

    def execute(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> CursorResult[Any]:
        """Run one Core statement."""
        return self.connection.execute(statement, parameters)

    def all(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """Return all rows of a query."""
        return self.connection.execute(statement, parameters).fetchall()

    def first(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> Any:
        """Return the first row of a query, or None."""
        return self.connection.execute(statement, parameters).fetchone()

    def scalar(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> Any:
        """Return the first column of the first row, or None."""
        row = self.connection.execute(statement, parameters).fetchone()
        return None if row is None else row[0]

    def insert_many(
        self,
        table: Table,
        columns: tuple[str, ...],
        rows: Sequence[tuple[Any, ...]],
        *,
        ignore: bool = False,
        update: tuple[str, ...] = (),
        add: tuple[str, ...] = (),
    ) -> int:
        """Insert rows given as tuples in the order of `columns`; return how many, if not with `update` or `add`.

        On a row whose primary or unique key exists: with `ignore` keep what is there; with `update` overwrite those
        columns; with `add` add the new number to those columns; else the driver's integrity error is raised.
        """
        if not rows:
            return 0
        key = (table.name, columns, ignore, update, add)
        sql = self._statements.get(key)
        if sql is None:
            sql = self._statements[key] = self._compile(table, columns, ignore, update, add)
        return self.connection.exec_driver_sql(sql, rows[0] if len(rows) == 1 else list(rows)).rowcount

    def upsert(self, table: Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Insert the row `key` + `values`, or set `values` on the row that has `key` (its primary or unique key)."""
        columns = (*key, *values)
        self.insert_many(table, columns, [(*key.values(), *values.values())], update=tuple(values), ignore=not values)

    def _compile(
        self, table: Table, columns: tuple[str, ...], ignore: bool, update: tuple[str, ...], add: tuple[str, ...]
    ) -> str:
        dialect = self.connection.dialect
        statement: Any
        if not (ignore or update or add):
            statement = insert(table)
        elif self.is_sqlite:
            statement = sqlite_insert(table)
            if update or add:
                # Without a target, SQLite's upsert answers to whichever unique key is hit.
                settings = {name: statement.excluded[name] for name in update}
                settings |= {name: table.c[name] + statement.excluded[name] for name in add}
                statement = statement.on_conflict_do_update(index_elements=_conflict_key(table, columns), set_=settings)
            else:
                statement = statement.on_conflict_do_nothing()
        else:
            statement = mysql_insert(table)
            if update or add:
                settings = {name: statement.inserted[name] for name in update}
                settings |= {name: table.c[name] + statement.inserted[name] for name in add}
                statement = statement.on_duplicate_key_update(settings)
            else:
                statement = statement.prefix_with("IGNORE")
        compiled = statement.compile(dialect=dialect, column_keys=list(columns))
        if list(compiled.positiontup or columns) != list(columns):
            # Core puts columns in the table's order; rows come in the caller's.
            raise ValueError(f"give the columns of {table.name} in the table's order: {compiled.positiontup}")
        return str(compiled)


def _conflict_key(table: Table, columns: tuple[str, ...]) -> list[str]:
    given = set(columns)
    key = [column.name for column in table.primary_key.columns]
    if set(key) <= given:
        return key
    for index in table.indexes:
        names = [column.name for column in index.columns]
        if index.unique and set(names) <= given:
            return names
    raise ValueError(f"no unique key of {table.name} among {columns}")


def chunks(items: Iterable[Any], size: int = CHUNK) -> Iterable[list[Any]]:
    """Yield the items in lists of at most `size`, for IN (…) queries."""
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
