"""Tables of what users attach to rooms and to themselves: account data, receipts, push rules, filters."""

from __future__ import annotations

from sqlalchemy import Column, Index, Table

from .base import Identifier, JsonBytes, ShortText, metadata, number

# Global account data has room_nid 0. Content `{}` stays as a row, so that the deletion is synced.
account_data = Table(
    "account_data",
    metadata,
    number("user_nid", primary_key=True),
    number("room_nid", primary_key=True),
    Column("type", Identifier, primary_key=True),
    Column("content", JsonBytes, nullable=False),
    number("position"),
    Index("account_data_changes", "user_nid", "position"),
)

# The newest receipt of each user, type and thread. An unthreaded receipt has thread_id "".
receipts = Table(
    "receipts",
    metadata,
    number("room_nid", primary_key=True),
    number("user_nid", primary_key=True),
    Column("receipt_type", ShortText, primary_key=True),
    Column("thread_id", Identifier, primary_key=True),
    Column("event_id", Identifier, nullable=False),
    # Where in the room's timeline the event is.
    number("event_position"),
    number("ts"),
    number("position"),
    Index("receipts_in_room", "room_nid", "position"),
    Index("receipts_of_user", "user_nid", "room_nid"),
)

# A user's own push rules and changes of the predefined ones, as homeserver.model.push_rules keeps them.
push_rules = Table(
    "push_rules",
    metadata,
    number("user_nid", primary_key=True),
    Column("rules", JsonBytes, nullable=False),
    number("position"),
)

filters = Table(
    "filters",
    metadata,
    number("user_nid", primary_key=True),
    number("filter_id", primary_key=True),
    Column("filter", JsonBytes, nullable=False),
)
