"""The tables of the first version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from storage.database import table_options

revision = "0001"
down_revision = None

Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Blob = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
LongBlob = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
Digest = sa.LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
MediumText = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    """Make the change."""
    options = table_options(op.get_bind())
    op.create_table(
        "access_tokens",
        sa.Column("token_hash", Digest, nullable=False),
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("device_nid", Number, autoincrement=False, nullable=True),
        sa.Column("created_ts", Number, autoincrement=False, nullable=False),
        sa.Column("expires_ts", Number, autoincrement=False, nullable=True),
        sa.Column("refresh_hash", Digest, nullable=True),
        sa.Column("replaces_hash", Digest, nullable=True),
        sa.PrimaryKeyConstraint("token_hash"),
        **options,
    )
    op.create_index("access_tokens_of_user", "access_tokens", ["user_nid", "device_nid"], unique=False)
    op.create_table(
        "account_data",
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("type", sa.String(length=255), nullable=False),
        sa.Column("content", Blob, nullable=False),
        sa.Column("position", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("user_nid", "room_nid", "type"),
        **options,
    )
    op.create_index("account_data_changes", "account_data", ["user_nid", "position"], unique=False)
    op.create_table(
        "accounts",
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=True),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
        sa.Column("is_guest", sa.Boolean(), nullable=False),
        sa.Column("is_deactivated", sa.Boolean(), nullable=False),
        sa.Column("is_locked", sa.Boolean(), nullable=False),
        sa.Column("is_suspended", sa.Boolean(), nullable=False),
        sa.Column("is_shadow_banned", sa.Boolean(), nullable=False),
        sa.Column("is_erased", sa.Boolean(), nullable=False),
        sa.Column("must_leave_rooms", sa.Boolean(), nullable=False),
        sa.Column("created_ts", Number, autoincrement=False, nullable=False),
        sa.Column("appservice", sa.String(length=255), nullable=True),
        sa.PrimaryKeyConstraint("user_nid"),
        sa.UniqueConstraint("user_id"),
        **options,
    )
    op.create_index("accounts_to_leave_rooms", "accounts", ["must_leave_rooms"], unique=False)
    op.create_table(
        "appservice_queues",
        sa.Column("appservice_id", sa.String(length=255), nullable=False),
        sa.Column("position", Number, autoincrement=False, nullable=False),
        sa.Column("txn_id", sa.String(length=64), nullable=True),
        sa.Column("body", LongBlob, nullable=True),
        sa.PrimaryKeyConstraint("appservice_id"),
        **options,
    )
    op.create_table(
        "devices",
        sa.Column("device_nid", Number, autoincrement=False, nullable=False),
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("device_id", sa.String(length=255), nullable=False),
        sa.Column("display_name", sa.String(length=255), nullable=True),
        sa.Column("last_seen_ts", Number, autoincrement=False, nullable=True),
        sa.Column("last_seen_ip", sa.String(length=64), nullable=True),
        sa.Column("last_seen_user_agent", sa.String(length=255), nullable=True),
        sa.PrimaryKeyConstraint("device_nid"),
        **options,
    )
    op.create_index("devices_of_user", "devices", ["user_nid", "device_id"], unique=True)
    op.create_table(
        "event_edges",
        sa.Column("event_nid", Number, autoincrement=False, nullable=False),
        sa.Column("prev_nid", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("event_nid", "prev_nid"),
        **options,
    )
    op.create_index("event_edges_backwards", "event_edges", ["prev_nid"], unique=False)
    op.create_table(
        "events",
        sa.Column("event_nid", Number, autoincrement=False, nullable=False),
        sa.Column("event_id", sa.String(length=255), nullable=False),
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("position", Number, autoincrement=False, nullable=True),
        sa.Column("depth", Number, autoincrement=False, nullable=False),
        sa.Column("type", sa.String(length=255), nullable=False),
        sa.Column("key_nid", Number, autoincrement=False, nullable=True),
        sa.Column("sender_nid", Number, autoincrement=False, nullable=False),
        sa.Column("origin_server_ts", Number, autoincrement=False, nullable=False),
        sa.Column("received_ts", Number, autoincrement=False, nullable=False),
        sa.Column("state_group", Number, autoincrement=False, nullable=True),
        sa.Column("replaces_nid", Number, autoincrement=False, nullable=True),
        sa.Column("redacted_by", Number, autoincrement=False, nullable=True),
        sa.Column("flags", sa.SmallInteger(), nullable=False),
        sa.Column("json", Blob, nullable=False),
        sa.PrimaryKeyConstraint("event_nid"),
        sa.UniqueConstraint("event_id"),
        **options,
    )
    op.create_index("events_in_room", "events", ["room_nid", "position"], unique=True)
    op.create_table(
        "filters",
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("filter_id", Number, autoincrement=False, nullable=False),
        sa.Column("filter", Blob, nullable=False),
        sa.PrimaryKeyConstraint("user_nid", "filter_id"),
        **options,
    )
    op.create_table(
        "media",
        sa.Column("media_id", sa.String(length=255), nullable=False),
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("created_ts", Number, autoincrement=False, nullable=False),
        sa.Column("uploaded_ts", Number, autoincrement=False, nullable=True),
        sa.Column("expires_ts", Number, autoincrement=False, nullable=True),
        sa.Column("blob_id", sa.String(length=64), nullable=True),
        sa.Column("size_bytes", Number, autoincrement=False, nullable=False),
        sa.Column("content_type", sa.String(length=255), nullable=True),
        sa.Column("file_name", sa.Text(), nullable=True),
        sa.Column("needs_auth", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("media_id"),
        **options,
    )
    op.create_index("media_awaited", "media", ["expires_ts"], unique=False)
    op.create_index("media_of_user", "media", ["user_nid", "created_ts"], unique=False)
    op.create_table(
        "media_usage",
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("files", Number, autoincrement=False, nullable=False),
        sa.Column("size_bytes", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("user_nid"),
        **options,
    )
    op.create_table(
        "membership_changes",
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("position", Number, autoincrement=False, nullable=False),
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("event_nid", Number, autoincrement=False, nullable=False),
        sa.Column("membership", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("user_nid", "position"),
        **options,
    )
    op.create_index(
        "membership_changes_in_room", "membership_changes", ["user_nid", "room_nid", "position"], unique=False
    )
    op.create_table(
        "memberships",
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("membership", sa.String(length=64), nullable=False),
        sa.Column("event_nid", Number, autoincrement=False, nullable=False),
        sa.Column("position", Number, autoincrement=False, nullable=False),
        sa.Column("sender_nid", Number, autoincrement=False, nullable=False),
        sa.Column("is_local", sa.Boolean(), nullable=False),
        sa.Column("is_forgotten", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("room_nid", "user_nid"),
        **options,
    )
    op.create_index("memberships_in_room", "memberships", ["room_nid", "membership", "position"], unique=False)
    op.create_index("memberships_of_user", "memberships", ["user_nid", "membership"], unique=False)
    op.create_table(
        "presence",
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("status_msg", sa.LargeBinary(), nullable=True),
        sa.Column("last_active_ts", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("user_nid"),
        **options,
    )
    op.create_table(
        "profiles",
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("field", sa.String(length=255), nullable=False),
        sa.Column("value", Blob, nullable=False),
        sa.PrimaryKeyConstraint("user_nid", "field"),
        **options,
    )
    op.create_table(
        "push_rules",
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("rules", Blob, nullable=False),
        sa.Column("position", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("user_nid"),
        **options,
    )
    op.create_table(
        "receipts",
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("receipt_type", sa.String(length=64), nullable=False),
        sa.Column("thread_id", sa.String(length=255), nullable=False),
        sa.Column("event_id", sa.String(length=255), nullable=False),
        sa.Column("event_position", Number, autoincrement=False, nullable=False),
        sa.Column("ts", Number, autoincrement=False, nullable=False),
        sa.Column("position", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("room_nid", "user_nid", "receipt_type", "thread_id"),
        **options,
    )
    op.create_index("receipts_in_room", "receipts", ["room_nid", "position"], unique=False)
    op.create_index("receipts_of_user", "receipts", ["user_nid", "room_nid"], unique=False)
    op.create_table(
        "redactions",
        sa.Column("redaction_nid", Number, autoincrement=False, nullable=False),
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("target_id", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("redaction_nid"),
        **options,
    )
    op.create_index("redactions_of_target", "redactions", ["target_id"], unique=False)
    op.create_table(
        "refresh_tokens",
        sa.Column("token_hash", Digest, nullable=False),
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("device_nid", Number, autoincrement=False, nullable=False),
        sa.Column("created_ts", Number, autoincrement=False, nullable=False),
        sa.Column("expires_ts", Number, autoincrement=False, nullable=True),
        sa.Column("session_expires_ts", Number, autoincrement=False, nullable=True),
        sa.Column("replaces_hash", Digest, nullable=True),
        sa.PrimaryKeyConstraint("token_hash"),
        **options,
    )
    op.create_index("refresh_tokens_of_user", "refresh_tokens", ["user_nid", "device_nid"], unique=False)
    op.create_table(
        "registration_tokens",
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("uses_allowed", Number, autoincrement=False, nullable=True),
        sa.Column("uses_made", Number, autoincrement=False, nullable=False),
        sa.Column("expires_ts", Number, autoincrement=False, nullable=True),
        sa.Column("makes_admin", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("token"),
        **options,
    )
    op.create_table(
        "relations",
        sa.Column("event_nid", Number, autoincrement=False, nullable=False),
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("target_id", sa.String(length=255), nullable=False),
        sa.Column("rel_type", sa.String(length=255), nullable=False),
        sa.Column("aggregation_key", sa.String(length=255), nullable=True),
        sa.Column("type", sa.String(length=255), nullable=False),
        sa.Column("sender_nid", Number, autoincrement=False, nullable=False),
        sa.Column("position", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("event_nid"),
        **options,
    )
    op.create_index("relations_in_room", "relations", ["room_nid", "rel_type", "position"], unique=False)
    op.create_index("relations_of_target", "relations", ["target_id", "rel_type", "position"], unique=False)
    op.create_table(
        "room_aliases",
        sa.Column("alias", sa.String(length=255), nullable=False),
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("creator_nid", Number, autoincrement=False, nullable=False),
        sa.Column("created_ts", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("alias"),
        **options,
    )
    op.create_index("room_aliases_of_room", "room_aliases", ["room_nid"], unique=False)
    op.create_table(
        "room_stats",
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("topic", MediumText, nullable=True),
        sa.Column("canonical_alias", sa.String(length=255), nullable=True),
        sa.Column("avatar_url", sa.Text(), nullable=True),
        sa.Column("join_rule", sa.String(length=255), nullable=True),
        sa.Column("history_visibility", sa.String(length=255), nullable=True),
        sa.Column("guest_access", sa.String(length=255), nullable=True),
        sa.Column("encryption", sa.String(length=255), nullable=True),
        sa.Column("room_type", sa.String(length=255), nullable=True),
        sa.Column("is_federated", sa.Boolean(), nullable=False),
        sa.Column("joined_members", Number, autoincrement=False, nullable=False),
        sa.Column("invited_members", Number, autoincrement=False, nullable=False),
        sa.Column("search_name", sa.Text(), nullable=True),
        sa.Column("search_topic", sa.Text(), nullable=True),
        sa.Column("search_alias", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("room_nid"),
        **options,
    )
    op.create_table(
        "room_tips",
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("extremities", Blob, nullable=False),
        sa.Column("depth", Number, autoincrement=False, nullable=False),
        sa.Column("state_group", Number, autoincrement=False, nullable=False),
        sa.Column("position", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("room_nid"),
        **options,
    )
    op.create_table(
        "rooms",
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("room_id", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("is_published", sa.Boolean(), nullable=False),
        sa.Column("created_ts", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("room_nid"),
        sa.UniqueConstraint("room_id"),
        **options,
    )
    op.create_index("rooms_published", "rooms", ["is_published"], unique=False)
    op.create_table(
        "sequences",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("reserved_until", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("name"),
        **options,
    )
    op.create_table(
        "state_group_refs",
        sa.Column("state_group", Number, autoincrement=False, nullable=False),
        sa.Column("refs", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("state_group"),
        **options,
    )
    op.create_table(
        "state_groups",
        sa.Column("state_group", Number, autoincrement=False, nullable=False),
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("parent", Number, autoincrement=False, nullable=True),
        sa.Column("chain_index", Number, autoincrement=False, nullable=False),
        sa.Column("delta", LongBlob, nullable=False),
        sa.PrimaryKeyConstraint("state_group"),
        **options,
    )
    op.create_index("state_groups_of_room", "state_groups", ["room_nid"], unique=False)
    op.create_table(
        "state_keys",
        sa.Column("key_nid", Number, autoincrement=False, nullable=False),
        sa.Column("type", sa.String(length=255), nullable=False),
        sa.Column("state_key", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("key_nid"),
        **options,
    )
    op.create_index("state_keys_by_name", "state_keys", ["type", "state_key"], unique=True)
    op.create_table(
        "transaction_ids",
        sa.Column("device_nid", Number, autoincrement=False, nullable=False),
        sa.Column("txn_key", Digest, nullable=False),
        sa.Column("txn_id", sa.String(length=255), nullable=False),
        sa.Column("event_nid", Number, autoincrement=False, nullable=False),
        sa.Column("created_ts", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("device_nid", "txn_key"),
        **options,
    )
    op.create_index("transaction_ids_by_age", "transaction_ids", ["created_ts"], unique=False)
    op.create_index("transaction_ids_by_event", "transaction_ids", ["event_nid"], unique=False)
    op.create_table(
        "user_ids",
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("user_nid"),
        sa.UniqueConstraint("user_id"),
        **options,
    )
    op.create_table(
        "user_words",
        sa.Column("word", sa.String(length=64), nullable=False),
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("word", "user_nid"),
        **options,
    )
    op.create_index("user_words_of_user", "user_words", ["user_nid", "word"], unique=False)
