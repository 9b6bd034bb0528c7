"""The write door: every event that this server stores passes here, in numbered steps and nothing else.

Gather, decide, commit, publish. A room's lane admits one append at a time up to the decision; the write itself happens
outside the lane, and the next append is composed on top of this one meanwhile. What happens after the commit (waking
readers) cannot make the append fail.

Spec: server-server API, "PDUs"; client-server API, "Sending events to a room".
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from homeserver.errors import AuthRuleBroken, BadJson, BadState, HomeserverError, NotFound, StorageUnavailable
from homeserver.feed.feed import Feed
from homeserver.hooks import EventGate
from homeserver.model.auth.needed import needed_state
from homeserver.model.compose import GraphPlace, compose
from homeserver.model.event import Event, EventTemplate, StateKey
from homeserver.model.event_format import MAX_PREV_EVENTS, check_key_size
from homeserver.model.hashing import reference_hashes
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.judgement import Judged, judge_local
from homeserver.model.receipt_of_events import CheckedEvent, trust_own
from homeserver.model.room_versions import RoomVersion
from homeserver.model.signing import SigningKey
from homeserver.runtime.clock import Clock
from homeserver.runtime.in_line import in_line
from homeserver.runtime.lanes import Lanes
from storage.append import TransactionRow
from storage.events import LookAhead, StoredEvent, look_ahead
from storage.gaps import GAP_POSITIONS, Gap, close_gaps, load_gaps, take_positions
from storage.room_tips import load_tip
from storage.store import Store

from .advance import Advance, Prepared
from .commit import Commit, all_of
from .effects import plan_redaction
from .gather import CREATE_KEY, Tips
from .outliers import KeptEvent, Outcome
from .receiving import Placing, Receiving
from .shared_rooms import SharedRooms
from .surroundings import MissingEvents
from .tip import Extremity, RoomTip, StateEvents

logger = logging.getLogger(__name__)

POLICY_KEY: Final = ("m.room.policy", "")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this server is: its name and the key that it signs with."""

    server_name: str
    key: SigningKey


class Countersigner(Protocol):
    """Has events of this server signed by others before they are sent (see `policy`)."""

    async def sign(self, tip: RoomTip, event: Event) -> Event:
        """Return the event with the signature that the room asks for; raise MatrixError where it is refused."""
        ...


@dataclass(slots=True)
class _Late:
    """That something came which was missing in a gap: in which room, and up to where."""

    room_nid: int = 0
    top: int = 0


