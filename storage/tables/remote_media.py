"""Table of files of other servers that are kept here.

The bytes are on disk (see `storage.blobs`), named by their SHA-256: whatever many media IDs have is there once.
"""

from __future__ import annotations

from sqlalchemy import Column, Index, Table, Text

from .base import Identifier, ShortText, metadata, number

remote_media = Table(
    "remote_media",
    metadata,
    Column("server_name", Identifier, primary_key=True),
    Column("media_id", Identifier, primary_key=True),
    Column("blob_id", ShortText, nullable=False),
    number("size_bytes"),
    # As the other server gave them; null for none.
    Column("content_type", Identifier, nullable=True),
    Column("file_name", Text, nullable=True),
    number("fetched_ts"),
    # To within a day.
    number("used_ts"),
    Index("remote_media_by_blob", "blob_id"),
    Index("remote_media_by_use", "used_ts"),
)
