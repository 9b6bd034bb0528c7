"""Bringing the schema of a database up to date."""

from __future__ import annotations

from sqlalchemy import Engine, MetaData

from .database import table_collation
from .tables import accounts, identity, media, presence, rooms, user_state  # noqa: F401
from .tables.base import metadata


def migrate(engine: Engine) -> None:
    """Create what is missing."""
    with engine.begin() as connection:
        collation = table_collation(connection)
        wanted = MetaData()
        for table in metadata.sorted_tables:
            copy = table.to_metadata(wanted)
            if collation:
                copy.dialect_options["mysql"]["charset"] = "utf8mb4"
                copy.dialect_options["mysql"]["collate"] = collation
                copy.dialect_options["mysql"]["engine"] = "InnoDB"
        wanted.create_all(connection)
