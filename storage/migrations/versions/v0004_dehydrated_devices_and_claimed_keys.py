"""Dehydrated devices, claimed keys, and requests to send to devices by who sent them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from storage.database import table_options

revision = "0004"
down_revision = "0003"

Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Blob = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    """Make the change."""
    options = table_options(op.get_bind())
    op.create_table(
        "claimed_keys",
        sa.Column("device_nid", Number, autoincrement=False, nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("key_nid", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("device_nid", "key_hash"),
        **options,
    )
    op.create_table(
        "dehydrated_devices",
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("device_nid", Number, autoincrement=False, nullable=False),
        sa.Column("content", Blob, nullable=False),
        sa.PrimaryKeyConstraint("user_nid"),
        **options,
    )
    # Nobody repeats a request of before the start that makes this change, but who was not answered: a message of a
    # minute before may come twice.
    op.drop_index("to_device_transactions_by_age", "to_device_transactions")
    op.drop_table("to_device_transactions")
    op.create_table(
        "to_device_transactions",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("txn_key", sa.String(length=64), nullable=False),
        sa.Column("position", Number, autoincrement=False, nullable=False),
        sa.Column("created_ts", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("owner", "txn_key"),
        **options,
    )
    op.create_index("to_device_transactions_by_age", "to_device_transactions", ["created_ts"], unique=False)
