"""Rows of files of other servers: look them up, add them, and take away those that nobody has asked for longest.

A blob is shared by all media IDs with the same bytes, so it may go only when the last of them has gone. How much there
is in all is kept beside the usage of users, counted by media ID.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import delete, select, tuple_, update

from .media import StoredMedia, Usage, get_usage
from .tables.media import media_usage
from .tables.remote_media import remote_media
from .transaction import Transaction

# Beside the numbers of users, which are from 1 on, and 0 for all of them.
OTHER_SERVERS: Final = -1


def find_remote(tx: Transaction, server_name: str, media_id: str) -> tuple[StoredMedia, int] | None:
    """Return a file of another server, if it is here, and when it was used last."""
    columns = remote_media.c
    row = tx.first(select(remote_media).where(columns.server_name == server_name, columns.media_id == media_id))
    if row is None:
        return None
    stored = StoredMedia(row.blob_id, row.size_bytes, row.content_type, row.file_name, row.fetched_ts, True)
    return stored, row.used_ts


def insert_remote(tx: Transaction, server_name: str, media_id: str, stored: StoredMedia) -> None:
    """Add a file of another server; in place of what that media ID had, if it had something."""
    delete_remote(tx, [(server_name, media_id)])
    tx.execute(
        remote_media.insert().values(
            server_name=server_name,
            media_id=media_id,
            blob_id=stored.blob_id,
            size_bytes=stored.size_bytes,
            content_type=stored.content_type,
            file_name=stored.file_name,
            fetched_ts=stored.uploaded_ts,
            used_ts=stored.uploaded_ts,
        )
    )
    _count(tx, 1, stored.size_bytes)


def touch_remote(tx: Transaction, server_name: str, media_id: str, now_ms: int) -> None:
    """Note that a file was used."""
    columns = remote_media.c
    tx.execute(
        update(remote_media)
        .where(columns.server_name == server_name, columns.media_id == media_id)
        .values(used_ts=now_ms)
    )


def list_least_used(tx: Transaction, limit: int) -> list[tuple[str, str, str, int]]:
    """Return server name, media ID, blob and size of the files that were not used for longest."""
    columns = remote_media.c
    rows = tx.all(
        select(columns.server_name, columns.media_id, columns.blob_id, columns.size_bytes)
        .order_by(columns.used_ts, columns.server_name, columns.media_id)
        .limit(limit)
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def delete_remote(tx: Transaction, names: Sequence[tuple[str, str]]) -> None:
    """Remove files, by server name and media ID; at most some hundred."""
    if not names:
        return
    columns = remote_media.c
    chosen = tuple_(columns.server_name, columns.media_id).in_(list(names))
    sizes = [row[0] for row in tx.all(select(columns.size_bytes).where(chosen))]
    if sizes:
        tx.execute(delete(remote_media).where(chosen))
        _count(tx, -len(sizes), -sum(sizes))


def is_used(tx: Transaction, blob_id: str) -> bool:
    """Tell whether a media ID of another server refers to a blob."""
    columns = remote_media.c
    return tx.first(select(columns.blob_id).where(columns.blob_id == blob_id).limit(1)) is not None


def get_remote_usage(tx: Transaction) -> Usage:
    """Return how many files of other servers there are, and how many bytes."""
    return get_usage(tx, OTHER_SERVERS)


def _count(tx: Transaction, files: int, size_bytes: int) -> None:
    tx.insert_many(
        media_usage,
        ("user_nid", "files", "size_bytes"),
        [(OTHER_SERVERS, files, size_bytes)],
        add=("files", "size_bytes"),
    )
