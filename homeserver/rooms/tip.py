"""The end of a room's graph in memory: what the next event is built on and judged against.

A `RoomTip` is a value; advancing makes a new one. The room's lane is the only writer of its room, so the newest tip
cannot be stale. It is dropped, and read again, after a failed write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from rpds import HashTrieMap

from homeserver.feed.feed import MemberChange
from homeserver.model.event import StateKey
from homeserver.model.ids import EventID, RoomID, server_name_of
from homeserver.model.room_versions import RoomVersion
from storage.append import Append
from storage.events import StoredEvent
from storage.state_groups import Chain, NewGroup


class Extremity(NamedTuple):
    """An event that no other builds on yet, with the state after it."""

    nid: int
    event_id: EventID
    state_group: int
    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class StatePoint:
    """A room state at a point of the graph (`state`: key_nid -> event_nid, a persistent map), and how it is stored.

    `new_group` is there while nobody has written the group: whoever appends with it has to.
    """

    state_group: int
    chain: Chain
    state: Any
    new_group: NewGroup | None = None


class RoomServers:
    """The servers that have joined users in a room, with how many; a value."""

    __slots__ = ("_counts", "_names", "_others")

    def __init__(self, counts: Mapping[str, int] | Any) -> None:
        self._counts: Any = HashTrieMap(counts)
        self._names: tuple[str, ...] | None = None
        self._others: tuple[str, tuple[str, ...]] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The servers, this one among them, in order."""
        if self._names is None:
            self._names = tuple(sorted(self._counts))
        return self._names

    def without(self, server_name: str) -> tuple[str, ...]:
        """Return all servers but one; asked for the same one again and again, it costs nothing."""
        if self._others is None or self._others[0] != server_name:
            self._others = server_name, tuple(name for name in self.names if name != server_name)
        return self._others[1]

    def count(self, server_name: str) -> int:
        """Return how many users of a server are joined."""
        return int(self._counts.get(server_name, 0))

    def __contains__(self, server_name: object) -> bool:
        return server_name in self._counts

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self._counts)

    def after(self, members: Iterable[MemberChange]) -> tuple[RoomServers, tuple[tuple[str, int], ...]]:
        """Return the servers after memberships have changed, and by how much each server's number changes."""
        deltas: dict[str, int] = {}
        for member in members:
            delta = (member.membership == "join") - (member.before == "join")
            if delta:
                server = server_name_of(member.user_id)
                deltas[server] = deltas.get(server, 0) + delta
        changed = tuple((server, delta) for server, delta in deltas.items() if delta)
        if not changed:
            return self, ()
        counts = self._counts
        for server, delta in changed:
            count = counts.get(server, 0) + delta
            counts = counts.insert(server, count) if count > 0 else counts.discard(server)
        if len(counts) == len(self._counts) and all(server in self._counts for server, _ in changed):
            # The same servers: what was made of their names stays.
            new = RoomServers(counts)
            new._names, new._others = self._names, self._others
            return new, changed
        return RoomServers(counts), changed


NO_SERVERS: Final = RoomServers({})


@dataclass(frozen=True, slots=True)
class RoomTip:
    """Forward extremities, and the state that they make (`state`: key_nid -> event_nid, a persistent map)."""

    room_id: RoomID
    room_nid: int
    version: RoomVersion
    create: StoredEvent
    extremities: tuple[Extremity, ...]
    depth: int
    state_group: int
    chain: Chain
    state: Any
    joined_members: int
    # Of the newest event that is part of it.
    position: int
    # The append that made this tip; it may not be stored yet.
    last: Append | None = None
    servers: RoomServers = NO_SERVERS
    # The room was joined over federation, and its members are not all known yet.
    is_partial: bool = False

    @property
    def point(self) -> StatePoint:
        """The current state."""
        return StatePoint(self.state_group, self.chain, self.state)


StateEvents = dict[StateKey, StoredEvent]
