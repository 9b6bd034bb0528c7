"""Stored room state: state groups that share structure.

A state group is a whole room state, stored as a difference to an earlier group, its parent. Which one follows the
Fenwick tree. Each group has a level, the number of trailing zero bits of its `chain_index`. A new group takes in the
differences of all groups at the end of the chain whose level is not above its own, and stands on the next one. So the
levels along a chain fall, and a chain is as long as there are levels: about log2(n) for n changes.

- On the room's one line the index counts up by one: group number k stands on number k with its lowest set bit cleared,
  and n changes store n*log2(n)/2 entries at most, fewer where keys repeat.
- At a fork (`is_side`) many groups may come to stand on the same one, and counting up would make each of them take in
  the same thousands of entries where that one's number is unlucky. Their level is drawn by chance instead, half as
  likely for each step up: wherever a fork is, a group stores about log2(n) entries.
- A change of many entries has at least the level of its size, so that smaller ones do not carry it along.

In memory a state is a persistent map from `key_nid` to `event_nid`: a change shares all but a few nodes with the map
before. On disk a difference is pairs of 64-bit integers; event 0 marks a removed key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain as joined
from itertools import pairwise
from struct import Struct, pack
from typing import Any, Final

from rpds import HashTrieMap
from sqlalchemy import Select, bindparam, select

from homeserver.errors import BrokenInvariant

from .database import Database
from .tables.rooms import state_groups
from .transaction import Transaction, chunks

StateNids = HashTrieMap  # HashTrieMap[int, int]: key_nid -> event_nid

# LIMIT: levels that are drawn; a chain is never longer than this and the few levels that counting reaches.
MAX_LEVEL: Final = 32
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
"""The nodes that make up a state, the line's first group first, its own last; each one's parent is the one before."""


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
    return pack(f"<{2 * len(delta)}q", *joined.from_iterable(delta.items()))


def decode_delta(raw: bytes) -> dict[int, int]:
    """Return the difference stored as `raw`."""
    return dict(_PAIR.iter_unpack(raw))


# -- building --------------------------------------------------------------------------------------------------------


def extend(
    chain: Chain, room_nid: int, state_group: int, change: Mapping[int, int], *, is_side: bool = False
) -> tuple[NewGroup, Chain]:
    """Return the new group that is `chain`'s state with `change` on top, and the chain that ends in it.

    Event number 0 in `change` removes the key. `is_side`: other groups may be made from the same chain, as where events
    fork, or where forks are resolved.
    """
    if not chain:
        return NewGroup(state_group, room_nid, None, 0, change), (ChainNode(state_group, 0, change),)
    least = max(len(change).bit_length() - 1, 0)
    if is_side:
        level = min(max(least, _chance_level(state_group)), MAX_LEVEL)
        # The next odd multiple of 2**level.
        index = ((chain[-1].chain_index >> level) + 1 | 1) << level
    else:
        level = min(least, MAX_LEVEL)
        index = (chain[-1].chain_index >> level) + 1 << level
        level = _level(index)
    end = len(chain)
    while end > 1 and _level(chain[end - 1].chain_index) <= level:
        end -= 1
    delta = _merged(chain[end:])
    delta.update(change)
    group = NewGroup(state_group, room_nid, chain[end - 1].state_group, index, delta)
    return group, (*chain[:end], ChainNode(state_group, index, delta))


def _level(chain_index: int) -> int:
    """Return the number of trailing zero bits; the line's first group has index 0 and is above all."""
    return (chain_index & -chain_index).bit_length() - 1 if chain_index else 64


def _chance_level(state_group: int) -> int:
    """Return a level drawn by the group's number: 0 half of the time, 1 a quarter of the time, and so on.

    The numbers themselves come in patterns; what is counted are the trailing zeros of a good mix of them (splitmix64).
    """
    mask = 0xFFFF_FFFF_FFFF_FFFF
    mixed = (state_group + 0x9E37_79B9_7F4A_7C15) & mask
    mixed = (mixed ^ mixed >> 30) * 0xBF58_476D_1CE4_E5B9 & mask
    mixed = (mixed ^ mixed >> 27) * 0x94D0_49BB_1331_11EB & mask
    return _level(mixed ^ mixed >> 31)


