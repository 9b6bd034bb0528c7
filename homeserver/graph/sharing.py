"""What is particular about rooms that other servers are in: where their history has gaps, and who has to be told.

- An event after a gap (at the top of a block of positions that are kept free) has the state that another server told:
  it is taken as it is, but it must consist of state events of the room that were not refused. The same goes for the
  state before a join, and for history that was fetched into the block and breaks off.
- What was fetched later is no end of the graph and changes nothing: `is_history`. Edges to what came later than the
  event itself (`is_late`) are not walked, so that the order of showing stays what it was.
- Every prev event of such an event has an edge, or a note that it is missing.
- The servers in the room are those of its joined members, and no server waits for what is not there.

While a room's members are not all known the same is checked, of what is known.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import orjson

from storage.events import Flag
from storage.inspection import EventRow, RoomRow, Shape, TipRow
from storage.inspection_sharing import (
    read_blocks,
    read_destinations,
    read_keys_and_flags,
    read_missing,
    read_partial,
    read_servers,
    read_stripped,
)
from storage.outside import find_outside_events
from storage.transaction import Transaction

from .report import Report, RoomFindings
from .resolving import Resolver
from .states import EMPTY, State, StoredStates

_CREATE = ("m.room.create", "")


class Sharing:
    """What is stored of one room because other servers are in it."""

    def __init__(self, tx: Transaction, room: RoomRow, shape: Shape, found: RoomFindings) -> None:
        self._tx = tx
        self._room_nid = room.room_nid
        self._shape = shape
        self._found = found
        self._blocks = read_blocks(tx, room.room_nid)
        self._tops = [block.top for block in self._blocks]
        # Outliers that memberships rest on: they came alone.
        self.outside = find_outside_events(tx, room.room_nid)
        # Event -> its prev events that are noted as missing.
        self._missing: dict[int, set[str]] = {}
        for nid, prev_id in read_missing(tx, room.room_nid):
            self._missing.setdefault(nid, set()).add(prev_id)
        # The given state that was looked at last: the next one differs by little.
        self._sound = EMPTY

    # -- the places of events ----------------------------------------------------------------------------------------

    def is_top(self, position: int) -> bool:
        """Tell whether the event at a position came after a gap."""
        place = bisect_left(self._tops, position)
        return place < len(self._tops) and self._tops[place] == position

    def is_history(self, position: int) -> bool:
        """Tell whether a position is one that was kept free for what is fetched later."""
        place = bisect_left(self._tops, position)
        return place < len(self._tops) and self._blocks[place].floor < position < self._tops[place]

    def is_late(self, index: int, prev: int) -> bool:
        """Tell whether an edge leads to what came after the event itself."""
        own, before = self._shape.positions[index], self._shape.positions[prev]
        if self.is_top(own):
            return self.is_history(before) or (before or self._shape.nids[prev]) > own
        return before > own and self.is_history(own)

    def is_missing(self, nid: int, prev_id: str) -> bool:
        """Tell whether a prev event of an event is noted as missing."""
        return prev_id in self._missing.get(nid, ())

    # -- events ------------------------------------------------------------------------------------------------------

    def check_prevs(self, row: EventRow, prev_ids: Sequence[str], absent: Sequence[str]) -> None:
        """Compare what is noted as missing with the prev events; `absent` are those without a place here."""
        noted = self._missing.get(row.nid, set())
        for prev_id in sorted(noted.difference(prev_ids)):
            self._found.differs(row.event_id, "missing prev event", "none", prev_id)
        # Of what is hidden nobody pages back, but what builds on it inherits the gap.
        if row.position is not None and (self.is_top(row.position) or self.is_history(row.position)):
            for prev_id in absent:
                if prev_id not in noted:
                    self._found.differs(row.event_id, "missing prev event", prev_id, "none")

    def check_given(self, event_id: str, state: State, resolver: Resolver) -> None:
        """Tell what cannot be in a state that another server told."""
        if state.get(resolver.key_nid(_CREATE)) is None:
            self._found.differs(event_id, "given state", "one with a create event", "none")
        new = [(key, nid) for key, nid, _ in state.differences(self._sound) if nid is not None]
        self._sound = state
        stored = read_keys_and_flags(self._tx, self._room_nid, [nid for _, nid in new])
        for key_nid, nid in new:
            there = stored.get(nid)
            if there is None:
                told = "which there is not in the room"
            elif there[0] != key_nid:
                told = "which has another state key"
            elif there[1] & Flag.REJECTED:
                told = "which was rejected"
            else:
                continue
            name = resolver.ids((nid,)).get(nid) or f"event number {nid}"
            kind, state_key = resolver.names((key_nid,)).get(key_nid, ("state key", str(key_nid)))
            sentence = f"has {name} at {kind!r} {state_key!r}, {told}"
            self._found.tells(event_id, "given state", sentence, kind="given states")

    # -- the end -----------------------------------------------------------------------------------------------------

    def check_end(
        self,
        tip: TipRow | None,
        servers: Mapping[str, int] | None,
        server_name: str | None,
        stored: StoredStates,
        report: Report,
        users: Mapping[int, str],
    ) -> None:
        """Check what does not hang on single events.

        `servers` has the joined members by server, None where they cannot be told; `users` those with a membership.
        """
        self._check_blocks()
        self._check_missing()
        self._check_partial(stored, report)
        if servers is not None:
            self._check_servers(servers)
        for destination, position in read_destinations(self._tx, self._room_nid):
            newest = 0 if tip is None else tip.position
            if not 0 < position <= newest:
                self._found.differs(None, f"position for {destination!r}", f"one up to {newest}", position)
            if destination == server_name:
                self._found.differs(None, "servers to be told", "other servers", destination)
        for user_nid, raw in read_stripped(self._tx, self._room_nid):
            name = users.get(user_nid)
            if name is None:
                self._found.differs(None, "stripped state", "none for who has no membership", f"user number {user_nid}")
            elif not isinstance(_json(raw), list):
                self._found.differs(
                    None, f"stripped state of {name!r}", "a JSON list", raw[:80].decode("utf-8", "replace")
                )

    def _check_blocks(self) -> None:
        positions = sorted(position for position in self._shape.positions if position > 0)
        highest = 0
        for block in self._blocks:
            aspect = f"history before {block.top}"
            if not (block.floor <= block.next_position < block.top and block.floor > 0):
                self._found.differs(None, aspect, f"from {block.floor} to below it", f"next at {block.next_position}")
            if block.floor < highest:
                self._found.differs(None, aspect, f"from {highest} on, where another ends", f"from {block.floor} on")
            highest = max(highest, block.top)
            above = bisect_left(positions, block.top)
            if above == len(positions) or positions[above] != block.top:
                self._found.differs(None, aspect, "an event there", "none")
            below = bisect_left(positions, block.floor + 1)
            if below < above and positions[below] <= block.next_position:
                told = f"one at {positions[below]}"
                self._found.differs(None, aspect, f"events over {block.next_position}", told)

    def _check_missing(self) -> None:
        nids, flags = self._shape.nids, self._shape.flags
        for nid in sorted(self._missing):
            index = bisect_left(nids, nid)
            if index == len(nids) or nids[index] != nid or flags[index] & Flag.OUTLIER:
                sentence = f"are noted of number {nid}, which is no event of the room that has a place"
                self._found.tells(None, "missing prev events", sentence, kind="missing prev events")

    def _check_partial(self, stored: StoredStates, report: Report) -> None:
        partial = read_partial(self._tx, self._room_nid)
        if partial is None:
            return
        report.partial_rooms += 1
        nids = self._shape.nids
        index = bisect_left(nids, partial.join_nid)
        if index == len(nids) or nids[index] != partial.join_nid or not self.is_top(self._shape.positions[index]):
            self._found.differs(None, "partial room", "a join after a gap", f"event number {partial.join_nid}")
        if stored.get(partial.base_group) is None:
            told = stored.fault(partial.base_group)
            self._found.tells(None, "partial room", f"its first state cannot be had: {told}")
        elif stored.parent(partial.base_group) is not None:
            self._found.differs(None, "partial room", "a first state", f"state group {partial.base_group} on another")
        servers = _json(partial.servers)
        if not isinstance(servers, list) or not all(isinstance(server, str) for server in servers):
            self._found.differs(
                None, "partial room", "a JSON list of servers", partial.servers[:80].decode("utf-8", "replace")
            )

    def _check_servers(self, expected: Mapping[str, int]) -> None:
        servers = read_servers(self._tx, self._room_nid)
        for server in sorted(expected.keys() | servers.keys()):
            joined, told = expected.get(server, 0), servers.get(server, 0)
            if joined != told:
                sentence = f"expected {joined}, stored {told}"
                self._found.tells(None, f"joined users of {server!r}", sentence, kind="joined users of servers")


def _json(raw: bytes) -> object:
    try:
        return orjson.loads(raw)
    except ValueError:
        return None
