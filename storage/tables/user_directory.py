"""The index of the user directory: which words a user is found by."""

from __future__ import annotations

from sqlalchemy import Column, Index, Table

from .base import ShortText, metadata, number

# Words of localpart and display name, folded; and each of both as a whole, behind a space.
user_words = Table(
    "user_words",
    metadata,
    Column("word", ShortText, primary_key=True),
    number("user_nid", primary_key=True),
    Index("user_words_of_user", "user_nid", "word"),
)
