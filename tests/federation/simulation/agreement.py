"""What has to be the same on all servers, and finding where they differ.

Compared are, by event ID:

- the forward extremities, the whole current state, and who is joined from where;
- all events that the end of the graph builds on and that are not rejected: every server has all of them, however they
  came (sent, fetched for a gap, paged back to). Where nobody builds on an event, it must be one that somebody has
  soft-failed: such a branch may be known only to who was told of it;
- of each of them: the state after it, and whether and by what it is redacted;
- which events are rejected: an event that one rejects, nobody has accepted. Rejected ones need not be everywhere.

Not compared is which events are soft-failed: that depends on the state of the moment in which an event arrived
(server-server API, "Soft failure"). It must not change anything of the above, but for one
thing: a redaction that is soft-failed has no effect there. Nor has one that was redacted itself before it arrived.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import select

from homeserver.model.ids import EventID, RoomID
from storage.events import Flag
from storage.tables.rooms import events, rooms, state_keys
from storage.transaction import Transaction

if TYPE_CHECKING:
    from .server import SimulatedServer

# How often in a row it may be that nothing comes, with a wait in which servers that had nothing are forgotten.
_MOST_IN_VAIN = 4
_WAIT_S = 700.0


async def settle_history(server: SimulatedServer, room_id: RoomID) -> None:
    """Page back until no gap is left."""
    links = server.parts.base.links
    assert links is not None
    in_vain = 0
    while gaps := await links.door.gaps_before(room_id, None, 50):
        came = [await links.backfill.before(room_id, gap.position, 1) for gap in gaps]
        if any(came):
            in_vain = 0
            continue
        in_vain += 1
        assert in_vain < _MOST_IN_VAIN, f"{server.name} cannot fill the gaps {gaps}"
        await server.parts.base.clock.sleep(_WAIT_S)


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """What a server has stored of an event; `state_after`: the state after it, as (type, state key) to event ID."""

    event_id: str
    flags: int
    depth: int
    is_placed: bool
    redacted_by: str | None
    state_after: frozenset[tuple[str, str, str]]
    prev: tuple[str, ...]
    text: str

    @property
    def is_rejected(self) -> bool:
        return bool(self.flags & Flag.REJECTED)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server has of a room."""

    extremities: frozenset[str]
    state: Mapping[tuple[str, str], str]
    servers: tuple[str, ...]
    events: Mapping[str, SeenEvent]


async def see(server: SimulatedServer, room_id: RoomID) -> Seen:
    """Read everything of a room."""
    base = server.parts.base
    tip = await base.door.tip(room_id)
    store = base.store

    def read(tx: Transaction) -> tuple[Any, Any]:
        rows = tx.all(
            select(
                events.c.event_nid,
                events.c.event_id,
                events.c.flags,
                events.c.depth,
                events.c.state_group,
                events.c.position,
                events.c.redacted_by,
                events.c.key_nid,
                events.c.json,
                events.c.type,
            )
            .join(rooms, rooms.c.room_nid == events.c.room_nid)
            .where(rooms.c.room_id == room_id)
        )
        return rows, tx.all(select(state_keys.c.key_nid, state_keys.c.type, state_keys.c.state_key))

    rows, keys = await store.database.read(read)
    names = {nid: (kind, key) for nid, kind, key in keys}
    ids = {row[0]: row[1] for row in rows}
    states = await store.states.get_many({row[4] for row in rows if row[4] is not None})
    shown = {
        group: frozenset((*names[key], ids.get(nid, f"nid {nid}")) for key, nid in state.items())
        for group, state in states.items()
    }
    return Seen(
        frozenset(str(each.event_id) for each in tip.extremities),
        {names[key]: ids.get(nid, f"nid {nid}") for key, nid in tip.state.items()},
        tip.servers.names,
        {
            row[1]: SeenEvent(
                row[1],
                row[2],
                row[3],
                row[4] is not None,
                ids.get(row[6]) if row[6] is not None else None,
                shown.get(row[4], frozenset()),
                tuple(orjson.loads(row[8])["prev_events"]),
                f"{row[9]} {bytes(row[8])[:600]!r}",
            )
            for row in rows
        },
    )


def compare(servers: Sequence[SimulatedServer], room_id: RoomID, sent: Sequence[EventID]) -> None:
    """Raise AssertionError, with where to look, if servers differ."""
    seen = {server.name: server.do(see(server, room_id)) for server in servers}
    faults = [*_events(seen, sent), *_details(seen), *_ends(seen)]
    assert not faults, f"{len(faults)} differences\n" + "\n".join(faults[:40])


