"""What a client keeps: the token it has reached, and what it was told up to there.

An update is taken in whole or not at all, and together with its `next_batch`, as a client does with one transaction of
its database. The journal of a room is flat: event IDs as they were told, and marks between them for what the judge must
know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """How what follows was told: whether marked `limited`; `initial` if it came without a `since`."""

    limited: bool
    initial: bool


@dataclass(frozen=True, slots=True)
class Sieved:
    """From here on, events of these types may have been left out; none if nothing."""

    types: frozenset[str]


Entry = str | Told | Sieved


@dataclass(slots=True)
class RoomJournal:
    """What was told of a room."""

    entries: list[Entry] = field(default_factory=list)
    # As the sections say: "join", "leave".
    section: str = ""
    # The last `Told` among the entries.
    told_so: Told | None = None
    state: dict[tuple[str, str], str] = field(default_factory=dict)
    # By receipt type and user.
    receipts: dict[tuple[str, str], str] = field(default_factory=dict)
    typing: tuple[str, ...] = ()
    # In which of the server's lives that was told: it forgets who types when it ends, and tells nobody.
    typing_life: int = 0
    account_data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Received:
    """A message to the device: `serial` is unique, `token` that of the update which brought it."""

    sender: str
    serial: str
    token: str


@dataclass(slots=True)
class Snapshot:
    """A place to go back to, as whoever restores a backup does."""

    since: str
    lengths: dict[str, int]


@dataclass(slots=True)
class Journal:
    """All of a client's lasting memory. `sieve` are the types that a filter may leave out now."""

    since: str | None = None
    rooms: dict[str, RoomJournal] = field(default_factory=dict)
    account_data: dict[str, Any] = field(default_factory=dict)
    to_device: list[Received] = field(default_factory=list)
    sieve: frozenset[str] = frozenset()
    updates: int = 0
    events: int = 0
    # Set where a token was told that is behind the one before.
    faults: list[str] = field(default_factory=list)

    def apply(self, update: Json, life: int = 0) -> None:
        """Take in an update, told in this one of the server's lives."""
        token = update["next_batch"]
        if self.since is not None and position(token) < position(self.since):
            self.faults.append(f"{token} came after {self.since}")
        initial = self.since is None
        rooms = update.get("rooms", {})
        for section in ("join", "leave"):
            for room_id, told in rooms.get(section, {}).items():
                self._apply_room(room_id, section, told, initial, life)
        for event in update.get("account_data", {}).get("events", ()):
            self.account_data[event["type"]] = event["content"]
        for message in update.get("to_device", {}).get("events", ()):
            self.to_device.append(Received(message["sender"], message["content"]["serial"], token))
        self.updates += 1
        self.since = token

    def set_sieve(self, types: frozenset[str]) -> None:
        """Note that from here on a filter may leave out events of these types."""
        if types != self.sieve:
            self.sieve = types
            for room in self.rooms.values():
                _mark(room, types)

    def snapshot(self) -> Snapshot:
        assert self.since is not None
        return Snapshot(self.since, {room_id: len(room.entries) for room_id, room in self.rooms.items()})

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot: as to what has a history."""
        self.since = snapshot.since
        for room_id, room in list(self.rooms.items()):
            if room_id not in snapshot.lengths:
                del self.rooms[room_id]
            else:
                del room.entries[snapshot.lengths[room_id] :]
                room.told_so = None
                _mark(room, self.sieve)

    def _apply_room(self, room_id: str, section: str, told: Json, initial: bool, life: int) -> None:
        room = self.rooms.get(room_id)
        if room is None:
            room = self.rooms[room_id] = RoomJournal()
            if self.sieve:
                _mark(room, self.sieve)
        timeline = told.get("timeline", {})
        told_so = Told(bool(timeline.get("limited")), initial)
        if timeline.get("events") and room.told_so != told_so:
            room.told_so = told_so
            room.entries.append(told_so)
        state = told.get("state", told.get("state_after", {}))
        for event in state.get("events", ()):
            room.state[event["type"], event["state_key"]] = event["event_id"]
        for event in timeline.get("events", ()):
            room.entries.append(event["event_id"])
            self.events += 1
            if "state_key" in event and "state_after" not in told:
                room.state[event["type"], event["state_key"]] = event["event_id"]
        for event in told.get("ephemeral", {}).get("events", ()):
            if event["type"] == "m.typing":
                room.typing, room.typing_life = tuple(event["content"]["user_ids"]), life
            elif event["type"] == "m.receipt":
                for event_id, by_type in event["content"].items():
                    for receipt_type, by_user in by_type.items():
                        for user_id in by_user:
                            room.receipts[receipt_type, user_id] = event_id
        for event in told.get("account_data", {}).get("events", ()):
            room.account_data[event["type"]] = event["content"]
        room.section = section


def position(token: str) -> int:
    """Return the number in a token; only the order counts."""
    return int(token.lstrip("s").partition("_")[0])


def _mark(room: RoomJournal, types: frozenset[str]) -> None:
    room.entries.append(Sieved(types))
