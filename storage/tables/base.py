"""What all tables share: one metadata, and the few column types there are.

- Identifiers and keys are text of at most 255 bytes, compared byte by byte: SQLite does so by itself, MySQL and MariaDB
  by the collation that `storage.database` gives the tables (binary, without padding: "a" and "a " are two keys).
- JSON is stored as its bytes, so that no character set ever touches it.
- `*_nid` columns are interned identifiers (see `storage.interning`), `position` columns are stream positions.

Times are milliseconds since the epoch.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, String
from sqlalchemy.dialects import mysql

metadata = MetaData()

# SQLite makes a row ID of an INTEGER primary key only; there it is 64 bits wide already.
Number = BigInteger().with_variant(Integer(), "sqlite")
Identifier = String(255)
ShortText = String(64)
JsonBytes = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
LongBytes = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def number(name: str, *, primary_key: bool = False, nullable: bool = False) -> Column[int]:
    """Return a 64-bit integer column, not null unless said."""
    return Column(name, Number, primary_key=primary_key, nullable=nullable, autoincrement=False)
