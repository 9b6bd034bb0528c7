"""Taking in an event that others made, at the place in the graph that it names: behind the end, beside it, or on top.

The checks that need nothing but the event (format, signatures, hash) are done before; here are those that need the
graph. An event is judged by its auth events, by the state before it, and by the current state of the room; what becomes
of it follows from the verdict:

- accepted: it is an end of the graph instead of those it builds on, and the room's state is what all ends resolve to;
- rejected: it is kept, has no part in any state and is shown to nobody;
- soft-failed: it counts for those who build on it, but is no end of the graph and is shown to nobody.

An outlier is an event whose place is not known: it is kept to be cited, and may be given its place later.

Spec: server-server API, "Checks performed on receipt of a PDU", "Rejection", "Soft failure"; room versions, "State
resolution" and "Handling redactions".
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from homeserver.errors import BadState, StorageUnavailable
from homeserver.model.auth.needed import needed_state
from homeserver.model.event import Event, StateKey
from homeserver.model.ids import EventID, server_name_of
from homeserver.model.judgement import Judged, Verdict, judge_outlier, judge_remote
from homeserver.model.receipt_of_events import CheckedEvent, trust_own
from homeserver.runtime.clock import Clock
from storage.append import Append, TipRow
from storage.auth_index import NewAuthEvent
from storage.events import Flag, LookAhead, StoredEvent, set_replaced
from storage.gaps import GAP_POSITIONS, NewGap, load_missing
from storage.outliers import find_events
from storage.state_groups import NewGroup, StateNids, extend
from storage.store import Store

from .advance import NO_POSITION, Prepared, count_changes, destinations_of, encode_event, membership_row, stored_event
from .effects import (
    RedactionPlan,
    as_redacted,
    find_waiting_redaction,
    plan_received_redaction,
    relation_of,
)
from .gather import Tips
from .room_changes import RoomChanges
from .state_at import StateAt, Unstored
from .surroundings import Surroundings, require
from .tip import Extremity, RoomTip, StatePoint

logger = logging.getLogger(__name__)

# Before what builds on no event, which nobody can but the create event.
_NOWHERE: Final = StatePoint(0, (), StateNids())


@dataclass(frozen=True, slots=True)
class Placing:
    """What is particular about an event that comes in.

    - `is_relayed`: this server passes it on to the other servers of the room.
    - `is_unwanted`: it is soft-failed, whatever the rules say.
    - `before`: the state before it, where what it builds on may not be here.
    - `position`: its place, for an event of the room's past; it ends nothing and is no news.
    - `is_return`: with it, this server comes back to a room in which nobody of its own was left.
    """

    is_relayed: bool = False
    is_unwanted: bool = False
    before: StatePoint | None = None
    position: int | None = None
    is_return: bool = False


PLAINLY: Final = Placing()


class Receiving:
    """Makes appends of events that others made; used in the room's lane."""

    def __init__(self, store: Store, tips: Tips, clock: Clock, server_name: str) -> None:
        self._store = store
        self._tips = tips
        self._clock = clock
        self._server_name = server_name
        self._surroundings = Surroundings(store, tips)
        self._changes = RoomChanges(store, tips, server_name)
        self.look_ahead = self._surroundings.look_ahead
        self.state_at = StateAt(store)

    async def prepare(
        self, tip: RoomTip, checked: CheckedEvent, ahead: LookAhead, placing: Placing = PLAINLY
    ) -> Prepared | StoredEvent:
        """Return the append of an event, or the stored event where it has its place already.

        Raises MissingEvents where the graph around it is not there.
        """
        event = checked.event
        known = await self._surroundings.known(tip, event, ahead)
        if known is not None and not known.is_outlier:
            return known
        if known is not None and known.nid == tip.create.nid and placing.position is None:
            # Of a room that was joined: it is what all else stands on, and gets its place with the history before it.
            return known
        if known is not None:
            # The first event of an ID is the one that counts (room versions 1 and 2 do not tie it to the content).
            event = known.event
            checked = trust_own(event)
        prev, auth = await self._surroundings.around(tip, event, has_gap=placing.before is not None)
        before = placing.before or await self._state_before(tip, prev)
        judged = await self._judge(tip, checked, before, auth, known, placing)
        if placing.is_unwanted and judged.verdict is Verdict.ACCEPTED:
            judged = Judged(event, Verdict.SOFT_FAILED, "it is not wanted here")
        return await self._place(tip, judged, prev, auth, before, known, ahead, placing)

    async def given_state(self, tip: RoomTip, state_ids: Collection[EventID]) -> StatePoint:
        """Return the state that consists of these events, as a new group; raise MissingEvents where some are not here.

        What was rejected here is left out, as is what is no state.
        """
        # What is being written cannot be read yet.
        await self._tips.drained(tip.room_id)
        found = await self._store.database.read(lambda tx: find_events(tx, state_ids))
        here = {event_id: each for event_id, each in found.items() if each.room_nid == tip.room_nid}
        require(frozenset(), frozenset(state_ids) - here.keys())
        entries = {
            each.key_nid: each.nid
            for each in sorted(here.values(), key=lambda each: each.nid)
            if each.key_nid is not None and not each.flags & Flag.REJECTED
        }
        if tip.create.key_nid is None or entries.get(tip.create.key_nid) != tip.create.nid:
            raise BadState("the state has not the room's create event")
        change = {key: nid for key, nid in entries.items() if tip.state.get(key) != nid}
        change.update((key, 0) for key in tip.state if key not in entries)
        number = self._store.numbers.next()
        group, chain = extend(tip.chain, tip.room_nid, number, change, is_side=True)
        state = tip.state
        for key, nid in change.items():
            state = state.insert(key, nid) if nid else state.discard(key)
        return StatePoint(number, chain, state, group)

    async def prepare_outlier(self, tip: RoomTip, checked: CheckedEvent, ahead: LookAhead) -> Prepared | StoredEvent:
        """Return the append of an event that has no place yet, or the stored event where it is there already."""
        event = checked.event
        known = await self._surroundings.known(tip, event, ahead)
        if known is not None:
            return known
        auth = await self._surroundings.find(tip, event.auth_event_ids)
        require(frozenset(), frozenset(event.auth_event_ids) - auth.keys())
        judged = judge_outlier(
            tip.version,
            checked,
            auth_events=[auth[event_id].event for event_id in event.auth_event_ids],
            rejected_ids=_rejected(auth.values()),
            create=tip.create.event,
        )
        return await self._append_outlier(tip, judged, auth)

    def keep(self, prepared: Prepared, ahead: LookAhead) -> None:
        """Remember an append that was handed to the writer: its states, and what those after it have to know."""
        append = prepared.append
        ahead.nids[append.judged.event.event_id] = append.nid, append.room_nid
        if append.redacts_id is not None:
            ahead.redactions.setdefault(append.redacts_id, []).append(append.nid)
        for groups, point in prepared.resolved:
            self.state_at.remember(prepared.after.room_id, groups, point)

    # -- what is around the event ------------------------------------------------------------------------------------

    async def _state_before(self, tip: RoomTip, prev: Sequence[StoredEvent]) -> StatePoint:
        groups = {stored.state_group for stored in prev if stored.state_group is not None}
        if not groups:
            return _NOWHERE
        return await self._resolved(tip, groups, {tip.state_group: tip.point})

    async def _resolved(
        self,
        tip: RoomTip,
        groups: Iterable[int],
        fresh: dict[int, StatePoint],
        unstored: Unstored | None = None,
    ) -> StatePoint:
        found = self.state_at.find(tip.room_id, groups, fresh)
        if found is None:
            # What is being written cannot be read yet.
            await self._tips.drained(tip.room_id)
            if tip.last is not None and tip.last.is_lost:
                raise StorageUnavailable("the event before this one could not be stored")
            found = await self.state_at.of(tip, groups, fresh, unstored)
        return found

    async def _judge(
        self,
        tip: RoomTip,
        checked: CheckedEvent,
        before: StatePoint,
        auth: dict[EventID, StoredEvent],
        known: StoredEvent | None,
        placing: Placing,
    ) -> Judged:
        event = checked.event
        if known is not None and known.is_rejected:
            return Judged(event, Verdict.REJECTED)
        if known is not None and known.nid == tip.create.nid:
            return Judged(event, Verdict.ACCEPTED)
        if before is _NOWHERE:
            # Spec: server-server API, "PDUs": only the create event has nothing before it, and the room has one
            # already. The rules of old versions do not ask for a state where an event gives aliases to the room.
            return Judged(event, Verdict.REJECTED, "it builds on nothing, or on what does")
        keys = _needed(tip, event)
        at_place = await self._tips.events_of(before.state, keys)
        now, is_history = at_place, placing.position is not None
        # Who comes back has not been told what is current: that is the state which came with the join.
        if before.state_group != tip.state_group and not is_history and not placing.is_return:
            current = tip.point
            if placing.before is not None and tip.extremities:
                # After a gap what is current here is old; it counts with what has been told since.
                groups = (tip.state_group, before.state_group)
                current = await self._resolved(tip, groups, {tip.state_group: tip.point, before.state_group: before})
            now = await self._tips.events_of(current.state, keys)
        judged = judge_remote(
            tip.version,
            checked,
            auth_events=[auth[event_id].event for event_id in event.auth_event_ids],
            rejected_ids=_rejected(auth.values()),
            state_before={key: stored.event for key, stored in at_place.items()},
            current_state=None if is_history else {key: stored.event for key, stored in now.items()},
            create=tip.create.event,
        )
        if judged.verdict is not Verdict.ACCEPTED:
            logger.info("%s in %s was %s: %s", event.event_id, tip.room_id, judged.verdict.value, judged.reason)
        return judged

    # -- the append --------------------------------------------------------------------------------------------------

    async def state_of(self, tip: RoomTip, ends: Sequence[Extremity]) -> StatePoint:
        """Return what the states after some of the ends of the graph resolve to."""
        return await self._resolved(tip, {end.state_group for end in ends}, {tip.state_group: tip.point})

    async def place(
        self,
        tip: RoomTip,
        judged: Judged,
        ends: Sequence[Extremity],
        auth: dict[EventID, StoredEvent],
        redaction: RedactionPlan | None,
    ) -> Prepared:
        """Return the append of an event of this server that builds on some of the ends of the graph."""
        before = await self.state_of(tip, ends)
        prev = list((await self._tips.load(end.nid for end in ends)).values())
        prepared = await self._place(tip, judged, prev, auth, before, None, LookAhead({}, {}), PLAINLY)
        prepared.append.destinations = destinations_of(tip.servers, judged.event, self._server_name)
        if redaction is not None:
            prepared.redaction = redaction
        return prepared

    async def _place(
        self,
        tip: RoomTip,
        judged: Judged,
        prev: Sequence[StoredEvent],
        auth: dict[EventID, StoredEvent],
        before: StatePoint,
        known: StoredEvent | None,
        ahead: LookAhead,
        placing: Placing,
    ) -> Prepared:
        event, interner = judged.event, self._store.interner
        is_accepted = judged.verdict is Verdict.ACCEPTED
        sender_nid = await interner.user(event.sender)
        key_nid = await self._key_nid(event)
        replaced_nid = before.state.get(key_nid) if key_nid is not None else None
        replaced = (await self._tips.load([replaced_nid])).get(replaced_nid) if replaced_nid is not None else None
        redaction, redacted_by = await self._redactions(tip, judged, before, ahead)
        encoded = encode_event(tip.version, event)
        now_ms = self._clock.now_ms()

        # Not the position: while one is open, nobody's later changes become visible, and resolving takes its time.
        nid = self._store.positions.skip() if known is None else known.nid
        after = before
        if key_nid is not None and judged.verdict is not Verdict.REJECTED:
            after = self._with(tip, before, key_nid, nid)
        made = [point for point in dict.fromkeys((before, after)) if point.new_group is not None]
        state_group = None if after is _NOWHERE else after.state_group
        stored = stored_event(event, nid, tip.room_nid, state_group, sender_nid, now_ms, key_nid, len(encoded))
        stored.position = None
        stored.flags = _flags(judged.verdict)
        if is_accepted and event.type == "m.room.redaction" and (redaction is None or not redaction.nids):
            # Spec: room versions, "Handling redactions": it is not shown before it redacts something.
            stored.flags |= Flag.INERT
        if replaced is not None:
            stored.replaces_nid = replaced.nid
            set_replaced(stored, replaced)
        if redacted_by is not None:
            stored = as_redacted(tip.version, stored, redacted_by)
        append = Append(
            judged=judged,
            nid=nid,
            position=None,
            room_nid=tip.room_nid,
            sender_nid=sender_nid,
            key_nid=key_nid,
            received_ts=now_ms,
            state_group=state_group,
            new_groups=(),
            replaces_nid=stored.replaces_nid,
            prev_nids=tuple(each.nid for each in prev),
            tip=None,
            encoded=encoded,
            flags=stored.flags,
            redacted_by=stored.redacted_by,
            is_known=known is not None,
            auth=_auth_row(judged, nid, key_nid, auth) if known is None else None,
            after=tip.last,
            relation=relation_of(event) if is_accepted and key_nid is None and redacted_by is None else None,
            wakes_nid=redacted_by.nid if redacted_by is not None and redacted_by.flags & Flag.INERT else None,
        )
        prepared = Prepared(append, stored, replace(tip, last=append), NO_POSITION, (), redaction)
        groups = frozenset(each.state_group for each in prev if each.state_group is not None)
        prepared.resolved = ((groups, before),) if groups and placing.before is None else ()
        if redaction is not None:
            append.redacts_id = redaction.target_id
            append.redacted_nids = redaction.nids
            append.stats = dict(redaction.stats or {})
        have = {each.event_id for each in prev}
        missing = tuple(event_id for event_id in event.prev_event_ids if event_id not in have)
        is_history = prepared.is_history = placing.position is not None
        if is_accepted and not is_history:
            made.extend(await self._advance(tip, prepared, prev, after, auth, is_return=placing.is_return))
            if placing.is_relayed:
                sender = server_name_of(event.sender)
                others = destinations_of(tip.servers, event, self._server_name)
                append.destinations = tuple(server for server in others if server != sender)
        kept = _referred(made, append)
        append.new_groups = tuple(kept.values())
        prepared.new_states = tuple((point.state_group, point.state) for point in made if point.state_group in kept)
        prepared.resolved = tuple(
            (groups, point)
            for groups, point in prepared.resolved
            if point.new_group is None or point.state_group in kept
        )
        inherited = await self._missing_below(tip, prev)
        has_gap = bool(missing or inherited)
        leap = GAP_POSITIONS if has_gap and is_accepted and not is_history else 0
        if leap:
            await self._store.positions.make_room(leap)
        # From here on nothing may fail: a position that is not finished stops the stream.
        prepared.position = self._store.positions.allocate(leap)
        if is_accepted:
            stored.position = append.position = prepared.position.number if not is_history else placing.position
            if not is_history:
                prepared.after = replace(prepared.after, position=prepared.position.number)
        if has_gap:
            append.gap = NewGap(missing, prepared.position.number - leap if leap else None, inherited)
        return prepared

    async def _missing_below(self, tip: RoomTip, prev: Sequence[StoredEvent]) -> tuple[EventID, ...]:
        """Return what is missing below those of these events that nobody is shown, and so nobody pages back to."""
        hidden = [each.nid for each in prev if each.flags & (Flag.REJECTED | Flag.SOFT_FAILED)]
        if not hidden:
            return ()
        # What is being written cannot be read yet.
        await self._tips.drained(tip.room_id)
        return tuple(await self._store.database.read(lambda tx: load_missing(tx, hidden)))

    async def _advance(
        self,
        tip: RoomTip,
        prepared: Prepared,
        prev: Sequence[StoredEvent],
        after: StatePoint,
        auth: dict[EventID, StoredEvent],
        *,
        is_return: bool,
    ) -> list[StatePoint]:
        """Make the event an end of the graph, with the state that the room has then; return that state if it is new."""
        append, stored = prepared.append, prepared.stored
        consumed = await self._surroundings.consumed(tip, prev)
        own = Extremity(stored.nid, stored.event_id, after.state_group, stored.event.depth)
        # Where the graph ended for a server that comes back, the others may have been on another branch: what they have
        # taken in of it is in the state that they tell, and what they have refused must not count here for ever.
        rest = () if is_return else tuple(each for each in tip.extremities if each.nid not in consumed)
        point, made = after, []
        if rest:
            groups = frozenset((after.state_group, *(extremity.state_group for extremity in rest)))
            fresh = {tip.state_group: tip.point, after.state_group: after}
            cited = tuple(each.nid for each in auth.values())
            # States are made of events as they were sent, redacted since or not.
            unstored = Unstored(replace(stored, event=append.judged.event), cited)
            point = await self._resolved(tip, groups, fresh, unstored)
            prepared.resolved = (*prepared.resolved, (groups, point))
            if point.new_group is not None and point.state_group != after.state_group:
                made.append(point)
        ends = (*rest, own)
        depth = max(extremity.depth for extremity in ends)
        append.tip = TipRow(tuple(extremity.nid for extremity in ends), depth, point.state_group)
        change = await self._changes.between(tip, point, stored, append.redacted_nids)
        append.is_merge = change.is_further
        stored.tip_group = append.tip_group
        append.memberships = tuple(membership_row(member) for member in change.members)
        append.joined_delta, append.invited_delta = count_changes(change.members)
        append.stats = {**append.stats, **(change.stats or {})}
        servers, append.servers = tip.servers.after(change.members)
        prepared.members = change.members
        prepared.is_renamed = change.is_renamed
        prepared.after = RoomTip(
            tip.room_id,
            tip.room_nid,
            tip.version,
            tip.create,
            ends,
            depth,
            point.state_group,
            point.chain,
            point.state,
            tip.joined_members + append.joined_delta,
            0,
            append,
            servers,
            tip.is_partial,
        )
        return made

    def _with(self, tip: RoomTip, before: StatePoint, key_nid: int, nid: int) -> StatePoint:
        """Return the state with one event more, as a new group."""
        number = self._store.numbers.next()
        # Beside the end of the graph many may stand on the same group, and none must have to store what others did.
        is_side = before.state_group != tip.state_group or len(tip.extremities) > 1
        group, chain = extend(before.chain, tip.room_nid, number, {key_nid: nid}, is_side=is_side)
        return StatePoint(number, chain, before.state.insert(key_nid, nid), group)

    async def _key_nid(self, event: Event) -> int | None:
        if event.state_key is None:
            return None
        key = (event.type, event.state_key)
        return (await self._store.interner.keys([key]))[key]

    async def _append_outlier(self, tip: RoomTip, judged: Judged, auth: dict[EventID, StoredEvent]) -> Prepared:
        event = judged.event
        sender_nid = await self._store.interner.user(event.sender)
        key_nid = await self._key_nid(event)
        encoded = encode_event(tip.version, event)
        now_ms = self._clock.now_ms()
        # From here on nothing may fail: a position that is not finished stops the stream.
        position = self._store.positions.allocate()
        nid = position.number
        stored = stored_event(event, nid, tip.room_nid, None, sender_nid, now_ms, key_nid, len(encoded))
        stored.position = None
        stored.flags = Flag.OUTLIER | _flags(judged.verdict)
        append = Append(
            judged=judged,
            nid=nid,
            position=None,
            room_nid=tip.room_nid,
            sender_nid=sender_nid,
            key_nid=key_nid,
            received_ts=now_ms,
            state_group=None,
            new_groups=(),
            replaces_nid=None,
            prev_nids=(),
            tip=None,
            encoded=encoded,
            flags=stored.flags,
            auth=_auth_row(judged, nid, key_nid, auth),
            after=tip.last,
        )
        return Prepared(append, stored, replace(tip, last=append), position)

    # -- what follows ------------------------------------------------------------------------------------------------

    async def _redactions(
        self, tip: RoomTip, judged: Judged, before: StatePoint, ahead: LookAhead
    ) -> tuple[RedactionPlan | None, StoredEvent | None]:
        """Return what the event redacts, and the redaction that was waiting for it."""
        if judged.verdict is Verdict.REJECTED:
            return None, None
        naming = ahead.redactions.get(judged.event.event_id, ())
        waiting = await find_waiting_redaction(self._store, self._tips, tip, judged.event, naming)
        if judged.event.type != "m.room.redaction" or judged.verdict is not Verdict.ACCEPTED:
            return None, waiting
        target_id = judged.event.redacts
        # In room versions 1 and 2 an event can name itself.
        target = None
        if target_id is not None and target_id != judged.event.event_id:
            target = (await self._surroundings.find(tip, [target_id])).get(target_id)
        return await plan_received_redaction(self._tips, tip, judged.event, target, before.state), waiting


