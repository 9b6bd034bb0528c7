"""Deleting events and rooms for good, and the references that keep state groups.

A state group lives as long as something refers to it: an event (`state_group`, the state after it; `tip_group`, the
room's state after it was appended) or a group that stands on it (`parent`). `state_group_refs` counts them; writing an
event counts up (`storage.append`), deleting it counts down. A group that nothing refers to is deleted and gives its own
reference to its parent back, and so on.

Rows are all that is deleted here. What is in memory of them is the caller's: see each function. Single events that
others may cite keep their places in the index of the auth graph, for auth chains may run through them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson
from sqlalchemy import and_, delete, exists, func, select

from homeserver.errors import BrokenInvariant

from .state_groups import load_chain, state_of
from .tables import rooms as t
from .tables.auth_chains import auth_chains, auth_links
from .tables.federation_rooms import (
    destination_rooms,
    history_blocks,
    missing_prevs,
    partial_rooms,
    room_servers,
    stripped_state,
)
from .tables.held_events import held_events
from .tables.identity import user_ids
from .tables.user_state import account_data, receipts
from .transaction import CHUNK, Transaction, chunks

_MEMBER: Final = "m.room.member"
# What an event can cite: see homeserver.model.auth.needed.
_CITABLE: Final = (
    "m.room.create",
    _MEMBER,
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.third_party_invite",
)


def release(tx: Transaction, groups: Mapping[int, int]) -> list[int]:
    """Take references away from state groups (group -> how many) and return the groups that are deleted thereby.

    They are to be dropped from `StateCache`. Raises BrokenInvariant where a group has fewer references than are taken.
    """
    gone: list[int] = []
    taken = {group: count for group, count in groups.items() if count}
    while taken:
        tx.insert_many(
            t.state_group_refs,
            ("state_group", "refs"),
            [(group, -count) for group, count in taken.items()],
            add=("refs",),
        )
        unused: list[int] = []
        for part in chunks(taken):
            query = select(t.state_group_refs.c.state_group, t.state_group_refs.c.refs)
            for group, refs in tx.all(
                query.where(t.state_group_refs.c.state_group.in_(part), t.state_group_refs.c.refs <= 0)
            ):
                if refs < 0:
                    raise BrokenInvariant(f"state group {group} has {-refs} references too few")
                unused.append(group)
        taken = _delete_groups(tx, unused)
        gone += unused
    return gone


def delete_events(tx: Transaction, room_nid: int, nids: Iterable[int]) -> list[int]:
    """Delete events of a room for good, with all that hangs on them; return the state groups that go with them.

    Numbers that are no events of the room are passed over. Raises BrokenInvariant, and deletes nothing, if one is a
    forward extremity or in the current state. State that is kept may name a deleted event: whoever deletes history
    keeps the state events that the states of the rest consist of. What was fetched from other servers, or came after a
    gap, and builds on a deleted event comes after a gap again.

    To be called in the room's lane when its appends are written: one that is being written may stand on a state group
    that goes. Afterwards the caller drops the events from `EventCache`, the groups from `StateCache`, what was resolved
    from them, and the room from the feed. The tip stays as it is.
    """
    wanted = list(dict.fromkeys(nids))
    _refuse_current(tx, room_nid, wanted)
    taken: Counter[int] = Counter()
    for part in chunks(wanted):
        _delete_uncited_places(tx, part)
        taken.update(_delete_part(tx, room_nid, part))
    return release(tx, taken)


def delete_room(tx: Transaction, room_nid: int, limit: int = CHUNK) -> bool:
    """Delete a part of a room, about `limit` events or other rows, and return whether more remains.

    From the first call on the room has no tip and nobody finds it; a deletion that was interrupted is taken up by
    calling again. Local users are to have left before: the rows that tell their syncs of it go with the room.

    To be called, all of the calls, in the room's lane when its appends are written. After the first one the caller
    drops the room's tip, its events from `EventCache`, its state groups from `StateCache`, what was resolved from
    them, and the room from the feed and from wherever its number is remembered.
    """
    tx.execute(delete(t.room_tips).where(t.room_tips.c.room_nid == room_nid))
    nids = _column(tx, select(t.events.c.event_nid).where(t.events.c.room_nid == room_nid).limit(limit))
    if nids:
        for part in chunks(nids):
            # The room's groups are referred to from within the room only, and go together below.
            _delete_places(tx, part)
            _delete_part(tx, room_nid, part)
        return True
    groups = _column(tx, select(t.state_groups.c.state_group).where(t.state_groups.c.room_nid == room_nid).limit(limit))
    if groups:
        _delete_groups(tx, groups)
        return True
    return (
        _delete_users_rows(tx, room_nid, limit)
        or _delete_servers_rows(tx, room_nid, limit)
        or _delete_rest(tx, room_nid)
    )


def count_refs(tx: Transaction, room_nid: int) -> list[str]:
    """Return what is wrong with the reference counts of a room's state groups, one sentence each, by group."""
    real: Counter[int] = Counter()
    for column, room in (
        (t.events.c.state_group, t.events.c.room_nid),
        (t.events.c.tip_group, t.events.c.room_nid),
        (t.state_groups.c.parent, t.state_groups.c.room_nid),
    ):
        query = select(column, func.count()).where(room == room_nid, column.is_not(None)).group_by(column)
        for group, count in tx.all(query):
            real[group] += count
    stored: dict[int, int | None] = {}
    of_room = select(t.state_groups.c.state_group, t.state_group_refs.c.refs).where(
        t.state_groups.c.room_nid == room_nid
    )
    joined = of_room.outerjoin(t.state_group_refs, t.state_group_refs.c.state_group == t.state_groups.c.state_group)
    for group, refs in tx.all(joined):
        stored[group] = refs
    problems = []
    # By number; SQLite stores any kind of value in any column.
    for group in sorted(real.keys() | stored.keys(), key=lambda group: (len(str(group)), str(group))):
        if group not in stored:
            problems.append(f"State group {group} does not exist, but is referred to {_times(real[group])}.")
        elif not real[group]:
            problems.append(f"State group {group} is kept, but nothing refers to it.")
        elif stored[group] != real[group]:
            problems.append(
                f"State group {group} is referred to {_times(real[group])}, but the count says {stored[group] or 0}."
            )
    return problems


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