def _merged(nodes: Iterable[ChainNode]) -> dict[int, int]:
    delta: dict[int, int] = {}
    for node in nodes:
        delta.update(node.delta)
    return delta


# -- reading ---------------------------------------------------------------------------------------------------------


def _chains_query() -> Select[Any]:
    # The walk carries numbers only: a database may write what it walks to a temporary table.
    start = select(state_groups.c.state_group, state_groups.c.parent).where(
        state_groups.c.state_group.in_(bindparam("groups", expanding=True))
    )
    walk = start.cte("walk", recursive=True)
    walk = walk.union(
        select(state_groups.c.state_group, state_groups.c.parent).join(
            walk, state_groups.c.state_group == walk.c.parent
        )
    )
    return select(
        state_groups.c.state_group, state_groups.c.parent, state_groups.c.chain_index, state_groups.c.delta
    ).join(walk, state_groups.c.state_group == walk.c.state_group)


_CHAINS: Final = _chains_query()
# The same but for the nodes in `known`, whose differences need not be read again.
_UNKNOWN_OF_CHAINS: Final = _CHAINS.where(state_groups.c.state_group.not_in(bindparam("known", expanding=True)))


def load_chain(tx: Transaction, state_group: int) -> Chain:
    """Return the nodes of a stored state, the line's first group first. Raises BrokenInvariant if it is not stored."""
    return load_chains(tx, [state_group])[state_group]


def load_chains(tx: Transaction, groups: Iterable[int], at_hand: Chain = ()) -> dict[int, Chain]:
    """Return the chains of several stored states; nodes that they share are read once and are the same objects.

    Nodes of the chain `at_hand` are not read. Raises BrokenInvariant if a state is not stored.
    """
    wanted = list(dict.fromkeys(groups))
    nodes: dict[int, ChainNode] = {node.state_group: node for node in at_hand}
    parents: dict[int, int | None] = {node.state_group: before.state_group for before, node in pairwise(at_hand)}
    if at_hand:
        parents[at_hand[0].state_group] = None
    for part in chunks(group for group in wanted if group not in nodes):
        rows: Any
        if at_hand:
            known = [node.state_group for node in at_hand]
            rows = tx.execute(_UNKNOWN_OF_CHAINS, {"groups": part, "known": known}).fetchall()
        else:
            rows = tx.execute(_CHAINS, {"groups": part}).fetchall()
        for group, parent, index, raw in rows:
            if group not in nodes:
                nodes[group], parents[group] = ChainNode(group, index, decode_delta(raw)), parent
    result: dict[int, Chain] = {}
    for wanted_group in wanted:
        path: list[ChainNode] = []
        at: int | None = wanted_group
        while at is not None:
            if at not in nodes:
                raise BrokenInvariant(f"state group {at} is not stored")
            path.append(nodes[at])
            at = parents[at]
        path.reverse()
        result[wanted_group] = tuple(path)
    return result


def state_of(chain: Chain) -> StateNids[int, int]:
    """Return the whole state that a chain describes."""
    return _with_change(HashTrieMap(), _merged(chain))


def derive(chain: Chain, base: Chain, base_state: StateNids[int, int]) -> StateNids[int, int]:
    """Return the state of `chain`, made from another one that it shares with what it does not differ in."""
    return _with_change(base_state, {key: nid or 0 for key, (_, nid) in difference(base, chain).items()})


