"""Events that are not stored, though others cite them.

History may begin somewhere, so an event that is cited alone proves nothing: but an edge is stored only when both of its
ends are, and an event only when all its auth events are. What such an edge leads to, and what is cited as an auth
event, was here.
"""

from __future__ import annotations

from storage.inspection import event_ids, find_prev_nids
from storage.transaction import Transaction

from .graph_order import GraphOrder
from .report import RoomFindings
from .stored_events import StoredEvents


class Missing:
    """The events that a room lacks, by ID, with those that cite them."""

    def __init__(self, found: RoomFindings) -> None:
        self._found = found
        # Missing event -> the first that cites it, and how many do.
        self._citing: dict[str, tuple[str, int]] = {}

    def cite(self, missing_id: str, by: str) -> None:
        """Note that an event cites one that is not stored."""
        first, count = self._citing.get(missing_id, (by, 0))
        self._citing[missing_id] = first, count + 1

    def find_edges(self, tx: Transaction, order: GraphOrder, events: StoredEvents) -> None:
        """Tell the edges that lead to nothing, and bridge what is missing there as far as its own edges are left."""
        gone = find_prev_nids(tx, {prev for _, prev in order.astray})
        elsewhere = event_ids(tx, {prev for _, prev in order.astray})
        for nid, prev in order.astray:
            index, known = order.find(nid), events.find(nid)
            cited = () if known is None else known.event.prev_event_ids
            stored = events.numbers(cited)
            missing = [event_id for event_id in cited if event_id not in stored]
            if known is not None and prev not in elsewhere and missing:
                for event_id in missing:
                    self.cite(event_id, known.event.event_id)
            else:
                told = elsewhere.get(prev) or f"event number {prev}, which there is not"
                named = event_ids(tx, (nid,)).get(nid)
                self._found.differs(named, "edge", "to an event of the room", f"to {told}")
            if index is not None:
                bridged = (order.find(each) for each in gone.get(prev, ()))
                order.bridges.setdefault(index, []).extend(each for each in bridged if each is not None)

    def tell(self) -> None:
        """Note what is missing."""
        for missing_id, (first, count) in self._citing.items():
            further = f" and {count - 1} more" if count > 1 else ""
            self._found.tells(missing_id, "event", f"is missing (cited by {first}{further})", kind="missing events")
