"""Rows of media: announce an ID, fill it, look it up, count against the quotas.

A media ID has content once and for all. It is filled by an update that asks for a row without content, so that of two
uploads to one ID, whichever processes they come through, exactly one wins. An upload that is announced first and one
that brings its content along walk the same path: `insert_media` is both steps at once.

Expiry is a property of the row, not of its deletion: from `expires_ts` on an ID without content is void, whether or
not its row is still there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import delete, func, select, update

from .tables.media import media, media_usage
from .tables.remote_media import remote_media
from .transaction import Transaction

# Interned numbers start at 1.
EVERYBODY: Final = 0


@dataclass(frozen=True, slots=True)
class StoredMedia:
    """The content of a media ID."""

    blob_id: str
    size_bytes: int
    content_type: str | None
    file_name: str | None
    uploaded_ts: int
    needs_auth: bool


@dataclass(frozen=True, slots=True)
class MediaRow:
    """A media ID of this server; `stored` is None while its content is awaited."""

    media_id: str
    user_nid: int
    created_ts: int
    expires_ts: int | None
    stored: StoredMedia | None

    def is_void(self, now_ms: int) -> bool:
        """Tell whether the content was awaited for too long."""
        return self.stored is None and self.expires_ts is not None and self.expires_ts <= now_ms


@dataclass(frozen=True, slots=True)
class Usage:
    """How many files, and how many bytes in all."""

    files: int
    size_bytes: int


def find_media(tx: Transaction, media_id: str) -> MediaRow | None:
    """Return the row of a media ID; an expired one may still be there."""
    columns = media.c
    row = tx.first(
        select(
            columns.media_id,
            columns.user_nid,
            columns.created_ts,
            columns.expires_ts,
            columns.blob_id,
            columns.size_bytes,
            columns.content_type,
            columns.file_name,
            columns.uploaded_ts,
            columns.needs_auth,
        ).where(columns.media_id == media_id)
    )
    if row is None:
        return None
    stored = None
    if row.uploaded_ts is not None:
        stored = StoredMedia(
            row.blob_id, row.size_bytes, row.content_type, row.file_name, row.uploaded_ts, bool(row.needs_auth)
        )
    return MediaRow(row.media_id, row.user_nid, row.created_ts, row.expires_ts, stored)


def insert_media(tx: Transaction, media_id: str, user_nid: int, stored: StoredMedia) -> None:
    """Add a media ID together with its content."""
    _insert(tx, media_id, user_nid, stored.uploaded_ts, None, stored)
    _count(tx, user_nid, stored.size_bytes)


def announce_media(tx: Transaction, media_id: str, user_nid: int, created_ts: int, expires_ts: int) -> None:
    """Add a media ID whose content will come."""
    _insert(tx, media_id, user_nid, created_ts, expires_ts, None)


def fill_media(tx: Transaction, media_id: str, user_nid: int, stored: StoredMedia) -> bool:
    """Give an announced media ID its content, or return False: it has content, is void, or is not this user's."""
    columns = media.c
    filled = tx.execute(
        update(media)
        .where(
            columns.media_id == media_id,
            columns.user_nid == user_nid,
            columns.uploaded_ts.is_(None),
            columns.expires_ts > stored.uploaded_ts,
        )
        .values({**_content(stored), "expires_ts": None})
    )
    if filled.rowcount != 1:
        return False
    _count(tx, user_nid, stored.size_bytes)
    return True


def count_awaited(tx: Transaction, user_nid: int, now_ms: int) -> tuple[int, int]:
    """Return how many IDs of a user await content, and when the first of them expires (0 for none)."""
    columns = media.c
    row = tx.first(
        select(func.count().label("awaited"), func.min(columns.expires_ts).label("first_ts")).where(
            columns.user_nid == user_nid, columns.uploaded_ts.is_(None), columns.expires_ts > now_ms
        )
    )
    return (0, 0) if row is None else (int(row.awaited), int(row.first_ts or 0))


def delete_expired(tx: Transaction, now_ms: int, most: int = 1000) -> int:
    """Delete rows of IDs that are void, `most` of them at a time, and return how many."""
    columns = media.c
    expired = [
        row[0]
        for row in tx.all(
            select(columns.media_id).where(columns.expires_ts <= now_ms, columns.uploaded_ts.is_(None)).limit(most)
        )
    ]
    if expired:
        tx.execute(delete(media).where(columns.media_id.in_(expired), columns.uploaded_ts.is_(None)))
    return len(expired)


def known_blobs(tx: Transaction, blob_ids: Sequence[str]) -> set[str]:
    """Return those blobs that a media ID refers to; at most some hundred at a time."""
    columns = media.c
    # Blobs are named by their media ID, or by it with something behind a dash. That makes this a look-up by key; only
    # what it does not find, and that is next to nothing, is searched for in all rows before it counts as unknown.
    media_ids = {blob_id.partition("-")[0] for blob_id in blob_ids}
    known: set[str] = {row[0] for row in tx.all(select(columns.blob_id).where(columns.media_id.in_(media_ids)))}
    rest = [blob_id for blob_id in blob_ids if blob_id not in known]
    if rest:
        known.update(row[0] for row in tx.all(select(columns.blob_id).where(columns.blob_id.in_(rest))))
        others = remote_media.c.blob_id
        known.update(row[0] for row in tx.all(select(others).where(others.in_(rest)).distinct()))
    return known


def get_usage(tx: Transaction, user_nid: int = EVERYBODY) -> Usage:
    """Return what a user has uploaded, or all users together."""
    columns = media_usage.c
    row = tx.first(select(columns.files, columns.size_bytes).where(columns.user_nid == user_nid))
    return Usage(0, 0) if row is None else Usage(row.files, row.size_bytes)


def _insert(
    tx: Transaction,
    media_id: str,
    user_nid: int,
    created_ts: int,
    expires_ts: int | None,
    stored: StoredMedia | None,
) -> None:
    row: dict[str, Any] = {
        "media_id": media_id,
        "user_nid": user_nid,
        "created_ts": created_ts,
        "expires_ts": expires_ts,
        "size_bytes": 0,
        "needs_auth": True,
    }
    if stored is not None:
        row |= _content(stored)
    tx.execute(media.insert().values(row))


def _content(stored: StoredMedia) -> dict[str, Any]:
    return {
        "uploaded_ts": stored.uploaded_ts,
        "blob_id": stored.blob_id,
        "size_bytes": stored.size_bytes,
        "content_type": stored.content_type,
        "file_name": stored.file_name,
        "needs_auth": stored.needs_auth,
    }


def _count(tx: Transaction, user_nid: int, size_bytes: int) -> None:
    tx.insert_many(
        media_usage,
        ("user_nid", "files", "size_bytes"),
        [(user_nid, 1, size_bytes), (EVERYBODY, 1, size_bytes)],
        add=("files", "size_bytes"),
    )