def states_of(
    chains: Mapping[int, Chain], known: Mapping[int, StateNids[int, int]] | None = None
) -> dict[int, tuple[StateNids[int, int], int]]:
    """Return for each group its state, and how many entries of that it shares with none before it in the result.

    Where chains part, the state of the last common node is made once and the others are derived from it. `known` are
    states that are there already, of these groups or of others that may be in their chains.
    """
    after: dict[int, set[int]] = {}
    for chain in chains.values():
        for node, next_node in pairwise(chain):
            after.setdefault(node.state_group, set()).add(next_node.state_group)
    made_at = {chain[-1].state_group for chain in chains.values() if chain}
    made_at.update(group for group, followers in after.items() if len(followers) > 1)
    made: dict[int, StateNids[int, int]] = dict(known or {})
    result: dict[int, tuple[StateNids[int, int], int]] = {}
    for group, chain in chains.items():
        start = len(chain)
        while start and chain[start - 1].state_group not in made:
            start -= 1
        state: StateNids[int, int] = made[chain[start - 1].state_group] if start else HashTrieMap()
        change: dict[int, int] = {}
        fresh = 0
        for node in chain[start:]:
            change.update(node.delta)
            if node.state_group in made_at:
                state = made[node.state_group] = _with_change(state, change)
                fresh += len(change)
                change = {}
        result[group] = (state, min(fresh, len(state)))
    return result


def _with_change(state: StateNids[int, int], change: Mapping[int, int]) -> StateNids[int, int]:
    if not len(state):
        return HashTrieMap({key: nid for key, nid in change.items() if nid})
    state = state.update(change)
    for key, nid in change.items():
        if not nid:
            state = state.remove(key)
    return state


# -- comparing -------------------------------------------------------------------------------------------------------


def difference(ours: Chain, theirs: Chain) -> dict[int, tuple[int | None, int | None]]:
    """Return the keys in which two states differ, with the event that each has there, or None.

    Costs as much as the nodes that the chains do not share hold.
    """
    shared = _shared_length([ours, theirs])
    common = ours[:shared]
    ours_above, theirs_above = _merged(ours[shared:]), _merged(theirs[shared:])
    result: dict[int, tuple[int | None, int | None]] = {}
    for key, nid in ours_above.items():
        other = theirs_above.get(key)
        if other is None:
            other = _look_up(common, key)
        if nid != other:
            result[key] = (nid or None, other or None)
    for key in theirs_above.keys() - ours_above.keys():
        nid, other = _look_up(common, key), theirs_above[key]
        if nid != other:
            result[key] = (nid or None, other or None)
    return result


def differing_keys(chains: Sequence[Chain], states: Sequence[StateNids[int, int]]) -> set[int]:
    """Return the keys on which not all of these states agree; each is given as its chain and as itself.

    Costs as much as the nodes that are not common to all chains hold, each counted once however many chains it is in.
    """
    if len(chains) == 2:
        return _keys_apart(chains[0], chains[1], states[0], states[1])
    shared = _shared_length(chains)
    # The nodes that are not common to all form a tree; a node comes after its parent. 0 stands for the common ones.
    tree: dict[int, tuple[int, ChainNode]] = {}
    ends: dict[int, int] = {}
    for chain in chains:
        parent = 0
        for node in chain[shared:]:
            tree.setdefault(node.state_group, (parent, node))
            parent = node.state_group
        ends[parent] = ends.get(parent, 0) + 1
    below: dict[int, list[_Branch]] = {}
    for group, (parent, node) in reversed(tree.items()):
        branch = _join(below.pop(group, []), ends.get(group, 0))
        below.setdefault(parent, []).append(branch.on(node.delta))
    whole = _join(below.pop(0, []), ends.get(0, 0))
    common = chains[0][:shared] if chains else ()
    unlike = {key for key, nid in whole.values.items() if nid is None}
    unlike.update(key for key in whole.partly if whole.values[key] != _look_up(common, key))
    return unlike


def _keys_apart(
    ours: Chain, theirs: Chain, our_state: StateNids[int, int], their_state: StateNids[int, int]
) -> set[int]:
    shared = _shared_length([ours, theirs])
    ours_above, theirs_above = _merged(ours[shared:]), _merged(theirs[shared:])
    unlike = set()
    for key, nid in ours_above.items():
        other = theirs_above.get(key)
        if nid != (their_state.get(key, 0) if other is None else other):
            unlike.add(key)
    for key in theirs_above.keys() - ours_above.keys():
        if theirs_above[key] != our_state.get(key, 0):
            unlike.add(key)
    return unlike


