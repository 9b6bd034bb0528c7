"""Tables of the room: events, their graph, stored state, memberships, what the directory shows.

An event's row is written once. What may change later has a column of its own: `redacted_by`, `flags`.
`position` is the event's place in the room's and the server's stream; what is fetched later has one that was kept free
below the event after the gap (`history_blocks`), outliers and what was refused have none.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Index, LargeBinary, SmallInteger, Table, Text
from sqlalchemy.dialects import mysql

from .base import Identifier, JsonBytes, LongBytes, ShortText, metadata, number

rooms = Table(
    "rooms",
    metadata,
    number("room_nid", primary_key=True),
    Column("room_id", Identifier, nullable=False, unique=True),
    Column("version", ShortText, nullable=False),
    # Listed in the published room directory.
    Column("is_published", Boolean, nullable=False, default=False),
    number("created_ts"),
    Index("rooms_published", "is_published"),
)

# Interned (type, state_key) pairs; what state groups are made of.
state_keys = Table(
    "state_keys",
    metadata,
    number("key_nid", primary_key=True),
    Column("type", Identifier, nullable=False),
    Column("state_key", Identifier, nullable=False),
    Index("state_keys_by_name", "type", "state_key", unique=True),
)

events = Table(
    "events",
    metadata,
    number("event_nid", primary_key=True),
    Column("event_id", Identifier, nullable=False, unique=True),
    number("room_nid"),
    number("position", nullable=True),
    number("depth"),
    Column("type", Identifier, nullable=False),
    # Null for a message event.
    number("key_nid", nullable=True),
    number("sender_nid"),
    number("origin_server_ts"),
    number("received_ts"),
    # The state after the event; null for outliers.
    number("state_group", nullable=True),
    # The room's state after the event was appended, where other ends of the graph make it another one than what the
    # room had before and the event besides.
    number("tip_group", nullable=True),
    # The state event of the same key that this one replaced.
    number("replaces_nid", nullable=True),
    number("redacted_by", nullable=True),
    # Bits of storage.events.Flag.
    Column("flags", SmallInteger, nullable=False, default=0),
    Column("json", JsonBytes, nullable=False),
    Index("events_in_room", "room_nid", "position", unique=True),
    Index("events_by_position", "position"),
)

event_edges = Table(
    "event_edges",
    metadata,
    number("event_nid", primary_key=True),
    number("prev_nid", primary_key=True),
    Index("event_edges_backwards", "prev_nid"),
)

# The end of each room's graph: the forward extremities (JSON list of event_nids) and the state after them.
room_tips = Table(
    "room_tips",
    metadata,
    number("room_nid", primary_key=True),
    Column("extremities", JsonBytes, nullable=False),
    number("depth"),
    number("state_group"),
    # Of the newest event.
    number("position"),
)

# One stored state: its parent's entries with `delta` on top. See storage.state_groups.
state_groups = Table(
    "state_groups",
    metadata,
    number("state_group", primary_key=True),
    number("room_nid"),
    number("parent", nullable=True),
    number("chain_index"),
    Column("delta", LongBytes, nullable=False),
    Index("state_groups_of_room", "room_nid"),
)

# How many events and state groups refer to a state group.
state_group_refs = Table(
    "state_group_refs",
    metadata,
    number("state_group", primary_key=True),
    number("refs"),
)

# The current membership of every user who ever had one.
memberships = Table(
    "memberships",
    metadata,
    number("room_nid", primary_key=True),
    number("user_nid", primary_key=True),
    Column("membership", ShortText, nullable=False),
    number("event_nid"),
    number("position"),
    number("sender_nid"),
    Column("is_local", Boolean, nullable=False),
    # The user has asked that the room be forgotten; cleared by the next change.
    Column("is_forgotten", Boolean, nullable=False, default=False),
    Index("memberships_of_user", "user_nid", "membership"),
    Index("memberships_in_room", "room_nid", "membership", "position"),
)

# Every change of a local user's membership, in order: what /sync asks for.
membership_changes = Table(
    "membership_changes",
    metadata,
    number("user_nid", primary_key=True),
    number("position", primary_key=True),
    number("room_nid"),
    number("event_nid"),
    Column("membership", ShortText, nullable=False),
    Index("membership_changes_in_room", "user_nid", "room_nid", "position"),
)

# What directories, summaries and searches show of a room's current state.
room_stats = Table(
    "room_stats",
    metadata,
    number("room_nid", primary_key=True),
    Column("name", Text, nullable=True),
    Column("topic", Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb"), nullable=True),
    Column("canonical_alias", Identifier, nullable=True),
    Column("avatar_url", Text, nullable=True),
    Column("join_rule", Identifier, nullable=True),
    Column("history_visibility", Identifier, nullable=True),
    Column("guest_access", Identifier, nullable=True),
    Column("encryption", Identifier, nullable=True),
    Column("room_type", Identifier, nullable=True),
    Column("is_federated", Boolean, nullable=False, default=True),
    number("joined_members"),
    number("invited_members"),
    # Folded, for searches: see homeserver.model.folding.
    Column("search_name", Text, nullable=True),
    Column("search_topic", Text, nullable=True),
    Column("search_alias", Text, nullable=True),
)

room_aliases = Table(
    "room_aliases",
    metadata,
    Column("alias", Identifier, primary_key=True),
    number("room_nid"),
    number("creator_nid"),
    number("created_ts"),
    Index("room_aliases_of_room", "room_nid"),
)

# Which event relates to which: deleted when the relating event is redacted.
relations = Table(
    "relations",
    metadata,
    number("event_nid", primary_key=True),
    number("room_nid"),
    Column("target_id", Identifier, nullable=False),
    Column("rel_type", Identifier, nullable=False),
    Column("aggregation_key", Identifier, nullable=True),
    Column("type", Identifier, nullable=False),
    number("sender_nid"),
    number("position"),
    Index("relations_of_target", "target_id", "rel_type", "position"),
    Index("relations_in_room", "room_nid", "rel_type", "position"),
)

redactions = Table(
    "redactions",
    metadata,
    number("redaction_nid", primary_key=True),
    number("room_nid"),
    Column("target_id", Identifier, nullable=False),
    Index("redactions_of_target", "target_id"),
)

# What a device sent under which transaction ID; trimmed by age.
transaction_ids = Table(
    "transaction_ids",
    metadata,
    number("device_nid", primary_key=True),
    # sha256 of the endpoint and the client's transaction ID.
    Column("txn_key", LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb"), primary_key=True),
    Column("txn_id", Identifier, nullable=False),
    number("event_nid"),
    number("created_ts"),
    Index("transaction_ids_by_event", "event_nid"),
    Index("transaction_ids_by_age", "created_ts"),
)
