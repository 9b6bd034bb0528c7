"""Two walks through the index over the auth graph, which together find the auth difference of forked states.

The events of the forked states come in two kinds. Those that differ are few and are gone through (`Sweep`): from them
downwards it is noted which states reach what, newest events first, so that each chain is seen once for each set of
states that reaches more of it, and the walk ends where all states reach all that is left.

Those that are the same in all states may be 50,000, but they can only take events out of the difference. So they are
not gone through: the few events that might be in the difference are asked which newer events cite them (`Upwards`),
until one is met that is in the state. Usually the first that is met is.

Spec: rooms/v2, "State resolution", "Definitions", "Auth difference".
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from heapq import heappop, heappush, nsmallest
from typing import Final, Protocol

from sqlalchemy import and_, func, select

from .auth_places import chains_of, union
from .tables.auth_chains import auth_chains, auth_links
from .transaction import CHUNK, Transaction, chunks

Ranges = dict[int, tuple[int, int]]
_Link = tuple[int, int, int]

# A part of a chain that is no longer is looked at event by event before anything is asked about it.
SHORT: Final = 64
# How many of the newest links to a chain are looked at; the next number where these do not decide, at last all.
PAGES: Final = (64, 512, 4_096, 2**62)


class UnconflictedNids(Protocol):
    """What all the states have in common, by the number of its key; only looked up, never gone through."""

    def get(self, key_nid: int, /) -> int | None: ...


class Members:
    """Finds the unconflicted state event on each chain; there is one at most, for a chain has one key."""

    def __init__(self, tx: Transaction, unconflicted: UnconflictedNids, conflicted: Container[int]) -> None:
        self._tx = tx
        self._unconflicted = unconflicted
        self._conflicted = conflicted
        # By chain; 0: none.
        self.nids: dict[int, int] = {}

    def learn(self, chains: Iterable[int]) -> list[int]:
        """Look at those of these chains that were not met before, and return them."""
        new = [chain for chain in chains if chain not in self.nids]
        query = select(auth_chains.c.event_nid, auth_chains.c.key_nid)
        keys: dict[int, int] = {}
        for part in chunks(new):
            keys.update((nid, key) for nid, key in self._tx.all(query.where(auth_chains.c.event_nid.in_(part))))
        elsewhere: list[int] = []
        for chain in new:
            self.nids[chain] = 0
            nid = self._unconflicted.get(keys[chain]) if chain in keys else None
            if nid is None or nid in self._conflicted:
                continue
            if nid == chain:
                self.nids[chain] = nid
            else:
                elsewhere.append(nid)
        for nid, chain in chains_of(self._tx, elsewhere).items():
            # It may be on another chain of its key, which is met by itself if it matters.
            if chain in self.nids:
                self.nids[chain] = nid
        return new


class Sweep:
    """Goes down the auth graph, newest events first, and notes which of the states reach what.

    States are bits; `full` has all of them. When an event comes up, whatever reaches it has been up before. What an
    unconflicted state event cites is reached by all; this is seen where such an event comes up or an older one of its
    chain, which in a long line of events spares the rest of the way.
    """

    def __init__(self, tx: Transaction, members: Members, full: int) -> None:
        self._tx = tx
        self._full = full
        self._members = members
        # Events to come: who reaches them, as far as known.
        self._arrivals: dict[int, int] = {}
        self._heap: list[int] = []
        self._chains: dict[int, int] = {}
        self._links: dict[int, list[tuple[int, int]]] = {}
        # By chain: who reaches what is left of it, and where the part begins that not all reach.
        self._reached: dict[int, int] = {}
        self._since: dict[int, int] = {}

    def arrive(self, nid: int, chain: int, bits: int) -> None:
        """Note that these states reach an event."""
        known = self._arrivals.get(nid)
        if known is None:
            self._chains[nid] = chain
            heappush(self._heap, -nid)
        self._arrivals[nid] = bits if known is None else known | bits

    def run(self) -> Ranges:
        """Return the parts of chains that are reached by some, but not by all."""
        ranges: Ranges = {}
        while self._heap:
            nid = -self._heap[0]
            added = self._added(nid)
            if added and nid not in self._links:
                if self._is_decided(nid):
                    break
                self._load_links()
            heappop(self._heap)
            del self._arrivals[nid]
            if not added:
                continue
            chain = self._chains[nid]
            member = self._members.nids[chain]
            bits = self._full if member >= nid else added
            reached = self._full if member > nid else self._reached.get(chain, 0) | added
            if reached != self._full:
                self._since.setdefault(chain, nid)
            elif chain in self._since:
                ranges[chain] = (nid, self._since.pop(chain))
            if reached != self._full and member == nid:
                # All before it are reached by all.
                ranges[chain] = (nid - 1, self._since.pop(chain))
                reached = self._full
            self._reached[chain] = reached
            for to_chain, to_nid in self._links[nid]:
                self.arrive(to_nid, to_chain, bits)
        ranges.update((chain, (0, since)) for chain, since in self._since.items())
        return ranges

    def _added(self, nid: int) -> int:
        return self._arrivals[nid] & ~self._reached.get(self._chains[nid], 0)

    def _is_decided(self, nid: int) -> bool:
        """Tell whether all states reach everything that is left from the event `nid` down."""
        if any(chain <= nid for chain in self._since):
            return False
        full, reached, chains = self._full, self._reached, self._chains
        return all(bits | reached.get(chains[each], 0) == full for each, bits in self._arrivals.items())

    def _load_links(self) -> None:
        """Load what is cited, as far as known, by the newest of the events to come, by themselves or further down."""
        query = (
            select(auth_chains.c.event_nid, auth_links.c.to_chain, func.max(auth_links.c.to_nid))
            .join(
                auth_links,
                and_(auth_links.c.chain == auth_chains.c.chain, auth_links.c.event_nid <= auth_chains.c.event_nid),
            )
            .group_by(auth_chains.c.event_nid, auth_links.c.to_chain)
        )
        newest = self._heap if len(self._heap) <= CHUNK else nsmallest(CHUNK, self._heap)
        wanted = [-each for each in newest if -each not in self._links and self._added(-each)]
        self._links.update((nid, []) for nid in wanted)
        self._members.learn({self._chains[nid] for nid in wanted})
        for nid, to_chain, to_nid in self._tx.all(query.where(auth_chains.c.event_nid.in_(wanted))):
            self._links[nid].append((to_chain, to_nid))


class Upwards:
    """Finds what of some chains is in the auth chain of the unconflicted state, by following the links backwards."""

    def __init__(self, tx: Transaction, members: Members) -> None:
        self._tx = tx
        self._members = members
        self._member = members.nids
        # By chain: the newest event on it that an unconflicted one reaches, by itself or as one before it.
        self._tops: dict[int, int] = {}
        # By chain: the links to it that were read, those to its newest events first, and what was asked for.
        self._into: dict[int, list[_Link]] = {}
        self._asked: dict[int, tuple[int, int]] = {}
        self._from: dict[int, list[_Link]] = {}

    def tops(self, wanted: Mapping[int, tuple[int, int]]) -> dict[int, int]:
        """Return for parts of chains up to where they are reached; the number may be that of no event.

        `wanted` is (low, high) by chain: whether anything up to `low` is reached does not matter.
        """
        for chain in wanted:
            if nid := self._member.get(chain):
                self._raise(chain, nid - 1)
        self._learn_members(wanted)
        while asks := self._open_questions(wanted):
            self._ask(asks)
        return {chain: self._tops.get(chain, 0) for chain in wanted}

    def _open_questions(self, wanted: Mapping[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
        """Return by chain from which event on the links to it are needed next, and how many."""
        asks: dict[int, tuple[int, int]] = {}
        seen: dict[int, int] = {}
        stack = [(chain, low + 1) for chain, (low, high) in wanted.items() if self._tops.get(chain, 0) < high]
        while stack:
            chain, lowest = stack.pop()
            lowest = max(lowest, self._tops.get(chain, 0) + 1)
            if seen.get(chain, lowest + 1) <= lowest:
                continue
            seen[chain] = lowest
            links = self._into.get(chain, [])
            asked, page = self._asked.get(chain, (0, -1))
            if page < 0 or (len(links) < PAGES[page] and asked > lowest):
                asks[chain] = (lowest, max(page, 0))
            elif len(links) >= PAGES[page] and links[-1][2] >= lowest:
                asks[chain] = (lowest, page + 1)
            else:
                for source, source_nid, to_nid in links:
                    if to_nid < lowest:
                        break
                    if not self._is_reached(source, source_nid):
                        stack.append((source, source_nid))
        return asks

    def _is_reached(self, chain: int, nid: int) -> bool:
        return max(self._member.get(chain, 0), self._tops.get(chain, 0)) >= nid

    def _ask(self, asks: Mapping[int, tuple[int, int]]) -> None:
        """Read links to chains, and draw the conclusions."""
        rows = []
        for chain, (lowest, page) in asks.items():
            self._asked[chain] = (lowest, page)
            self._into[chain] = []
            rows.append((chain, lowest, PAGES[page]))
        term = (
            "SELECT to_chain, chain, event_nid, to_nid FROM auth_links"
            " WHERE to_chain = ? AND to_nid >= ? ORDER BY to_nid DESC, chain DESC LIMIT ?"
        )
        fresh = list(union(self._tx, term, rows))
        for chain, source, source_nid, to_nid in fresh:
            self._into[chain].append((source, source_nid, to_nid))
            self._from.setdefault(source, []).append((source_nid, chain, to_nid))
        for chain in asks:
            self._into[chain].sort(key=_to_nid, reverse=True)
        sources = {source for _, source, _, _ in fresh}
        for chain in sources:
            if nid := self._member.get(chain):
                self._raise(chain, nid - 1)
        self._learn_members(sources)
        for chain, source, source_nid, to_nid in fresh:
            if self._is_reached(source, source_nid):
                self._raise(chain, to_nid)

    def _learn_members(self, chains: Iterable[int]) -> None:
        for chain in self._members.learn(chains):
            if nid := self._member[chain]:
                self._raise(chain, nid - 1)

    def _raise(self, chain: int, top: int) -> None:
        """Note that a chain is reached up to `top`, and what follows from that."""
        stack = [(chain, top)]
        while stack:
            chain, top = stack.pop()
            if top <= self._tops.get(chain, 0):
                continue
            self._tops[chain] = top
            for source_nid, to_chain, to_nid in self._from.get(chain, ()):
                if self._is_reached(chain, source_nid):
                    stack.append((to_chain, to_nid))


def _to_nid(link: _Link) -> int:
    return link[2]
