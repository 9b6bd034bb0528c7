"""A content repository on a real database, with a clock that stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from homeserver.media.repository import MediaRepository, MediaRules
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.threads import Threads
from storage.blobs import BlobStore
from storage.database import Database
from storage.schema import migrate

SERVER = "example.org"
START_MS = 1_700_000_000_000

MakeRepository = Callable[[MediaRules], MediaRepository]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START_MS)


@pytest_twisted.async_yield_fixture
async def make_repository(database_url: str, tmp_path: Path, clock: ManualClock) -> AsyncIterator[MakeRepository]:
    """Makes repositories on one database and one store."""
    threads = Threads(reactor, 4)  # type: ignore[arg-type]
    database = Database(database_url, reactor=reactor, threads=threads)
    await database.start(migrate)
    store = BlobStore(tmp_path / "store")
    store.start(0)
    yield lambda rules: MediaRepository(database, store, threads=threads, clock=clock, server_name=SERVER, rules=rules)
    await database.stop()
    await threads.stop()


@pytest.fixture
def repository(make_repository: MakeRepository) -> MediaRepository:
    return make_repository(MediaRules(max_upload_bytes=10_000, max_awaited=2))
