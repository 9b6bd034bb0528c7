"""What has come and was not yet dealt with: a few updates, and the places before and after them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred

from .errors import StreamEnded

# LIMIT: more is not read while the program is behind by this much.
FULL_UPDATES: Final = 8
FULL_BYTES: Final = 4 * 1024 * 1024
# LIMIT: reading has to go on for the sake of answers, and yet no more updates are kept.
CUT_UPDATES: Final = 64
CUT_BYTES: Final = 32 * 1024 * 1024

Update = dict[str, Any]


class Inbox:
    """Updates from the server, in order, each handed out once; one reader at a time.

    `since` is the place up to which all has been dealt with: an update has been when the next one is asked for.
    `reached` is the place up to which all is here: from there a new connection has to go on.
    """

    def __init__(self, since: str | None, taken: Callable[[], None], dealt_with: Callable[[Update], None]) -> None:
        """`taken()` is called when there is more room again, `dealt_with(update)` when `since` has moved past one."""
        self.since = since
        self.reached = since
        self.is_cut = False
        self._taken = taken
        self._dealt_with = dealt_with
        self._held: deque[tuple[Update, int]] = deque()
        self._held_bytes = 0
        self._handed_out: Update | None = None
        self._reader: Deferred[None] | None = None
        self._has_ended = False
        self._error: StreamEnded | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the program has taken all."""
        return not self._held

    @property
    def is_full(self) -> bool:
        """Whether the program is behind."""
        return len(self._held) >= FULL_UPDATES or self._held_bytes >= FULL_BYTES

    def put(self, update: Update, size: int) -> None:
        """Take an update of so many bytes in.

        Where even the last bound is reached it is left out, and all after it, until a new connection starts at
        `reached` and calls `mend`: the server holds a place, so nothing is lost.
        """
        if self._has_ended or self.is_cut:
            return
        if len(self._held) >= CUT_UPDATES or self._held_bytes >= CUT_BYTES:
            self.is_cut = True
            return
        self._held.append((update, size))
        self._held_bytes += size
        self.reached = update["next_batch"]
        self._wake()

    def rewind(self) -> str | None:
        """Return where a new connection begins, and forget what it will bring again.

        By coming with a token we acknowledge the messages to the device up to it, and the server deletes them. So what
        has any, and was not handed out yet, has to come again: this program may end before it has seen them.
        """
        reached = self._handed_out["next_batch"] if self._handed_out is not None else self.since
        kept = 0
        for update, _ in self._held:
            if update.get("to_device"):
                break
            reached = update["next_batch"]
            kept += 1
        while len(self._held) > kept:
            self._held_bytes -= self._held.pop()[1]
        self.reached = reached
        return reached

    def mend(self) -> None:
        """Take updates in again, from `reached` on."""
        self.is_cut = False

    async def next(self) -> Update | None:
        """Return the next update, when there is one; None after the end. Raises StreamEnded if that was not ours.

        What was handed out before counts as dealt with.
        """
        if self._reader is not None:
            raise RuntimeError("somebody else is reading this stream")
        if self._handed_out is not None:
            update, self._handed_out = self._handed_out, None
            self.since = update["next_batch"]
            self._dealt_with(update)
        while not self._held:
            if self._has_ended:
                if self._error is not None:
                    # It is raised again and again, each time from here.
                    raise self._error.with_traceback(None)
                return None
            # Who drained a cut inbox gets a new connection.
            self._taken()
            self._reader = Deferred()
            try:
                await self._reader
            finally:
                self._reader = None
        self._handed_out, size = self._held.popleft()
        self._held_bytes -= size
        self._taken()
        return self._handed_out

    def end(self, error: StreamEnded | None) -> None:
        """Let the reader have what is here, and then the error, or the end without one."""
        if not self._has_ended:
            self._has_ended, self._error = True, error
            if error is None:
                self._held.clear()
            self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.called:
            self._reader.callback(None)


def timeline_events(update: Update, joined: str | None = None) -> Iterator[dict[str, Any]]:
    """Give the events of the timelines of joined rooms, each room's in order, with `room_id` added.

    A room that was just joined is told with some of its past. With `joined`, a user ID, what was before that user's
    join is left out.
    """
    for room_id, room in update.get("rooms", {}).get("join", {}).items():
        events = room.get("timeline", {}).get("events", ())
        begin = 0
        if joined is not None:
            begin = max((place for place, event in enumerate(events) if _is_join(event, joined)), default=0)
        for event in events[begin:]:
            yield {**event, "room_id": room_id}


def _is_join(event: dict[str, Any], user_id: str) -> bool:
    """Return whether the user was not in the room before the event, and is after it."""
    if event.get("type") != "m.room.member" or event.get("state_key") != user_id:
        return False
    before = event.get("unsigned", {}).get("prev_content", {}).get("membership")
    return bool(event.get("content", {}).get("membership") == "join" and before != "join")


def to_device_messages(update: Update) -> list[dict[str, Any]]:
    """Return the messages to this device, in order."""
    messages: list[dict[str, Any]] = update.get("to_device", {}).get("events", [])
    return messages


def invited_rooms(update: Update) -> dict[str, dict[str, Any]]:
    """Return the rooms that the user was invited to: the room's ID to what may be seen of it (`invite_state`)."""
    rooms: dict[str, dict[str, Any]] = update.get("rooms", {}).get("invite", {})
    return rooms
