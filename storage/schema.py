"""Bringing the schema of a database up to date, and refusing databases that are not ours.

An empty database gets the tables of the code, an older one the revisions that it lacks (see `storage.migrations`); a
test sees to it that both end in the same schema. What to do is found out by hand from the version table, because
Alembic takes 13 MiB of memory for good: it is loaded for changing an older database only. Whoever calls `migrate` holds
the database for itself (see `storage.ownership`), so that no two servers do it.
"""

from __future__ import annotations

import logging
import re

from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, text
from sqlalchemy.exc import SQLAlchemyError

from homeserver.errors import Misconfigured

from .database import table_options
from .migrations import HEAD, VERSION_TABLE
from .tables import all_tables

logger = logging.getLogger(__name__)

_SYNAPSE = frozenset({"applied_schema_deltas", "schema_version"})


def migrate(engine: Engine) -> None:
    """Apply what the database lacks; raises Misconfigured for one that is newer, half changed or somebody else's."""
    with engine.begin() as connection:
        found = find_version(connection)
        if found == HEAD:
            return
        try:
            if found is None:
                _create(connection)
            else:
                from .migrations.environment import upgrade

                # A warning, for there is no way back but the backup, and commands say nothing less.
                logger.warning("Changing the database from version %s to %s", found, HEAD)
                upgrade(connection)
        except SQLAlchemyError as fault:
            raise Misconfigured(
                f"The database could not be changed from version {found or 'none'} to {HEAD}: "
                f"{getattr(fault, 'orig', fault)}. {_after_failure(connection)}"
            ) from fault


def find_version(connection: Connection) -> str | None:
    """Return the version of a database, None for an empty one; raises Misconfigured for one that we must not touch."""
    tables = _table_names(connection)
    if not tables:
        return None
    if VERSION_TABLE not in tables:
        raise Misconfigured(_not_ours(tables))
    versions = [str(row[0]) for row in connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}"))]
    if not versions:
        if tables == {VERSION_TABLE}:
            return None
        raise Misconfigured(
            "The first start on this database was broken off while it made the tables. "
            "Nothing was stored in it yet: drop the database, make it again empty, and start again."
        )
    version = versions[0]
    if len(versions) > 1 or not re.fullmatch(r"\d{4}", version):
        raise Misconfigured(
            f"The table {VERSION_TABLE} should hold one version such as {HEAD}, but holds {', '.join(versions)[:100]}. "
            "Somebody has changed it: restore the database from a backup."
        )
    if version > HEAD:
        raise Misconfigured(
            f"The database has version {version}, made by a newer Sennit; this one knows versions up to {HEAD}. "
            "Install the newer Sennit again, or restore the backup from before it was installed. Nothing was changed."
        )
    return version


def _create(connection: Connection) -> None:
    """Make all tables in an empty database; the version comes last, so that a start that is broken off is known."""
    version = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32), primary_key=True))
    version.create(connection, checkfirst=True)
    wanted = MetaData()
    for table in all_tables().sorted_tables:
        table.to_metadata(wanted).kwargs.update(table_options(connection))
    wanted.create_all(connection, checkfirst=False)
    connection.execute(version.insert(), {"version_num": HEAD})


def _table_names(connection: Connection) -> set[str]:
    if connection.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND substr(name, 1, 7) <> 'sqlite_'"
    else:
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
    return {str(row[0]) for row in connection.execute(text(query))}


def _not_ours(tables: set[str]) -> str:
    if tables >= _SYNAPSE:
        return (
            "This database belongs to a Synapse homeserver, and Sennit's tables are different. "
            "Name an empty database under [database] url; nothing was changed in this one."
        )
    some = ", ".join(sorted(tables)[:4]) + (", …" if len(tables) > 4 else "")
    return (
        f"The database is not empty and not Sennit's: it holds {len(tables)} tables ({some}), but no {VERSION_TABLE}. "
        "Name an empty database under [database] url; nothing was changed in this one."
    )


def _after_failure(connection: Connection) -> str:
    if connection.dialect.name == "sqlite":
        return "Nothing was changed."
    return (
        "This kind of database cannot take such a change back, so it may be half made: "
        "restore the backup from before the start, or, if the database was empty, drop it and make it again."
    )
