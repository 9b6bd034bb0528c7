"""Beginning to share a room of other servers: its state as outliers, the join on top, and the members that follow.

A room of 50,000 members is joined with the state that matters; its members come in slices while the room is in use.
Until they are all known the room is partial: events of others have to wait outside, for the state that would judge them
is not whole. The members are then put into the room's first state, on which all later ones stand.

Spec: server-server API, "Joining Rooms"; `omit_members` of `PUT /_matrix/federation/v2/send_join`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from homeserver.errors import AuthRuleBroken, BadState, HomeserverError
from homeserver.feed.feed import Feed
from homeserver.model.ids import EventID, RoomID, UserID, server_name_of
from homeserver.model.receipt_of_events import CheckedEvent
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion
from homeserver.runtime.clock import Clock
from homeserver.runtime.lanes import Lanes
from storage.events import LookAhead, StoredEvent
from storage.gaps import GAP_POSITIONS
from storage.outliers import ensure_room
from storage.partial_rooms import NewMember, NewPartialRoom, complete_room
from storage.state_groups import StateNids, extend
from storage.store import Store

from .advance import Prepared
from .commit import Commit, all_of
from .gather import Tips
from .outliers import KeptEvent, Outcome, Outliers, RoomFrame
from .receiving import Placing, Receiving
from .tip import NO_SERVERS, RoomServers, RoomTip, StatePoint

# Outliers that are stored in one transaction, and for which the room's lane is held.
SLICE: Final = 300


@dataclass(slots=True)
class _Completion:
    """What has come in of the missing state so far."""

    entries: dict[int, int] = field(default_factory=dict)
    # By user: a slice may come again.
    members: dict[int, NewMember] = field(default_factory=dict)
    # Those that cite what may come in a later slice.
    left: list[CheckedEvent] = field(default_factory=list)


class SharedRooms:
    """Joins this server to rooms of others."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        lanes: Lanes[RoomID],
        clock: Clock,
        tips: Tips,
        receiving: Receiving,
        commit: Commit,
        server_name: str,
    ) -> None:
        self._store = store
        self._feed = feed
        self._lanes = lanes
        self._clock = clock
        self._tips = tips
        self._receiving = receiving
        self._commit = commit
        self._server_name = server_name
        self._outliers = Outliers(store, tips, clock, on_renumbered=feed.renumber_member)
        self._completing: dict[RoomID, _Completion] = {}

    async def keep(self, room_id: RoomID, events: Sequence[CheckedEvent]) -> dict[EventID, Outcome]:
        """Store events of a known room as outliers, a slice at a time."""
        outcomes: dict[EventID, Outcome] = {}
        left = list(events)
        # What cites an event of a later slice is tried once more.
        for _ in range(2):
            pending, left = left, []
            for start in range(0, len(pending), SLICE):
                part = pending[start : start + SLICE]
                async with self._lanes.enter(room_id):
                    tip = await self._tips.get(room_id)
                    frame = RoomFrame(room_id, tip.room_nid, tip.version, tip.create.event)
                    found = await self._outliers.keep(frame, part)
                outcomes.update(found)
                left += [each for each in part if not isinstance(found[each.event.event_id], KeptEvent)]
            if not left or len(pending) <= SLICE:
                break
        return outcomes

    # -- joining -----------------------------------------------------------------------------------------------------

    async def join(
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
        """Store `auth_chain` and `state`, which the join builds on, then the join; see `RoomDoor.receive_join`."""
        room_id = join.event.room_id
        create = next((each.event for each in state if each.event.type == "m.room.create"), None)
        if create is None:
            raise BadState("the state has no create event")
        new_nid, now_ms = self._store.numbers.next(), self._clock.now_ms()
        room_nid, stored_version = await self._store.database.write(
            lambda tx: ensure_room(tx, new_nid, room_id, version.identifier, now_ms)
        )
        if KNOWN_ROOM_VERSIONS.get(stored_version) is not version:
            raise BadState(f"the room is known with the version {stored_version}, not {version.identifier}")
        frame = RoomFrame(room_id, room_nid, version, create)
        kept: dict[EventID, Outcome] = {}
        everything = list({each.event.event_id: each for each in (*auth_chain, *state)}.values())
        async with self._lanes.enter(room_id):
            kept = await self._outliers.keep(frame, everything)
        wanted = [kept[each.event.event_id] for each in state]
        entries = {
            each.key_nid: each.nid
            for each in wanted
            if isinstance(each, KeptEvent) and each.key_nid is not None and not each.is_rejected
        }
        await self._store.positions.make_room(GAP_POSITIONS)
        async with self._lanes.enter(room_id):
            prepared = await self._prepare_join(frame, join, entries)
            if is_partial:
                group = next(each.state_group for each in prepared.append.new_groups if each.parent is None)
                prepared.append.partial = NewPartialRoom(group, via, tuple(servers))
                counts = {server: prepared.after.servers.count(server) or 1 for server in servers}
                counts |= {server: prepared.after.servers.count(server) for server in prepared.after.servers}
                prepared.after = replace(prepared.after, servers=RoomServers(counts), is_partial=True)
            waiting = self._commit.hand_over(room_id, [prepared])
        return (await all_of(waiting))[0]

    async def _prepare_join(self, frame: RoomFrame, join: CheckedEvent, entries: dict[int, int]) -> Prepared:
        ahead = LookAhead({}, {})
        create_key = ("m.room.create", "")
        create_nid = entries.get((await self._store.interner.keys([create_key]))[create_key], 0)
        create = (await self._store.events.get([create_nid])).get(create_nid)
        if create is None:
            raise BadState("the create event of the room was refused")
        if self._tips.find(frame.room_id) is not None or await self._is_stored(frame.room_id):
            raise BadState("the room is here already")
        number = self._store.numbers.next()
        group, chain = extend((), frame.room_nid, number, entries)
        before = StatePoint(number, chain, StateNids(entries), group)
        # The end of a graph of which nothing is here: all of the state is news to the room.
        nowhere = RoomTip(
            frame.room_id, frame.room_nid, frame.version, create, (), 0, number, (), StateNids(), 0, 0, None, NO_SERVERS
        )
        ahead = await self._receiving.look_ahead(nowhere, [join])
        prepared = await self._receiving.prepare(nowhere, join, ahead, Placing(before=before))
        if isinstance(prepared, StoredEvent):
            raise BadState("the join is here already")
        if prepared.append.tip is None:
            prepared.position.abandon()
            raise AuthRuleBroken("join", prepared.append.judged.reason or "the room does not let the user in")
        # There is nothing that its branches could have brought together.
        prepared.append.is_merge = False
        prepared.stored.tip_group = None
        return prepared

    async def _is_stored(self, room_id: RoomID) -> bool:
        try:
            await self._tips.get(room_id)
        except HomeserverError:
            return False
        return True

    # -- completing --------------------------------------------------------------------------------------------------

    async def complete(self, room_id: RoomID, state: Sequence[CheckedEvent], *, is_last: bool) -> None:
        """Take in a slice of the state that was missing; see `RoomDoor.complete_state`."""
        completion = self._completing.setdefault(room_id, _Completion())
        for start in range(0, len(state), SLICE):
            await self._take(room_id, completion, state[start : start + SLICE])
        if not is_last:
            return
        left, completion.left = completion.left, []
        for start in range(0, len(left), SLICE):
            await self._take(room_id, completion, left[start : start + SLICE])
        try:
            await self._finish(room_id, completion)
        finally:
            self._completing.pop(room_id, None)

    async def _take(self, room_id: RoomID, completion: _Completion, events: Sequence[CheckedEvent]) -> None:
        async with self._lanes.enter(room_id):
            tip = await self._tips.get(room_id)
            frame = RoomFrame(room_id, tip.room_nid, tip.version, tip.create.event)
            outcomes = await self._outliers.keep(frame, events)
        users = {UserID(each.event.state_key or "") for each in events if each.event.type == "m.room.member"}
        nids = await self._store.interner.users(users) if users else {}
        for checked in events:
            event, kept = checked.event, outcomes[checked.event.event_id]
            if not isinstance(kept, KeptEvent):
                completion.left.append(checked)
                continue
            if kept.key_nid is None or kept.is_rejected:
                continue
            completion.entries[kept.key_nid] = kept.nid
            if event.type == "m.room.member":
                server = server_name_of(event.state_key or "")
                user_nid, is_local = nids[event.state_key or ""], server == self._server_name
                membership = event.membership or "leave"
                completion.members[user_nid] = NewMember(
                    user_nid, server, membership, kept.nid, kept.sender_nid, is_local
                )

    async def _finish(self, room_id: RoomID, completion: _Completion) -> None:
        async with self._lanes.enter(room_id):
            tip = await self._tips.get(room_id)
            if not tip.is_partial:
                return
            # What is composed on the old state must be stored before it is replaced.
            await self._tips.drained(room_id)
            room_nid, members = tip.room_nid, list(completion.members.values())
            position = self._store.positions.allocate()
            try:
                done = await self._store.database.write(
                    lambda tx: complete_room(tx, room_nid, position.number, completion.entries, members)
                )
            except BaseException:
                position.abandon()
                raise
            self._tips.drop(room_id)
            self._store.states.drop(done.state_groups)
            self._receiving.state_at.forget(room_id)
            position.finish(lambda: self._feed.renew_room(room_id, position.number))
