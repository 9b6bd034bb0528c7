"""What waits for other servers and is no event: to-device messages and changes of device lists.

Which events a server has to be sent is in `destination_rooms`.
"""

from __future__ import annotations

from sqlalchemy import Column, Index, Table

from .base import Identifier, LongBytes, ShortText, metadata, number

# One EDU for one server, deleted when that server has acknowledged it. `collapse_key` is a hash of what only the newest
# row is of use for, to a server that was away for long; null for what must all arrive. `content` is canonical JSON.
# The row with the number 0 is no EDU, but what `storage.lost_updates` notes of the server.
outbox_edus = Table(
    "outbox_edus",
    metadata,
    Column("destination", Identifier, primary_key=True),
    number("edu_nid", primary_key=True),
    Column("kind", Identifier, nullable=False),
    Column("collapse_key", ShortText, nullable=True),
    number("created_ts"),
    Column("content", LongBytes, nullable=False),
    Index("outbox_edus_by_age", "created_ts"),
)
