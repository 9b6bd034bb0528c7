"""Advancing: a judged event becomes an append, the event as it will be stored, and the room's next tip.

Pure but for the numbers that it takes. A position that is taken and not finished stops the stream, so nothing may fail
after it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from homeserver.errors import BadJson
from homeserver.feed.feed import MemberChange
from homeserver.model.event import Event
from homeserver.model.ids import UserID
from homeserver.model.judgement import Judged
from homeserver.model.room_versions import RoomVersion
from storage.append import Append, MembershipRow
from storage.event_cache import size_of
from storage.events import StoredEvent, set_replaced
from storage.positions import Position
from storage.state_groups import StateNids, extend
from storage.store import Store

from .effects import RedactionPlan, relation_of, stats_of
from .tip import RoomTip

_NO_STATS: Final[dict[str, Any]] = {}


@dataclass(slots=True)
class Prepared:
    """An append that is decided and not yet handed to the writer."""

    append: Append
    stored: StoredEvent
    before: RoomTip | None
    after: RoomTip
    position: Position
    member: MemberChange | None
    redaction: RedactionPlan | None


class Advance:
    """Makes appends."""

    def __init__(self, store: Store, server_name: str) -> None:
        self._store = store
        self._server_name = server_name

    def start(self, version: RoomVersion, judged: Judged, now_ms: int, sender_nid: int, key_nid: int) -> Prepared:
        """Return the first append of a room: its create event."""
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
        return Prepared(append, stored, None, after, position, None, None)

    def advance(
        self,
        tip: RoomTip,
        judged: Judged,
        now_ms: int,
        sender_nid: int,
        key_nid: int | None,
        replaced: StoredEvent | None,
        member_nid: int | None,
        redaction: RedactionPlan | None,
    ) -> Prepared:
        """Return the append of an event on top of a tip.

        `replaced` is the state event of the same key; `member_nid` is given for member events only, `redaction` for
        redactions.
        """
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
            append.stats = dict(redaction.stats or _NO_STATS)
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
        return Prepared(append, stored, tip, after, position, member, redaction)

    def _member_change(self, event: Event, replaced: StoredEvent | None, user_nid: int) -> MemberChange:
        user_id = UserID(event.state_key or "")
        return MemberChange(
            user_id=user_id,
            user_nid=user_nid,
            membership=event.membership or "leave",
            before=replaced.event.membership if replaced is not None else None,
            is_local=user_id.server_name == self._server_name,
        )


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