def _events(seen: Mapping[str, Seen], sent: Sequence[EventID]) -> list[str]:
    faults = []
    accepted: dict[str, list[str]] = defaultdict(list)
    rejected: dict[str, list[str]] = defaultdict(list)
    for name, room in seen.items():
        for event in room.events.values():
            if event.is_rejected:
                rejected[event.event_id].append(name)
            elif event.is_placed:
                accepted[event.event_id].append(name)
    counted = _before_the_end(seen)
    lost = [event_id for event_id in sent if event_id not in accepted]
    if lost:
        faults.append(f"{len(lost)} events that were sent are nowhere: {lost[:5]}")
    for event_id, there in sorted(accepted.items()):
        copies = [room.events[event_id] for room in seen.values() if event_id in room.events]
        if event_id not in counted and any(event.flags & Flag.SOFT_FAILED for event in copies):
            continue
        if event_id not in counted:
            faults.append(f"nobody builds on {event_id}, which nobody has soft-failed: {copies[0].text}")
        if len(there) < len(seen):
            missing = [name for name in seen if name not in there]
            how = {
                name: seen[name].events[event_id].flags if event_id in seen[name].events else None for name in missing
            }
            by = f" (rejected by {rejected[event_id]})" if event_id in rejected else ""
            faults.append(f"{event_id} is accepted by {there}, not by {how}{by}: {copies[0].text}")
    return faults


def _before_the_end(seen: Mapping[str, Seen]) -> set[str]:
    """Return the ends of the graph and all events before them, of all servers."""
    prevs = {event.event_id: event.prev for room in seen.values() for event in room.events.values()}
    found: set[str] = set()
    pending = [event_id for room in seen.values() for event_id in room.extremities]
    while pending:
        event_id = pending.pop()
        if event_id not in found:
            found.add(event_id)
            pending.extend(prevs.get(event_id, ()))
    return found


def _details(seen: Mapping[str, Seen]) -> list[str]:
    """Compare what all have, the oldest first: what comes after a difference differs because of it."""
    faults = []
    first, *others = seen.items()
    shared = set(first[1].events).intersection(*(room.events for _, room in others))
    for event_id in sorted(shared, key=lambda each: (first[1].events[each].depth, each)):
        ours = first[1].events[event_id]
        if ours.is_rejected:
            continue
        for name, room in others:
            theirs = room.events[event_id]
            if theirs.is_rejected:
                continue
            # Which of several redactions counts is the one that came first, and that differs.
            is_redacted = bool(ours.redacted_by), bool(theirs.redacted_by)
            if is_redacted[0] is not is_redacted[1] and not _is_without_effect(seen.values(), ours, theirs):
                faults.append(
                    f"{event_id} is redacted by {ours.redacted_by} at {first[0]}, by {theirs.redacted_by} at {name}: "
                    f"{ours.text}"
                )
            if ours.is_placed and theirs.is_placed and ours.state_after != theirs.state_after:
                faults.append(
                    f"the state after {event_id} (depth {ours.depth}): {first[0]} has"
                    f" {sorted(ours.state_after - theirs.state_after)}, {name} has"
                    f" {sorted(theirs.state_after - ours.state_after)}: {ours.text}"
                )
    return faults


def _is_without_effect(rooms: Iterable[Seen], *redacted: SeenEvent) -> bool:
    """Tell whether one of the redactions was soft-failed somewhere, or redacted itself: there it has no effect.

    Up to room version 10, a redaction that is redacted does not say any more what it redacts; who is told of it later
    cannot know.
    """
    redactions = {event.redacted_by for event in redacted} - {None}
    return any(
        event.flags & Flag.SOFT_FAILED or event.redacted_by is not None
        for room in rooms
        for event_id in redactions
        if (event := room.events.get(str(event_id))) is not None
    )


def _ends(seen: Mapping[str, Seen]) -> list[str]:
    faults = []
    (name, ours), *others = seen.items()
    for other, theirs in others:
        if ours.extremities != theirs.extremities:
            faults.append(f"extremities: {name} has {set(ours.extremities)}, {other} {set(theirs.extremities)}")
        if ours.state != theirs.state:
            keys = {key for key in {**ours.state, **theirs.state} if ours.state.get(key) != theirs.state.get(key)}
            faults += [
                f"state {key}: {name} has {ours.state.get(key)}, {other} {theirs.state.get(key)}" for key in keys
            ]
        if ours.servers != theirs.servers:
            faults.append(f"servers: {name} has {ours.servers}, {other} {theirs.servers}")
    return faults
