"""Writing events: everything that one append to a room changes, as rows of one transaction.

The writer takes the appends of all rooms that wait and writes them together, one statement a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import delete, select, update

from homeserver.errors import StorageUnavailable
from homeserver.model.judgement import Judged

from . import auth_index
from .auth_index import NewAuthEvent
from .gaps import NewGap, add_gaps
from .partial_rooms import NewPartialRoom, add_partial_room
from .room_servers import add_destinations, add_servers
from .state_groups import NewGroup
from .tables import rooms as t
from .transaction import Transaction


@dataclass(frozen=True, slots=True)
class MembershipRow:
    """A user's membership in the room after the append; `is_change` unless it was the same before.

    `event_nid` and `sender_nid` are of the member event: the one appended, or another where ends of the graph met.
    """

    user_nid: int
    membership: str
    is_local: bool
    is_change: bool
    event_nid: int
    sender_nid: int


@dataclass(frozen=True, slots=True)
class RelationRow:
    """What the event of the append relates to."""

    target_id: str
    rel_type: str
    aggregation_key: str | None


@dataclass(frozen=True, slots=True)
class TransactionRow:
    """The client's transaction that the append answers."""

    device_nid: int
    txn_key: bytes
    txn_id: str


@dataclass(frozen=True, slots=True)
class TipRow:
    """The end of the room's graph after an append: its forward extremities, and the state that they make."""

    extremity_nids: tuple[int, ...]
    depth: int
    state_group: int


@dataclass(slots=True, eq=False)
class Append:
    """One judged event and all that storing it changes.

    `position` is None for what nobody is shown: rejected, soft-failed and outlying events. `state_group` is the state
    after the event (None for an outlier), `tip` the end of the room's graph after it (None where that stays as it was).
    `is_known`: the event is stored already, as an outlier, and now gets its place.

    `after` is the append of the same room that it builds on, if that may not be stored yet. `then` are appends that are
    stored together with it or not at all; their `head` is this one, which alone is given to the writer.
    """

    judged: Judged
    nid: int
    position: int | None
    room_nid: int
    sender_nid: int
    key_nid: int | None
    received_ts: int
    state_group: int | None
    new_groups: tuple[NewGroup, ...]
    replaces_nid: int | None
    prev_nids: tuple[int, ...]
    tip: TipRow | None
    encoded: bytes
    flags: int = 0
    redacted_by: int | None = None
    is_known: bool = False
    # Whether the room's state changes by more than the event says, because ends of the graph met.
    is_merge: bool = False
    # Of an event that others may cite to be allowed: those that it cites.
    auth: NewAuthEvent | None = None
    after: Append | None = None
    then: tuple[Append, ...] = ()
    head: Append | None = None
    new_room: tuple[str, str] | None = None
    memberships: tuple[MembershipRow, ...] = ()
    stats: dict[str, Any] = field(default_factory=dict)
    joined_delta: int = 0
    invited_delta: int = 0
    relation: RelationRow | None = None
    redacted_nids: tuple[int, ...] = ()
    redacts_id: str | None = None
    # A redaction that was stored before this event, which it redacts, and was shown to nobody meanwhile.
    wakes_nid: int | None = None
    transaction: TransactionRow | None = None
    # The servers that it has to be sent to.
    destinations: tuple[str, ...] = ()
    # What the event builds on is not all here.
    gap: NewGap | None = None
    # The room is joined by this, and members of it are not known yet.
    partial: NewPartialRoom | None = None
    # By how much the number of joined users of each server changes.
    servers: tuple[tuple[str, int], ...] = ()
    failed: bool = False
    rank = 1

    @property
    def tip_group(self) -> int | None:
        """The room's state after the append where it is not what the room had before and the event besides."""
        if self.tip is None or (self.tip.state_group == self.state_group and not self.is_merge):
            return None
        return self.tip.state_group

    @property
    def is_lost(self) -> bool:
        """Whether it could not be stored, alone or with those that belong to it."""
        return self.failed if self.head is None else self.head.failed

    @staticmethod
    def run_all(tx: Transaction, jobs: Sequence[Append]) -> Sequence[Any]:
        """Write these appends; an append whose predecessor failed fails too."""
        results: list[Any] = []
        sound: list[Append] = []
        for job in jobs:
            if job.after is not None and job.after.is_lost:
                job.failed = True
                results.append(StorageUnavailable("the event before this one could not be stored"))
            else:
                sound.append(job)
                if job.then:
                    sound.extend(job.then)
                results.append(None)
        if sound:
            _write(tx, sound)
        return results

    @staticmethod
    def is_stored(tx: Transaction, job: Append) -> bool:
        """Tell whether the event is there: its number is used for nothing else, and an outlier has no state."""
        query = select(t.events.c.event_nid).where(t.events.c.event_nid == job.nid)
        if job.is_known:
            query = query.where(t.events.c.state_group.is_not(None))
        return tx.first(query) is not None


