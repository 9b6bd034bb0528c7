"""Comparing the index over the auth graph of a room with the JSON of its events.

Each event is looked at by itself, oldest first: whether its chain and its links say nothing but what it cites, and
whether all that it cites follows from them. If that is so for each event, it is so for whole auth chains. An event that
cannot be read is passed over, and so is its place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Select, delete, select

from .auth_places import auth_nids_of
from .events import Flag
from .outside import find_outside_events
from .tables.auth_chains import auth_chains, auth_links
from .tables.rooms import events
from .transaction import CHUNK, Transaction, chunks

# What reading bytes that are no event of the room's version ends with.
_UNREADABLE: Final = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class StateEvent:
    """A stored state event, and the events that it cites as far as they are in its room."""

    nid: int
    key_nid: int
    is_rejected: bool
    auth_nids: tuple[int, ...]


def state_events(tx: Transaction, room_nid: int) -> Iterator[StateEvent]:
    """Yield the state events of a room, oldest first."""
    for part in chunks(tx.all(_state_rows(room_nid))):
        cited = auth_nids_of(tx, [nid for nid, _, _ in part])
        for nid, key_nid, flags in part:
            yield StateEvent(nid, key_nid, bool(flags & Flag.REJECTED), cited[nid])


def _state_rows(room_nid: int) -> Select[Any]:
    return (
        select(events.c.event_nid, events.c.key_nid, events.c.flags)
        .where(events.c.room_nid == room_nid, events.c.key_nid.is_not(None))
        .order_by(events.c.event_nid)
    )


def remove(tx: Transaction, room_nid: int) -> None:
    """Delete the index of a room."""
    nids = [row[0] for row in tx.all(select(events.c.event_nid).where(events.c.room_nid == room_nid))]
    for part in chunks(nids):
        # A chain is named by its first event, which is of the same room.
        tx.execute(delete(auth_links).where(auth_links.c.chain.in_(part)))
        tx.execute(delete(auth_chains).where(auth_chains.c.event_nid.in_(part)))


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing in which the index differs: `text` has braces where the numbers of events are.

    `nid` is the event that it is about, the first one named.
    """

    nid: int
    text: str
    others: tuple[int, ...] = ()

    def sentence(self, named: Callable[[int], str] = str) -> str:
        """Return the sentence, with events as they are named."""
        return self.text.format(*map(named, (self.nid, *self.others)))


def differences(tx: Transaction, room_nid: int) -> list[str]:
    """Return how the index of a room differs from what its events say, a line for each difference."""
    return [fault.sentence() for fault in faults(tx, room_nid)]


def faults(tx: Transaction, room_nid: int) -> Iterator[Fault]:
    """Yield in what the index of a room differs from what its events say, oldest event first. Total but for the tables.

    An event that cannot be read is passed over: that is for whoever looks at events.
    """
    checked = _Checked({}, {}, {}, {}, {}, set())
    rejected: dict[int, StateEvent] = {}
    alone = find_outside_events(tx, room_nid)
    for part in chunks(tx.all(_state_rows(room_nid)), CHUNK):
        batch = _read_part(tx, part, checked.unreadable)
        yield from _check_batch(tx, batch, checked, rejected, alone)
    # An outlier may be rejected once its state is known, when others have cited it already.
    for nid in rejected:
        yield Fault(nid, "event {} is rejected, is cited by none and has a place")


def _read_part(tx: Transaction, part: Sequence[Any], unreadable: set[int]) -> list[StateEvent]:
    """Return those of these events that can be read, and note the others."""
    try:
        cited = dict(auth_nids_of(tx, [nid for nid, _, _ in part]))
    except _UNREADABLE:
        cited = {}
        for nid, _, _ in part:
            try:
                cited.update(auth_nids_of(tx, (nid,)))
            except _UNREADABLE:
                unreadable.add(nid)
    return [
        StateEvent(nid, key_nid, bool(int(flags) & Flag.REJECTED), cited[nid])
        for nid, key_nid, flags in part
        if nid in cited
    ]


@dataclass(frozen=True, slots=True)
class _Checked:
    """What the events looked at so far say: by event its chain; by chain its last event, key and links."""

    chains: dict[int, int]
    last: dict[int, int]
    keys: dict[int, int]
    first_links: dict[int, dict[int, int]]
    links: dict[int, dict[int, int]]
    unreadable: set[int]


def _check_batch(
    tx: Transaction,
    batch: Sequence[StateEvent],
    checked: _Checked,
    rejected: dict[int, StateEvent],
    alone: Collection[int],
) -> Iterator[Fault]:
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
            if not event.is_rejected and event.nid not in alone:
                yield Fault(event.nid, "event {} has no place")
            continue
        if event.is_rejected:
            rejected[event.nid] = event
        yield from _check_event(event, *place, links.pop((place[0], event.nid), ()), checked)
    for chain, nid in links:
        yield Fault(nid, "event {} has links from chain {}, which is not its own", (chain,))


def _check_event(
    event: StateEvent, chain: int, key_nid: int, links: Sequence[tuple[int, int]], checked: _Checked
) -> Iterator[Fault]:
    nid = event.nid
    if key_nid != event.key_nid or checked.keys.setdefault(chain, key_nid) != key_nid:
        yield Fault(
            nid, f"event {{}} has key {event.key_nid}, its place {key_nid}, its chain {checked.keys.get(chain)}"
        )
    before = checked.last.get(chain)
    # Behind what cannot be read nothing is known of the chain.
    is_cut = bool(checked.unreadable) and before is None and chain in checked.unreadable
    if before is None and chain != nid and not is_cut:
        yield Fault(nid, "event {} is the first of chain {}", (chain,))
    if before is not None and before not in event.auth_nids and checked.unreadable.isdisjoint(event.auth_nids):
        yield Fault(nid, "event {} comes after {} in a chain, but does not cite it", (before,))
    own = checked.links.setdefault(chain, {})
    for to_chain, to_nid in links:
        if to_nid in checked.unreadable:
            continue
        if to_nid not in event.auth_nids or checked.chains.get(to_nid) != to_chain:
            yield Fault(
                nid, "event {} has a link to event {} of chain {}, but does not cite it there", (to_nid, to_chain)
            )
        own[to_chain] = max(to_nid, own.get(to_chain, 0))
    if before is None:
        checked.first_links[chain] = dict(own)
    # What follows may do so by way of any event that it cites.
    is_told = checked.unreadable.isdisjoint(event.auth_nids)
    for cited in event.auth_nids if is_told else ():
        if cited in checked.chains and not _follows(event, chain, cited, own, checked):
            yield Fault(nid, "event {} cites event {}, and the index does not say so", (cited,))
    checked.chains[nid] = chain
    checked.last[chain] = nid


def _follows(event: StateEvent, chain: int, cited: int, own: Mapping[int, int], checked: _Checked) -> bool:
    to_chain = checked.chains[cited]
    if to_chain == chain or own.get(to_chain, 0) >= cited:
        return True
    others = (checked.chains[each] for each in event.auth_nids if each in checked.chains)
    return any(checked.first_links.get(other, {}).get(to_chain, 0) >= cited for other in others)
