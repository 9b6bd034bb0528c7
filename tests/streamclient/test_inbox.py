"""What a program has not seen yet is not acknowledged by a connection that is made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from homeserver.streamclient import StreamClient, to_device_messages
from homeserver.streamclient.inbox import Inbox, Update

from .real_server import RealServer


def update(token: str, *, message: bool = False) -> Update:
    return {"next_batch": token, **({"to_device": {"events": [{"type": "m.test"}]}} if message else {})}


def inbox_with(*updates: Update) -> Inbox:
    inbox = Inbox("s1", lambda: None, lambda _: None)
    for each in updates:
        inbox.put(each, 10)
    return inbox


def _next(inbox: Inbox) -> Any:
    found: list[Any] = []
    Deferred.fromCoroutine(inbox.next()).addCallback(found.append)
    return found[0]["next_batch"] if found else None


def test_a_new_connection_begins_before_messages_that_were_not_handed_out() -> None:
    inbox = inbox_with(update("s2"), update("s3", message=True), update("s4"))
    assert "s2" == inbox.rewind()
    assert "s2" == inbox.reached
    inbox.put(update("s4", message=True), 10)
    assert ["s2", "s4", None] == [_next(inbox) for _ in range(3)]


def test_without_messages_nothing_has_to_come_again() -> None:
    inbox = inbox_with(update("s2"), update("s3"))
    assert "s3" == inbox.rewind()
    assert ["s2", "s3"] == [_next(inbox) for _ in range(2)]


def test_what_is_in_the_programs_hands_does_not_come_again() -> None:
    inbox = inbox_with(update("s2", message=True), update("s3", message=True))
    assert "s2" == _next(inbox)
    assert "s2" == inbox.rewind()
    assert "s1" == inbox.since
    inbox.put(update("s3", message=True), 10)
    assert "s3" == _next(inbox)
    assert "s2" == inbox.since


@pytest_twisted.ensureDeferred
async def test_a_message_waits_for_the_next_run_of_a_program_that_did_not_get_to_it(tmp_path: Path) -> None:
    server = RealServer(tmp_path / "server", f"sqlite:///{tmp_path / 'homeserver.db'}")
    await server.start()
    try:
        alice, bob = await server.person("alice"), await server.person("bob")
        async with alice:
            async with bob:
                updates = bob.updates()
                # The initial sync is dealt with when the program asks for more; it does not, then, for a while.
                await updates.__anext__()
                waiting = Deferred.fromCoroutine(updates.__anext__())
                await alice.to_device("m.test", {bob.user_id: {"*": {"number": 1}}})
                await waiting
                await alice.to_device("m.test", {bob.user_id: {"*": {"number": 2}}})
                await _until_it_waits(bob, 2)
                server.cut()
                await bob.ping()
                # Something comes: by then the server has taken note of where the new connection began.
                await alice.to_device("m.test", {bob.user_id: {"*": {"number": 3}}})
                await _until_it_waits(bob, 3)
                since = bob.since
            again = StreamClient(server.url, bob.access_token, reactor=reactor, since=since)
            numbers: list[int] = []
            async with again:
                async for each in again.updates():
                    numbers += [message["content"]["number"] for message in to_device_messages(each)]
                    if 3 in numbers:
                        break
            assert [2, 3] == numbers[-2:]
    finally:
        await server.close()


async def _until_it_waits(client: StreamClient, number: int) -> None:
    for _ in range(200):
        held = [message for update, _ in client._inbox._held for message in to_device_messages(update)]
        if number in [message["content"]["number"] for message in held]:
            return
        await deferLater(reactor, 0.05, lambda: None)  # type: ignore[arg-type]
    raise AssertionError(f"message {number} did not come")
