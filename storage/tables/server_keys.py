"""The table of other servers' signing keys: one row a server, kept for good, because old events need old keys."""

from __future__ import annotations

from sqlalchemy import Column, Table

from .base import Identifier, JsonBytes, metadata, number

server_keys = Table(
    "server_keys",
    metadata,
    Column("server_name", Identifier, primary_key=True),
    # All that is known of its keys, those that it no longer lists included; see `storage.server_keys`.
    Column("known", JsonBytes, nullable=False),
    # The newest list as the server has signed it, to pass on as a notary.
    Column("published", JsonBytes, nullable=False),
    number("valid_until_ts"),
    number("fetched_ts"),
)
