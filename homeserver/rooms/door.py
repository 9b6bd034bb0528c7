"""The write door: every event that this server stores passes here, in numbered steps and nothing else.

Gather, decide, commit, publish. A room's lane admits one append at a time up to the decision; the write itself happens
outside the lane, and the next append is composed on top of this one meanwhile. What happens after the commit (waking
readers) cannot make the append fail.

Spec: server-server API, "PDUs"; client-server API, "Sending events to a room".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import orjson
from twisted.internet.defer import Deferred

from homeserver.errors import AuthRuleBroken, BadJson, BadState, NotFound, StorageUnavailable
from homeserver.feed.feed import Feed, MemberChange, Publication
from homeserver.hooks import EventGate
from homeserver.model.auth.needed import needed_state
from homeserver.model.compose import GraphPlace, compose
from homeserver.model.event import Event, EventTemplate, StateKey
from homeserver.model.ids import RoomID, UserID
from homeserver.model.judgement import Judged, judge_local
from homeserver.model.room_versions import RoomVersion, get_room_version
from homeserver.model.signing import SigningKey
from homeserver.runtime.clock import Clock
from homeserver.runtime.lanes import Lanes
from storage.append import Append, MembershipRow, TransactionRow
from storage.event_cache import size_of
from storage.events import StoredEvent, set_replaced
from storage.positions import Position
from storage.room_tips import load_tip
from storage.state_groups import StateNids, extend, state_of
from storage.store import Store

from .effects import RedactionPlan, plan_redaction, relation_of, stats_of
from .tip import RoomTip, StateEvents

# LIMIT: rooms whose tips are kept in memory, and the entries of the states in them; who sent least lately goes first.
MAX_TIPS: Final = 5_000
MAX_TIP_ENTRIES: Final = 500_000
_CREATE_KEY: Final = ("m.room.create", "")
_NO_STATS: Final[dict[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this server is: its name and the key that it signs with."""

    server_name: str
    key: SigningKey


@dataclass(slots=True)
class _Prepared:
    """An append that is decided and not yet handed to the writer."""

    append: Append
    stored: StoredEvent
    before: RoomTip | None
    after: RoomTip
    position: Position
    member: MemberChange | None
    redaction: RedactionPlan | None


