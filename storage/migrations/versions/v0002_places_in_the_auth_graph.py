"""Places in the auth graph."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from storage.auth_index import rebuild
from storage.database import table_options
from storage.transaction import Transaction

revision = "0002"
down_revision = "0001"

Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the change."""
    options = table_options(op.get_bind())
    op.create_table(
        "auth_chains",
        sa.Column("event_nid", Number, autoincrement=False, nullable=False),
        sa.Column("chain", Number, autoincrement=False, nullable=False),
        sa.Column("key_nid", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("event_nid"),
        **options,
    )
    op.create_index("auth_chains_by_chain", "auth_chains", ["chain"], unique=False)
    op.create_table(
        "auth_links",
        sa.Column("chain", Number, autoincrement=False, nullable=False),
        sa.Column("event_nid", Number, autoincrement=False, nullable=False),
        sa.Column("to_chain", Number, autoincrement=False, nullable=False),
        sa.Column("to_nid", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("chain", "event_nid", "to_chain"),
        sqlite_with_rowid=False,
        **options,
    )
    op.create_index("auth_links_backwards", "auth_links", ["to_chain", "to_nid", "chain"], unique=False)
    op.add_column("events", sa.Column("tip_group", Number, autoincrement=False, nullable=True))
    op.create_index("events_by_position", "events", ["position"], unique=False)
    # The events of older versions get their places. Should the code below come to need tables that are newer than
    # this revision, it is to be copied here as it was.
    tx = Transaction(op.get_bind(), {})
    for (room_nid,) in tx.all(sa.text("SELECT room_nid FROM rooms")):
        rebuild(tx, room_nid)
