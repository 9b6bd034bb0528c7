"""Typing notifications: who is typing where, for how long.

Kept in memory only, since it is worth nothing after a restart. The first change of a room is told at once; what follows
within a moment is told together, so that a crowd that begins and stops does not wake everybody each time.

Other servers in the room are told of local users at once, and again while they go on; what those servers say of theirs
comes by `receive` and ends by itself, as the word that it has ended may be lost.

Spec: client-server API, "Typing Notifications"; server-server API, "Typing Notifications".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from homeserver.errors import NotAllowed, NotJoined
from homeserver.feed.feed import Feed, Publication
from homeserver.feed.streams.typing import TypingStream
from homeserver.model.edu import TYPING
from homeserver.model.ids import RoomID, UserID
from homeserver.ports import EduOutbox, NoEdus
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
# After so long other servers are told again of who still types, and after so long a user of theirs has stopped.
TELL_AGAIN_S: Final = 30.0
REMOTE_TIMEOUT_S: Final = 60.0

ServersOf = Callable[[RoomID], Awaitable[tuple[str, ...]]]
"""Gives the servers with a joined user in a room; ours may be among them."""


async def no_servers(room_id: RoomID) -> tuple[str, ...]:
    """Return that a room is on this server only."""
    return ()


class _Room:
    __slots__ = ("is_dirty", "nid", "quiet", "servers", "told", "users")

    def __init__(self, nid: int) -> None:
        self.nid = nid
        # user -> the timer that ends it, who began first coming first.
        self.users: dict[str, Any] = {}
        # The timer of the moment after a change, while which nothing is told.
        self.quiet: Any = None
        self.is_dirty = False
        # The other servers, and when they were told last of each local user who types.
        self.servers: tuple[str, ...] = ()
        self.told: dict[str, float] = {}


class Typing:
    """Notes who is typing and ends it in time."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        clock: Clock,
        *,
        stream: TypingStream,
        edus: EduOutbox | None = None,
        servers_of: ServersOf = no_servers,
    ) -> None:
        self._edus = edus or NoEdus()
        self._servers_of = servers_of
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
            servers = await self._servers_of(room_id)
            self._begin(room_id, place.room_nid, str(user_id), timeout / 1000)
            self._tell_servers(room_id, str(user_id), servers)
        else:
            self._end(room_id, str(user_id))

    def receive(self, room_id: RoomID, room_nid: int, user_id: UserID, *, is_typing: bool) -> None:
        """Take in what another server says of its user, who is in the room; the caller has seen to that."""
        if is_typing:
            self._begin(room_id, room_nid, str(user_id), REMOTE_TIMEOUT_S)
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
        if room.told.pop(user_id, None) is not None:
            self._send(room_id, room, user_id, is_typing=False)
        self._tell(room_id, room)

    def _tell_servers(self, room_id: RoomID, user_id: str, servers: tuple[str, ...]) -> None:
        """Tell other servers of a local user who types, unless that was just done."""
        room = self._rooms.get(room_id)
        if room is None or user_id not in room.users:
            return
        now = self._clock.monotonic()
        if now - room.told.get(user_id, float("-inf")) >= TELL_AGAIN_S:
            room.servers = servers
            room.told[user_id] = now
            self._send(room_id, room, user_id, is_typing=True)

    def _send(self, room_id: RoomID, room: _Room, user_id: str, *, is_typing: bool) -> None:
        content = {"room_id": str(room_id), "user_id": user_id, "typing": is_typing}
        self._edus.send(room.servers, TYPING, content, key=f"{room_id} {user_id}")

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
