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

from .state_groups import NewGroup
from .tables import rooms as t
from .transaction import Transaction


@dataclass(frozen=True, slots=True)
class MembershipRow:
    """A user's membership in the room of the append; `is_change` unless it was the same before."""

    user_nid: int
    membership: str
    is_local: bool
    is_change: bool


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


@dataclass(slots=True, eq=False)
class Append:
    """One judged event and all that storing it changes.

    `tip_nids`, `depth` and `state_group` are the room's forward extremities and state after it. `after` is the append
    of the same room that it builds on, if that may not be stored yet. `then` are appends that are stored together with
    it or not at all; their `head` is this one, which alone is given to the writer.
    """

    judged: Judged
    nid: int
    position: int
    room_nid: int
    sender_nid: int
    key_nid: int | None
    received_ts: int
    state_group: int
    new_group: NewGroup | None
    replaces_nid: int | None
    prev_nids: tuple[int, ...]
    tip_nids: tuple[int, ...]
    encoded: bytes
    after: Append | None = None
    then: tuple[Append, ...] = ()
    head: Append | None = None
    new_room: tuple[str, str] | None = None
    membership: MembershipRow | None = None
    stats: dict[str, Any] = field(default_factory=dict)
    joined_delta: int = 0
    invited_delta: int = 0
    relation: RelationRow | None = None
    redacted_nids: tuple[int, ...] = ()
    redacts_id: str | None = None
    transaction: TransactionRow | None = None
    failed: bool = False
    rank = 1

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
        """Tell whether the event is there: its number is used for nothing else."""
        return tx.first(select(t.events.c.event_nid).where(t.events.c.event_nid == job.nid)) is not None


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
    "replaces_nid",
    "redacted_by",
    "flags",
    "json",
)


def _write(tx: Transaction, jobs: Sequence[Append]) -> None:
    new_rooms = [(job.room_nid, *job.new_room, False, job.received_ts) for job in jobs if job.new_room]
    tx.insert_many(t.rooms, ("room_nid", "room_id", "version", "is_published", "created_ts"), new_rooms)
    groups = [job.new_group for job in jobs if job.new_group is not None]
    tx.insert_many(
        t.state_groups, ("state_group", "room_nid", "parent", "chain_index", "delta"), [group.row() for group in groups]
    )
    tx.insert_many(
        t.events,
        _EVENT_COLUMNS,
        [
            (
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
                job.replaces_nid,
                None,
                0,
                job.encoded,
            )
            for job in jobs
            for event in (job.judged.event,)
        ],
    )
    tx.insert_many(
        t.event_edges, ("event_nid", "prev_nid"), [(job.nid, prev_nid) for job in jobs for prev_nid in job.prev_nids]
    )
    refs: dict[int, int] = {}
    for job in jobs:
        refs[job.state_group] = refs.get(job.state_group, 0) + 1
    for group in groups:
        if group.parent is not None:
            refs[group.parent] = refs.get(group.parent, 0) + 1
    tx.insert_many(t.state_group_refs, ("state_group", "refs"), list(refs.items()), add=("refs",))
    tips = {
        job.room_nid: (job.room_nid, orjson.dumps(job.tip_nids), job.judged.event.depth, job.state_group, job.position)
        for job in jobs
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
    _write_memberships(tx, [job for job in jobs if job.membership])
    _write_stats(tx, [job for job in jobs if job.stats or job.joined_delta or job.invited_delta])
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


def _write_memberships(tx: Transaction, jobs: Sequence[Append]) -> None:
    rows = {}
    changes = []
    for job in jobs:
        member = job.membership
        if member is None:
            continue
        rows[job.room_nid, member.user_nid] = (
            job.room_nid,
            member.user_nid,
            member.membership,
            job.nid,
            job.position,
            job.sender_nid,
            member.is_local,
            False,
        )
        if member.is_local and member.is_change:
            changes.append((member.user_nid, job.position, job.room_nid, job.nid, member.membership))
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