# -- parts -----------------------------------------------------------------------------------------------------------


def _delete_groups(tx: Transaction, groups: Sequence[int]) -> dict[int, int]:
    """Delete groups and return their references to parents."""
    parents: Counter[int] = Counter()
    for part in chunks(groups):
        query = select(t.state_groups.c.parent).where(
            t.state_groups.c.state_group.in_(part), t.state_groups.c.parent.is_not(None)
        )
        parents.update(_column(tx, query))
        tx.execute(delete(t.state_group_refs).where(t.state_group_refs.c.state_group.in_(part)))
        tx.execute(delete(t.state_groups).where(t.state_groups.c.state_group.in_(part)))
    return parents


def _refuse_current(tx: Transaction, room_nid: int, nids: Sequence[int]) -> None:
    row = tx.first(
        select(t.room_tips.c.extremities, t.room_tips.c.state_group).where(t.room_tips.c.room_nid == room_nid)
    )
    if row is None:
        return
    doomed = set(nids)
    ends = doomed.intersection(orjson.loads(row[0]))
    if ends:
        raise BrokenInvariant(f"events {sorted(ends)[:10]} are forward extremities and cannot be deleted")
    current = doomed.intersection(state_of(load_chain(tx, row[1])).values())
    if current:
        raise BrokenInvariant(f"events {sorted(current)[:10]} are in the current state and cannot be deleted")


def _delete_part(tx: Transaction, room_nid: int, nids: Sequence[int]) -> Counter[int]:
    """Delete events, as many as one statement takes, and return their references to state groups."""
    rows = tx.all(
        select(t.events.c.event_nid, t.events.c.event_id, t.events.c.state_group, t.events.c.tip_group).where(
            t.events.c.room_nid == room_nid, t.events.c.event_nid.in_(nids)
        )
    )
    if not rows:
        return Counter()
    found, event_ids = [row[0] for row in rows], [row[1] for row in rows]
    _delete_membership_changes(tx, room_nid, found)
    _open_gaps(tx, room_nid, found)
    for table, column, values in (
        (missing_prevs, missing_prevs.c.event_nid, found),
        (t.event_edges, t.event_edges.c.event_nid, found),
        (t.event_edges, t.event_edges.c.prev_nid, found),
        (t.relations, t.relations.c.event_nid, found),
        (t.redactions, t.redactions.c.redaction_nid, found),
        (t.transaction_ids, t.transaction_ids.c.event_nid, found),
    ):
        tx.execute(delete(table).where(column.in_(values)))
    for table in (t.relations, t.redactions):
        # Events of other rooms may name these too.
        tx.execute(delete(table).where(table.c.target_id.in_(event_ids), table.c.room_nid == room_nid))
    tx.execute(delete(t.events).where(t.events.c.event_nid.in_(found)))
    return Counter(group for row in rows for group in (row[2], row[3]) if group is not None)


