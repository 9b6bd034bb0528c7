"""Tables of accounts: who may log in, with which devices and tokens, and what their profiles say.

Tokens are stored as their sha256 only: whoever reads the database cannot use them.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Index, LargeBinary, String, Table
from sqlalchemy.dialects import mysql

from .base import Identifier, JsonBytes, ShortText, metadata, number

Digest = LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")

accounts = Table(
    "accounts",
    metadata,
    number("user_nid", primary_key=True),
    Column("user_id", Identifier, nullable=False, unique=True),
    # As `homeserver.users.credentials` writes it; null when the user has no password.
    Column("password_hash", String(255), nullable=True),
    Column("is_admin", Boolean, nullable=False),
    Column("is_guest", Boolean, nullable=False),
    Column("is_deactivated", Boolean, nullable=False),
    Column("is_locked", Boolean, nullable=False),
    Column("is_suspended", Boolean, nullable=False),
    Column("is_shadow_banned", Boolean, nullable=False),
    Column("is_erased", Boolean, nullable=False),
    # Deactivated, but still to be taken out of the rooms.
    Column("must_leave_rooms", Boolean, nullable=False),
    number("created_ts"),
    # The ID of the application service that made the account.
    Column("appservice", Identifier, nullable=True),
    Index("accounts_to_leave_rooms", "must_leave_rooms"),
)

devices = Table(
    "devices",
    metadata,
    number("device_nid", primary_key=True),
    number("user_nid"),
    Column("device_id", Identifier, nullable=False),
    Column("display_name", Identifier, nullable=True),
    number("last_seen_ts", nullable=True),
    Column("last_seen_ip", ShortText, nullable=True),
    Column("last_seen_user_agent", Identifier, nullable=True),
    Index("devices_of_user", "user_nid", "device_id", unique=True),
)

access_tokens = Table(
    "access_tokens",
    metadata,
    Column("token_hash", Digest, primary_key=True),
    number("user_nid"),
    # Null for a token that an administrator made to act as the user.
    number("device_nid", nullable=True),
    number("created_ts"),
    number("expires_ts", nullable=True),
    # The refresh token that was issued with this token.
    Column("refresh_hash", Digest, nullable=True),
    # The refresh token that was given for this one; it is revoked when this token is first used.
    Column("replaces_hash", Digest, nullable=True),
    Index("access_tokens_of_user", "user_nid", "device_nid"),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("token_hash", Digest, primary_key=True),
    number("user_nid"),
    number("device_nid"),
    number("created_ts"),
    number("expires_ts", nullable=True),
    # The end of the whole session, however often it is refreshed.
    number("session_expires_ts", nullable=True),
    # The refresh token that this one was exchanged for; revoked when this one is first used.
    Column("replaces_hash", Digest, nullable=True),
    Index("refresh_tokens_of_user", "user_nid", "device_nid"),
)

registration_tokens = Table(
    "registration_tokens",
    metadata,
    Column("token", ShortText, primary_key=True),
    number("uses_allowed", nullable=True),
    number("uses_made"),
    number("expires_ts", nullable=True),
    # Who registers with it becomes an administrator, also where registration is closed: the first run's token.
    Column("makes_admin", Boolean, nullable=False),
)

profiles = Table(
    "profiles",
    metadata,
    number("user_nid", primary_key=True),
    Column("field", Identifier, primary_key=True),
    Column("value", JsonBytes, nullable=False),
)
