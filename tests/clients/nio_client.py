"""What the stories with matrix-nio share: clients, syncing until something is there, and telling what has worked.

Each step is told on standard output when it has worked; the first that does not ends the script with an error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from nio import AsyncClient, AsyncClientConfig, SyncResponse
from nio.responses import ErrorResponse
from nio.store import DefaultStore, SqliteMemoryStore

PASSWORD = "correct horse battery staple"
_TURNS = 10


def done(step: str) -> None:
    print(f"done: {step}", flush=True)


def good(answer: Any) -> Any:
    """Return the answer, or end the story if it is an error."""
    if isinstance(answer, ErrorResponse):
        raise SystemExit(f"refused: {answer}")
    return answer


def check(condition: object, what: object) -> None:
    if not condition:
        raise SystemExit(f"not as expected: {what!r}")


@asynccontextmanager
async def client(url: str, name: str = "", *, encrypts: bool = False) -> AsyncIterator[AsyncClient]:
    """A client that has not logged in; one that `encrypts` keeps its keys in memory."""
    settings = AsyncClientConfig(
        max_timeouts=1,
        max_limit_exceeded=1,
        encryption_enabled=encrypts,
        store=SqliteMemoryStore if encrypts else DefaultStore,
    )
    made = AsyncClient(url, name, config=settings)
    try:
        yield made
    finally:
        await made.close()


async def sync_until(user: AsyncClient, is_there: Callable[[SyncResponse], Any], what: str) -> Any:
    """Sync on from where the user is until `is_there` finds something, and return that.

    Between two syncs a client that encrypts sends what it has to, as the client's own loop does.
    """
    for _ in range(_TURNS):
        answer = good(await user.sync(timeout=3000))
        if user.olm is not None:
            await tend(user)
        found = is_there(answer)
        if found:
            return found
    raise SystemExit(f"sync never showed {what}")


async def tend(user: AsyncClient) -> None:
    """Do what the client has noted to do about keys."""
    for answer in await user.send_to_device_messages():
        good(answer)
    if user.should_upload_keys:
        good(await user.keys_upload())
    if user.should_query_keys:
        good(await user.keys_query())
    if user.should_claim_keys:
        good(await user.keys_claim(user.get_users_for_key_claiming()))


def timeline(answer: SyncResponse, room_id: str) -> list[Any]:
    room = answer.rooms.join.get(room_id)
    return [] if room is None else room.timeline.events
