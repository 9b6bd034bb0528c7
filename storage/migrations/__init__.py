"""The schema's history: one revision per change, applied at start in order, never taken back.

`versions/` holds the revisions as Alembic scripts, numbered `0001`, `0002`, …. They are written once and then left as
they are, so they name their types themselves. They change tables and the rows in them, but never rely on rows that an
older one has put there: an empty database gets the tables of the code at once. `environment` runs them; it alone
imports Alembic, and only when there is something to do (see `storage.schema`). `tools/make_migration.py` writes new
ones.
"""

from __future__ import annotations

from typing import Final

# The newest revision in `versions/`: what this code reads and writes.
HEAD: Final = "0004"

# Ours alone: another program that uses Alembic in the same database must not be taken for an older or newer Sennit.
VERSION_TABLE: Final = "sennit_schema"
