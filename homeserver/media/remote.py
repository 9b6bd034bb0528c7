"""Files of other servers: fetched when somebody here asks for one, and kept.

A file is fetched once, however many ask for it at the same time, and goes on being fetched when they have gone. It is
kept under the SHA-256 of its bytes, so that the same bytes are there once, however many media IDs of however many
servers have them. What one server does not have is not asked for again for a while.

What others can make this server do is limited: files have the size that uploads may have; so many are fetched at once,
from one server and in all; who asks is counted by the caller (`Admit`); and of all files together those that were used
longest ago go when there is too much. A server that is blocked, or a name that is none, is never asked.

What was fetched while media need a login is not shown without one.

Spec: client-server API, "Content repository"; server-server API, "Content Repository".
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from twisted.internet.defer import Deferred

from homeserver.errors import (
    BadIdentifier,
    LimitExceeded,
    MatrixError,
    NotFound,
    NotYetUploaded,
    RemoteError,
    RemoteRefused,
    RemoteTooLarge,
    RemoteUnreachable,
    StorageUnavailable,
    TooLargeElsewhere,
    UnreachableServers,
    UselessServers,
)
from homeserver.model.ids import ServerName, is_opaque_id
from homeserver.ports import RemoteMedia, RemoteServers
from homeserver.runtime.clock import Clock
from homeserver.runtime.lanes import Lanes
from homeserver.runtime.slots import Slots
from homeserver.runtime.tasks import Tasks
from homeserver.runtime.threads import Worker
from storage import remote_media as rows
from storage.blobs import PIECE_BYTES, BlobStore
from storage.database import Database
from storage.media import StoredMedia
from storage.transaction import Transaction

from .serving import clean_content_type, clean_file_name, file_name_of

logger = logging.getLogger(__name__)

Admit = Callable[[], None]
"""Counts one file that is fetched for somebody; raises LimitExceeded."""

# LIMIT: seconds for one file. Whoever asks waits for it as long as that at most.
FETCH_S: Final = 60.0
# LIMIT: files that are fetched at once: in all, from one server, and those that wait for their turn.
AT_ONCE: Final = 16
AT_ONCE_OF_SERVER: Final = 4
MOST_WAITING: Final = 200
MOST_WAITING_OF_SERVER: Final = 50
# LIMIT: for how long a file is not asked for again: that is not there, that is too large, whose server did not answer.
MISSING_S: Final = 120.0
TOO_LARGE_S: Final = 3_600.0
FAILED_S: Final = 30.0
MAX_REMEMBERED: Final = 10_000
# When a file was used is noted once a day.
_USED_WITHIN_MS: Final = 24 * 60 * 60 * 1000
_EVICTED_AT_ONCE: Final = 100

_Key = tuple[ServerName, str]


@dataclass(slots=True)
class _Server:
    """The turns of one server; `users` have asked for one."""

    slots: Slots
    users: int = 0


class RemoteRepository:
    """Fetches and keeps the files of other servers."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        servers: RemoteServers,
        *,
        threads: Worker,
        clock: Clock,
        tasks: Tasks,
        server_name: str,
        max_file_bytes: int,
        max_total_bytes: int | None,
        blocked_servers: frozenset[str] = frozenset(),
    ) -> None:
        """A `max_total_bytes` of None: all files are kept."""
        self._database = database
        self._blobs = blobs
        self._servers = servers
        self._threads = threads
        self._clock = clock
        self._tasks = tasks
        self._server_name = server_name
        self._max_file_bytes = max_file_bytes
        self._max_total_bytes = max_total_bytes
        self._blocked = blocked_servers
        self._fetching: dict[_Key, list[Deferred[StoredMedia | MatrixError]]] = {}
        self._refused: dict[_Key, tuple[float, MatrixError]] = {}
        self._slots = Slots(AT_ONCE, most_waiting=MOST_WAITING)
        self._turns: dict[ServerName, _Server] = {}
        # Nobody may take a blob away that somebody else is about to refer to.
        self._lanes: Lanes[str] = Lanes()

    async def get(self, server_name: str, media_id: str, *, admit: Admit | None, timeout_ms: int) -> StoredMedia:
        """Return a file of another server, fetched if it is not here and there is an `admit` that lets it through.

        Waits for `timeout_ms` at most. Raises NotFound, NotYetUploaded, TooLargeElsewhere, LimitExceeded,
        UnreachableServers or UselessServers.
        """
        key = self._parse(server_name, media_id)
        found = await self._database.read(lambda tx: rows.find_remote(tx, *key))
        if found is not None:
            stored, used_ts = found
            now_ms = self._clock.now_ms()
            if used_ts < now_ms - _USED_WITHIN_MS:
                await self._database.write(lambda tx: rows.touch_remote(tx, *key, now_ms))
            return stored
        if admit is None:
            raise NotFound("Not found")
        refused = self._refused.get(key)
        if refused is not None and refused[0] > self._clock.monotonic():
            raise refused[1]
        if key not in self._fetching:
            admit()
        return await self._wait_for(key, timeout_ms / 1000)

    async def remove_unused(self, blob_id: str) -> None:
        """Remove a blob unless a media ID of another server refers to it."""
        async with self._lanes.enter(blob_id):
            if not await self._database.read(lambda tx: rows.is_used(tx, blob_id)):
                await self._threads.run(self._blobs.remove, blob_id)

    def _parse(self, server_name: str, media_id: str) -> _Key:
        # Spec: client-server API, "Content repository", "Security considerations": sanitise mxc:// URIs.
        try:
            name = ServerName.parse(server_name)
        except BadIdentifier as fault:
            raise NotFound("Not found") from fault
        if name == self._server_name or name in self._blocked or not is_opaque_id(media_id):
            raise NotFound("Not found")
        return name, media_id

    # -- fetching ----------------------------------------------------------------------------------------------------

    async def _wait_for(self, key: _Key, seconds: float) -> StoredMedia:
        waiting = self._fetching.get(key)
        is_first = waiting is None
        if waiting is None:
            waiting = self._fetching[key] = []
        arrived: Deferred[StoredMedia | MatrixError] = Deferred(waiting.remove)
        waiting.append(arrived)
        if is_first:
            self._tasks.start(f"fetch mxc://{key[0]}/{key[1]}", self._fetch_for_all(key))
        timer = self._clock.call_later(seconds, _give_up, waiting, arrived)
        try:
            outcome = await arrived
        finally:
            if timer.active():
                timer.cancel()
        if isinstance(outcome, MatrixError):
            raise outcome
        return outcome

    async def _fetch_for_all(self, key: _Key) -> None:
        outcome: StoredMedia | MatrixError = UselessServers("The file could not be fetched")
        try:
            outcome = await self._in_turn(key)
        except LimitExceeded as refusal:
            outcome = refusal
        except RemoteError as fault:
            logger.info("mxc://%s/%s could not be fetched: %s", *key, fault)
            outcome = self._refuse(key, fault)
        except StorageUnavailable as fault:
            logger.error("mxc://%s/%s could not be stored: %s", *key, fault)
        finally:
            for arrived in self._fetching.pop(key):
                arrived.callback(outcome)

    async def _in_turn(self, key: _Key) -> StoredMedia:
        server = self._turns.get(key[0])
        if server is None:
            server = self._turns[key[0]] = _Server(Slots(AT_ONCE_OF_SERVER, most_waiting=MOST_WAITING_OF_SERVER))
        server.users += 1
        try:
            return await server.slots.run(lambda: self._slots.run(lambda: self._fetch(key)))
        finally:
            server.users -= 1
            if not server.users:
                del self._turns[key[0]]

    async def _fetch(self, key: _Key) -> StoredMedia:
        server_name, media_id = key
        fetched = await self._servers.download_media(
            server_name,
            media_id,
            max_bytes=self._max_file_bytes,
            timeout_s=FETCH_S,
            folder=str(self._blobs.scratch_folder),
        )
        try:
            blob_id = await self._threads.run(_digest, fetched.path)
            stored = self._described(blob_id, fetched)
            async with self._lanes.enter(blob_id):
                await self._threads.run(self._blobs.take, blob_id, fetched.path)
                await self._database.write(lambda tx: rows.insert_remote(tx, server_name, media_id, stored))
        except OSError as fault:
            raise StorageUnavailable(f"the media store does not take files: {fault}") from fault
        finally:
            await self._threads.run(_remove, fetched.path)
        self._refused.pop(key, None)
        if self._max_total_bytes is not None:
            await self._make_room(self._max_total_bytes, key)
        return stored

    def _described(self, blob_id: str, fetched: RemoteMedia) -> StoredMedia:
        return StoredMedia(
            blob_id,
            fetched.length,
            clean_content_type(fetched.content_type),
            clean_file_name(file_name_of(fetched.content_disposition)),
            self._clock.now_ms(),
            True,
        )

    def _refuse(self, key: _Key, fault: RemoteError) -> MatrixError:
        error, seconds = _error_of(fault)
        if seconds:
            self._refused.pop(key, None)
            self._refused[key] = (self._clock.monotonic() + seconds, error)
            if len(self._refused) > MAX_REMEMBERED:
                del self._refused[next(iter(self._refused))]
        return error

    # -- making room -------------------------------------------------------------------------------------------------

    async def _make_room(self, most_bytes: int, kept: _Key) -> None:
        """Take away the files that were used longest ago, but for the one that has just come."""
        while True:
            gone = await self._database.write(lambda tx: _evict(tx, most_bytes, kept))
            for blob_id in gone:
                await self.remove_unused(blob_id)
            if len(gone) < _EVICTED_AT_ONCE:
                return