def _needed(tip: RoomTip, event: Event) -> tuple[StateKey, ...]:
    return needed_state(
        tip.version, type=event.type, sender=event.sender, state_key=event.state_key, content=event.content
    )


def _referred(made: Sequence[StatePoint], append: Append) -> dict[int, NewGroup]:
    """Return those of the new groups that something refers to: the event, the room, or another new group."""
    kept: dict[int, NewGroup] = {}
    wanted = {append.state_group, append.tip_group}
    for point in reversed(made):
        group = point.new_group
        if group is not None and group.state_group in wanted:
            kept[group.state_group] = group
            wanted.add(group.parent)
    return kept


def _rejected(events: Iterable[StoredEvent]) -> frozenset[EventID]:
    return frozenset(stored.event_id for stored in events if stored.is_rejected)


def _flags(verdict: Verdict) -> int:
    return int(_FLAGS.get(verdict, 0))


_FLAGS: Final = {Verdict.REJECTED: Flag.REJECTED, Verdict.SOFT_FAILED: Flag.SOFT_FAILED}


def _auth_row(judged: Judged, nid: int, key_nid: int | None, auth: dict[EventID, StoredEvent]) -> NewAuthEvent | None:
    # What a rejected event says is never asked: whoever cites it is rejected too.
    if key_nid is None or judged.verdict is Verdict.REJECTED:
        return None
    return NewAuthEvent(nid, key_nid, tuple(each.nid for each in auth.values()))
