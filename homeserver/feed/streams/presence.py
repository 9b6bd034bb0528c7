"""The stream of presence: `m.presence` events of users whom the receiver shares a room with.

In memory is the newest published presence of each user, in order of position. Who is told is not stored with it: a
receiver looks whether it is in one of the other's rooms (`RoomFeed.listeners`). Receivers remember the position of the
last presence that concerned them, so that all others are answered at once.

Whom one begins to share a room with is told from the start: the joining user sees who is present, and `users.presence`
publishes the joining user again.

Spec: client-server API, "Presence".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import orjson

from homeserver.feed.feed import Feed, Publication, RoomFeed, UserFeed
from homeserver.model.event_json import without_slack
from homeserver.model.ids import RoomID
from homeserver.runtime.clock import Clock

from .protocol import StreamItem

TYPE: Final = "m.presence"
OFFLINE: Final = "offline"
# LIMIT: users whose presence is known, receivers whose last news are, and what one answer looks at and tells.
MAX_USERS: Final = 50_000
MAX_SCANNED: Final = 5_000
MAX_TOLD: Final = 1_000


@dataclass(frozen=True, slots=True)
class PresenceState:
    """A user's presence as others see it; `last_active_ts` is None for never."""

    state: str
    is_active: bool
    status_msg: str | None
    last_active_ts: int | None

    def render(self, now_ms: int) -> dict[str, object]:
        """Return the JSON object that tells of it now. Spec: `m.presence`, `GET /presence/{userId}/status`."""
        content: dict[str, object] = {"presence": self.state}
        if self.last_active_ts is not None:
            content["last_active_ago"] = max(0, now_ms - self.last_active_ts)
        if self.state != OFFLINE:
            content["currently_active"] = self.is_active
        if self.status_msg is not None:
            content["status_msg"] = self.status_msg
        return content


class _Entry:
    __slots__ = ("encoded_ms", "item", "position", "presence")

    def __init__(self, presence: PresenceState, position: int) -> None:
        self.presence = presence
        self.position = position
        self.item: StreamItem | None = None
        self.encoded_ms = 0


class PresenceStream:
    """Takes published presence in, gives receivers what changed."""

    def __init__(self, feed: Feed, clock: Clock) -> None:
        self._feed = feed
        self._clock = clock
        self._floor: int | None = None
        self._recent: dict[str, _Entry] = {}
        # receiver -> position of the last presence that concerns them, newest last.
        self._told: dict[str, int] = {}
        self._told_floor = 0
        self._listeners: list[Callable[[Mapping[str, PresenceState]], None]] = []
        feed.listen(self._on_publication)

    @property
    def floor(self) -> int:
        """The position over which all changes are in memory."""
        if self._floor is None:
            self._floor = self._feed.watermark
        return self._floor

    # -- in ----------------------------------------------------------------------------------------------------------

    def publish(self, changes: Mapping[str, PresenceState], position: int) -> None:
        """Take in the presence of users and wake who shares a room with them; called in order of positions."""
        if self._floor is None:
            self._floor = position - 1
        recent = self._recent
        concerned: set[str] = set()
        for user_id, presence in changes.items():
            recent.pop(user_id, None)
            recent[user_id] = _Entry(presence, position)
            concerned.add(user_id)
            for room in self._rooms_of(user_id):
                concerned.update(listener.user_id for listener in room.listeners)
        while len(recent) > MAX_USERS:
            self._floor = recent.pop(next(iter(recent))).position
        for receiver in concerned:
            self._tell(receiver, position)
            self._feed.touch_user(receiver, position)
        for listener in self._listeners:
            listener(changes)

    def listen(self, listener: Callable[[Mapping[str, PresenceState]], None]) -> None:
        """Call `listener` with all that is published, by user ID."""
        self._listeners.append(listener)

    def fan_out(self, user_id: str) -> int:
        """Return about how many receivers a change of this user's presence concerns."""
        return 1 + sum(len(room.listeners) for room in self._rooms_of(user_id))

    def _rooms_of(self, user_id: str) -> Iterable[RoomFeed]:
        user = self._feed.find_user(user_id)
        if user is not None:
            for place in user.rooms.values():
                if place.membership == "join" and (room := self._feed.find_room(place.room_id)) is not None:
                    yield room

    def _tell(self, receiver: str, position: int) -> None:
        told = self._told
        told.pop(receiver, None)
        told[receiver] = position
        if len(told) > MAX_USERS:
            self._told_floor = told.pop(next(iter(told)))

    def _on_publication(self, publication: Publication) -> None:
        for member in publication.members:
            if member.membership == "join" and member.before != "join" and member.is_local:
                self._tell(str(member.user_id), publication.stored.position or 0)

    # -- out ---------------------------------------------------------------------------------------------------------

    async def of_user(self, user: UserFeed, after: int | None, upto: int) -> Sequence[StreamItem]:
        """Return the presence of those whom the user shares a room with; see `UserStream`.

        From the start, only of those who are not offline.
        """
        if not self._recent:
            return ()
        if after is None or after < self.floor:
            return self._render(self._present(user, user.rooms.keys(), upto))
        if self._told.get(user.user_id, self._told_floor) <= after:
            return ()
        found: dict[str, _Entry] = {}
        for other, entry in islice(reversed(self._recent.items()), MAX_SCANNED):
            if entry.position <= after or len(found) >= MAX_TOLD:
                break
            if entry.position <= upto and self._shares_room(user, other):
                found[other] = entry
        entered = [place.room_id for place in user.rooms.values() if place.since > after]
        if entered:
            found = {**self._present(user, entered, upto), **found}
        return self._render(found)

    def _present(self, user: UserFeed, room_ids: Iterable[RoomID], upto: int) -> dict[str, _Entry]:
        recent = self._recent
        found: dict[str, _Entry] = {}
        own = recent.get(user.user_id)
        if own is not None and own.presence.state != OFFLINE and own.position <= upto:
            found[user.user_id] = own
        scanned = 0
        for room_id in room_ids:
            place = user.rooms.get(room_id)
            room = self._feed.find_room(place.room_id) if place is not None and place.membership == "join" else None
            if room is None:
                continue
            for listener in room.listeners:
                entry = recent.get(listener.user_id)
                if entry is not None and entry.presence.state != OFFLINE and entry.position <= upto:
                    found[listener.user_id] = entry
            scanned += len(room.listeners)
            if scanned >= MAX_SCANNED or len(found) >= MAX_TOLD:
                break
        return found

    def _shares_room(self, user: UserFeed, other: str) -> bool:
        return other == user.user_id or any(user in room.listeners for room in self._rooms_of(other))

    def _render(self, entries: Mapping[str, _Entry]) -> list[StreamItem]:
        now_ms = self._clock.now_ms()
        return [_encode(user_id, entry, now_ms) for user_id, entry in entries.items()]


def _encode(user_id: str, entry: _Entry, now_ms: int) -> StreamItem:
    # Shared by all who are told within a second.
    if entry.item is None or not 0 <= now_ms - entry.encoded_ms < 1_000:
        event = {"type": TYPE, "sender": str(user_id), "content": entry.presence.render(now_ms)}
        entry.item = StreamItem(TYPE, str(user_id), without_slack(orjson.dumps(event)))
        entry.encoded_ms = now_ms
    return entry.item