def _evict(tx: Transaction, most_bytes: int, kept: _Key) -> list[str]:
    """Delete rows until the rest fits, a hundred at most; return the blobs that they had."""
    excess = rows.get_remote_usage(tx).size_bytes - most_bytes
    if excess <= 0:
        return []
    chosen: list[tuple[str, str]] = []
    blobs: list[str] = []
    for server_name, media_id, blob_id, size_bytes in rows.list_least_used(tx, _EVICTED_AT_ONCE + 1):
        if excess <= 0 or len(chosen) == _EVICTED_AT_ONCE:
            break
        if (server_name, media_id) != kept:
            chosen.append((server_name, media_id))
            blobs.append(blob_id)
            excess -= size_bytes
    rows.delete_remote(tx, chosen)
    return blobs


def _error_of(fault: RemoteError) -> tuple[MatrixError, float]:
    """Return what is told to who asks for a file that cannot be had, and for how many seconds nobody asks again."""
    detail = str(fault)[:1000]
    if isinstance(fault, RemoteTooLarge):
        return TooLargeElsewhere("The file is too large for this server", detail=detail), TOO_LARGE_S
    if isinstance(fault, RemoteUnreachable):
        return UnreachableServers("The server of the file did not answer in time", detail=detail), FAILED_S
    if isinstance(fault, RemoteRefused):
        if fault.errcode == NotYetUploaded.errcode:
            return NotYetUploaded("Content has not yet been uploaded", detail=detail), 0.0
        if fault.errcode == TooLargeElsewhere.errcode:
            return TooLargeElsewhere("The file is too large for its server", detail=detail), TOO_LARGE_S
        if fault.status == 404:
            return NotFound("Not found", detail=detail), MISSING_S
    return UselessServers("The server of the file does not give it", detail=detail), FAILED_S


def _give_up(waiting: list[Deferred[StoredMedia | MatrixError]], arrived: Deferred[StoredMedia | MatrixError]) -> None:
    if not arrived.called:
        waiting.remove(arrived)
        arrived.callback(NotYetUploaded("The file has not come yet"))


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
