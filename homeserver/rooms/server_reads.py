"""What other servers may read of rooms: events, the state before one, auth chains, history.

Every read names a server and passes the guard first. An event that the server may not see is given redacted, so that it
can still judge what follows (`server_visibility`). Rejected events are given to nobody, soft-failed ones where a walk
comes to them; an outlier has no place in the graph, and is given only to who asks for it.

What is answered to who may not ask: for a room the guard's refusal, for an event "not found", in the same words as for
one that is unknown, in another room, or rejected.

States of great rooms are written to a file in a database thread, from the stored JSON, a few at a time on the whole
server and one for each server that asks.

Spec: server-server API, "Backfilling and retrieving missing events", "Retrieving events", "Soft failure".
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import IO, Final, TypeVar

from homeserver.errors import LimitExceeded, NotAllowed, NotFound
from homeserver.model.ids import EventID, RoomID
from homeserver.model.tokens import MAX_POSITION
from homeserver.runtime.lanes import Lanes
from homeserver.runtime.slots import RETRY_AFTER_MS, Slots
from storage.auth_index import auth_chain
from storage.history import find_room_of, load_nids_by_time
from storage.pdus import (
    StoredPDU,
    event_ids_json,
    find_pdus,
    load_pdus,
    pdu_bytes,
    walk_back,
    walk_between,
    write_pdus,
)
from storage.state_groups import load_chain, state_of
from storage.store import Store
from storage.transaction import Transaction

from .history import EVENT_NOT_FOUND, MAX_SCANNED_BY_TIME
from .server_guard import ServerGuard
from .server_visibility import visible_whole
from .tip import RoomTip

T = TypeVar("T")

MAX_BACKFILL: Final = 100
MAX_MISSING: Final = 20
# LIMIT: events that one request may name.
MAX_NAMED: Final = 1_000
# LIMIT: states and auth chains written at once, those that wait, and those of one server, waiting or being sent.
_WRITERS: Final = 2
_MOST_WAITING: Final = 20
_MOST_OF_A_SERVER: Final = 3
# What is longer goes to disk.
_MEMORY_BYTES: Final = 1 << 18
_BATCH_BY_TIME: Final = 100


@dataclass(frozen=True, slots=True)
class JsonFile:
    """JSON of `length` bytes in a file, to be read from its start and closed."""

    file: IO[bytes]
    length: int


class ServerReads:
    """Answers other servers' questions about rooms."""

    def __init__(self, store: Store, guard: ServerGuard) -> None:
        self._store = store
        self._guard = guard
        self._writers = Slots(_WRITERS, most_waiting=_MOST_WAITING)
        self._turns: Lanes[str] = Lanes()
        # How many great answers each server waits for or is being sent.
        self._open: dict[str, int] = {}

    # -- single events -----------------------------------------------------------------------------------------------

    async def event(self, server: str, event_id: str) -> bytes:
        """Return an event, redacted where the server may not see it; raise NotFound."""
        room_id = await self._store.database.read(lambda tx: find_room_of(tx, event_id))
        if room_id is None:
            raise NotFound(EVENT_NOT_FOUND)
        try:
            tip = await self._guard.require_in_room(room_id, server)
        except NotAllowed as fault:
            raise NotFound(EVENT_NOT_FOUND) from fault
        shown = await self._shown(tip, server, [await self._find(tip, event_id)])
        if not shown:
            raise NotFound(EVENT_NOT_FOUND)
        return shown[0]

    async def event_at(self, server: str, room_id: RoomID, ts: int, *, backwards: bool) -> tuple[EventID, int]:
        """Return the ID and time of the event closest to a time that the server may see; raise NotFound.

        Raises NotAllowed where the server may not ask about the room.
        """
        tip = await self._guard.require_in_room(room_id, server)
        for skip in range(0, MAX_SCANNED_BY_TIME, _BATCH_BY_TIME):
            nids, found = await self._store.database.read(
                partial(_by_time, tip=tip, ts=ts, backwards=backwards, skip=skip)
            )
            visible = await visible_whole(self._store, tip, server, list(found.values()))
            for nid in nids:
                if nid in visible:
                    stored = (await self._store.events.get([nid])).get(nid)
                    if stored is not None:
                        return stored.event_id, stored.event.origin_server_ts
            if len(nids) < _BATCH_BY_TIME:
                break
        raise NotFound(f"Unable to find event from {ts} in {'backward' if backwards else 'forward'} direction")

    # -- walks -------------------------------------------------------------------------------------------------------

    async def backfill(self, server: str, room_id: RoomID, event_ids: Collection[str], limit: int) -> list[bytes]:
        """Return up to `limit` events: the named ones and what they build on, newest first.

        What is named and not in the room is passed over. Raises NotAllowed where the server may not ask.
        """
        tip = await self._guard.require_in_room(room_id, server)
        size = max(0, min(limit, MAX_BACKFILL))
        pdus = await self._store.database.read(
            lambda tx: walk_back(tx, tip.version, tip.room_nid, event_ids, size),
        )
        return await self._shown(tip, server, pdus)

    async def missing_events(
        self,
        server: str,
        room_id: RoomID,
        *,
        latest: Collection[str],
        earliest: Collection[str],
        limit: int,
        min_depth: int,
    ) -> list[bytes]:
        """Return up to `limit` events between `latest` and `earliest`, neither included, oldest first.

        Raises NotAllowed where the server may not ask.
        """
        tip = await self._guard.require_in_room(room_id, server)
        size = max(0, min(limit, MAX_MISSING))
        if not size:
            return []
        pdus = await self._store.database.read(
            lambda tx: walk_between(
                tx, tip.version, tip.room_nid, latest=latest, earliest=earliest, min_depth=min_depth, limit=size
            )
        )
        return await self._shown(tip, server, pdus[::-1])

    # -- states ------------------------------------------------------------------------------------------------------

    async def state(self, server: str, room_id: RoomID, event_id: str) -> JsonFile:
        """Return the state before an event and its auth chain, as `{"pdus":[…],"auth_chain":[…]}`.

        The whole state is redacted where the server may not see the event. Raises NotAllowed where the server may not
        ask about the room, NotFound for an event that is not there, or the state before which is not known.
        """
        tip, pdu = await self._with_state(server, room_id, event_id)
        cut_all = pdu.nid not in await visible_whole(self._store, tip, server, [pdu])

        def write(tx: Transaction) -> tuple[IO[bytes], int]:
            state = _state_before(tx, pdu)
            parts = ((b'{"pdus":[', state), (b'],"auth_chain":[', sorted(auth_chain(tx, state))))
            return _write(tx, tip, parts, cut_all=cut_all)

        return await self._great(server, write)

    async def state_ids(self, server: str, room_id: RoomID, event_id: str) -> bytes:
        """Return the IDs of the same, as `{"pdu_ids":[…],"auth_chain_ids":[…]}`; raises as `state`."""
        tip, pdu = await self._with_state(server, room_id, event_id)

        def read(tx: Transaction) -> bytes:
            state = _state_before(tx, pdu)
            return b'{"pdu_ids":%s,"auth_chain_ids":%s}' % (
                event_ids_json(tx, tip.room_nid, state),
                event_ids_json(tx, tip.room_nid, sorted(auth_chain(tx, state))),
            )

        return await self._in_turn(server, lambda: self._store.database.read(read))

    async def event_auth(self, server: str, room_id: RoomID, event_id: str) -> JsonFile:
        """Return the auth chain of an event, as `{"auth_chain":[…]}`; redacted as a whole as `state`.

        Raises NotAllowed where the server may not ask about the room, NotFound for an event that is not there.
        """
        tip = await self._guard.require_in_room(room_id, server)
        pdu = await self._find(tip, event_id)
        cut_all = pdu.nid not in await visible_whole(self._store, tip, server, [pdu])

        def write(tx: Transaction) -> tuple[IO[bytes], int]:
            return _write(tx, tip, ((b'{"auth_chain":[', sorted(auth_chain(tx, [pdu.nid]))),), cut_all=cut_all)

        return await self._great(server, write)

    # -- private -----------------------------------------------------------------------------------------------------

    async def _find(self, tip: RoomTip, event_id: str) -> StoredPDU:
        found = await self._store.database.read(lambda tx: find_pdus(tx, tip.room_nid, [event_id]))
        if not found or found[0].is_rejected:
            raise NotFound(EVENT_NOT_FOUND)
        return found[0]

    async def _with_state(self, server: str, room_id: RoomID, event_id: str) -> tuple[RoomTip, StoredPDU]:
        tip = await self._guard.require_in_room(room_id, server)
        pdu = await self._find(tip, event_id)
        # Spec: `GET /state_ids/{roomId}`, 404: "the server doesn't know about the state at that event".
        if pdu.state_group is None or tip.is_partial:
            raise NotFound(EVENT_NOT_FOUND)
        return tip, pdu

    async def _shown(self, tip: RoomTip, server: str, pdus: Sequence[StoredPDU]) -> list[bytes]:
        """Return events as the server may see them, in their order."""
        visible = await visible_whole(self._store, tip, server, pdus)
        if tip.is_partial:
            # Who was there is not known yet: a redacted copy could be kept for good by who may see the whole.
            pdus = [pdu for pdu in pdus if pdu.nid in visible]
        return [
            pdu_bytes(tip.version, pdu.json, is_cut=pdu.redacted_by is not None or pdu.nid not in visible)
            for pdu in pdus
        ]

    async def _great(self, server: str, write: Callable[[Transaction], tuple[IO[bytes], int]]) -> JsonFile:
        file, length = await self._in_turn(server, lambda: self._store.database.read(write))
        # As long as it is being sent it counts.
        self._hold(server)
        weakref.finalize(file, self._release, server).atexit = False
        return JsonFile(file, length)

    async def _in_turn(self, server: str, work: Callable[[], Awaitable[T]]) -> T:
        self._hold(server)
        try:
            async with self._turns.enter(server):
                return await self._writers.run(work)
        finally:
            self._release(server)

    def _hold(self, server: str) -> None:
        if self._open.get(server, 0) >= _MOST_OF_A_SERVER:
            raise LimitExceeded(RETRY_AFTER_MS, "Wait for the answers to what you have asked")
        self._open[server] = self._open.get(server, 0) + 1

    def _release(self, server: str) -> None:
        left = self._open[server] - 1
        if left:
            self._open[server] = left
        else:
            del self._open[server]


