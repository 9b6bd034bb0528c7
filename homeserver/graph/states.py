"""Room states during a check: what follows from the events, and what is stored, side by side.

Both are persistent maps from the number of a state key to that of an event, with a digest that is carried along with
every change, so that two states of 50,000 entries are compared in no time. The digest is of our own numbers: nobody
outside can choose them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from rpds import HashTrieMap

from storage.inspection import GroupRow, read_groups
from storage.transaction import Transaction

# LIMIT: stored states that are kept to build others on. They share most of their memory.
MAX_KEPT: Final = 3_000


@dataclass(frozen=True, slots=True)
class State:
    """A room state: key number -> event number."""

    entries: HashTrieMap[int, int]
    digest: int

    @classmethod
    def of(cls, entries: Mapping[int, int]) -> State:
        """Return the state with these entries."""
        return EMPTY.changed(entries.items())

    def get(self, key_nid: int | None) -> int | None:
        """Return the event at a key."""
        return None if key_nid is None else self.entries.get(key_nid)

    def changed(self, changes: Iterable[tuple[int, int]]) -> State:
        """Return the state with these entries on top; event 0 removes a key."""
        entries, digest = self.entries, self.digest
        for key_nid, nid in changes:
            old = entries.get(key_nid)
            if old is not None:
                digest ^= hash((key_nid, old))
            if nid:
                digest ^= hash((key_nid, nid))
                entries = entries.insert(key_nid, nid)
            elif old is not None:
                entries = entries.discard(key_nid)
        return State(entries, digest)

    def is_same(self, other: State) -> bool:
        """Tell whether both have the same entries."""
        return self.digest == other.digest and len(self.entries) == len(other.entries)

    def differences(self, other: State) -> Iterator[tuple[int, int | None, int | None]]:
        """Yield key, event here and event there of every entry that is not in both."""
        for key_nid, nid in self.entries.items():
            there = other.entries.get(key_nid)
            if there != nid:
                yield key_nid, nid, there
        for key_nid, there in other.entries.items():
            if key_nid not in self.entries:
                yield key_nid, None, there


EMPTY: Final = State(HashTrieMap(), 0)


class StoredStates:
    """Reads the states of state groups, each as a change of one that was read before."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._states: OrderedDict[int, State] = OrderedDict()
        self._rows: dict[int, GroupRow] = {}
        # State group -> what is wrong with it, of those that were asked for.
        self._faults: dict[int, str] = {}

    def prefetch(self, state_groups: Iterable[int]) -> None:
        """Read the rows of groups that will be asked for, in place of those of the last call."""
        self._rows = read_groups(self._tx, (group for group in set(state_groups) if group not in self._states))

    def get(self, state_group: int) -> State | None:
        """Return the state of a group; None if it, or one that it is built on, is not stored or not readable."""
        state = EMPTY
        path: list[tuple[int, Mapping[int, int]]] = []
        seen: set[int] = set()
        current: int | None = state_group
        while current is not None:
            kept = self._states.get(current)
            if kept is not None:
                self._states.move_to_end(current)
                state = kept
                break
            row = self._rows.get(current) or read_groups(self._tx, [current]).get(current)
            if row is None or row.delta is None or current in seen:
                fault = "is missing" if row is None else "cannot be read" if row.delta is None else "is its own parent"
                self._faults[state_group] = f"state group {current} {fault}"
                return None
            seen.add(current)
            path.append((current, row.delta))
            current = row.parent
        for group, delta in reversed(path):
            state = state.changed(delta.items())
            self._states[group] = state
            if len(self._states) > MAX_KEPT:
                self._states.popitem(last=False)
        return state

    def parent(self, state_group: int) -> int | None:
        """Return the group that a stored group is built on."""
        row = read_groups(self._tx, [state_group]).get(state_group)
        return None if row is None else row.parent

    def fault(self, state_group: int) -> str:
        """Return what is wrong with a group that `get` has not given."""
        return self._faults.get(state_group, f"state group {state_group} is missing")
