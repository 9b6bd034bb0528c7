"""Fixtures of the tests of the client: a played server, over WebSocket and over lines, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_twisted

from homeserver.streamclient import StreamClient

from .played_stream import Hurried, Played


@pytest_twisted.async_yield_fixture
async def websocket() -> AsyncIterator[Played]:
    """A played server of WebSockets."""
    played = Played("websocket")
    yield played
    await played.stop()


@pytest_twisted.async_yield_fixture
async def lines() -> AsyncIterator[Played]:
    """A played server of lines."""
    played = Played("lines")
    yield played
    await played.stop()


@pytest.fixture(params=["websocket", "lines"])
def played(request: pytest.FixtureRequest) -> Played:
    """A played server of either kind."""
    server: Played = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def hurried() -> Hurried:
    """A reactor whose time runs faster."""
    return Hurried()


@pytest_twisted.async_yield_fixture
async def new_client(hurried: Hurried) -> AsyncIterator[Callable[..., StreamClient]]:
    """Makes clients of a played server that are stopped in the end."""
    clients: list[StreamClient] = []

    def make(played: Played, **more: Any) -> StreamClient:
        clients.append(StreamClient(played.url, more.pop("token", "sat_token"), **{"reactor": hurried, **more}))
        return clients[-1]

    yield make
    for client in clients:
        await client.stop()