def _by_time(
    tx: Transaction, tip: RoomTip, ts: int, backwards: bool, skip: int
) -> tuple[list[int], dict[int, StoredPDU]]:
    nids = load_nids_by_time(
        tx, tip.room_nid, ts, backwards=backwards, upto=MAX_POSITION, skip=skip, limit=_BATCH_BY_TIME
    )
    return nids, load_pdus(tx, tip.room_nid, nids)


def _state_before(tx: Transaction, pdu: StoredPDU) -> list[int]:
    """Return the state before an event that has a place: what is stored is the one after it."""
    state: dict[int, int] = dict(state_of(load_chain(tx, pdu.state_group or 0)).items())
    if pdu.key_nid is not None:
        state.pop(pdu.key_nid, None)
        if pdu.replaces_nid is not None:
            state[pdu.key_nid] = pdu.replaces_nid
    return sorted(state.values())


def _write(
    tx: Transaction, tip: RoomTip, parts: Iterable[tuple[bytes, Sequence[int]]], *, cut_all: bool
) -> tuple[IO[bytes], int]:
    """Return a new file at its start, and its length."""
    file: IO[bytes] = SpooledTemporaryFile(max_size=_MEMORY_BYTES)  # noqa: SIM115 (who sends it closes it)
    for head, nids in parts:
        file.write(head)
        write_pdus(tx, tip.version, tip.room_nid, nids, file, cut_all=cut_all)
    file.write(b"]}")
    length = file.tell()
    file.seek(0)
    return file, length
