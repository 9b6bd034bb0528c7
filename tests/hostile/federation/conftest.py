"""One world for each module of these tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_twisted

from tests.support.federation import Federation, sqlite_url_in

from .world import World


@pytest_twisted.async_yield_fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A server under test, a bad one and an honest one, that all tests of a module share."""
    federation = Federation(tmp_path_factory.mktemp("world"), sqlite_url_in)
    made = World(federation)
    try:
        await made.start()
        yield made
        await made.check_all()
    finally:
        made.stop()
        await federation.stop()
