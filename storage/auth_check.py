"""Comparing the index over the auth graph of a room with the JSON of its events.

Each event is looked at by itself, oldest first: whether its chain and its links say nothing but what it cites, and
whether all that it cites follows from them. If that is so for each event, it is so for whole auth chains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select

from .auth_places import auth_nids_of
from .events import Flag
from .tables.auth_chains import auth_chains, auth_links
from .tables.rooms import events
from .transaction import CHUNK, Transaction, chunks


@dataclass(frozen=True, slots=True)
class StateEvent:
    """A stored state event, and the events that it cites as far as they are in its room."""

    nid: int
    key_nid: int
    is_rejected: bool
    auth_nids: tuple[int, ...]


def state_events(tx: Transaction, room_nid: int) -> Iterator[StateEvent]:
    """Yield the state events of a room, oldest first."""
    query = (
        select(events.c.event_nid, events.c.key_nid, events.c.flags)
        .where(events.c.room_nid == room_nid, events.c.key_nid.is_not(None))
        .order_by(events.c.event_nid)
    )
    for part in chunks(tx.all(query)):
        cited = auth_nids_of(tx, [nid for nid, _, _ in part])
        for nid, key_nid, flags in part:
            yield StateEvent(nid, key_nid, bool(flags & Flag.REJECTED), cited[nid])


def remove(tx: Transaction, room_nid: int) -> None:
    """Delete the index of a room."""
    nids = [row[0] for row in tx.all(select(events.c.event_nid).where(events.c.room_nid == room_nid))]
    for part in chunks(nids):
        # A chain is named by its first event, which is of the same room.
        tx.execute(delete(auth_links).where(auth_links.c.chain.in_(part)))
        tx.execute(delete(auth_chains).where(auth_chains.c.event_nid.in_(part)))


def differences(tx: Transaction, room_nid: int) -> list[str]:
    """Return how the index of a room differs from what its events say, a line for each difference."""
    found: list[str] = []
    checked = _Checked({}, {}, {}, {}, {})
    rejected: dict[int, StateEvent] = {}
    batch: list[StateEvent] = []
    for event in state_events(tx, room_nid):
        batch.append(event)
        if len(batch) == CHUNK:
            found.extend(_check_batch(tx, batch, checked, rejected))
            batch = []
    found.extend(_check_batch(tx, batch, checked, rejected))
    # An outlier may be rejected once its state is known, when others have cited it already.
    found.extend(f"event {nid} is rejected, is cited by none and has a place" for nid in rejected)
    return found


@dataclass(frozen=True, slots=True)
class _Checked:
    """What the events looked at so far say: by event its chain; by chain its last event, key and links."""

    chains: dict[int, int]
    last: dict[int, int]
    keys: dict[int, int]
    first_links: dict[int, dict[int, int]]
    links: dict[int, dict[int, int]]


def _check_batch(
    tx: Transaction, batch: Sequence[StateEvent], checked: _Checked, rejected: dict[int, StateEvent]
) -> Iterator[str]:
    nids = [event.nid for event in batch]
    query = select(auth_chains.c.event_nid, auth_chains.c.chain, auth_chains.c.key_nid)
    places = {nid: (chain, key) for nid, chain, key in tx.all(query.where(auth_chains.c.event_nid.in_(nids)))}
    links: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # By chain and event: the primary key; links that name another chain than their event's are not found so.
    rows = select(auth_links).where(
        auth_links.c.chain.in_({chain for chain, _ in places.values()}), auth_links.c.event_nid.in_(nids)
    )
    for chain, nid, to_chain, to_nid in tx.all(rows):
        links.setdefault((chain, nid), []).append((to_chain, to_nid))
    for event in batch:
        place = places.get(event.nid)
        for nid in event.auth_nids:
            if not event.is_rejected:
                rejected.pop(nid, None)
        if place is None:
            if not event.is_rejected:
                yield f"event {event.nid} has no place"
            continue
        if event.is_rejected:
            rejected[event.nid] = event
        yield from _check_event(event, *place, links.pop((place[0], event.nid), ()), checked)
    for chain, nid in links:
        yield f"event {nid} has links from chain {chain}, which is not its own"


def _check_event(
    event: StateEvent, chain: int, key_nid: int, links: Sequence[tuple[int, int]], checked: _Checked
) -> Iterator[str]:
    nid = event.nid
    if key_nid != event.key_nid or checked.keys.setdefault(chain, key_nid) != key_nid:
        yield f"event {nid} has key {event.key_nid}, its place {key_nid}, its chain {checked.keys.get(chain)}"
    before = checked.last.get(chain)
    if before is None and chain != nid:
        yield f"event {nid} is the first of chain {chain}"
    if before is not None and before not in event.auth_nids:
        yield f"event {nid} comes after {before} in chain {chain}, but does not cite it"
    own = checked.links.setdefault(chain, {})
    for to_chain, to_nid in links:
        if to_nid not in event.auth_nids or checked.chains.get(to_nid) != to_chain:
            yield f"event {nid} has a link to event {to_nid} of chain {to_chain}, but does not cite it there"
        own[to_chain] = max(to_nid, own.get(to_chain, 0))
    if before is None:
        checked.first_links[chain] = dict(own)
    for cited in event.auth_nids:
        if cited in checked.chains and not _follows(event, chain, cited, own, checked):
            yield f"event {nid} cites event {cited}, and the index does not say so"
    checked.chains[nid] = chain
    checked.last[chain] = nid


def _follows(event: StateEvent, chain: int, cited: int, own: Mapping[int, int], checked: _Checked) -> bool:
    to_chain = checked.chains[cited]
    if to_chain == chain or own.get(to_chain, 0) >= cited:
        return True
    others = (checked.chains[each] for each in event.auth_nids if each in checked.chains)
    return any(checked.first_links.get(other, {}).get(to_chain, 0) >= cited for other in others)
