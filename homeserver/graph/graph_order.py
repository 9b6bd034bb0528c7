"""The order in which a room's graph is walked: every event after those that it builds on.

Outliers that got their place later, and history that was fetched later, are stored after what builds on them, so the
order of storing is not enough. Between events that may come in any order, the order of storing decides.

LIMIT: about 100 bytes of memory an event, whatever is in it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heappush

from storage.inspection import Shape


class GraphOrder:
    """The graph of a room by index: index i is the event of number `nids[i]`."""

    def __init__(self, shape: Shape, is_late: Callable[[int, int], bool] = lambda index, prev: False) -> None:
        """`is_late` tells of an event and a prev event that the latter came later: that edge is not walked."""
        self.shape = shape
        self.nids = shape.nids
        count = len(self.nids)
        # Edges that lead out of the room or to nothing, as pairs of numbers.
        self.astray: list[tuple[int, int]] = []
        # Index -> what is before it by way of events that are gone, as far as anything tells.
        self.bridges: dict[int, list[int]] = {}
        # Index -> prev events that came later.
        self.late: dict[int, list[int]] = {}
        pairs: list[tuple[int, int]] = []
        for place in range(0, len(shape.edges), 2):
            event, prev = self.find(shape.edges[place]), self.find(shape.edges[place + 1])
            if event is None or prev is None:
                self.astray.append((shape.edges[place], shape.edges[place + 1]))
            elif is_late(event, prev):
                self.late.setdefault(event, []).append(prev)
            else:
                pairs.append((event, prev))
        self._prev_start, self._prev = _adjacency(count, sorted(pairs))
        self._next_start, self._next = _adjacency(count, sorted((prev, event) for event, prev in pairs))

    def find(self, nid: int) -> int | None:
        """Return the index of an event, None if it is not in the room."""
        index = bisect_left(self.nids, nid)
        return index if index < len(self.nids) and self.nids[index] == nid else None

    def prevs(self, index: int) -> Sequence[int]:
        """Return the indexes of an event's prev events, those that are stored."""
        return self._prev[self._prev_start[index] : self._prev_start[index + 1]]

    def nexts(self, index: int) -> Sequence[int]:
        """Return the indexes of the events that build on an event."""
        return self._next[self._next_start[index] : self._next_start[index + 1]]

    def walk(self) -> Iterator[int]:
        """Yield the indexes in order; events of a circle, which no hash allows, are left out."""
        count = len(self.nids)
        waiting = array("q", (self._prev_start[i + 1] - self._prev_start[i] for i in range(count)))
        positions, nids = self.shape.positions, self.nids
        # What was shown comes in the order of showing.
        ready = [(positions[i] if positions[i] > 0 else nids[i], i) for i in range(count) if not waiting[i]]
        heapify(ready)
        while ready:
            _, index = heappop(ready)
            yield index
            for later in self.nexts(index):
                waiting[later] -= 1
                if not waiting[later]:
                    heappush(ready, (positions[later] if positions[later] > 0 else nids[later], later))


def _adjacency(count: int, pairs: Sequence[tuple[int, int]]) -> tuple[array[int], array[int]]:
    """Return for each index where its neighbors begin, and all neighbors one after the other."""
    starts = array("q", bytes(8 * (count + 1)))
    for source, _ in pairs:
        starts[source + 1] += 1
    for index in range(count):
        starts[index + 1] += starts[index]
    return starts, array("q", (target for _, target in pairs))
