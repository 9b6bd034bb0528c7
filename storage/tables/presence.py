"""Tables of presence."""

from __future__ import annotations

from sqlalchemy import Column, LargeBinary, Table

from .base import ShortText, metadata, number

# What is left of a user's presence when the server restarts; written now and then.
presence = Table(
    "presence",
    metadata,
    number("user_nid", primary_key=True),
    Column("state", ShortText, nullable=False),
    # UTF-8.
    Column("status_msg", LargeBinary(), nullable=True),
    number("last_active_ts"),
)
