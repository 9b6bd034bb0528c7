"""Federation and encryption."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from storage.database import table_options

revision = "0003"
down_revision = "0002"

Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Blob = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
LongBlob = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
Digest = sa.LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")


def upgrade() -> None:
    """Make the change."""
    options = table_options(op.get_bind())
    op.create_table(
        "backed_up_keys",
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("version", Number, autoincrement=False, nullable=False),
        sa.Column("room_id", sa.String(length=255), nullable=False),
        sa.Column("session_id", sa.String(length=255), nullable=False),
        sa.Column("first_message_index", Number, autoincrement=False, nullable=False),
        sa.Column("forwarded_count", Number, autoincrement=False, nullable=False),
        sa.Column("is_verified", sa.Boolean(), nullable=False),
        sa.Column("session_data", LongBlob, nullable=False),
        sa.PrimaryKeyConstraint("user_nid", "version", "room_id", "session_id"),
        **options,
    )
    op.create_table(
        "cross_signing_keys",
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("key_usage", sa.String(length=64), nullable=False),
        sa.Column("public_key", sa.String(length=64), nullable=False),
        sa.Column("content", Blob, nullable=False),
        sa.PrimaryKeyConstraint("user_nid", "key_usage"),
        **options,
    )
    op.create_table(
        "destination_rooms",
        sa.Column("destination", sa.String(length=255), nullable=False),
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("position", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("destination", "room_nid"),
        **options,
    )
    op.create_index("destination_rooms_by_position", "destination_rooms", ["destination", "position"], unique=False)
    op.create_table(
        "destinations",
        sa.Column("server", sa.String(length=255), nullable=False),
        sa.Column("failing_since_ts", Number, autoincrement=False, nullable=True),
        sa.Column("retry_after_ts", Number, autoincrement=False, nullable=True),
        sa.Column("retry_interval_ms", Number, autoincrement=False, nullable=True),
        sa.Column("last_success_ts", Number, autoincrement=False, nullable=True),
        sa.Column("sent_position", Number, autoincrement=False, nullable=True),
        sa.Column("last_error", LongBlob, nullable=True),
        sa.PrimaryKeyConstraint("server"),
        **options,
    )
    op.create_table(
        "device_keys",
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("device_nid", Number, autoincrement=False, nullable=False),
        sa.Column("content", Blob, nullable=False),
        sa.PrimaryKeyConstraint("user_nid", "device_nid"),
        **options,
    )
    op.create_table(
        "device_lists",
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("position", Number, autoincrement=False, nullable=False),
        sa.Column("stream_id", Number, autoincrement=False, nullable=True),
        sa.Column("is_fetched", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("user_nid"),
        **options,
    )
    op.create_index("device_lists_by_position", "device_lists", ["position"], unique=False)
    op.create_table(
        "fallback_keys",
        sa.Column("device_nid", Number, autoincrement=False, nullable=False),
        sa.Column("algorithm", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=255), nullable=False),
        sa.Column("content", Blob, nullable=False),
        sa.Column("is_used", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("device_nid", "algorithm"),
        **options,
    )
    op.create_table(
        "held_events",
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("event_id", sa.String(length=255), nullable=False),
        sa.Column("held_nid", Number, autoincrement=False, nullable=False),
        sa.Column("origin", sa.String(length=255), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("json", LongBlob, nullable=False),
        sa.Column("received_ts", Number, autoincrement=False, nullable=False),
        sa.Column("tries", Number, autoincrement=False, nullable=False),
        sa.Column("next_try_ts", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("room_nid", "event_id"),
        **options,
    )
    op.create_index("held_events_by_origin", "held_events", ["origin"], unique=False)
    op.create_index("held_events_due", "held_events", ["reason", "next_try_ts"], unique=False)
    op.create_index("held_events_in_order", "held_events", ["room_nid", "reason", "held_nid"], unique=False)
    op.create_table(
        "history_blocks",
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("top", Number, autoincrement=False, nullable=False),
        sa.Column("floor", Number, autoincrement=False, nullable=False),
        sa.Column("next_position", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("room_nid", "top"),
        **options,
    )
    op.create_table(
        "key_backups",
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("version", Number, autoincrement=False, nullable=False),
        sa.Column("algorithm", sa.String(length=255), nullable=False),
        sa.Column("auth_data", Blob, nullable=False),
        sa.Column("etag", Number, autoincrement=False, nullable=False),
        sa.Column("count", Number, autoincrement=False, nullable=False),
        sa.Column("is_deleted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("user_nid", "version"),
        **options,
    )
    op.create_table(
        "key_signatures",
        sa.Column("target_nid", Number, autoincrement=False, nullable=False),
        sa.Column("target", sa.String(length=255), nullable=False),
        sa.Column("signer_nid", Number, autoincrement=False, nullable=False),
        sa.Column("key_id", sa.String(length=255), nullable=False),
        sa.Column("signature", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("target_nid", "target", "signer_nid", "key_id"),
        **options,
    )
    op.create_index("key_signatures_by_signer", "key_signatures", ["signer_nid"], unique=False)
    op.create_table(
        "missing_prevs",
        sa.Column("event_nid", Number, autoincrement=False, nullable=False),
        sa.Column("prev_id", sa.String(length=255), nullable=False),
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("is_inherited", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("event_nid", "prev_id"),
        **options,
    )
    op.create_index("missing_prevs_in_room", "missing_prevs", ["room_nid", "event_nid"], unique=False)
    op.create_table(
        "one_time_keys",
        sa.Column("device_nid", Number, autoincrement=False, nullable=False),
        sa.Column("algorithm", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=255), nullable=False),
        sa.Column("key_nid", Number, autoincrement=False, nullable=False),
        sa.Column("content", Blob, nullable=False),
        sa.PrimaryKeyConstraint("device_nid", "algorithm", "key_id"),
        **options,
    )
    op.create_index("one_time_keys_in_order", "one_time_keys", ["device_nid", "algorithm", "key_nid"], unique=False)
    op.create_table(
        "openid_tokens",
        sa.Column("token_hash", Digest, nullable=False),
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("expires_ts", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("token_hash"),
        **options,
    )
    op.create_index("openid_tokens_by_expiry", "openid_tokens", ["expires_ts"], unique=False)
    op.create_index("openid_tokens_by_user", "openid_tokens", ["user_nid"], unique=False)
    op.create_table(
        "outbox_edus",
        sa.Column("destination", sa.String(length=255), nullable=False),
        sa.Column("edu_nid", Number, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=255), nullable=False),
        sa.Column("collapse_key", sa.String(length=64), nullable=True),
        sa.Column("created_ts", Number, autoincrement=False, nullable=False),
        sa.Column("content", LongBlob, nullable=False),
        sa.PrimaryKeyConstraint("destination", "edu_nid"),
        **options,
    )
    op.create_index("outbox_edus_by_age", "outbox_edus", ["created_ts"], unique=False)
    op.create_table(
        "partial_rooms",
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("join_nid", Number, autoincrement=False, nullable=False),
        sa.Column("base_group", Number, autoincrement=False, nullable=False),
        sa.Column("via", sa.String(length=255), nullable=False),
        sa.Column("servers", LongBlob, nullable=False),
        sa.Column("started_ts", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("room_nid"),
        **options,
    )
    op.create_table(
        "remote_devices",
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("device_id", sa.String(length=255), nullable=False),
        sa.Column("content", Blob, nullable=False),
        sa.Column("display_name", sa.String(length=255), nullable=True),
        sa.PrimaryKeyConstraint("user_nid", "device_id"),
        **options,
    )
    op.create_table(
        "remote_media",
        sa.Column("server_name", sa.String(length=255), nullable=False),
        sa.Column("media_id", sa.String(length=255), nullable=False),
        sa.Column("blob_id", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", Number, autoincrement=False, nullable=False),
        sa.Column("content_type", sa.String(length=255), nullable=True),
        sa.Column("file_name", sa.Text(), nullable=True),
        sa.Column("fetched_ts", Number, autoincrement=False, nullable=False),
        sa.Column("used_ts", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("server_name", "media_id"),
        **options,
    )
    op.create_index("remote_media_by_blob", "remote_media", ["blob_id"], unique=False)
    op.create_index("remote_media_by_use", "remote_media", ["used_ts"], unique=False)
    op.create_table(
        "room_servers",
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("server", sa.String(length=255), nullable=False),
        sa.Column("joined", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("room_nid", "server"),
        **options,
    )
    op.create_table(
        "server_keys",
        sa.Column("server_name", sa.String(length=255), nullable=False),
        sa.Column("known", Blob, nullable=False),
        sa.Column("published", Blob, nullable=False),
        sa.Column("valid_until_ts", Number, autoincrement=False, nullable=False),
        sa.Column("fetched_ts", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("server_name"),
        **options,
    )
    op.create_table(
        "stripped_state",
        sa.Column("room_nid", Number, autoincrement=False, nullable=False),
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("json", LongBlob, nullable=False),
        sa.PrimaryKeyConstraint("room_nid", "user_nid"),
        **options,
    )
    op.create_table(
        "to_device_marks",
        sa.Column("device_nid", Number, autoincrement=False, nullable=False),
        sa.Column("token", Number, autoincrement=False, nullable=False),
        sa.Column("acknowledges", Number, autoincrement=False, nullable=True),
        sa.PrimaryKeyConstraint("device_nid"),
        **options,
    )
    op.create_table(
        "to_device_messages",
        sa.Column("device_nid", Number, autoincrement=False, nullable=False),
        sa.Column("position", Number, autoincrement=False, nullable=False),
        sa.Column("content", Blob, nullable=False),
        sa.PrimaryKeyConstraint("device_nid", "position"),
        **options,
    )
    op.create_table(
        "to_device_transactions",
        sa.Column("txn_key", sa.String(length=64), nullable=False),
        sa.Column("created_ts", Number, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("txn_key"),
        **options,
    )
    op.create_index("to_device_transactions_by_age", "to_device_transactions", ["created_ts"], unique=False)
    op.create_table(
        "untold_devices",
        sa.Column("user_nid", Number, autoincrement=False, nullable=False),
        sa.Column("device_id", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("user_nid", "device_id"),
        **options,
    )
    _count_servers(op.get_bind())


def _count_servers(connection: sa.Connection) -> None:
    """Fill `room_servers` from the memberships that there are."""
    joined = sa.text(
        "SELECT m.room_nid, u.user_id FROM memberships m JOIN user_ids u ON u.user_nid = m.user_nid"
        " WHERE m.membership = 'join'"
    )
    counts: dict[tuple[int, str], int] = {}
    for room_nid, user_id in connection.execute(joined):
        key = (room_nid, user_id.partition(":")[2])
        counts[key] = counts.get(key, 0) + 1
    add = sa.text("INSERT INTO room_servers (room_nid, server, joined) VALUES (:room_nid, :server, :joined)")
    for (room_nid, server), count in counts.items():
        connection.execute(add, {"room_nid": room_nid, "server": server, "joined": count})
