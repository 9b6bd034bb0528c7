"""Tables of the index over the auth graph: chains of state events, and links from chain to chain.

See storage.auth_index for what they mean. A chain is named by the number of its first event, and the events of a chain
are in the order of their numbers, so neither needs a number of its own.
"""

from __future__ import annotations

from sqlalchemy import Index, Table

from .base import metadata, number

# The place of each state event that was not rejected.
auth_chains = Table(
    "auth_chains",
    metadata,
    number("event_nid", primary_key=True),
    number("chain"),
    # Of the event, and so of all events of its chain.
    number("key_nid"),
    # Both kinds of databases add the primary key: within a chain the events are in order.
    Index("auth_chains_by_chain", "chain"),
)

# From `event_nid` on, the events of `chain` have `to_nid` and the events of `to_chain` before it in their auth chains.
auth_links = Table(
    "auth_links",
    metadata,
    number("chain", primary_key=True),
    number("event_nid", primary_key=True),
    number("to_chain", primary_key=True),
    number("to_nid"),
    Index("auth_links_backwards", "to_chain", "to_nid", "chain"),
    sqlite_with_rowid=False,
)
