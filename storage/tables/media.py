"""Tables of media: what was uploaded, what was announced and not uploaded yet, and how much there is of it.

The bytes are on disk (see `storage.blobs`); `blob_id` names them there. It is made by this server, so that no
identifier that came over the network ever becomes a path.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Index, Table, Text

from .base import Identifier, ShortText, metadata, number

media = Table(
    "media",
    metadata,
    Column("media_id", Identifier, primary_key=True),
    number("user_nid"),
    number("created_ts"),
    # Null while the content is awaited; the ID is void from `expires_ts` on if it is still null then.
    number("uploaded_ts", nullable=True),
    number("expires_ts", nullable=True),
    Column("blob_id", ShortText, nullable=True),
    number("size_bytes"),
    # As the uploader gave them; null for none.
    Column("content_type", Identifier, nullable=True),
    Column("file_name", Text, nullable=True),
    # Uploaded while unauthenticated downloads were frozen.
    Column("needs_auth", Boolean, nullable=False),
    Index("media_of_user", "user_nid", "created_ts"),
    Index("media_awaited", "expires_ts"),
)

# How much each user has uploaded; the row of user 0 is the sum of all.
media_usage = Table(
    "media_usage",
    metadata,
    number("user_nid", primary_key=True),
    number("files"),
    number("size_bytes"),
)