@dataclass(frozen=True, slots=True)
class _Branch:
    """What the states above some node say of the keys that their own nodes set.

    `values`: the event that all of those states agree on which set the key, None where they do not. `partly`: how many
    of the `states` set the key, for the keys that not all set and that those who do agree on.
    """

    states: int
    values: Mapping[int, int | None]
    partly: Mapping[int, int]

    def on(self, delta: Mapping[int, int]) -> _Branch:
        """Return the branch with a node below it, which speaks for the states that do not set the key themselves."""
        values: dict[int, int | None] = {**delta, **self.values}
        partly: dict[int, int] = {}
        for key, count in self.partly.items():
            if key not in delta:
                partly[key] = count
            elif delta[key] != values[key]:
                values[key] = None
        return _Branch(self.states, values, partly)


def _join(branches: Sequence[_Branch], ends: int) -> _Branch:
    """Return branches that part at one node as one; `ends` states end at the node itself."""
    if not ends and len(branches) == 1:
        return branches[0]
    values: dict[int, int | None] = {}
    counts: dict[int, int] = {}
    states = ends
    for branch in branches:
        states += branch.states
        for key, nid in branch.values.items():
            count = branch.partly.get(key, branch.states)
            if key not in values:
                values[key], counts[key] = nid, count
            else:
                counts[key] += count
                if values[key] != nid:
                    values[key] = None
    partly = {key: count for key, count in counts.items() if count < states and values[key] is not None}
    return _Branch(states, values, partly)


def _shared_length(chains: Sequence[Chain]) -> int:
    """Return how many nodes from the first on all chains have in common."""
    length = 0
    for nodes in zip(*chains, strict=False):
        first = nodes[0].state_group
        if any(node.state_group != first for node in nodes):
            break
        length += 1
    return length


def _look_up(chain: Chain, key: int) -> int:
    """Return the event that a chain's state has for a key, 0 for none."""
    for node in reversed(chain):
        nid = node.delta.get(key)
        if nid is not None:
            return nid
    return 0


# -- memory ----------------------------------------------------------------------------------------------------------


class StateCache:
    """Gives the state of a state group, from memory where it can. Lives on the reactor's thread."""

    def __init__(self, database: Database, *, budget_bytes: int) -> None:
        self._database = database
        self._budget = budget_bytes
        self._size = 0
        # Those that were asked for least lately go first.
        self._states: OrderedDict[int, tuple[StateNids[int, int], int]] = OrderedDict()
        self._drops = 0

    def find(self, state_group: int) -> StateNids[int, int] | None:
        """Return a state if it is in memory."""
        held = self._states.get(state_group)
        if held is None:
            return None
        self._states.move_to_end(state_group)
        return held[0]

    def add(self, state_group: int, state: StateNids[int, int], changed: int) -> None:
        """Put in a state of which `changed` entries are not shared with one that is here already."""
        old = self._states.pop(state_group, None)
        if old is not None:
            self._size -= old[1]
        cost = _GROUP_BYTES + changed * _ENTRY_BYTES
        self._states[state_group] = (state, cost)
        self._size += cost
        while self._size > self._budget and len(self._states) > 1:
            _, (_, gone) = self._states.popitem(last=False)
            self._size -= gone

    async def get(self, state_group: int) -> StateNids[int, int]:
        """Return a state."""
        held = self.find(state_group)
        if held is not None:
            return held
        return (await self.get_many([state_group]))[state_group]

    async def get_many(self, wanted: Iterable[int]) -> dict[int, StateNids[int, int]]:
        """Return several states; those that are read together share what their chains share."""
        result: dict[int, StateNids[int, int]] = {}
        missing: list[int] = []
        for group in dict.fromkeys(wanted):
            held = self._states.get(group)
            if held is not None:
                result[group] = held[0]
            else:
                missing.append(group)
        if missing:
            drops = self._drops
            fresh = await self._database.read(lambda tx: states_of(load_chains(tx, missing)))
            for group, (state, unshared) in fresh.items():
                result[group] = state
                if drops == self._drops:
                    self.add(group, state, unshared)
        return result

    def drop(self, groups: Iterable[int]) -> None:
        """Forget states, those that are here: their groups were deleted, or are not what they were."""
        # Reads that began before must not bring them back.
        self._drops += 1
        for group in groups:
            held = self._states.pop(group, None)
            if held is not None:
                self._size -= held[1]
