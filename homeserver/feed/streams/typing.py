"""The stream of typing notifications: `m.typing` events under `ephemeral`.

In memory only. For each room there is the newest list of who is typing, encoded once, with the position at which it
became so; an empty list is kept too, so that those are told who were told of somebody typing.

Spec: client-server API, "Typing Notifications".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import orjson

from homeserver.feed.feed import UserFeed
from homeserver.model.event_json import without_slack
from homeserver.model.ids import RoomID

from .protocol import StreamItem

TYPE: Final = "m.typing"
# LIMIT: rooms whose list is remembered; the one that changed longest ago goes first.
MAX_ROOMS: Final = 10_000


class TypingStream:
    """Takes new lists in, gives receivers those that changed."""

    def __init__(self) -> None:
        # room -> (position, whether anybody is typing, the event for all), in order of position.
        self._rooms: dict[int, tuple[int, bool, tuple[StreamItem]]] = {}
        self._listeners: list[Callable[[int, Sequence[str]], None]] = []

    def listen(self, listener: Callable[[int, Sequence[str]], None]) -> None:
        """Call `listener(room_nid, user_ids)` with every new list."""
        self._listeners.append(listener)

    def publish(self, room_nid: int, user_ids: Sequence[str], position: int) -> None:
        """Take in who is typing in a room from now on; called in order of positions."""
        encoded = without_slack(orjson.dumps({"type": TYPE, "content": {"user_ids": list(user_ids)}}))
        self._rooms.pop(room_nid, None)
        self._rooms[room_nid] = (position, bool(user_ids), (StreamItem(TYPE, None, encoded),))
        if len(self._rooms) > MAX_ROOMS:
            del self._rooms[next(iter(self._rooms))]
        for listener in self._listeners:
            listener(room_nid, user_ids)

    async def in_rooms(
        self, user: UserFeed, room_nids: Mapping[int, RoomID], after: int | None, upto: int
    ) -> Mapping[int, Sequence[StreamItem]]:
        """Return the lists of those rooms in which they changed; see `RoomStream`."""
        result: dict[int, Sequence[StreamItem]] = {}
        rooms = self._rooms
        for room_nid in room_nids:
            found = rooms.get(room_nid)
            # Whoever begins need not be told that nobody is typing.
            if found is not None and found[0] <= upto and (found[0] > after if after is not None else found[1]):
                result[room_nid] = found[2]
        return result