_EVENT_COLUMNS = (
    "event_nid",
    "event_id",
    "room_nid",
    "position",
    "depth",
    "type",
    "key_nid",
    "sender_nid",
    "origin_server_ts",
    "received_ts",
    "state_group",
    "tip_group",
    "replaces_nid",
    "redacted_by",
    "flags",
    "json",
)


def _write(tx: Transaction, jobs: Sequence[Append]) -> None:
    new_rooms = [(job.room_nid, *job.new_room, False, job.received_ts) for job in jobs if job.new_room]
    tx.insert_many(t.rooms, ("room_nid", "room_id", "version", "is_published", "created_ts"), new_rooms)
    groups = [group for job in jobs for group in job.new_groups]
    tx.insert_many(
        t.state_groups, ("state_group", "room_nid", "parent", "chain_index", "delta"), [group.row() for group in groups]
    )
    tx.insert_many(t.events, _EVENT_COLUMNS, [_event_row(job) for job in jobs if not job.is_known])
    for job in jobs:
        if job.is_known:
            _place_outlier(tx, job)
    edges = [(job.nid, prev_nid) for job in jobs for prev_nid in job.prev_nids]
    tx.insert_many(t.event_edges, ("event_nid", "prev_nid"), edges)
    auth_index.add(tx, [job.auth for job in jobs if job.auth is not None])
    refs: dict[int, int] = {}
    for job in jobs:
        for referred in (job.state_group, job.tip_group):
            if referred is not None:
                refs[referred] = refs.get(referred, 0) + 1
    for group in groups:
        if group.parent is not None:
            refs[group.parent] = refs.get(group.parent, 0) + 1
    tx.insert_many(t.state_group_refs, ("state_group", "refs"), list(refs.items()), add=("refs",))
    tips = {
        job.room_nid: (
            job.room_nid,
            orjson.dumps(job.tip.extremity_nids),
            job.tip.depth,
            job.tip.state_group,
            job.position,
        )
        for job in jobs
        if job.tip is not None
    }
    tx.insert_many(
        t.room_tips,
        ("room_nid", "extremities", "depth", "state_group", "position"),
        list(tips.values()),
        update=("extremities", "depth", "state_group", "position"),
    )
    tx.insert_many(
        t.transaction_ids,
        ("device_nid", "txn_key", "txn_id", "event_nid", "created_ts"),
        [
            (job.transaction.device_nid, job.transaction.txn_key, job.transaction.txn_id, job.nid, job.received_ts)
            for job in jobs
            if job.transaction
        ],
        ignore=True,
    )
    _write_memberships(tx, [job for job in jobs if job.memberships])
    _write_stats(tx, [job for job in jobs if job.stats or job.joined_delta or job.invited_delta])
    _write_servers(tx, jobs)
    add_gaps(tx, [(job.room_nid, job.nid, job.position, job.gap) for job in jobs if job.gap is not None])
    for job in jobs:
        if job.partial is not None:
            add_partial_room(tx, job.room_nid, job.nid, job.received_ts, job.partial)
    tx.insert_many(
        t.relations,
        ("event_nid", "room_nid", "target_id", "rel_type", "aggregation_key", "type", "sender_nid", "position"),
        [
            (
                job.nid,
                job.room_nid,
                job.relation.target_id,
                job.relation.rel_type,
                job.relation.aggregation_key,
                job.judged.event.type,
                job.sender_nid,
                job.position,
            )
            for job in jobs
            if job.relation
        ],
    )
    _write_redactions(tx, [job for job in jobs if job.redacts_id])
    woken = [job.wakes_nid for job in jobs if job.wakes_nid is not None]
    if woken:
        tx.execute(update(t.events).where(t.events.c.event_nid.in_(woken)).values(flags=0))


