"""Tables of rooms that are shared with other servers: who is in them, what they must be sent, what is missing here."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Index, Table

from .base import Identifier, LongBytes, metadata, number

# How many users of a server are joined to a room; 0 for one that was there once.
room_servers = Table(
    "room_servers",
    metadata,
    number("room_nid", primary_key=True),
    Column("server", Identifier, primary_key=True),
    number("joined"),
)

# The newest position of an event in a room that a server has to be sent; written with the event.
destination_rooms = Table(
    "destination_rooms",
    metadata,
    Column("destination", Identifier, primary_key=True),
    number("room_nid", primary_key=True),
    number("position"),
    Index("destination_rooms_by_position", "destination", "position"),
)

# Events that build on others which are not here: the edges of a gap in the room's history. `is_inherited`: the event
# builds on one that nobody is shown, and that one builds on what is missing.
missing_prevs = Table(
    "missing_prevs",
    metadata,
    number("event_nid", primary_key=True),
    Column("prev_id", Identifier, primary_key=True),
    number("room_nid"),
    Column("is_inherited", Boolean, nullable=False),
    Index("missing_prevs_in_room", "room_nid", "event_nid"),
)

# Positions kept free below an event after a gap, `floor` < p < `top`, for what fills the gap later; those over
# `next_position` are taken.
history_blocks = Table(
    "history_blocks",
    metadata,
    number("room_nid", primary_key=True),
    number("top", primary_key=True),
    number("floor"),
    number("next_position"),
)

# What a user who is invited to, or knocks on, a room that this server is not in is shown of it: a JSON list.
stripped_state = Table(
    "stripped_state",
    metadata,
    number("room_nid", primary_key=True),
    number("user_nid", primary_key=True),
    Column("json", LongBytes, nullable=False),
)

# Rooms that were joined and whose members are not all known yet. `base_group` is the state group that lacks them;
# `servers` (JSON) are all servers in the room, as the one that let us in says.
partial_rooms = Table(
    "partial_rooms",
    metadata,
    number("room_nid", primary_key=True),
    number("join_nid"),
    number("base_group"),
    Column("via", Identifier, nullable=False),
    Column("servers", LongBytes, nullable=False),
    number("started_ts"),
)
