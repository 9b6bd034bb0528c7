"""Typing notifications: who is typing where, for how long.

Kept in memory only, since it is worth nothing after a restart. The first change of a room is told at once; what follows
within a moment is told together, so that a crowd that begins and stops does not wake everybody each time.

Spec: client-server API, "Typing Notifications".
"""

from __future__ import annotations

from typing import Any, Final

from homeserver.errors import NotAllowed, NotJoined
from homeserver.feed.feed import Feed, Publication
from homeserver.feed.streams.typing import TypingStream
from homeserver.model.ids import RoomID, UserID
from homeserver.runtime.clock import Clock
from storage.store import Store

from .sessions import Requester

DEFAULT_TIMEOUT_MS: Final = 30_000
MAX_TIMEOUT_MS: Final = 120_000
# LIMIT: who begins when so many are typing already is not shown; every change is sent to all members of the room.
MAX_TYPING: Final = 50
# LIMIT: rooms in which somebody is typing.
MAX_ROOMS: Final = 10_000
COALESCE_S: Final = 0.25


class _Room:
    __slots__ = ("is_dirty", "nid", "quiet", "users")

    def __init__(self, nid: int) -> None:
        self.nid = nid
        # user -> the timer that ends it, who began first coming first.
        self.users: dict[str, Any] = {}
        # The timer of the moment after a change, while which nothing is told.
        self.quiet: Any = None
        self.is_dirty = False


class Typing:
    """Notes who is typing and ends it in time."""

    def __init__(self, store: Store, feed: Feed, clock: Clock, *, stream: TypingStream) -> None:
        self._store = store
        self._feed = feed
        self._clock = clock
        self._stream = stream
        self._rooms: dict[RoomID, _Room] = {}
        self._is_stopped = False
        feed.listen(self._on_publication)

    async def set(
        self, requester: Requester, room_id: RoomID, user_id: UserID, *, is_typing: bool, timeout_ms: int | None = None
    ) -> None:
        """Note that the requester is typing for the next `timeout_ms`, or has stopped.

        Raises NotAllowed for somebody else, NotJoined.
        """
        if user_id != requester.user_id:
            raise NotAllowed("You cannot set the typing state of somebody else")
        user = await self._feed.user(requester.user_id, requester.user_nid)
        place = user.rooms.get(room_id)
        if place is None or place.membership != "join":
            raise NotJoined("You are not in the room")
        if is_typing:
            timeout = DEFAULT_TIMEOUT_MS if timeout_ms is None else min(timeout_ms, MAX_TIMEOUT_MS)
            self._begin(room_id, place.room_nid, str(user_id), timeout / 1000)
        else:
            self._end(room_id, str(user_id))

    def stop(self) -> None:
        """Take all timers back."""
        self._is_stopped = True
        for room in self._rooms.values():
            for timer in (*room.users.values(), room.quiet):
                if timer is not None and timer.active():
                    timer.cancel()
        self._rooms.clear()

    def _begin(self, room_id: RoomID, room_nid: int, user_id: str, seconds: float) -> None:
        room = self._rooms.get(room_id)
        if self._is_stopped or seconds <= 0:
            self._end(room_id, user_id)
            return
        if room is None:
            if len(self._rooms) >= MAX_ROOMS:
                return
            room = self._rooms[room_id] = _Room(room_nid)
        timer = room.users.get(user_id)
        if timer is None and len(room.users) >= MAX_TYPING:
            return
        if timer is not None and timer.active():
            timer.cancel()
        room.users[user_id] = self._clock.call_later(seconds, self._end, room_id, user_id)
        if timer is None:
            self._tell(room_id, room)

    def _end(self, room_id: RoomID, user_id: str) -> None:
        room = self._rooms.get(room_id)
        timer = room.users.pop(user_id, None) if room is not None else None
        if room is None or timer is None:
            return
        if timer.active():
            timer.cancel()
        self._tell(room_id, room)

    def _tell(self, room_id: RoomID, room: _Room) -> None:
        if room.quiet is not None:
            room.is_dirty = True
            return
        room.quiet = self._clock.call_later(COALESCE_S, self._after_quiet, room_id, room)
        typing = tuple(room.users)
        position = self._store.positions.allocate()

        def publish() -> None:
            self._stream.publish(room.nid, typing, position.number)
            self._feed.touch_room(room_id, position.number)

        position.finish(publish)

    def _after_quiet(self, room_id: RoomID, room: _Room) -> None:
        room.quiet = None
        if room.is_dirty:
            room.is_dirty = False
            self._tell(room_id, room)
        elif not room.users and self._rooms.get(room_id) is room:
            del self._rooms[room_id]

    def _on_publication(self, publication: Publication) -> None:
        for member in publication.members:
            if member.membership != "join" and publication.room_id in self._rooms:
                self._end(publication.room_id, str(member.user_id))