def _open_gaps(tx: Transaction, room_nid: int, nids: Sequence[int]) -> None:
    """Note that these events are missing before those that stay, where there may be gaps."""
    edges, events, gone, blocks = t.event_edges.c, t.events.c, t.events.alias("gone"), history_blocks.c
    query = (
        select(edges.event_nid, gone.c.event_id)
        .join(t.events, events.event_nid == edges.event_nid)
        .join(gone, gone.c.event_nid == edges.prev_nid)
        .where(
            edges.prev_nid.in_(nids),
            edges.event_nid.not_in(nids),
            events.room_nid == room_nid,
            events.position.is_not(None),
            exists().where(
                and_(blocks.room_nid == room_nid, blocks.top >= events.position, blocks.floor < events.position)
            ),
        )
    )
    rows = [(nid, event_id, room_nid, False) for nid, event_id in tx.all(query)]
    tx.insert_many(missing_prevs, ("event_nid", "prev_id", "room_nid", "is_inherited"), rows, ignore=True)


def _delete_uncited_places(tx: Transaction, nids: Sequence[int]) -> None:
    """Take those of the events that no other can cite out of the index of the auth graph."""
    query = select(t.events.c.event_nid).where(t.events.c.event_nid.in_(nids), t.events.c.type.not_in(_CITABLE))
    found = _column(tx, query)
    chains = _column(tx, select(auth_chains.c.chain).where(auth_chains.c.event_nid.in_(found))) if found else []
    if chains:
        tx.execute(delete(auth_links).where(auth_links.c.chain.in_(chains), auth_links.c.event_nid.in_(found)))
        tx.execute(delete(auth_chains).where(auth_chains.c.event_nid.in_(found)))


def _delete_places(tx: Transaction, nids: Sequence[int]) -> None:
    """Take the chains of these events out of the index of the auth graph, whole, and what they lead to.

    For a room that goes: chains may hold places of events that were deleted before.
    """
    frontier = _column(tx, select(auth_chains.c.chain).where(auth_chains.c.event_nid.in_(nids)).distinct())
    while frontier:
        further: set[int] = set()
        for part in chunks(frontier):
            further.update(_column(tx, select(auth_links.c.to_chain).where(auth_links.c.chain.in_(part)).distinct()))
            tx.execute(delete(auth_links).where(auth_links.c.chain.in_(part)))
            tx.execute(delete(auth_chains).where(auth_chains.c.chain.in_(part)))
        frontier = sorted(further.difference(frontier))


def _delete_membership_changes(tx: Transaction, room_nid: int, nids: Sequence[int]) -> None:
    # The table is found by user only.
    members = (
        select(user_ids.c.user_nid)
        .join(t.state_keys, t.state_keys.c.state_key == user_ids.c.user_id)
        .join(t.events, t.events.c.key_nid == t.state_keys.c.key_nid)
        .where(t.state_keys.c.type == _MEMBER, t.events.c.event_nid.in_(nids))
    )
    users = list(dict.fromkeys(_column(tx, members)))
    if users:
        changes = t.membership_changes
        tx.execute(
            delete(changes).where(
                changes.c.user_nid.in_(users), changes.c.room_nid == room_nid, changes.c.event_nid.in_(nids)
            )
        )


def _delete_users_rows(tx: Transaction, room_nid: int, limit: int) -> bool:
    """Delete what `limit` users have in a room, and return whether there was any."""
    for table in (t.memberships, receipts, stripped_state):
        users = _column(tx, select(table.c.user_nid).where(table.c.room_nid == room_nid).distinct().limit(limit))
        if users:
            for part in chunks(users):
                for owned in (t.membership_changes, account_data, receipts, stripped_state, t.memberships):
                    tx.execute(delete(owned).where(owned.c.user_nid.in_(part), owned.c.room_nid == room_nid))
            return True
    return False


def _delete_servers_rows(tx: Transaction, room_nid: int, limit: int) -> bool:
    """Delete what is noted of `limit` servers, and as many events that wait, and return whether there was any."""
    is_any = False
    for table, column in (
        (room_servers, room_servers.c.server),
        # Found by destination only: looked through without touching the rows of other rooms.
        (destination_rooms, destination_rooms.c.destination),
        (held_events, held_events.c.event_id),
    ):
        names = [row[0] for row in tx.all(select(column).where(table.c.room_nid == room_nid).limit(limit))]
        for part in chunks(names):
            is_any = True
            tx.execute(delete(table).where(column.in_(part), table.c.room_nid == room_nid))
    return is_any


def _delete_rest(tx: Transaction, room_nid: int) -> bool:
    for table in (missing_prevs, history_blocks, partial_rooms, t.room_aliases, t.room_stats, t.rooms):
        tx.execute(delete(table).where(table.c.room_nid == room_nid))
    return False


def _column(tx: Transaction, query: Any) -> list[int]:
    return [row[0] for row in tx.all(query)]
