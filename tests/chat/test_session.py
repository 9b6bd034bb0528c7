"""A session against a played stream: what it says, and how often."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from homeserver.chat.http import Http
from homeserver.chat.model import News
from homeserver.chat.saved import SavedSession, SavedSessions
from homeserver.chat.session import Session
from homeserver.streamclient import LinkState
from tests.streamclient.played_stream import Connection, Played, update, within

from .played import ROOM, joined


class Nobody:
    """A listener that shows nothing."""

    def told(self, news: News) -> None:
        pass

    def connection(self, state: LinkState) -> None:
        pass


@pytest_twisted.async_yield_fixture
async def played() -> AsyncIterator[Played]:
    server = Played("websocket")
    yield server
    await server.stop()


async def _begin(
    played: Played, folder: Path, presence: str | None = None
) -> tuple[Session, Deferred[Any], Connection]:
    saved = SavedSession(played.url, "@alice:x", "D", "secret")
    session = Session(saved, SavedSessions(folder), Http(played.url, reactor), reactor, presence=presence)
    running = Deferred.fromCoroutine(session.run(Nobody()))
    connection = await played.connection()
    connection.say(update(1) | joined())
    await within(Deferred.fromCoroutine(session.ready()))
    return session, running, connection


async def _answer(connection: Connection, work: Any, *methods: str) -> None:
    """Let something be done that makes these requests and no others."""
    done = Deferred.fromCoroutine(work)
    for method in methods:
        connection.answer(await connection.request(method), {})
    await within(done)


@pytest_twisted.ensureDeferred
async def test_presence_is_told_once_and_not_again_at_once(played: Played, tmp_path: Path) -> None:
    session, running, connection = await _begin(played, tmp_path)
    await _answer(connection, session.set_presence("unavailable", "tea"), "sync", "presence")
    await _answer(connection, session.set_presence("unavailable", "tea"))
    await _answer(connection, session.set_presence("unavailable", "cake"), "presence")
    # A server takes one in ten seconds: the goodbye would be refused.
    await _answer(connection, session.end(), "sync")
    await within(running)


@pytest_twisted.ensureDeferred
async def test_goodbye_is_said_by_who_was_there(played: Played, tmp_path: Path) -> None:
    session, running, connection = await _begin(played, tmp_path)
    await _answer(connection, session.end(), "sync", "presence")
    await within(running)


@pytest_twisted.ensureDeferred
async def test_session_that_is_not_there_tells_no_presence(played: Played, tmp_path: Path) -> None:
    session, running, connection = await _begin(played, tmp_path, "offline")
    assert "offline" == connection.auth["set_presence"]
    await _answer(connection, session.end())
    await within(running)


@pytest_twisted.ensureDeferred
async def test_what_is_not_answered_is_not_sent(played: Played, tmp_path: Path) -> None:
    session, running, connection = await _begin(played, tmp_path, "offline")
    saying = Deferred.fromCoroutine(session.say(session.model.rooms[ROOM], "hello"))
    request = await connection.request("send")
    assert (1, False) == (session.unsent, await session.all_sent(0.05))
    sent = Deferred.fromCoroutine(session.all_sent(5.0))
    connection.refuse(request, "M_FORBIDDEN")
    assert (True, 0) == (await within(sent), session.unsent)
    saying.addErrback(lambda _: None)
    await _answer(connection, session.end())
    await within(running)
