"""An index over the auth graph, so that auth chains need not be walked event by event.

The state events of a room that were not rejected are laid out in chains. An event extends the chain of the auth event
that has its own (type, state_key), such as the last power levels or the user's last membership, if nothing else has
extended that chain yet; any other event begins a chain. So each event of a chain has all before it in its auth chain,
and "what of this chain is in the auth chain of x" is one number: the newest event of it that is.

From chain to chain lead links: one is stored where an event cites something that the chain did not reach before, and
that does not follow from another event it cites. What an event reaches is then found by going from chain to chain: the
links of a chain up to an event, of those to the same chain the highest, and so on. 100,000 power levels are one chain.

Chains are named by the number of their first event, and all positions are event numbers: an event is stored after its
auth events, so numbers ascend along a chain and descend along links. Every state event has a place, also those that
nobody may cite: the auth chains of a state are then found without reading any JSON, and without touching each of
50,000 members (see storage.auth_difference). Storing that an event cites the create event is nearly always saved.

LIMIT: a chain with very many links (a user who changes name and power levels in turn 100,000 times) is scanned inside
the database for each position asked for on it; a line of invitations n users long takes n queries one after the other.

Spec: rooms/v2, "State resolution", "Definitions"; rooms/v12, the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sqlalchemy import and_, func, or_, select

from . import auth_check
from .auth_places import UNION, auth_nids_of, chains_of, events_between, union
from .auth_walks import SHORT, Members, Ranges, Sweep, UnconflictedNids, Upwards
from .tables.auth_chains import auth_chains, auth_links
from .transaction import Transaction, chunks

# So many of a chain's newest links are looked at before one is added; a repeated link does no harm.
_RECENT_LINKS: Final = 32
_NOTHING: Final[Mapping[int, Iterable[int]]] = MappingProxyType({})

_cited = auth_chains.alias("cited")


@dataclass(frozen=True, slots=True)
class NewAuthEvent:
    """A state event that was not rejected, to be given its place. `auth_nids` are the events that it cites."""

    nid: int
    key_nid: int
    auth_nids: tuple[int, ...]


@dataclass(slots=True)
class _Place:
    """What must be known of an event that is cited; `first_links` are those of the first event of its chain."""

    chain: int
    key_nid: int
    is_last: bool
    first_links: dict[int, int]


def add(tx: Transaction, new_events: Sequence[NewAuthEvent]) -> None:
    """Give places to these events; later ones may cite earlier ones.

    What has a place already is passed over, and so is a cited event that has none: only a rejected event is without.
    """
    if not new_events:
        return
    nids = {new.nid for new in new_events}.union(*(new.auth_nids for new in new_events))
    places = _load_places(tx, nids)
    extended = _extended(new_events, places)
    own_links: dict[int, dict[int, int]] = {chain: {} for chain in extended}
    term = "SELECT chain, to_chain, to_nid FROM auth_links WHERE chain = ? ORDER BY event_nid DESC LIMIT ?"
    for chain, to_chain, to_nid in union(tx, term, [(chain, _RECENT_LINKS) for chain in extended]):
        own_links[chain][to_chain] = max(to_nid, own_links[chain].get(to_chain, 0))
    chain_rows: list[tuple[int, int, int]] = []
    link_rows: list[tuple[int, int, int, int]] = []
    for new in new_events:
        if new.nid in places:
            continue
        cited = {nid: places[nid] for nid in new.auth_nids if nid in places}
        before = max((nid for nid, place in cited.items() if place.key_nid == new.key_nid), default=0)
        if before and places[before].is_last:
            chain, first_links = places[before].chain, places[before].first_links
            places[before].is_last = False
        else:
            chain, first_links = new.nid, {}
        reached = own_links.setdefault(chain, {})
        for to_chain, to_nid in _needed_links(cited, chain, reached).items():
            link_rows.append((chain, new.nid, to_chain, to_nid))
            reached[to_chain] = to_nid
            if chain == new.nid:
                first_links[to_chain] = to_nid
        places[new.nid] = _Place(chain, new.key_nid, True, first_links)
        chain_rows.append((new.nid, chain, new.key_nid))
    tx.insert_many(auth_chains, ("event_nid", "chain", "key_nid"), chain_rows)
    tx.insert_many(auth_links, ("chain", "event_nid", "to_chain", "to_nid"), link_rows)


# As text: for one join, putting it together and finding it among the compiled ones takes longer than running it.
# Without the hint, MariaDB goes through all events from the newest on to find the last one of the chain.
_HINT: Final = "FORCE INDEX (auth_chains_by_chain)"
_PLACES: Final = (
    "SELECT a.event_nid, a.chain, a.key_nid,"
    " (SELECT b.event_nid FROM auth_chains b {hint} WHERE b.chain = a.chain ORDER BY b.event_nid DESC LIMIT 1),"
    " l.to_chain, l.to_nid"
    " FROM auth_chains a LEFT JOIN auth_links l ON l.chain = a.chain AND l.event_nid = a.chain"
    " WHERE a.event_nid IN "
)


def _load_places(tx: Transaction, nids: Iterable[int]) -> dict[int, _Place]:
    places: dict[int, _Place] = {}
    mark, hint = ("?", "") if tx.is_sqlite else ("%s", _HINT)
    places_of = _PLACES.format(hint=hint)
    for part in chunks(sorted(nids)):
        sql = f"{places_of}({', '.join([mark] * len(part))})"
        for nid, chain, key_nid, last_nid, to_chain, to_nid in tx.connection.exec_driver_sql(sql, tuple(part)):
            place = places.get(nid)
            if place is None:
                place = places[nid] = _Place(chain, key_nid, last_nid == nid, {})
            if to_chain is not None:
                place.first_links[to_chain] = to_nid
    return places


def _extended(new_events: Sequence[NewAuthEvent], places: Mapping[int, _Place]) -> list[int]:
    """Return the stored chains that these events may extend."""
    chains = {
        place.chain
        for new in new_events
        for place in map(places.get, new.auth_nids)
        if place is not None and place.is_last and place.key_nid == new.key_nid
    }
    return sorted(chains)


def _needed_links(cited: Mapping[int, _Place], chain: int, reached: Mapping[int, int]) -> dict[int, int]:
    """Return the links that say what an event of `chain` cites, as far as it does not follow from other links."""
    highest: dict[int, int] = {}
    for nid, place in cited.items():
        if place.chain != chain and nid > highest.get(place.chain, 0):
            highest[place.chain] = nid
    return {
        to_chain: to_nid
        for to_chain, to_nid in highest.items()
        if to_nid > reached.get(to_chain, 0)
        and not any(place.first_links.get(to_chain, 0) >= to_nid for place in cited.values())
    }


def reach(tx: Transaction, heads: Iterable[int]) -> dict[int, int]:
    """Return by chain the newest event that is one of `heads` or in the auth chain of one."""
    tops: dict[int, int] = {}
    for nid, chain in chains_of(tx, heads).items():
        tops[chain] = max(nid, tops.get(chain, 0))
    for chain, nid in _reach_by_links(tx, tops).items():
        tops[chain] = max(nid, tops.get(chain, 0))
    return tops


def _reach_by_links(tx: Transaction, heads: Mapping[int, int]) -> dict[int, int]:
    """Return by chain the newest event that a link leads to, from the events that `heads` gives by chain."""
    tops = dict(heads)
    found: dict[int, int] = {}
    frontier: Mapping[int, int] = heads
    query = (
        select(auth_links.c.to_chain, func.max(auth_links.c.to_nid))
        .join(_cited, and_(auth_links.c.chain == _cited.c.chain, auth_links.c.event_nid <= _cited.c.event_nid))
        .group_by(auth_links.c.to_chain)
    )
    while frontier:
        better: dict[int, int] = {}
        for part in chunks(frontier.values()):
            for to_chain, to_nid in tx.all(query.where(_cited.c.event_nid.in_(part))):
                found[to_chain] = max(to_nid, found.get(to_chain, 0))
                if to_nid > tops.get(to_chain, 0):
                    tops[to_chain] = better[to_chain] = to_nid
        frontier = better
    return found


def auth_chain(tx: Transaction, nids: Iterable[int]) -> set[int]:
    """Return the auth chain of these stored events together; one of them is in it only if another one reaches it."""
    wanted = set(nids)
    chains = chains_of(tx, wanted)
    without = wanted - chains.keys()
    cited = {nid for each in auth_nids_of(tx, without).values() for nid in each} if without else set()
    if cited:
        chains |= chains_of(tx, cited - chains.keys())
    heads: dict[int, int] = {}
    for nid, chain in chains.items():
        heads[chain] = max(nid, heads.get(chain, 0))
    by_link = _reach_by_links(tx, heads)
    result: set[int] = set()
    above: list[int] = []
    for chain in heads.keys() | by_link.keys():
        head, linked = heads.get(chain, 0), by_link.get(chain, 0)
        top = max(head, linked)
        if linked >= head or head in cited:
            result.add(top)
        if top != chain:
            above.append(top)
    query = select(_cited.c.event_nid).join(
        auth_chains, and_(_cited.c.chain == auth_chains.c.chain, _cited.c.event_nid < auth_chains.c.event_nid)
    )
    for part in chunks(above):
        result.update(row[0] for row in tx.all(query.where(auth_chains.c.event_nid.in_(part))))
    return result


def auth_difference(
    tx: Transaction,
    sets: Sequence[Set[int]],
    unconflicted: UnconflictedNids,
    cited: Mapping[int, Iterable[int]] = _NOTHING,
) -> set[int]:
    """Return the events that are in the auth chains of some of these states, but not of all.

    `sets` are the conflicted state events of each state, `unconflicted` gives the others by the number of their key;
    what it gives for a conflicted key is overlooked, so any one of the states, whole, will do. `cited` says what those
    conflicted events cite that are not stored yet. Conflicted state events themselves are never in the result.

    Spec: rooms/v2, "Definitions", "Auth difference".
    """
    bits = _states_by_event(sets)
    members = Members(tx, unconflicted, bits)
    sweep = Sweep(tx, members, (1 << len(sets)) - 1)
    chains = chains_of(tx, bits)
    for nid, chain in chains.items():
        sweep.arrive(nid, chain, bits[nid])
    for head, below in _cited_by_unplaced(tx, bits.keys() - chains.keys(), cited).items():
        for nid, chain in below.items():
            sweep.arrive(nid, chain, bits[head])
    ranges = sweep.run()
    found = events_between(tx, ((chain, low, high) for chain, (low, high) in ranges.items()), SHORT + 1)
    wanted: Ranges = {}
    for chain, nids in found.items():
        if len(nids) > SHORT:
            wanted[chain] = ranges[chain]
        elif left := [nid for nid in nids if nid not in bits]:
            wanted[chain] = (left[-1] - 1, left[0])
    tops = Upwards(tx, members).tops(wanted)
    lows = {chain: max(low, tops[chain]) for chain, (low, _) in wanted.items()}
    result = {nid for chain, low in lows.items() for nid in found[chain] if nid > low}
    rest = [(chain, low, found[chain][-1]) for chain, low in lows.items() if len(found[chain]) > SHORT]
    for nids in events_between(tx, rest).values():
        result.update(nids)
    return result.difference(bits)


def conflicted_subgraph(
    tx: Transaction, conflicted: Set[int], cited: Mapping[int, Iterable[int]] = _NOTHING
) -> set[int]:
    """Return the events on the paths between two conflicted events, and all conflicted events.

    `cited` says what those conflicted events cite that are not stored yet.

    On each chain these are the events from the oldest that reaches a conflicted event to the newest that is reached.

    Spec: rooms/v12, "Definitions", "Conflicted state subgraph".
    """
    chains = chains_of(tx, conflicted)
    if not chains:
        return set(conflicted)
    starts: dict[int, int] = {}
    for nid, chain in chains.items():
        starts[chain] = min(nid, starts.get(chain, nid))
    for below in _cited_by_unplaced(tx, conflicted - chains.keys(), cited).values():
        chains.update(below)
    tops: dict[int, int] = {}
    for nid, chain in chains.items():
        tops[chain] = max(nid, tops.get(chain, 0))
    bundles = _descend(tx, tops, min(starts.values()))
    _ascend(tx, tops, starts, bundles)
    ranges = [(chain, start - 1, tops[chain]) for chain, start in starts.items()]
    return {nid for found in events_between(tx, ranges).values() for nid in found} | conflicted


def check(tx: Transaction, room_nid: int) -> list[str]:
    """Return how the index of a room differs from what its events say, a line for each difference."""
    return auth_check.differences(tx, room_nid)


def rebuild(tx: Transaction, room_nid: int) -> None:
    """Write the index of a room anew, from the JSON of its events."""
    auth_check.remove(tx, room_nid)
    for part in chunks(auth_check.state_events(tx, room_nid)):
        add(tx, [NewAuthEvent(each.nid, each.key_nid, each.auth_nids) for each in part if not each.is_rejected])


def _states_by_event(sets: Sequence[Set[int]]) -> dict[int, int]:
    """Return for each conflicted event the states that it is in, as bits."""
    if not sets:
        return {}
    # Most states have most events in common: what is told of each is how it differs from the first.
    result = dict.fromkeys(sets[0], (1 << len(sets)) - 1)
    for number, each in enumerate(sets):
        bit = 1 << number
        for nid in sets[0] - each:
            result[nid] &= ~bit
        for nid in each - sets[0]:
            result[nid] = result.get(nid, 0) | bit
    return result


def _cited_by_unplaced(
    tx: Transaction, nids: Iterable[int], cited: Mapping[int, Iterable[int]]
) -> dict[int, dict[int, int]]:
    """Return what events without a place cite, each with its chain: as `cited` says, else as their JSON says."""
    below = {nid: cited.get(nid) for nid in nids}
    stored = [nid for nid, found in below.items() if found is None]
    if stored:
        below.update(auth_nids_of(tx, stored))
    if not below:
        return {}
    chains = chains_of(tx, {each for found in below.values() for each in found or ()})
    return {nid: {each: chains[each] for each in found or () if each in chains} for nid, found in below.items()}


@dataclass(frozen=True, slots=True)
class _Bundle:
    """The links from a chain, up to its top, to another: the first event that has one, the range of what they reach."""

    chain: int
    to_chain: int
    first_nid: int
    lowest: int
    highest: int


def _descend(tx: Transaction, tops: dict[int, int], floor: int) -> dict[int, list[_Bundle]]:
    """Raise `tops` to all that is reached from them, down to the event `floor`; return the links used, by chain."""
    bundles: dict[int, list[_Bundle]] = {}
    query = (
        select(
            _cited.c.event_nid,
            auth_links.c.chain,
            auth_links.c.to_chain,
            func.min(auth_links.c.event_nid),
            func.min(auth_links.c.to_nid),
            func.max(auth_links.c.to_nid),
        )
        .join(_cited, and_(auth_links.c.chain == _cited.c.chain, auth_links.c.event_nid <= _cited.c.event_nid))
        .where(auth_links.c.to_nid >= floor)
        .group_by(_cited.c.event_nid, auth_links.c.chain, auth_links.c.to_chain)
    )
    frontier = dict(tops)
    while frontier:
        for chain in frontier:
            bundles[chain] = []
        better: dict[int, int] = {}
        for part in chunks(frontier.values()):
            for _, *numbers in tx.all(query.where(_cited.c.event_nid.in_(part))):
                bundle = _Bundle(*numbers)
                bundles[bundle.chain].append(bundle)
                if bundle.highest > tops.get(bundle.to_chain, 0):
                    tops[bundle.to_chain] = better[bundle.to_chain] = bundle.highest
        frontier = better
    return bundles


def _ascend(
    tx: Transaction, tops: Mapping[int, int], starts: dict[int, int], bundles: Mapping[int, Sequence[_Bundle]]
) -> None:
    """Lower `starts` to the oldest event of each chain that reaches what `starts` held."""
    backwards: dict[int, list[_Bundle]] = {}
    for each in bundles.values():
        for bundle in each:
            backwards.setdefault(bundle.to_chain, []).append(bundle)
    changed = set(starts)
    while changed:
        found: dict[int, int] = {}
        unclear: list[_Bundle] = []
        for chain in changed:
            start = starts[chain]
            for bundle in backwards.get(chain, ()):
                # A first link that is later than what is known of its chain has nothing to add.
                if bundle.highest < start or bundle.first_nid >= starts.get(bundle.chain, bundle.first_nid + 1):
                    continue
                if bundle.lowest >= start:
                    found[bundle.chain] = min(bundle.first_nid, found.get(bundle.chain, bundle.first_nid))
                else:
                    unclear.append(bundle)
        for chain, first_nid in _first_links(tx, unclear, starts, tops):
            found[chain] = min(first_nid, found.get(chain, first_nid))
        changed = {chain for chain, nid in found.items() if nid < starts.get(chain, nid + 1)}
        starts.update((chain, found[chain]) for chain in changed)


def _first_links(
    tx: Transaction, bundles: Iterable[_Bundle], starts: Mapping[int, int], tops: Mapping[int, int]
) -> Iterable[tuple[int, int]]:
    """Yield for each bundle its chain and the first event of it with a link to the start of the other or above."""
    query = select(auth_links.c.chain, func.min(auth_links.c.event_nid)).group_by(auth_links.c.chain)
    for part in chunks(bundles, UNION):
        wanted = (
            and_(
                auth_links.c.chain == bundle.chain,
                auth_links.c.event_nid <= tops[bundle.chain],
                auth_links.c.to_chain == bundle.to_chain,
                auth_links.c.to_nid >= starts[bundle.to_chain],
            )
            for bundle in part
        )
        yield from tx.all(query.where(or_(*wanted)))