class RoomDoor:
    """Takes templates in, gives stored events back."""

    def __init__(self, store: Store, feed: Feed, lanes: Lanes[RoomID], clock: Clock, identity: Identity) -> None:
        self._store = store
        self._lanes = lanes
        self._clock = clock
        self._identity = identity
        self._gates: list[EventGate] = []
        self._policy: Countersigner | None = None
        self._signing: Lanes[RoomID] = Lanes()
        self._tips = Tips(store)
        self._advance = Advance(store, identity.server_name)
        self._receiving = Receiving(store, self._tips, clock, identity.server_name)
        self._commit = Commit(store, feed, self._tips, on_failure=self._receiving.state_at.forget)
        self._feed = feed
        self._shared = SharedRooms(
            store, feed, lanes, clock, self._tips, self._receiving, self._commit, identity.server_name
        )
        self._last_create_ms = 0

    def set_policy(self, policy: Countersigner) -> None:
        """Have the policy servers of rooms sign the events of this server from now on."""
        self._policy = policy

    def add_gate(self, gate: EventGate) -> None:
        """Ask `gate` about every event from now on."""
        self._gates.append(gate)

    # -- the door ----------------------------------------------------------------------------------------------------

    async def send(
        self, room_id: RoomID, template: EventTemplate, *, transaction: TransactionRow | None = None
    ) -> StoredEvent:
        """Append one event of a local user to a room; return it once it is on disk and visible.

        Raises AuthRuleBroken where a rule of the room version refuses it, NotFound for an unknown room, GateDenied,
        BadJson and TooLarge for what cannot be an event. Nothing is stored then.
        """
        return (await self.send_all(room_id, [template], transaction=transaction))[0]

    async def send_all(
        self,
        room_id: RoomID,
        templates: Sequence[EventTemplate],
        *,
        transaction: TransactionRow | None = None,
    ) -> list[StoredEvent]:
        """Append events one on top of the other; if one is refused or cannot be stored, none is stored."""
        templates = [await self.pass_gates(room_id, template) for template in templates]
        await self._intern(templates)
        if await self._has_policy(room_id):
            return await self._send_signed(room_id, templates, transaction)
        async with self._lanes.enter(room_id):
            in_line()
            prepared = await self._prepare_all(room_id, templates)
            if transaction is not None:
                _note(prepared[-1], transaction)
            waiting = self._commit.hand_over(room_id, prepared)
        return await all_of(waiting)

    async def create(
        self, version: RoomVersion, create: EventTemplate, room_id: RoomID | None, then: Sequence[EventTemplate]
    ) -> RoomID:
        """Make a room: its create event, then the other first events; return its ID once all is on disk.

        `room_id` is None where the create event gives the room its ID. If one of the events is refused or cannot be
        stored, there is no room.
        """
        create = await self.pass_gates(room_id or RoomID("!"), create)
        then = [await self.pass_gates(room_id or RoomID("!"), template) for template in then]
        await self._intern([create, *then])
        sender_nid = await self._store.interner.user(create.sender)
        key_nid = (await self._store.interner.keys([CREATE_KEY]))[CREATE_KEY]
        judged, now_ms = self._compose_create(version, create, room_id)
        new_id = judged.event.room_id
        async with self._lanes.enter(new_id):
            await self._require_new(new_id)
            prepared: list[Prepared] = []
            try:
                prepared.append(self._advance.start(version, judged, now_ms, sender_nid, key_nid))
                for template in then:
                    prepared.append(await self._prepare(prepared[-1].after, template, prepared))
            except BaseException:
                self._commit.abandon(prepared)
                raise
            waiting = self._commit.hand_over(new_id, prepared)
        await all_of(waiting)
        return new_id

    async def receive(self, room_id: RoomID, checked: CheckedEvent, *, relay: bool = False) -> StoredEvent:
        """Take in an event that another server made, at its place in the graph; return it as it is on disk.

        Whatever the verdict is: `StoredEvent.flags` tells. An event that is there already is returned as it was stored.
        Raises MissingEvents where events that it builds on or cites are not there, NotFound for an unknown room.
        """
        return _only(await self.receive_all(room_id, [checked], relay=relay))

    async def receive_all(
        self,
        room_id: RoomID,
        events: Sequence[CheckedEvent],
        *,
        relay: bool = False,
        soft_fail: Collection[EventID] = (),
    ) -> list[StoredEvent | MissingEvents | HomeserverError]:
        """Take in events of one room in this order; return what became of each, once all are on disk.

        One that cannot be taken in does not keep the others from it. `relay`: this server sends them on to the others
        in the room. `soft_fail` are those that are not shown whatever the rules say. Raises NotFound for an unknown
        room.
        """
        late = _Late()

        async def prepare(tip: RoomTip, checked: CheckedEvent, ahead: LookAhead) -> Prepared | StoredEvent:
            event_id = checked.event.event_id
            if not (relay or soft_fail or event_id in ahead.below):
                return await self._receiving.prepare(tip, checked, ahead)
            position = await self._late_position(tip, event_id, ahead, late)
            placing = Placing(is_relayed=relay, is_unwanted=event_id in soft_fail, position=position)
            return await self._receiving.prepare(tip, checked, ahead, placing)

        return await self._close_gaps(room_id, late, await self._take_in(room_id, events, prepare))

    async def receive_create(self, version: RoomVersion, checked: CheckedEvent) -> RoomID:
        """Begin a room with the create event that another server made; raises AuthRuleBroken for one that is none."""
        event = checked.event
        sender_nid = await self._store.interner.user(event.sender)
        key_nid = (await self._store.interner.keys([CREATE_KEY]))[CREATE_KEY]
        judged = judge_local(version, event, {}, event)
        async with self._lanes.enter(event.room_id):
            await self._require_new(event.room_id)
            # Where senders choose the IDs of events (room versions 1 and 2).
            taken = await self._store.database.read(lambda tx: look_ahead(tx, 0, [event.event_id]).nids)
            if taken or self._tips.find_flying(event.event_id) is not None:
                raise BadState("an event of this ID is in another room")
            prepared = self._advance.start(version, judged, self._clock.now_ms(), sender_nid, key_nid)
            waiting = self._commit.hand_over(event.room_id, [prepared])
        await all_of(waiting)
        return event.room_id

    async def receive_outlier(self, room_id: RoomID, checked: CheckedEvent) -> StoredEvent:
        """Keep an event whose place in the graph is not known, so that others can cite it; raises as `receive`."""
        return _only(await self._take_in(room_id, [checked], self._receiving.prepare_outlier))

    async def receive_outliers(self, room_id: RoomID, events: Sequence[CheckedEvent]) -> dict[EventID, Outcome]:
        """Keep many such events, in any order; return what became of each: KeptEvent, MissingEvents or an error."""
        return await self._shared.keep(room_id, events)

    async def receive_after_gap(
        self,
        room_id: RoomID,
        checked: CheckedEvent,
        state_ids: Collection[EventID],
        *,
        soft_fail: bool = False,
        is_join: bool = False,
    ) -> StoredEvent:
        """Take in an event some of whose prev events are not here; `state_ids` is the whole state before it.

        All of that state has to be stored, outliers do: else MissingEvents is raised. What is missing is remembered as
        a gap, and positions below the event are kept free for it. `is_join`: with the event a user of this server comes
        in; if nobody of it was left in the room, the state is taken as the room's, whatever it was here before.
        """
        await self._store.positions.make_room(GAP_POSITIONS)
        late = _Late()

        async def prepare(tip: RoomTip, checked: CheckedEvent, ahead: LookAhead) -> Prepared | StoredEvent:
            before = await self._receiving.given_state(tip, state_ids)
            is_return = is_join and self._identity.server_name not in tip.servers
            position = None if is_join else await self._late_position(tip, checked.event.event_id, ahead, late)
            placing = Placing(before=before, is_unwanted=soft_fail, position=position, is_return=is_return)
            return await self._receiving.prepare(tip, checked, ahead, placing)

        return _only(await self._close_gaps(room_id, late, await self._take_in(room_id, [checked], prepare)))

    async def receive_history(
        self,
        room_id: RoomID,
        below: EventID,
        events: Sequence[CheckedEvent],
        states: Mapping[EventID, Collection[EventID]],
    ) -> list[StoredEvent | MissingEvents | HomeserverError]:
        """Take in events of the room's past, oldest first, that fill the gap before the event `below`.

        `states` has the whole state before those whose prev events are not all here. Nobody is woken, and the room's
        present stays as it is. Raises NotFound where there is no gap, or no place left in it.
        """
        tip = await self.tip(room_id)
        edge = await self._store.events.get_by_id(tip.room_nid, below)
        position = edge.position if edge is not None else None
        if position is None or not events:
            raise NotFound("there is no gap before this event")
        room_nid, count = tip.room_nid, len(events)
        taken = await self._store.database.write(lambda tx: take_positions(tx, room_nid, position, count))
        if taken is None:
            raise NotFound("there is no place left before this event")
        highest, top = taken
        places = {checked.event.event_id: highest - (count - 1 - index) for index, checked in enumerate(events)}

        async def prepare(tip: RoomTip, checked: CheckedEvent, ahead: LookAhead) -> Prepared | StoredEvent:
            event_id = checked.event.event_id
            before = None
            if event_id in states:
                before = await self._receiving.given_state(tip, states[event_id])
            placing = Placing(before=before, position=places[event_id])
            return await self._receiving.prepare(tip, checked, ahead, placing)

        outcomes = await self._take_in(room_id, events, prepare)
        here = [each.event_id for each in outcomes if isinstance(each, StoredEvent)]
        await self._store.database.write(lambda tx: close_gaps(tx, room_nid, here))
        self._feed.forget_before(room_id, top)
        return outcomes

    async def _late_position(self, tip: RoomTip, event_id: EventID, ahead: LookAhead, late: _Late) -> int | None:
        """Return a place below what builds on an event, where that is here already; None for one that is news.

        Such an event ends nothing: its branch has gone on.
        """
        below = ahead.below.get(event_id)
        if below is None:
            return None
        taken = await self._store.database.write(lambda tx: take_positions(tx, tip.room_nid, below, 1))
        if taken is None:
            return None
        late.room_nid, late.top = tip.room_nid, max(late.top, taken[1])
        return taken[0]

    async def _close_gaps(
        self, room_id: RoomID, late: _Late, outcomes: list[StoredEvent | MissingEvents | HomeserverError]
    ) -> list[StoredEvent | MissingEvents | HomeserverError]:
        """Join to what is after a gap the events that came late; return the outcomes."""
        here = [each.event_id for each in outcomes if isinstance(each, StoredEvent)]
        if late.room_nid and here:
            await self._store.database.write(lambda tx: close_gaps(tx, late.room_nid, here))
            self._feed.forget_before(room_id, late.top)
        return outcomes

    async def gaps_before(self, room_id: RoomID, position: int | None, limit: int) -> list[Gap]:
        """Return the newest edges of gaps in the room's history at positions up to `position`, newest first."""
        room_nid = (await self.tip(room_id)).room_nid
        return await self._store.database.read(lambda tx: load_gaps(tx, room_nid, position, limit))

    async def receive_join(
        self,
        version: RoomVersion,
        join: CheckedEvent,
        state: Sequence[CheckedEvent],
        auth_chain: Sequence[CheckedEvent],
        *,
        via: str,
        servers: Sequence[str],
        is_partial: bool,
    ) -> StoredEvent:
        """Begin to share a room that this server was not in: store the state before the join, then the join.

        `is_partial`: members are missing in `state`; the room is partial until `complete_state`, and `servers` are all
        that are in it. For a room of which there is a graph here already, `state` has to be whole; it is a gap then.
        Raises AuthRuleBroken where that state does not let the user in, BadState for one without a create event.
        """
        room_id = join.event.room_id
        if await self._is_known(room_id):
            if is_partial:
                raise BadState("the room is here already: its whole state is needed")
            outcomes = await self.receive_outliers(room_id, [*auth_chain, *state])
            kept = [each for each in state if isinstance(outcomes[each.event.event_id], KeptEvent)]
            stored = await self.receive_after_gap(room_id, join, [each.event.event_id for each in kept], is_join=True)
            if stored.position is None:
                raise AuthRuleBroken("join", "the room does not let the user in")
            return stored
        return await self._shared.join(
            version, join, state, auth_chain, via=via, servers=servers, is_partial=is_partial
        )

    async def complete_state(self, room_id: RoomID, state: Sequence[CheckedEvent], *, is_last: bool = True) -> None:
        """Take in a slice of the state that a partial room lacks; with the last, the room is complete.

        The slices may come in any order, and again after a restart.
        """
        await self._shared.complete(room_id, state, is_last=is_last)

    async def _is_known(self, room_id: RoomID) -> bool:
        try:
            await self.tip(room_id)
        except NotFound:
            return False
        return True

    async def _take_in(
        self,
        room_id: RoomID,
        events: Sequence[CheckedEvent],
        prepare: Callable[[RoomTip, CheckedEvent, LookAhead], Awaitable[Prepared | StoredEvent]],
    ) -> list[StoredEvent | MissingEvents | HomeserverError]:
        outcomes: list[StoredEvent | MissingEvents | HomeserverError | Deferred[StoredEvent | HomeserverError]] = []
        async with self._lanes.enter(room_id):
            tip = self._tips.find(room_id) or await self._tips.get(room_id)
            ahead = await self._receiving.look_ahead(tip, events)
            for checked in events:
                try:
                    if checked.event.room_id != room_id:
                        raise BadJson("the event is of another room")
                    # Read anew each time: a commit that fails meanwhile takes the room back to what is stored.
                    prepared = await prepare(await self._tips.get(room_id), checked, ahead)
                except (MissingEvents, HomeserverError) as fault:
                    outcomes.append(fault)
                    continue
                if isinstance(prepared, StoredEvent):
                    outcomes.append(prepared)
                    continue
                waiting = self._commit.hand_over(room_id, [prepared])[0]
                outcomes.append(waiting.addErrback(_unstored))
                self._receiving.keep(prepared, ahead)
            if not all(isinstance(outcome, Deferred) for outcome in outcomes):
                # What is there already may be on its way to the disk only.
                await self._tips.drained(room_id)
                outcomes = [await self._as_stored(each) if isinstance(each, StoredEvent) else each for each in outcomes]
        return [await each if isinstance(each, Deferred) else each for each in outcomes]

    async def _as_stored(self, found: StoredEvent) -> StoredEvent | HomeserverError:
        """Return an event that was there, if it is so still: what was on its way to the disk may not have arrived."""
        stored = (await self._tips.load([found.nid])).get(found.nid)
        if stored is None or stored.is_outlier is not found.is_outlier:
            return StorageUnavailable("the event could not be stored")
        return stored

    # -- reading what the door knows ---------------------------------------------------------------------------------

    async def tip(self, room_id: RoomID) -> RoomTip:
        """Return the end of the room's graph; raise NotFound for an unknown room."""
        tip = self._tips.find(room_id)
        if tip is not None:
            return tip
        async with self._lanes.enter(room_id):
            return await self._tips.get(room_id)

    async def state_event(self, room_id: RoomID, kind: str, state_key: str = "") -> StoredEvent | None:
        """Return the room's current state event of a key, or None."""
        tip = await self.tip(room_id)
        return (await self._tips.state_events(tip, ((kind, state_key),))).get((kind, state_key))

    async def find_same_state(self, room_id: RoomID, template: EventTemplate) -> StoredEvent | None:
        """Return the room's current state event if it is what the template would make, from somebody in the room.

        None also while that event is not stored yet: nobody may be told of it before.
        """
        if template.state_key is None or template.type == "m.room.create":
            return None
        key, member_key = (template.type, template.state_key), ("m.room.member", str(template.sender))
        found = await self.state_events(room_id, (key, member_key))
        current, member = found.get(key), found.get(member_key)
        if (
            current is None
            or current.event.sender != template.sender
            or current.event.content != template.content
            or member is None
            or member.event.membership != "join"
            or current.nid in self._tips.in_flight
        ):
            return None
        return current

    async def state_events(self, room_id: RoomID, keys: Iterable[StateKey]) -> StateEvents:
        """Return those of the room's current state events that exist, by key."""
        return await self._tips.state_events(await self.tip(room_id), tuple(keys))

    # -- rooms with a policy server ----------------------------------------------------------------------------------

    async def _has_policy(self, room_id: RoomID) -> bool:
        if self._policy is None:
            return False
        key_nid = self._store.interner.known_key(POLICY_KEY)
        return (
            key_nid is not None and (self._tips.find(room_id) or await self.tip(room_id)).state.get(key_nid) is not None
        )

    async def _send_signed(
        self, room_id: RoomID, templates: Sequence[EventTemplate], transaction: TransactionRow | None
    ) -> list[StoredEvent]:
        """Compose events in the lane, have them signed outside it, and take them in at the place they were made for.

        Meanwhile events of others may come; then it is beside them. A signature is no part of an event's ID, so what
        was composed on top of one another stays so. If one is not signed, none is stored.
        """
        assert self._policy is not None
        async with self._signing.enter(room_id):
            async with self._lanes.enter(room_id):
                prepared = await self._prepare_all(room_id, templates)
                self._commit.abandon(prepared)
            tip = await self.tip(room_id)
            signed = [trust_own(await self._policy.sign(tip, step.append.judged.event)) for step in prepared]

            async def prepare(tip: RoomTip, checked: CheckedEvent, ahead: LookAhead) -> Prepared | StoredEvent:
                step = await self._receiving.prepare(tip, checked, ahead, Placing(is_relayed=True))
                if transaction is not None and checked is signed[-1] and isinstance(step, Prepared):
                    _note(step, transaction)
                return step

            stored = [_only([each]) for each in await self._take_in(room_id, signed, prepare)]
        if any(each.position is None for each in stored):
            raise AuthRuleBroken("6", "the room does not allow the event any more")
        return stored

    async def _prepare_all(self, room_id: RoomID, templates: Sequence[EventTemplate]) -> list[Prepared]:
        tip = self._tips.find(room_id) or await self._tips.get(room_id)
        prepared: list[Prepared] = []
        try:
            for template in templates:
                step = await self._prepare(tip, template, prepared)
                prepared.append(step)
                tip = step.after
        except BaseException:
            self._commit.abandon(prepared)
            raise
        return prepared

    # -- 3: gates ----------------------------------------------------------------------------------------------------

    async def _require_new(self, room_id: RoomID) -> None:
        await self._tips.drained(room_id)
        if await self._store.database.read(lambda tx: load_tip(tx, room_id)) is not None:
            raise BadState("a room of this ID exists already")

    async def pass_gates(self, room_id: RoomID, template: EventTemplate) -> EventTemplate:
        """Ask the gates about an event of a local user; return it, perhaps changed, or raise GateDenied."""
        for gate in self._gates:
            template = await gate.check(room_id, template)
        return template

    async def _intern(self, templates: Sequence[EventTemplate]) -> None:
        # Before anything takes a position: while one is open, nobody's later changes become visible.
        interner = self._store.interner
        if self._policy is not None and interner.known_key(POLICY_KEY) is None:
            await interner.keys([POLICY_KEY])
        keys = [(template.type, template.state_key) for template in templates if template.state_key is not None]
        for kind, state_key in keys:
            # Keys that no event can have are not stored on the way to finding that out.
            check_key_size("type", kind)
            check_key_size("state_key", state_key)
        if any(interner.known_key(key) is None for key in keys):
            await interner.keys(keys)
        users = {str(template.sender) for template in templates}
        users |= {UserID.parse(key) for kind, key in keys if kind == "m.room.member"}
        if any(interner.known_user(user) is None for user in users):
            await interner.users(users)

    # -- 5 to 7: gather, compose, judge, advance ---------------------------------------------------------------------

    async def _prepare(self, tip: RoomTip, template: EventTemplate, earlier: Sequence[Prepared]) -> Prepared:
        if template.type == "m.room.create":
            # Spec: rooms/v12, "Authorization rules", 1: a create event has no prev_events, so this would not be one.
            raise AuthRuleBroken("1", "a room has one create event, which is its first")
        for step in earlier:
            self._tips.fly(step.stored)
        interner = self._store.interner
        keys = needed_state(
            tip.version,
            type=template.type,
            sender=template.sender,
            state_key=template.state_key,
            content=template.content,
        )
        prev = _prev_events(tip)
        is_partial = len(prev) < len(tip.extremities)
        if is_partial and any(step.append.key_nid is not None for step in earlier):
            # LIMIT: events that are stored together, state among them, in a room of 40 ends and more: what is resolved
            # has to be stored. Single events bring the ends together first.
            raise StorageUnavailable("the room has too many branches for several events at once")
        point = await self._receiving.state_of(tip, prev) if is_partial else tip.point
        view = await self._tips.events_of(point.state, keys)
        key_nid = replaced = None
        if template.state_key is not None:
            key = (template.type, template.state_key)
            key_nid = interner.known_key(key)
            if key_nid is None:
                key_nid = (await interner.keys([key]))[key]
            replaced = view.get(key) or (await self._tips.events_of(point.state, (key,))).get(key)
        sender_nid = interner.known_user(template.sender)
        if sender_nid is None:
            sender_nid = await interner.user(template.sender)
        redaction = None
        if template.type == "m.room.redaction":
            redaction = await plan_redaction(self._store, self._tips, tip, template, view)
        member_nid = None
        if template.type == "m.room.member" and template.state_key is not None:
            member_nid = await interner.user(UserID.parse(template.state_key))

        now_ms = self._clock.now_ms()
        place = GraphPlace(
            prev_event_ids=tuple(extremity.event_id for extremity in prev),
            auth_event_ids=tuple(view[key].event.event_id for key in keys if key in view),
            depth=tip.depth + 1,
            reference_hashes=await self._reference_hashes(tip, prev, view)
            if tip.version.references_carry_hashes
            else {},
        )
        event = compose(
            tip.version,
            template,
            room_id=tip.room_id,
            place=place,
            server_name=self._identity.server_name,
            key=self._identity.key,
            now_ms=now_ms,
        )
        judged = judge_local(tip.version, event, {key: stored.event for key, stored in view.items()}, tip.create.event)
        cited = {view[key].event_id: view[key] for key in keys if key in view}
        if is_partial:
            now = await self._tips.state_events(tip, keys)
            judge_local(tip.version, event, {key: stored.event for key, stored in now.items()}, tip.create.event)
            return await self._receiving.place(tip, judged, prev, cited, redaction)
        auth_nids = tuple(stored.nid for stored in cited.values())
        return self._advance.advance(
            tip, judged, now_ms, sender_nid, key_nid, replaced, member_nid, redaction, auth_nids
        )

    async def _reference_hashes(self, tip: RoomTip, prev: Sequence[Extremity], view: StateEvents) -> dict[EventID, str]:
        found = await self._tips.load(extremity.nid for extremity in prev)
        if len(found) < len(prev):
            raise StorageUnavailable("the events that this one builds on could not be stored")
        return reference_hashes(tip.version, (stored.event for stored in (*found.values(), *view.values())))

    def _compose_create(
        self, version: RoomVersion, template: EventTemplate, room_id: RoomID | None
    ) -> tuple[Judged, int]:
        # Where the room's ID is the hash of this event, two rooms of one user in one millisecond would be one.
        now_ms = self._last_create_ms = max(self._clock.now_ms(), self._last_create_ms + 1)
        event = compose(
            version,
            template,
            room_id=room_id,
            place=GraphPlace(prev_event_ids=(), auth_event_ids=(), depth=1),
            server_name=self._identity.server_name,
            key=self._identity.key,
            now_ms=now_ms,
        )
        return judge_local(version, event, {}, event), now_ms


def _only(taken: Sequence[StoredEvent | MissingEvents | HomeserverError]) -> StoredEvent:
    if isinstance(taken[0], Exception):
        raise taken[0]
    return taken[0]


def _unstored(failure: Failure) -> HomeserverError:
    if failure.check(CancelledError):
        # Whoever waits goes away.
        failure.raiseException()
    if isinstance(failure.value, HomeserverError):
        return failure.value
    # The others have to be waited for; this one tells as much as a caller can use.
    logger.error("An event that was taken in could not be stored", exc_info=failure.value)
    return StorageUnavailable("the event could not be stored")


def _note(step: Prepared, transaction: TransactionRow) -> None:
    step.append.transaction = transaction
    step.stored.transaction = (transaction.device_nid, transaction.txn_id)


def _prev_events(tip: RoomTip) -> tuple[Extremity, ...]:
    """Return the ends of the graph that a new event builds on: all, or the deepest where there are too many."""
    ends = tip.extremities
    if len(ends) <= MAX_PREV_EVENTS:
        return ends
    return tuple(sorted(ends, key=lambda end: (-end.depth, end.event_id))[:MAX_PREV_EVENTS])
