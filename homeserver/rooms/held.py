"""Events that were acknowledged and wait on the disk: for the room to be complete, or for what is missing before them.

A room that was joined over federation may be partial for a while: what others send into it meanwhile waits, and is
taken in, in the order in which it came, once the room is complete. An event before which something could not be had is
tried again, later each time, and given up after some tries.

Spec: server-server API, "Partial state joins"; "Checks performed on receipt of a PDU".
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from homeserver.errors import HomeserverError, LimitExceeded, NotFound
from homeserver.model.event_json import dump_event
from homeserver.model.ids import EventID, RoomID
from homeserver.model.receipt_of_events import CheckedEvent, Dropped
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import Tasks
from storage.held_events import (
    MISSING,
    PARTIAL,
    HeldEvent,
    count_held,
    drop_held,
    hold,
    load_due,
    load_held,
    load_rooms_held,
    put_off,
)
from storage.store import Store

from .door import RoomDoor
from .inbound import Inbound
from .tip import RoomTip

logger = logging.getLogger(__name__)

# LIMIT: events that wait for one room to be complete; its senders are asked to come again.
MAX_PARTIAL: Final = 5_000
# LIMIT: events that lack something, of a room and of a server; over that they are refused.
MAX_MISSING_IN_ROOM: Final = 1_000
MAX_MISSING_OF_ORIGIN: Final = 200
# Events that are taken in together, and that are tried again in one round.
PAGE: Final = 50
# LIMIT: how often an event that lacks something is tried again, and after how long first; doubled each time.
MAX_TRIES: Final = 6
FIRST_TRY_MS: Final = 60_000
ROUND_S: Final = 30.0


class TakesIn(Protocol):
    """What `Receipt.try_to_take_in` does."""

    async def __call__(
        self, origin: str, room_id: RoomID, events: Sequence[CheckedEvent], *, relay: bool = False
    ) -> tuple[dict[EventID, str | None], list[CheckedEvent]]: ...


class Held:
    """Keeps events until they can be taken in."""

    def __init__(self, store: Store, door: RoomDoor, inbound: Inbound, tasks: Tasks, clock: Clock) -> None:
        self._store = store
        self._door = door
        self._inbound = inbound
        self._tasks = tasks
        self._clock = clock
        self._releasing: set[RoomID] = set()
        self._look_again: set[RoomID] = set()
        self._take_in: TakesIn | None = None

    def start(self, take_in: TakesIn) -> None:
        """Release what waits for rooms that are complete, and try again from now on; `take_in` is `Receipt`'s."""
        self._take_in = take_in
        self._tasks.start("held events at the start", self.try_again())
        self._tasks.every("held events", ROUND_S, self.try_again)

    # -- keeping -----------------------------------------------------------------------------------------------------

    async def hold_partial(self, tip: RoomTip, origin: str, events: Sequence[CheckedEvent]) -> None:
        """Keep events until the room is complete; raise LimitExceeded where too many wait for it."""
        in_room, _ = await self._count(tip, PARTIAL, origin)
        if in_room + len(events) > MAX_PARTIAL:
            raise LimitExceeded(60_000, "The room is not ready")
        await self._hold(tip, PARTIAL, origin, events, 0)

    async def hold_missing(self, tip: RoomTip, origin: str, events: Sequence[CheckedEvent]) -> set[EventID]:
        """Keep events that lack something; return those that were kept, for there is a limit."""
        in_room, of_origin = await self._count(tip, MISSING, origin)
        count = max(0, min(MAX_MISSING_IN_ROOM - in_room, MAX_MISSING_OF_ORIGIN - of_origin))
        kept = events[:count]
        await self._hold(tip, MISSING, origin, kept, self._clock.now_ms() + FIRST_TRY_MS)
        return {checked.event.event_id for checked in kept}

    async def _count(self, tip: RoomTip, reason: str, origin: str) -> tuple[int, int]:
        return await self._store.database.read(
            lambda tx: count_held(tx, room_nid=tip.room_nid, reason=reason, origin=origin)
        )

    async def _hold(
        self, tip: RoomTip, reason: str, origin: str, events: Iterable[CheckedEvent], next_try_ts: int
    ) -> None:
        now_ms = self._clock.now_ms()
        held = [
            HeldEvent(
                str(checked.event.event_id),
                self._store.numbers.next(),
                origin,
                dump_event(tip.version, checked.event.wire),
                now_ms,
                next_try_ts=next_try_ts,
            )
            for checked in events
        ]
        if held:
            await self._store.database.write(lambda tx: hold(tx, tip.room_nid, reason, held))

    # -- a room that is complete -------------------------------------------------------------------------------------

    def is_releasing(self, room_id: RoomID) -> bool:
        """Tell whether what waited for a room is being taken in: what comes now has to wait behind it."""
        return room_id in self._releasing

    def release_soon(self, room_id: RoomID) -> None:
        """Release a room in the background."""
        self._tasks.start(f"release {room_id}", self.release(room_id))

    async def release(self, room_id: RoomID) -> None:
        """Take in what waited for a room to be complete; nothing happens for one that is still partial."""
        take_in = self._take_in
        if room_id in self._releasing:
            # What was kept just now may have been too late for the last look.
            self._look_again.add(room_id)
            return
        if take_in is None:
            return
        self._releasing.add(room_id)
        try:
            while not (tip := await self._door.tip(room_id)).is_partial:
                self._look_again.discard(room_id)
                load = partial(load_held, room_nid=tip.room_nid, reason=PARTIAL, limit=PAGE)
                page = await self._store.database.read(load)
                if page:
                    await self._try(take_in, tip, page)
                elif room_id not in self._look_again:
                    return
        except NotFound:
            return
        finally:
            self._releasing.discard(room_id)

    # -- events that lack something ----------------------------------------------------------------------------------

    async def try_again(self) -> None:
        """Try the events that are due, and what is left over in rooms that are complete."""
        take_in, now_ms = self._take_in, self._clock.now_ms()
        if take_in is None:
            return
        for room_id in await self._store.database.read(lambda tx: load_rooms_held(tx, PARTIAL)):
            try:
                await self.release(RoomID(room_id))
            except HomeserverError as fault:
                # Other rooms need not wait for what is wrong with this one.
                logger.warning("What waits for %s could not be taken in: %s", room_id, fault)
        for room_id, due in (await self._store.database.read(lambda tx: load_due(tx, now_ms, PAGE))).items():
            try:
                tip = await self._door.tip(RoomID(room_id))
                await self._try(take_in, tip, due)
            except NotFound:
                continue
            except HomeserverError as fault:
                logger.warning("What lacks something in %s could not be taken in: %s", room_id, fault)

    async def _try(self, take_in: TakesIn, tip: RoomTip, held: Sequence[HeldEvent]) -> None:
        """Take in events that waited, by origin; what lacks something is put off, or given up."""
        waiting = {each.event_id: each for each in held}
        by_origin: dict[str, list[HeldEvent]] = {}
        for each in held:
            by_origin.setdefault(each.origin, []).append(each)
        lacking: dict[str, HeldEvent] = {}
        for origin, theirs in by_origin.items():
            outcomes = await self._inbound.check(tip.version, tip.room_id, [each.json for each in theirs])
            events = [outcome for outcome in outcomes if isinstance(outcome, CheckedEvent)]
            _, missing = await take_in(origin, tip.room_id, events)
            lacking.update((each.event.event_id, waiting[each.event.event_id]) for each in missing)
            # They had passed the gate: it is their keys that cannot be had now.
            lacking.update(
                (each.event_id, each)
                for each, outcome in zip(theirs, outcomes, strict=True)
                if isinstance(outcome, Dropped)
            )
        again = [each for each in lacking.values() if each.tries < MAX_TRIES]
        done = waiting.keys() - {each.event_id for each in again}
        for event_id in lacking.keys() & done:
            logger.warning("%s in %s is given up: what it needs cannot be had", event_id, tip.room_id)
        room_nid, now_ms = tip.room_nid, self._clock.now_ms()

        def write(tx: Any) -> None:
            drop_held(tx, room_nid, sorted(done))
            for each in again:
                put_off(tx, room_nid, each.event_id, each.tries + 1, now_ms + FIRST_TRY_MS * 2**each.tries)

        await self._store.database.write(write)
