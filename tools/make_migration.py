"""Writes a revision of the schema from the difference between the tables in the code and those of the revisions.

python tools/make_migration.py initial        writes 0001 anew; only before the first release
python tools/make_migration.py "push queues"  writes the next revision, which is then to be read and corrected
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from alembic.autogenerate import produce_migrations, render_python_code  # noqa: E402
from alembic.runtime.migration import MigrationContext  # noqa: E402
from sqlalchemy import LargeBinary, String, create_engine  # noqa: E402
from sqlalchemy.dialects import mysql  # noqa: E402

from storage.migrations import HEAD, VERSION_TABLE  # noqa: E402
from storage.migrations.environment import FOLDER, upgrade  # noqa: E402
from storage.tables import all_tables  # noqa: E402
from storage.tables.base import Number  # noqa: E402

TEMPLATE = '''"""{title}."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from storage.database import table_options

revision = "{revision}"
down_revision = {before!r}

{types}

def upgrade() -> None:
    """Make the change."""
    options = table_options(op.get_bind())
{body}
'''

TYPES = {
    "Number": 'Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")',
    "Blob": 'Blob = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")',
    "LongBlob": 'LongBlob = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")',
    "Digest": 'Digest = sa.LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")',
    "MediumText": 'MediumText = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")',
}


def main(words: str) -> None:
    """Write the revision."""
    is_initial = words == "initial"
    revision, before = ("0001", None) if is_initial else (f"{int(HEAD) + 1:04}", HEAD)
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        if not is_initial:
            upgrade(connection)
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        operations = produce_migrations(context, all_tables()).upgrade_ops
        assert operations is not None
        body = render_python_code(operations, render_item=render_type, migration_context=context)
    # The closing bracket of every create_table.
    body = re.sub(r"(op\.create_table\(.*?)(\n *\)\n)", r"\1,\n**options\2", body + "\n", flags=re.DOTALL)
    used = "\n".join(line for name, line in TYPES.items() if re.search(rf"\b{name}\b", body))
    slug = re.sub(r"\W+", "_", words.lower())
    path = FOLDER / "versions" / f"v{revision}_{slug}.py"
    title = "The tables of the first version" if is_initial else words[:1].upper() + words[1:]
    body = "\n".join(f"    {line.strip()}" for line in body.splitlines() if line.strip() and "###" not in line)
    path.write_text(TEMPLATE.format(title=title, revision=revision, before=before, types=used, body=body))
    for arguments in (("format", "--quiet"), ("check", "--fix", "--quiet")):
        subprocess.run([sys.executable, "-m", "ruff", *arguments, str(path)], check=True, cwd=ROOT)
    print(f"Wrote {path.relative_to(ROOT)}." + ("" if is_initial else f" Read it, and set HEAD to {revision!r}."))


def render_type(kind: str, item: Any, _: Any) -> Any:
    """Return a short name for the types that differ between databases; False for what renders by itself."""
    if kind != "type":
        return False
    if item is Number:
        return "Number"
    if isinstance(item, String) and not item._variant_mapping:
        return False
    variant = item._variant_mapping.get("mysql")
    if isinstance(item, LargeBinary) and variant is not None:
        names = {mysql.MEDIUMBLOB: "Blob", mysql.LONGBLOB: "LongBlob", mysql.BINARY: "Digest"}
        name = names[type(variant)]
        assert name != "Digest" or variant.length == 32, item
        return name
    if isinstance(variant, mysql.MEDIUMTEXT):
        return "MediumText"
    assert not item._variant_mapping, f"no name for {item!r}; add one"
    return False


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
