"""Events of other servers that were acknowledged and cannot be taken in yet."""

from __future__ import annotations

from sqlalchemy import Column, Index, Table

from .base import Identifier, LongBytes, ShortText, metadata, number

# `reason` is "partial" while the room's members are not all known, "missing" where events before this one could not be
# had; those are tried again at `next_try_ts`, so often.
held_events = Table(
    "held_events",
    metadata,
    number("room_nid", primary_key=True),
    Column("event_id", Identifier, primary_key=True),
    number("held_nid"),
    Column("origin", Identifier, nullable=False),
    Column("reason", ShortText, nullable=False),
    Column("json", LongBytes, nullable=False),
    number("received_ts"),
    number("tries"),
    number("next_try_ts"),
    Index("held_events_in_order", "room_nid", "reason", "held_nid"),
    Index("held_events_due", "reason", "next_try_ts"),
    Index("held_events_by_origin", "origin"),
)