def _event_row(job: Append) -> tuple[Any, ...]:
    event = job.judged.event
    return (
        job.nid,
        event.event_id,
        job.room_nid,
        job.position,
        event.depth,
        event.type,
        job.key_nid,
        job.sender_nid,
        event.origin_server_ts,
        job.received_ts,
        job.state_group,
        job.tip_group,
        job.replaces_nid,
        job.redacted_by,
        job.flags,
        job.encoded,
    )


def _place_outlier(tx: Transaction, job: Append) -> None:
    """Give an event that was stored as an outlier its place in the graph. Its JSON stays as it is."""
    tx.execute(
        update(t.events)
        .where(t.events.c.event_nid == job.nid)
        .values(
            position=job.position,
            received_ts=job.received_ts,
            state_group=job.state_group,
            tip_group=job.tip_group,
            replaces_nid=job.replaces_nid,
            redacted_by=job.redacted_by,
            flags=job.flags,
        )
    )


def _write_memberships(tx: Transaction, jobs: Sequence[Append]) -> None:
    rows = {}
    changes = []
    for job in jobs:
        for member in job.memberships:
            rows[job.room_nid, member.user_nid] = (
                job.room_nid,
                member.user_nid,
                member.membership,
                member.event_nid,
                job.position,
                member.sender_nid,
                member.is_local,
                False,
            )
            if member.is_local and member.is_change:
                changes.append((member.user_nid, job.position, job.room_nid, member.event_nid, member.membership))
    tx.insert_many(
        t.memberships,
        (
            "room_nid",
            "user_nid",
            "membership",
            "event_nid",
            "position",
            "sender_nid",
            "is_local",
            "is_forgotten",
        ),
        list(rows.values()),
        update=("membership", "event_nid", "position", "sender_nid", "is_local", "is_forgotten"),
    )
    tx.insert_many(t.membership_changes, ("user_nid", "position", "room_nid", "event_nid", "membership"), changes)


def _write_servers(tx: Transaction, jobs: Sequence[Append]) -> None:
    deltas: dict[tuple[int, str], int] = {}
    for job in jobs:
        for server, delta in job.servers:
            deltas[job.room_nid, server] = deltas.get((job.room_nid, server), 0) + delta
    add_servers(tx, deltas)
    add_destinations(
        tx,
        (
            (destination, job.room_nid, job.position)
            for job in jobs
            if job.destinations and job.position is not None
            for destination in job.destinations
        ),
    )


def _write_stats(tx: Transaction, jobs: Sequence[Append]) -> None:
    rooms: dict[int, tuple[dict[str, Any], list[int]]] = {}
    fresh: set[int] = set()
    for job in jobs:
        values, deltas = rooms.setdefault(job.room_nid, ({}, [0, 0]))
        values.update(job.stats)
        deltas[0] += job.joined_delta
        deltas[1] += job.invited_delta
        if job.new_room:
            fresh.add(job.room_nid)
    table = t.room_stats
    for room_nid, (values, (joined, invited)) in rooms.items():
        if room_nid in fresh:
            row = {"is_federated": True, **values, "joined_members": joined, "invited_members": invited}
            tx.execute(table.insert().values(room_nid=room_nid, **row))
            continue
        changes: dict[str, Any] = dict(values)
        if joined:
            changes["joined_members"] = table.c.joined_members + joined
        if invited:
            changes["invited_members"] = table.c.invited_members + invited
        if changes:
            tx.execute(update(table).where(table.c.room_nid == room_nid).values(**changes))


def _write_redactions(tx: Transaction, jobs: Sequence[Append]) -> None:
    tx.insert_many(
        t.redactions,
        ("redaction_nid", "room_nid", "target_id"),
        [(job.nid, job.room_nid, job.redacts_id) for job in jobs],
    )
    for job in jobs:
        for target_nid in job.redacted_nids:
            tx.execute(
                update(t.events)
                .where(t.events.c.event_nid == target_nid, t.events.c.redacted_by.is_(None))
                .values(redacted_by=job.nid)
            )
            tx.execute(delete(t.relations).where(t.relations.c.event_nid == target_nid))