class RoomDoor:
    """Takes templates in, gives stored events back."""

    def __init__(self, store: Store, feed: Feed, lanes: Lanes[RoomID], clock: Clock, identity: Identity) -> None:
        self._store = store
        self._feed = feed
        self._lanes = lanes
        self._clock = clock
        self._identity = identity
        self._gates: list[EventGate] = []
        self._tips: dict[RoomID, RoomTip] = {}
        self._tip_entries = 0
        # Decided and not published: what the next append of the room may need to see.
        self._in_flight: dict[int, StoredEvent] = {}
        self._pending: dict[RoomID, int] = {}
        self._drained: dict[RoomID, list[Deferred[None]]] = {}
        self._last_create_ms = 0

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
        templates = [await self._pass_gates(room_id, template) for template in templates]
        await self._intern(templates)
        async with self._lanes.enter(room_id):
            tip = self._tips.get(room_id) or await self._load_tip(room_id)
            prepared: list[_Prepared] = []
            try:
                for template in templates:
                    step = await self._prepare(tip, template, prepared)
                    prepared.append(step)
                    tip = step.after
            except BaseException:
                self._abandon(prepared)
                raise
            if transaction is not None:
                prepared[-1].append.transaction = transaction
                prepared[-1].stored.transaction = (transaction.device_nid, transaction.txn_id)
            waiting = self._hand_over(room_id, prepared)
        return await _all(waiting)

    async def create(
        self, version: RoomVersion, create: EventTemplate, room_id: RoomID | None, then: Sequence[EventTemplate]
    ) -> RoomID:
        """Make a room: its create event, then the other first events; return its ID once all is on disk.

        `room_id` is None where the create event gives the room its ID. If one of the events is refused or cannot be
        stored, there is no room.
        """
        create = await self._pass_gates(room_id or RoomID("!"), create)
        then = [await self._pass_gates(room_id or RoomID("!"), template) for template in then]
        await self._intern([create, *then])
        sender_nid = await self._store.interner.user(create.sender)
        key_nid = (await self._store.interner.keys([_CREATE_KEY]))[_CREATE_KEY]
        judged, now_ms = self._compose_create(version, create, room_id)
        new_id = judged.event.room_id
        async with self._lanes.enter(new_id):
            if await self._store.database.read(lambda tx: load_tip(tx, new_id)) is not None:
                raise BadState("a room of this ID exists already")
            prepared: list[_Prepared] = []
            try:
                prepared.append(self._start(version, judged, now_ms, sender_nid, key_nid))
                for template in then:
                    prepared.append(await self._prepare(prepared[-1].after, template, prepared))
            except BaseException:
                self._abandon(prepared)
                raise
            waiting = self._hand_over(new_id, prepared)
        await _all(waiting)
        return new_id

    # -- reading what the door knows ---------------------------------------------------------------------------------

    async def tip(self, room_id: RoomID) -> RoomTip:
        """Return the end of the room's graph; raise NotFound for an unknown room."""
        tip = self._tips.get(room_id)
        if tip is not None:
            return tip
        async with self._lanes.enter(room_id):
            return self._tips.get(room_id) or await self._load_tip(room_id)

    async def state_event(self, room_id: RoomID, kind: str, state_key: str = "") -> StoredEvent | None:
        """Return the room's current state event of a key, or None."""
        tip = await self.tip(room_id)
        return (await self._state_events(tip, ((kind, state_key),))).get((kind, state_key))

    async def state_events(self, room_id: RoomID, keys: Iterable[StateKey]) -> StateEvents:
        """Return those of the room's current state events that exist, by key."""
        return await self._state_events(await self.tip(room_id), tuple(keys))

    # -- 3: gates ----------------------------------------------------------------------------------------------------

    async def _pass_gates(self, room_id: RoomID, template: EventTemplate) -> EventTemplate:
        for gate in self._gates:
            template = await gate.check(room_id, template)
        return template

    async def _intern(self, templates: Sequence[EventTemplate]) -> None:
        # Before anything takes a position: while one is open, nobody's later changes become visible.
        interner = self._store.interner
        keys = [(template.type, template.state_key) for template in templates if template.state_key is not None]
        if any(interner.known_key(key) is None for key in keys):
            await interner.keys(keys)
        users = {str(template.sender) for template in templates}
        users |= {UserID.parse(key) for kind, key in keys if kind == "m.room.member"}
        if any(interner.known_user(user) is None for user in users):
            await interner.users(users)

    # -- 5: gather ---------------------------------------------------------------------------------------------------

    async def _load_tip(self, room_id: RoomID) -> RoomTip:
        # Appends that are still being written would be missing from what is read.
        while self._pending.get(room_id):
            drained: Deferred[None] = Deferred()
            self._drained.setdefault(room_id, []).append(drained)
            await drained
        found = await self._store.database.read(lambda tx: load_tip(tx, room_id))
        if found is None:
            raise NotFound("Unknown room")
        state = state_of(found.chain)
        create_key = (await self._store.interner.keys([("m.room.create", "")]))["m.room.create", ""]
        create_nid = state.get(create_key)
        wanted = {*found.extremities, create_nid} if create_nid is not None else {*found.extremities}
        events = await self._store.events.get(wanted)
        if create_nid is None or create_nid not in events:
            raise NotFound("Unknown room")
        self._store.states.add(found.state_group, state, len(state))
        tip = RoomTip(
            room_id=room_id,
            room_nid=found.room_nid,
            version=get_room_version(found.version),
            create=events[create_nid],
            extremities=tuple((nid, events[nid].event_id) for nid in found.extremities),
            depth=found.depth,
            state_group=found.state_group,
            chain=found.chain,
            state=state,
            joined_members=found.joined_members,
        )
        self._keep_tip(tip)
        return tip

    def _keep_tip(self, tip: RoomTip) -> None:
        self._drop_tip(tip.room_id)
        self._tips[tip.room_id] = tip
        self._tip_entries += len(tip.state)
        while len(self._tips) > MAX_TIPS or (self._tip_entries > MAX_TIP_ENTRIES and len(self._tips) > 1):
            self._drop_tip(next(iter(self._tips)))

    def _drop_tip(self, room_id: RoomID) -> None:
        gone = self._tips.pop(room_id, None)
        if gone is not None:
            self._tip_entries -= len(gone.state)

    async def _state_events(self, tip: RoomTip, keys: Sequence[StateKey]) -> StateEvents:
        interner, events, in_flight = self._store.interner, self._store.events, self._in_flight
        found: StateEvents = {}
        unknown: list[StateKey] = []
        missing: dict[int, StateKey] = {}
        for key in keys:
            key_nid = interner.known_key(key)
            if key_nid is None:
                unknown.append(key)
                continue
            nid = tip.state.get(key_nid)
            if nid is not None:
                stored = events.find(nid) or in_flight.get(nid)
                if stored is None:
                    missing[nid] = key
                else:
                    found[key] = stored
        if unknown:
            for key, key_nid in (await interner.find_keys(unknown)).items():
                nid = tip.state.get(key_nid)
                if nid is not None:
                    missing[nid] = key
        if missing:
            loaded = await events.get(missing)
            for nid, key in missing.items():
                stored = loaded.get(nid) or in_flight.get(nid)
                if stored is None:
                    raise StorageUnavailable("the state that this event builds on could not be stored")
                found[key] = stored
        return found

    # -- 6 to 8: compose, judge, advance -----------------------------------------------------------------------------

    async def _prepare(self, tip: RoomTip, template: EventTemplate, earlier: Sequence[_Prepared]) -> _Prepared:
        if template.type == "m.room.create":
            # Spec: rooms/v12, "Authorization rules", 1: a create event has no prev_events, so this would not be one.
            raise AuthRuleBroken("1", "a room has one create event, which is its first")
        for step in earlier:
            self._in_flight[step.stored.nid] = step.stored
        interner = self._store.interner
        keys = needed_state(
            tip.version,
            type=template.type,
            sender=template.sender,
            state_key=template.state_key,
            content=template.content,
        )
        view = await self._state_events(tip, keys)
        key_nid = replaced = None
        if template.state_key is not None:
            key = (template.type, template.state_key)
            key_nid = interner.known_key(key)
            if key_nid is None:
                key_nid = (await interner.keys([key]))[key]
            replaced = view.get(key) or (await self._state_events(tip, (key,))).get(key)
        sender_nid = interner.known_user(template.sender)
        if sender_nid is None:
            sender_nid = await interner.user(template.sender)
        redaction = None
        if template.type == "m.room.redaction":
            redaction = await plan_redaction(self._store, tip, template, view)
        member_nid = None
        if template.type == "m.room.member" and template.state_key is not None:
            member_nid = await interner.user(UserID.parse(template.state_key))

        now_ms = self._clock.now_ms()
        place = GraphPlace(
            prev_event_ids=tuple(event_id for _, event_id in tip.extremities),
            auth_event_ids=tuple(view[key].event.event_id for key in keys if key in view),
            depth=tip.depth + 1,
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
        return self._advance(tip, judged, now_ms, sender_nid, key_nid, replaced, member_nid, redaction)

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

    def _start(self, version: RoomVersion, judged: Judged, now_ms: int, sender_nid: int, key_nid: int) -> _Prepared:
        event = judged.event
        room_nid, state_group = self._store.numbers.next(), self._store.numbers.next()
        stats = stats_of(event)
        encoded = _encode(event)
        # From here on nothing may fail: a position that is not finished stops the stream.
        position = self._store.positions.allocate()
        nid = position.number
        group, chain = extend((), room_nid, state_group, {key_nid: nid})
        stored = _stored(event, nid, room_nid, state_group, sender_nid, now_ms, key_nid, len(encoded))
        append = Append(
            judged=judged,
            nid=nid,
            position=nid,
            room_nid=room_nid,
            sender_nid=sender_nid,
            key_nid=key_nid,
            received_ts=now_ms,
            state_group=state_group,
            new_group=group,
            replaces_nid=None,
            prev_nids=(),
            tip_nids=(nid,),
            encoded=encoded,
            new_room=(event.room_id, version.identifier),
            stats=stats,
        )
        after = RoomTip(
            room_id=event.room_id,
            room_nid=room_nid,
            version=version,
            create=stored,
            extremities=((nid, event.event_id),),
            depth=event.depth,
            state_group=state_group,
            chain=chain,
            state=StateNids({key_nid: nid}),
            joined_members=0,
            last=append,
        )
        return _Prepared(append, stored, None, after, position, None, None)

    def _advance(
        self,
        tip: RoomTip,
        judged: Judged,
        now_ms: int,
        sender_nid: int,
        key_nid: int | None,
        replaced: StoredEvent | None,
        member_nid: int | None,
        redaction: RedactionPlan | None,
    ) -> _Prepared:
        event = judged.event
        encoded = _encode(event)
        stats, relation = (stats_of(event), None) if event.is_state else (_NO_STATS, relation_of(event))
        member = self._member_change(event, replaced, member_nid) if member_nid is not None else None
        state_group, chain, state, group = tip.state_group, tip.chain, tip.state, None
        if key_nid is not None:
            state_group = self._store.numbers.next()
        # From here on nothing may fail: a position that is not finished stops the stream.
        position = self._store.positions.allocate()
        nid = position.number
        if key_nid is not None:
            group, chain = extend(tip.chain, tip.room_nid, state_group, {key_nid: nid})
            state = state.insert(key_nid, nid)
        stored = _stored(event, nid, tip.room_nid, state_group, sender_nid, now_ms, key_nid, len(encoded))
        append = Append(
            judged=judged,
            nid=nid,
            position=nid,
            room_nid=tip.room_nid,
            sender_nid=sender_nid,
            key_nid=key_nid,
            received_ts=now_ms,
            state_group=state_group,
            new_group=group,
            replaces_nid=None if replaced is None else replaced.nid,
            prev_nids=tuple(prev_nid for prev_nid, _ in tip.extremities),
            tip_nids=(nid,),
            encoded=encoded,
            after=tip.last,
            stats=stats,
            relation=relation,
        )
        if replaced is not None:
            stored.replaces_nid = replaced.nid
            set_replaced(stored, replaced)
        if redaction is not None:
            append.redacts_id = redaction.target_id
            append.redacted_nids = redaction.nids
        joined_members = tip.joined_members
        if member is not None:
            append.membership = MembershipRow(
                member.user_nid, member.membership, member.is_local, member.membership != member.before
            )
            append.joined_delta = (member.membership == "join") - (member.before == "join")
            append.invited_delta = (member.membership == "invite") - (member.before == "invite")
            joined_members += append.joined_delta
        after = RoomTip(
            tip.room_id,
            tip.room_nid,
            tip.version,
            tip.create,
            ((nid, event.event_id),),
            event.depth,
            state_group,
            chain,
            state,
            joined_members,
            append,
        )
        return _Prepared(append, stored, tip, after, position, member, redaction)

    def _member_change(self, event: Event, replaced: StoredEvent | None, user_nid: int) -> MemberChange:
        user_id = UserID(event.state_key or "")
        return MemberChange(
            user_id=user_id,
            user_nid=user_nid,
            membership=event.membership or "leave",
            before=replaced.event.membership if replaced is not None else None,
            is_local=user_id.server_name == self._identity.server_name,
        )

    # -- 8 to 10: hand over, commit, publish -------------------------------------------------------------------------

    def _abandon(self, prepared: Sequence[_Prepared]) -> None:
        for step in prepared:
            self._in_flight.pop(step.stored.nid, None)
            step.position.abandon()

    def _hand_over(self, room_id: RoomID, prepared: Sequence[_Prepared]) -> list[Deferred[StoredEvent]]:
        head = prepared[0].append
        if len(prepared) > 1:
            # All of them are stored together or none is.
            head.then = tuple(step.append for step in prepared[1:])
            for append in head.then:
                append.head = head
        waiting: list[Deferred[StoredEvent]] = [Deferred() for _ in prepared]
        for step in prepared:
            self._in_flight[step.stored.nid] = step.stored
        self._pending[room_id] = self._pending.get(room_id, 0) + 1
        self._keep_tip(prepared[-1].after)
        written: Any = self._store.database.submit(head)
        # Not awaited: whoever sent the events may go away, the commit may not be forgotten.
        written.addCallbacks(
            self._committed, self._failed, callbackArgs=(prepared, waiting), errbackArgs=(prepared, waiting)
        )
        return waiting

    def _settle(self, prepared: Sequence[_Prepared]) -> None:
        for step in prepared:
            # Neither the chain of appends nor what was written must be held in memory for ever.
            append = step.append
            append.after = append.head = None
            append.then = ()
            append.encoded = b""
        room_id = prepared[0].after.room_id
        left = self._pending[room_id] - 1
        if left:
            self._pending[room_id] = left
            return
        del self._pending[room_id]
        for drained in self._drained.pop(room_id, ()):
            drained.callback(None)

    def _committed(self, _result: Any, prepared: Sequence[_Prepared], waiting: Sequence[Deferred[StoredEvent]]) -> None:
        store = self._store
        try:
            for step in prepared:
                store.events.add(step.stored)
                if step.append.new_group is not None:
                    store.states.add(step.after.state_group, step.after.state, 4)
            self._settle(prepared)
        finally:
            for step, answer in zip(prepared, waiting, strict=True):
                step.position.finish(partial(self._publish, step, answer))

    def _publish(self, step: _Prepared, answer: Deferred[StoredEvent]) -> None:
        self._in_flight.pop(step.stored.nid, None)
        try:
            redacted = []
            if step.redaction is not None:
                for nid in step.redaction.nids:
                    new = self._store.events.redact(step.after.version, nid, step.stored)
                    if new is not None:
                        redacted.append(new)
                    # What replaces it, and was composed before the redaction was seen, would tell its old content.
                    for later in self._in_flight.values():
                        if later.replaces_nid == nid:
                            later.replaced_content = new.event.content if new is not None else {}
                            later.head = None
            self._feed.publish(
                Publication(
                    stored=step.stored,
                    room_id=step.after.room_id,
                    joined_members=step.after.joined_members,
                    member=step.member,
                    redacted=tuple(redacted),
                    redacted_nids=step.redaction.nids if step.redaction is not None else (),
                )
            )
        finally:
            answer.callback(step.stored)

    def _failed(self, failure: Any, prepared: Sequence[_Prepared], waiting: Sequence[Deferred[StoredEvent]]) -> None:
        # Everything composed on top of this append fails as well; the next one starts from what is stored.
        self._drop_tip(prepared[0].after.room_id)
        try:
            for step in prepared:
                # The writer may be about to ask this of the next append already.
                step.append.failed = True
                self._in_flight.pop(step.stored.nid, None)
            self._settle(prepared)
        finally:
            for step in prepared:
                room_id, number = step.after.room_id, step.position.number
                step.position.finish(partial(self._feed.distrust, room_id, number, step.member))
            for answer in waiting:
                answer.errback(failure)


async def _all(waiting: Sequence[Deferred[StoredEvent]]) -> list[StoredEvent]:
    """Return all results; if one fails, the failures behind it are the same one told again."""
    results: list[StoredEvent] = []
    try:
        for stored in waiting:
            results.append(await stored)
    except BaseException:
        for stored in waiting[len(results) + 1 :]:
            stored.addErrback(lambda _: None)
        raise
    return results


def _encode(event: Event) -> bytes:
    try:
        return orjson.dumps(event.wire)
    except TypeError as fault:
        raise BadJson("the event cannot be encoded") from fault


def _stored(
    event: Event,
    nid: int,
    room_nid: int,
    state_group: int,
    sender_nid: int,
    now_ms: int,
    key_nid: int | None,
    encoded_bytes: int,
) -> StoredEvent:
    return StoredEvent(
        event=event,
        nid=nid,
        room_nid=room_nid,
        position=nid,
        state_group=state_group,
        sender_nid=sender_nid,
        received_ts=now_ms,
        key_nid=key_nid,
        size=size_of(event, encoded_bytes),
        is_related=False,
    )
