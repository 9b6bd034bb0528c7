"""Interned user IDs, and the blocks of numbers that this server has reserved."""

from __future__ import annotations

from sqlalchemy import Column, Table

from .base import Identifier, ShortText, metadata, number

# Every user ID that is mentioned anywhere, ours and others'.
user_ids = Table(
    "user_ids",
    metadata,
    number("user_nid", primary_key=True),
    Column("user_id", Identifier, nullable=False, unique=True),
)

# The first number of each sequence that no run of the server has used; see storage.positions.
sequences = Table(
    "sequences",
    metadata,
    Column("name", ShortText, primary_key=True),
    number("reserved_until"),
)
