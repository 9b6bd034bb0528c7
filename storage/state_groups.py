"""Stored room state: state groups that share structure.

A state group is a whole room state, stored as a difference to an earlier group of the same line. Which earlier one
follows the Fenwick tree: group number k of a line (`chain_index`) has as parent number k with its lowest set bit
cleared, and holds all changes since then. So any state is read from at most log2(n)+1 rows, and the differences of a
line of n changes hold n*log2(n)/2 entries at most, fewer where keys repeat.

In memory a state is a persistent map from `key_nid` to `event_nid`: a change shares all but a few nodes with the map
before. On disk a difference is pairs of 64-bit integers; event 0 marks a removed key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from struct import Struct, pack
from typing import Final

from rpds import HashTrieMap
from sqlalchemy import select

from homeserver.errors import BrokenInvariant

from .database import Database
from .tables.rooms import state_groups
from .transaction import Transaction

StateNids = HashTrieMap  # HashTrieMap[int, int]: key_nid -> event_nid

_PAIR = Struct("<qq")
# What a map entry costs in memory beyond what it shares, roughly.
_ENTRY_BYTES: Final = 120
_GROUP_BYTES: Final = 600


@dataclass(frozen=True, slots=True)
class ChainNode:
    """One stored group on the way from a line's first group to its newest."""

    state_group: int
    chain_index: int
    delta: Mapping[int, int]


Chain = tuple[ChainNode, ...]
"""The nodes that make up a state, the line's first group first, its own last."""


@dataclass(frozen=True, slots=True)
class NewGroup:
    """A row of `state_groups` to be written."""

    state_group: int
    room_nid: int
    parent: int | None
    chain_index: int
    delta: Mapping[int, int]

    def row(self) -> tuple[int, int, int | None, int, bytes]:
        return (self.state_group, self.room_nid, self.parent, self.chain_index, encode_delta(self.delta))


def encode_delta(delta: Mapping[int, int]) -> bytes:
    """Return the stored form of a difference."""
    numbers = [number for pair in delta.items() for number in pair]
    return pack(f"<{len(numbers)}q", *numbers)


def decode_delta(raw: bytes) -> dict[int, int]:
    """Return the difference stored as `raw`."""
    return dict(_PAIR.iter_unpack(raw))


def extend(chain: Chain, room_nid: int, state_group: int, change: Mapping[int, int]) -> tuple[NewGroup, Chain]:
    """Return the new group that is `chain`'s state with `change` on top, and the chain that ends in it."""
    if not chain:
        return NewGroup(state_group, room_nid, None, 0, change), (ChainNode(state_group, 0, change),)
    index = chain[-1].chain_index + 1
    parent_index = index & (index - 1)
    kept = [node for node in chain if node.chain_index <= parent_index]
    delta: dict[int, int] = {}
    for node in chain[len(kept) :]:
        delta.update(node.delta)
    delta.update(change)
    group = NewGroup(state_group, room_nid, kept[-1].state_group, index, delta)
    return group, (*kept, ChainNode(state_group, index, delta))


def load_chain(tx: Transaction, state_group: int) -> Chain:
    """Return the nodes of a stored state, the line's first group first."""
    first = select(
        state_groups.c.state_group, state_groups.c.parent, state_groups.c.chain_index, state_groups.c.delta
    ).where(state_groups.c.state_group == state_group)
    walk = first.cte("walk", recursive=True)
    walk = walk.union_all(
        select(
            state_groups.c.state_group, state_groups.c.parent, state_groups.c.chain_index, state_groups.c.delta
        ).join(walk, state_groups.c.state_group == walk.c.parent)
    )
    rows = tx.all(select(walk.c.state_group, walk.c.chain_index, walk.c.delta))
    if not rows:
        raise BrokenInvariant(f"state group {state_group} is not stored")
    nodes = [ChainNode(row[0], row[1], decode_delta(row[2])) for row in rows]
    return tuple(sorted(nodes, key=lambda node: node.chain_index))


def state_of(chain: Chain) -> StateNids[int, int]:
    """Return the whole state that a chain describes."""
    merged: dict[int, int] = {}
    for node in chain:
        merged.update(node.delta)
    return HashTrieMap({key: nid for key, nid in merged.items() if nid})


class StateCache:
    """Gives the state of a state group, from memory where it can. Lives on the reactor's thread."""

    def __init__(self, database: Database, *, budget_bytes: int) -> None:
        self._database = database
        self._budget = budget_bytes
        self._size = 0
        self._states: dict[int, tuple[StateNids[int, int], int]] = {}

    def find(self, state_group: int) -> StateNids[int, int] | None:
        """Return a state if it is in memory."""
        held = self._states.get(state_group)
        return held[0] if held is not None else None

    def add(self, state_group: int, state: StateNids[int, int], changed: int) -> None:
        """Put in a state of which `changed` entries are not shared with one that is here already."""
        old = self._states.pop(state_group, None)
        if old is not None:
            self._size -= old[1]
        cost = _GROUP_BYTES + changed * _ENTRY_BYTES
        self._states[state_group] = (state, cost)
        self._size += cost
        while self._size > self._budget and len(self._states) > 1:
            _, gone = self._states.pop(next(iter(self._states)))
            self._size -= gone

    async def get(self, state_group: int) -> StateNids[int, int]:
        """Return a state."""
        held = self._states.get(state_group)
        if held is not None:
            return held[0]
        return (await self.get_many([state_group]))[state_group]

    async def get_many(self, wanted: Iterable[int]) -> dict[int, StateNids[int, int]]:
        """Return several states."""
        result: dict[int, StateNids[int, int]] = {}
        missing: list[int] = []
        for group in dict.fromkeys(wanted):
            held = self._states.get(group)
            if held is not None:
                result[group] = held[0]
            else:
                missing.append(group)
        if missing:
            fresh = await self._database.read(lambda tx: {group: state_of(load_chain(tx, group)) for group in missing})
            for group, state in fresh.items():
                result[group] = state
                self.add(group, state, len(state))
        return result
