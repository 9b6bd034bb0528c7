"""What becomes of the events that another server sends: one way for all inlets, from bytes to a place in a room.

In the order of the specification: format, signatures and hash are the gate's (`inbound`), authorization is the door's
(`receiving`), and what lies between is here. May the server send into the room at all? Is the room complete? What is
missing before an event is fetched (`gaps`); whether the room's policy wants it is asked (`policy`).

An event that was acknowledged is on the disk: in its place, or held (`held`) where the room's members are not all known
yet or something before the event could not be had now. Only what our own trouble kept out is refused as a whole, so
that its server sends it again.

Of a room in which this server has no user nothing is taken in, with one exception: a user here who was invited may be
told that the invite is void.

Spec: server-server API, "Checks performed on receipt of a PDU", "Server Access Control Lists (ACLs)", "Transactions".
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final

from homeserver.errors import (
    BrokenInvariant,
    HomeserverError,
    InternalFault,
    LimitExceeded,
    MatrixError,
    NotFound,
)
from homeserver.model.acl import ServerACL
from homeserver.model.graph import topological_order
from homeserver.model.ids import EventID, RoomID, server_name_of
from homeserver.model.receipt_of_events import CheckedEvent
from homeserver.ports import PDU
from homeserver.runtime.clock import Clock
from homeserver.runtime.lanes import Lanes
from storage.events import StoredEvent

from .door import RoomDoor
from .gaps import Gaps
from .held import Held
from .inbound import Inbound, Refused, peek_member
from .outside import OutsideRooms
from .policy import PolicyServers
from .surroundings import MissingEvents
from .tip import RoomTip

logger = logging.getLogger(__name__)

Results = dict[EventID, str | None]
"""What the sender is told: None for an event that is taken care of, whatever was thought of it."""

# LIMIT: events of one server that are worked on, before it is asked to come again later.
MAX_WAITING: Final = 500
# LIMIT: what is fetched for one batch: how often, and for how long the server that sent it may have to wait.
MAX_FILLS: Final = 10
MAX_FILLING_S: Final = 30.0
# LIMIT: events of rooms that this server is not in, of one batch, that are looked at.
MAX_OUTSIDE: Final = 20

NOT_ALLOWED: Final = "Server is not allowed in the room"
MISSING: Final = "Events before this one could not be had"


class Receipt:
    """Takes in what other servers send."""

    def __init__(
        self,
        door: RoomDoor,
        inbound: Inbound,
        gaps: Gaps | None,
        policy: PolicyServers,
        held: Held,
        outside: OutsideRooms,
        clock: Clock,
        server_name: str,
    ) -> None:
        """`gaps` is None for a server that asks nobody."""
        self._door = door
        self._inbound = inbound
        self._gaps = gaps
        self._policy = policy
        self._held = held
        self._outside = outside
        self._clock = clock
        self._server_name = server_name
        self._lanes: Lanes[RoomID] = Lanes()
        self._waiting: Counter[str] = Counter()

    async def receive(self, origin: str, room_id: RoomID, pdus: Sequence[PDU], *, relay: bool = False) -> Results:
        """Take in events of one room that a server sent; return by ID what to tell it: None, or what was wrong.

        Events that are none have no ID and are left out. `relay`: this server sends them on. Raises LimitExceeded for a
        server that sends too much at once, StorageUnavailable where our own trouble kept an event from the disk: then
        all may come again.
        """
        if self._waiting[origin] and self._waiting[origin] + len(pdus) > MAX_WAITING:
            raise LimitExceeded(1_000, "Too many events at once")
        self._waiting[origin] += len(pdus)
        try:
            return await self._receive(origin, room_id, pdus, relay)
        finally:
            self._waiting[origin] -= len(pdus)
            if not self._waiting[origin]:
                del self._waiting[origin]

    async def _receive(self, origin: str, room_id: RoomID, pdus: Sequence[PDU], relay: bool) -> Results:
        tip = await self._find(room_id)
        if tip is None:
            return await self._receive_outside(room_id, pdus)
        received = await self._inbound.read(tip.version, room_id, pdus)
        acl = await self._acl(room_id)
        # Spec: "Server Access Control Lists (ACLs)": "the PDU MUST be ignored with an appropriate error included in
        # the response for the respective event ID".
        if not acl.allows(origin):
            return {each.event_id: NOT_ALLOWED for each in received if each.event_id is not None}
        results: Results = {}
        events: dict[EventID, CheckedEvent] = {}
        for outcome in await self._inbound.verify(received):
            if isinstance(outcome, CheckedEvent):
                event = outcome.event
                if acl.allows(server_name_of(event.sender)):
                    events.setdefault(event.event_id, outcome)
                else:
                    results[event.event_id] = NOT_ALLOWED
            elif isinstance(outcome, Refused) and outcome.event_id is not None:
                logger.info("%s in %s, sent by %s, was dropped: %s", outcome.event_id, room_id, origin, outcome)
                results[outcome.event_id] = str(outcome)
        if tip.is_partial or self._held.is_releasing(room_id):
            await self._held.hold_partial(tip, origin, list(events.values()))
            if not (await self._door.tip(room_id)).is_partial:
                # It was completed meanwhile, and nobody else looks again.
                self._held.release_soon(room_id)
            return results | dict.fromkeys(events)
        return results | await self.take_in(origin, room_id, list(events.values()), relay=relay)

    # -- events that have passed the gate ----------------------------------------------------------------------------

    async def take_in(
        self, origin: str, room_id: RoomID, events: Sequence[CheckedEvent], *, relay: bool = False
    ) -> Results:
        """Take in events of a complete room; what lacks something that cannot be had is held. Raises as `receive`."""
        results, missing = await self.try_to_take_in(origin, room_id, events, relay=relay)
        if missing:
            tip = await self._door.tip(room_id)
            kept = await self._held.hold_missing(tip, origin, missing)
            for checked in missing:
                event_id = checked.event.event_id
                results[event_id] = None if event_id in kept else MISSING
        return results

    async def try_to_take_in(
        self, origin: str, room_id: RoomID, events: Sequence[CheckedEvent], *, relay: bool = False
    ) -> tuple[Results, list[CheckedEvent]]:
        """Do the same, but return the events that lack something."""
        by_id = {each.event.event_id: each for each in events}
        order = [by_id[event.event_id] for event in topological_order(each.event for each in events)]
        tip = await self._door.tip(room_id)
        pending, unwanted = await self._policy.review(tip, order)
        results: Results = {}
        given_up: set[EventID] = set()
        until_s = self._clock.monotonic() + MAX_FILLING_S
        for fills in range(MAX_FILLS + 1):
            async with self._lanes.enter(room_id):
                outcomes = await self._door.receive_all(room_id, pending, relay=relay, soft_fail=unwanted)
            lacking = _sort_out(pending, outcomes, results)
            pending = [checked for checked, _ in lacking]
            chosen = _first_of_its_own({each.event.event_id for each in pending}, lacking, given_up)
            if chosen is None or self._gaps is None or fills == MAX_FILLS or self._clock.monotonic() > until_s:
                break
            checked, missing = chosen
            event_id = checked.event.event_id
            tip = await self._door.tip(room_id)
            if not await self._gaps.fill(tip, origin, checked, missing, is_unwanted=event_id in unwanted):
                given_up.add(event_id)
        return results, pending

    # -- may they ----------------------------------------------------------------------------------------------------

    async def _find(self, room_id: RoomID) -> RoomTip | None:
        """Return the end of a room that this server is in."""
        try:
            tip = await self._door.tip(room_id)
        except NotFound:
            return None
        return tip if self._server_name in tip.servers else None

    async def _acl(self, room_id: RoomID) -> ServerACL:
        stored = await self._door.state_event(room_id, "m.room.server_acl")
        return ServerACL.from_event(stored.event if stored is not None else None)

    # -- rooms that this server is not in ----------------------------------------------------------------------------

    async def _receive_outside(self, room_id: RoomID, pdus: Sequence[PDU]) -> Results:
        """Take in that a user here is no longer invited: all that is believed of a room that nobody here is in.

        COMPAT(synapse): the server of whoever invited sends this, and its word counts for its own invites alone.
        """
        results: Results = {}
        for pdu in pdus[:MAX_OUTSIDE]:
            target = peek_member(pdu)
            if target is None or target.server_name != self._server_name:
                continue
            found = await self._outside.find(room_id, target)
            if found is None or found.membership not in ("invite", "knock"):
                continue
            checked = (await self._inbound.check(found.version, room_id, [pdu]))[0]
            if not isinstance(checked, CheckedEvent):
                continue
            event = checked.event
            by_inviter = found.membership == "knock" or server_name_of(event.sender) == server_name_of(found.sender)
            if event.membership not in ("leave", "ban") or event.state_key != target or not by_inviter:
                continue
            try:
                await self._outside.take_membership(found.version, room_id, checked)
            except MatrixError as fault:
                results[event.event_id] = fault.message
            else:
                results[event.event_id] = None
        return results


def _sort_out(
    events: Sequence[CheckedEvent],
    outcomes: Sequence[StoredEvent | MissingEvents | HomeserverError],
    results: Results,
) -> list[tuple[CheckedEvent, MissingEvents]]:
    """Note what became of the events; return those that lack something. Raises what is our own trouble."""
    lacking: list[tuple[CheckedEvent, MissingEvents]] = []
    for checked, outcome in zip(events, outcomes, strict=True):
        event_id = checked.event.event_id
        if isinstance(outcome, MissingEvents):
            lacking.append((checked, outcome))
        elif isinstance(outcome, StoredEvent):
            # Spec: "Rejection": "this should not cause the transaction request to be responded to with an error".
            results[event_id] = None
        elif isinstance(outcome, MatrixError):
            results[event_id] = outcome.message
        else:
            raise outcome if isinstance(outcome, InternalFault) else BrokenInvariant(str(outcome))
    return lacking


def _first_of_its_own(
    waiting: set[EventID], lacking: Sequence[tuple[CheckedEvent, MissingEvents]], given_up: set[EventID]
) -> tuple[CheckedEvent, MissingEvents] | None:
    """Return the first event that lacks what is not among those that wait with it, and is not given up."""
    for checked, missing in lacking:
        if checked.event.event_id not in given_up and not (missing.prev | missing.auth) & waiting:
            return checked, missing
    return None
