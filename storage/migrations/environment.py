"""Running the revisions with Alembic, configured here and not by a file.

On SQLite everything happens in the transaction that the caller has opened, so a revision that fails leaves nothing.
MySQL and MariaDB commit at every change of a table; there the version table tells how far it came.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from . import HEAD, VERSION_TABLE

FOLDER = Path(__file__).parent


def scripts(folder: Path = FOLDER) -> ScriptDirectory:
    """Return the revisions of a folder."""
    return ScriptDirectory(str(folder), version_locations=[str(folder / "versions")])


def upgrade(connection: Connection, *, to: str = HEAD, folder: Path = FOLDER) -> None:
    """Apply all revisions up to `to` that the database lacks, in the transaction of `connection`."""
    script = scripts(folder)
    # What is done is said in one line by `storage.schema`.
    logging.getLogger("alembic").setLevel(logging.WARNING)

    def steps(revision: Any, _: Any) -> Any:
        return script._upgrade_revs(to, revision)

    with EnvironmentContext(Config(), script, fn=steps) as environment:
        environment.configure(connection=connection, version_table=VERSION_TABLE)
        with environment.begin_transaction():
            environment.run_migrations()
