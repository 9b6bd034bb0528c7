"""What every table is made with, whichever revision makes it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from storage.database import table_collation


def table_options(connection: Connection) -> dict[str, Any]:
    """Return keyword arguments for `op.create_table`: on MySQL and MariaDB InnoDB and a collation of bytes."""
    collation = table_collation(connection)
    if collation is None:
        return {}
    return {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": collation}
