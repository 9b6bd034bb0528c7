"""Advancing: a judged event becomes an append, the event as it will be stored, and the room's next tip.

Pure but for the numbers that it takes. A position that is taken and not finished stops the stream, so nothing may fail
after it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from homeserver.errors import BadJson
from homeserver.feed.feed import MemberChange
from homeserver.model.event import Event
from homeserver.model.event_json import dump_event
from homeserver.model.ids import UserID, server_name_of
from homeserver.model.judgement import Judged
from homeserver.model.room_versions import RoomVersion
from storage.append import Append, MembershipRow, TipRow
from storage.auth_index import NewAuthEvent
from storage.events import StoredEvent, set_replaced, size_of
from storage.positions import Position
from storage.state_groups import NewGroup, StateNids, extend
from storage.store import Store

from .effects import RedactionPlan, relation_of, stats_of
from .tip import Extremity, RoomServers, RoomTip, StatePoint

# Of what is not decided to the end.
NO_POSITION: Final = Position(0, lambda: None)
_NO_STATS: Final[dict[str, Any]] = {}
_NO_GROUPS: Final[tuple[NewGroup, ...]] = ()


@dataclass(slots=True)
class Prepared:
    """An append that is decided and not yet handed to the writer."""

    append: Append
    stored: StoredEvent
    after: RoomTip
    position: Position
    members: tuple[MemberChange, ...] = ()
    redaction: RedactionPlan | None = None
    # The states of the groups that the append makes.
    new_states: tuple[tuple[int, Any], ...] = ()
    is_renamed: bool = False
    # What was resolved on the way: the state groups, and the state that they make.
    resolved: tuple[tuple[frozenset[int], StatePoint], ...] = ()
    # Whether it is from the room's past: it is no news, and nobody is woken.
    is_history: bool = False


class Advance:
    """Makes appends of this server's own events."""

    def __init__(self, store: Store, server_name: str) -> None:
        self._store = store
        self._server_name = server_name

    def start(self, version: RoomVersion, judged: Judged, now_ms: int, sender_nid: int, key_nid: int) -> Prepared:
        """Return the first append of a room: its create event."""
        event = judged.event
        room_nid, state_group = self._store.numbers.next(), self._store.numbers.next()
        stats = stats_of(event)
        encoded = encode_event(version, event)
        # From here on nothing may fail: a position that is not finished stops the stream.
        position = self._store.positions.allocate()
        nid = position.number
        group, chain = extend((), room_nid, state_group, {key_nid: nid})
        stored = stored_event(event, nid, room_nid, state_group, sender_nid, now_ms, key_nid, len(encoded))
        append = Append(
            judged=judged,
            nid=nid,
            position=nid,
            room_nid=room_nid,
            sender_nid=sender_nid,
            key_nid=key_nid,
            received_ts=now_ms,
            state_group=state_group,
            new_groups=(group,),
            replaces_nid=None,
            prev_nids=(),
            tip=TipRow((nid,), event.depth, state_group),
            encoded=encoded,
            auth=NewAuthEvent(nid, key_nid, ()),
            new_room=(event.room_id, version.identifier),
            stats=stats,
        )
        after = RoomTip(
            room_id=event.room_id,
            room_nid=room_nid,
            version=version,
            create=stored,
            extremities=(Extremity(nid, event.event_id, state_group, event.depth),),
            depth=event.depth,
            state_group=state_group,
            chain=chain,
            state=StateNids({key_nid: nid}),
            joined_members=0,
            position=nid,
            last=append,
        )
        return Prepared(append, stored, after, position, new_states=((state_group, after.state),))

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
        auth_nids: tuple[int, ...],
    ) -> Prepared:
        """Return the append of an event on top of a tip: of all its extremities.

        `replaced` is the state event of the same key; `member_nid` is given for member events only, `redaction` for
        redactions. `auth_nids` are the events that it cites.
        """
        event = judged.event
        encoded = encode_event(tip.version, event)
        stats, relation = (stats_of(event), None) if event.is_state else (_NO_STATS, relation_of(event))
        state_group, chain, state, groups = tip.state_group, tip.chain, tip.state, _NO_GROUPS
        new_states: tuple[tuple[int, Any], ...] = ()
        if key_nid is not None:
            state_group = self._store.numbers.next()
        # From here on nothing may fail: a position that is not finished stops the stream.
        position = self._store.positions.allocate()
        nid = position.number
        member = None
        if member_nid is not None:
            member = self._member_change(event, replaced, member_nid, nid, sender_nid)
        if key_nid is not None:
            group, chain = extend(tip.chain, tip.room_nid, state_group, {key_nid: nid})
            state = state.insert(key_nid, nid)
            groups, new_states = (group,), ((state_group, state),)
        stored = stored_event(event, nid, tip.room_nid, state_group, sender_nid, now_ms, key_nid, len(encoded))
        append = Append(
            judged=judged,
            nid=nid,
            position=nid,
            room_nid=tip.room_nid,
            sender_nid=sender_nid,
            key_nid=key_nid,
            received_ts=now_ms,
            state_group=state_group,
            new_groups=groups,
            replaces_nid=None if replaced is None else replaced.nid,
            prev_nids=tuple(extremity.nid for extremity in tip.extremities),
            tip=TipRow((nid,), event.depth, state_group),
            encoded=encoded,
            auth=None if key_nid is None else NewAuthEvent(nid, key_nid, auth_nids),
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
        joined_members, servers = tip.joined_members, tip.servers
        append.destinations = destinations_of(tip.servers, event, self._server_name)
        if member is not None:
            servers, append.servers = tip.servers.after((member,))
            append.memberships = (membership_row(member),)
            append.joined_delta, append.invited_delta = count_changes((member,))
            joined_members += append.joined_delta
        after = RoomTip(
            tip.room_id,
            tip.room_nid,
            tip.version,
            tip.create,
            (Extremity(nid, event.event_id, state_group, event.depth),),
            event.depth,
            state_group,
            chain,
            state,
            joined_members,
            nid,
            append,
            servers,
            tip.is_partial,
        )
        return Prepared(append, stored, after, position, (member,) if member else (), redaction, new_states)

    def _member_change(
        self, event: Event, replaced: StoredEvent | None, user_nid: int, nid: int, sender_nid: int
    ) -> MemberChange:
        user_id = UserID(event.state_key or "")
        return MemberChange(
            user_id=user_id,
            user_nid=user_nid,
            membership=event.membership or "leave",
            before=replaced.event.membership if replaced is not None else None,
            is_local=user_id.server_name == self._server_name,
            nid=nid,
            sender_nid=sender_nid,
        )


def destinations_of(servers: RoomServers, event: Event, server_name: str) -> tuple[str, ...]:
    """Return the servers that an event of this server has to be sent to: those in the room before it.

    Who is kept out learns of that too: an invite that is withdrawn is known to the server of the invited user alone.
    An invite itself comes to a server outside by a request of its own.
    """
    others = servers.without(server_name)
    if event.type == "m.room.member" and event.membership in ("leave", "ban"):
        target = server_name_of(event.state_key or "")
        if target and target != server_name and target not in servers:
            return (*others, target)
    return others


def membership_row(member: MemberChange) -> MembershipRow:
    """Return what is stored of a change of membership."""
    return MembershipRow(
        member.user_nid,
        member.membership,
        member.is_local,
        member.membership != member.before,
        member.nid,
        member.sender_nid,
    )


def count_changes(members: Iterable[MemberChange]) -> tuple[int, int]:
    """Return by how much the numbers of joined and of invited users change."""
    joined = invited = 0
    for member in members:
        joined += (member.membership == "join") - (member.before == "join")
        invited += (member.membership == "invite") - (member.before == "invite")
    return joined, invited


def encode_event(version: RoomVersion, event: Event) -> bytes:
    """Return the JSON that is stored."""
    try:
        return dump_event(version, event.wire)
    except TypeError as fault:
        raise BadJson("the event cannot be encoded") from fault


def stored_event(
    event: Event,
    nid: int,
    room_nid: int,
    state_group: int | None,
    sender_nid: int,
    now_ms: int,
    key_nid: int | None,
    encoded_bytes: int,
) -> StoredEvent:
    """Return a new event as it will be read back."""
    return StoredEvent(
        event=event,
        nid=nid,
        room_nid=room_nid,
        position=nid,
        state_group=state_group,
        sender_nid=sender_nid,
        received_ts=now_ms,
        key_nid=key_nid,
        size=size_of(encoded_bytes),
        is_related=False,
    )
