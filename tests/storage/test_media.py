from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from storage import media
from storage.database import _engine, parse_url
from storage.media import StoredMedia, Usage
from storage.schema import migrate
from storage.transaction import Transaction

STORED = StoredMedia("blob1", 10, "image/png", "ä.png", 1000, False)


@pytest.fixture
def tx(database_url: str) -> Iterator[Transaction]:
    engine = _engine(parse_url(database_url), 1)
    migrate(engine)
    with engine.connect() as connection, connection.begin():
        yield Transaction(connection, {})
    engine.dispose()


def test_media_are_found_as_they_were_inserted(tx: Transaction) -> None:
    media.insert_media(tx, "m1", 7, STORED)
    found = media.find_media(tx, "m1")
    assert found is not None
    assert (7, 1000, None, STORED) == (found.user_nid, found.created_ts, found.expires_ts, found.stored)


def test_unknown_media_are_none(tx: Transaction) -> None:
    assert media.find_media(tx, "m1") is None


def test_ids_are_compared_by_bytes(tx: Transaction) -> None:
    media.insert_media(tx, "abc", 7, STORED)
    assert media.find_media(tx, "ABC") is None
    assert media.find_media(tx, "abc ") is None


def test_announced_media_are_filled_once(tx: Transaction) -> None:
    media.announce_media(tx, "m1", 7, 500, 2000)
    assert media.fill_media(tx, "m1", 7, STORED)
    assert not media.fill_media(tx, "m1", 7, replace(STORED, blob_id="blob2"))
    found = media.find_media(tx, "m1")
    assert found is not None
    assert STORED == found.stored
    assert not found.is_void(3000)


@pytest.mark.parametrize(
    ("user_nid", "uploaded_ts"),
    [pytest.param(8, 1000, id="another user"), pytest.param(7, 2000, id="expired")],
)
def test_announced_media_are_not_filled_by(tx: Transaction, user_nid: int, uploaded_ts: int) -> None:
    media.announce_media(tx, "m1", 7, 500, 2000)
    assert not media.fill_media(tx, "m1", user_nid, replace(STORED, uploaded_ts=uploaded_ts))
    assert Usage(0, 0) == media.get_usage(tx)


def test_usage_is_counted_for_each_user_and_for_all(tx: Transaction) -> None:
    media.insert_media(tx, "m1", 7, STORED)
    media.insert_media(tx, "m2", 7, replace(STORED, blob_id="blob2", size_bytes=5))
    media.insert_media(tx, "m3", 8, replace(STORED, blob_id="blob3", size_bytes=1))
    assert [Usage(2, 15), Usage(1, 1), Usage(3, 16), Usage(0, 0)] == [
        media.get_usage(tx, 7),
        media.get_usage(tx, 8),
        media.get_usage(tx),
        media.get_usage(tx, 9),
    ]


def test_only_ids_that_still_wait_are_counted_as_awaited(tx: Transaction) -> None:
    media.announce_media(tx, "filled", 7, 0, 3000)
    media.fill_media(tx, "filled", 7, STORED)
    media.announce_media(tx, "expired", 7, 0, 1500)
    media.announce_media(tx, "waiting", 7, 0, 2500)
    media.announce_media(tx, "theirs", 8, 0, 2500)
    assert (1, 2500) == media.count_awaited(tx, 7, 2000)
    assert (0, 0) == media.count_awaited(tx, 9, 2000)


def test_expired_ids_are_deleted_and_nothing_else(tx: Transaction) -> None:
    media.announce_media(tx, "filled", 7, 0, 1100)
    media.fill_media(tx, "filled", 7, STORED)
    media.announce_media(tx, "expired", 7, 0, 1500)
    media.announce_media(tx, "waiting", 7, 0, 2500)
    assert 1 == media.delete_expired(tx, 2000)
    assert [True, False, True] == [
        media.find_media(tx, media_id) is not None for media_id in ("filled", "expired", "waiting")
    ]
