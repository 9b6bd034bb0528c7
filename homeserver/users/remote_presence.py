"""Presence of users of other servers, as those tell it: kept in memory, told to who shares a room with them.

Nothing is looked up while it comes in. The newest word on each user waits for the next round; then users whom nobody
here shares a room with are dropped, what is no news is not told, and over all there is a budget of receivers a second.
So a storm costs as much as its users in our rooms can, whatever it brings.

A server may vanish without telling that its users are offline, so that is taken to be so after a while. Servers repeat
the presence of who stays online before that.

Spec: server-server API, "Presence"; client-server API, "Presence".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from homeserver.feed.feed import Feed
from homeserver.feed.streams.presence import OFFLINE, PresenceState, PresenceStream
from homeserver.model.edu import PresenceUpdate
from homeserver.model.ids import UserID
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import Tasks
from storage.store import Store

# After so long without a word a user is offline.
TIMEOUT_S: Final = 30 * 60.0
EXPIRE_S: Final = 60.0
# Between two rounds: what comes meanwhile is told together.
ROUND_S: Final = 0.5
# LIMIT: users whose presence is known, and users with a word that waits; further ones are dropped.
MAX_USERS: Final = 20_000
MAX_WAITING: Final = 20_000
# LIMIT: users of one round, and receivers that are told in a second.
BATCH: Final = 200
FAN_OUT_PER_S: Final = 2_500.0


class _Known:
    __slots__ = ("expires", "presence")

    def __init__(self, presence: PresenceState, expires: float) -> None:
        self.presence = presence
        self.expires = expires


class RemotePresence:
    """Takes in the presence of other servers' users."""

    def __init__(self, store: Store, feed: Feed, clock: Clock, tasks: Tasks, *, stream: PresenceStream) -> None:
        self._store = store
        self._feed = feed
        self._clock = clock
        self._tasks = tasks
        self._stream = stream
        # Users who are not offline.
        self._known: dict[str, _Known] = {}
        self._waiting: dict[str, PresenceState] = {}
        self._is_running = False

    def start(self) -> None:
        """Look from now on for those who have not been heard of."""
        self._tasks.every("presence of other servers' users", EXPIRE_S, self.expire)

    def receive(self, updates: Sequence[PresenceUpdate]) -> None:
        """Take in what a server says of its users; no I/O, and nothing raises."""
        now_ms = self._clock.now_ms()
        for update in updates:
            user_id = str(update.user_id)
            if user_id not in self._waiting and len(self._waiting) >= MAX_WAITING:
                continue
            # Who is unheard of and offline is as everybody takes them to be.
            if update.state == OFFLINE and user_id not in self._known and user_id not in self._waiting:
                continue
            ago = update.last_active_ago_ms
            self._waiting[user_id] = PresenceState(
                update.state, update.is_active, update.status_msg, None if ago is None else max(0, now_ms - ago)
            )
        if self._waiting and not self._is_running:
            self._is_running = True
            self._tasks.start("presence of other servers' users", self._run())

    def find(self, user_id: str) -> PresenceState | None:
        """Return a user's presence where it is known, None for who is offline or unheard of."""
        known = self._known.get(user_id)
        return None if known is None else known.presence

    async def expire(self) -> None:
        """Take those to be offline who have not been heard of for long."""
        now = self._clock.monotonic()
        gone = {user_id: known for user_id, known in self._known.items() if known.expires <= now}
        for user_id, known in gone.items():
            was = known.presence
            self._waiting.setdefault(user_id, PresenceState(OFFLINE, False, was.status_msg, was.last_active_ts))
        if gone:
            self.receive(())

    async def _run(self) -> None:
        try:
            while self._waiting:
                names = list(self._waiting)[:BATCH]
                batch = {user_id: self._waiting.pop(user_id) for user_id in names}
                news = {user_id: presence for user_id, presence in batch.items() if self._is_news(user_id, presence)}
                told = await self._publish(news) if news else 0
                if self._waiting or told:
                    await self._clock.sleep(max(ROUND_S, told / FAN_OUT_PER_S))
        finally:
            self._is_running = False

    def _is_news(self, user_id: str, presence: PresenceState) -> bool:
        known = self._known.get(user_id)
        if known is None:
            return presence.state != OFFLINE and len(self._known) < MAX_USERS
        known.expires = self._clock.monotonic() + TIMEOUT_S
        was = known.presence
        known.presence = presence
        return (was.state, was.is_active, was.status_msg) != (presence.state, presence.is_active, presence.status_msg)

    async def _publish(self, news: dict[str, PresenceState]) -> int:
        """Tell who shares a room with these users; return how many receivers that concerned."""
        nids = await self._store.interner.find_users(news)
        changes: dict[str, PresenceState] = {}
        told = 0
        for user_id, presence in news.items():
            nid = nids.get(user_id)
            if nid is None:
                # Never in a room that this server knows.
                self._known.pop(user_id, None)
                continue
            user = await self._feed.user(UserID(user_id), nid)
            if not user.joined():
                self._known.pop(user_id, None)
                continue
            if presence.state == OFFLINE:
                self._known.pop(user_id, None)
            elif user_id not in self._known:
                self._known[user_id] = _Known(presence, self._clock.monotonic() + TIMEOUT_S)
            changes[user_id] = presence
            told += self._stream.fan_out(user_id)
        if changes:
            position = self._store.positions.allocate()
            position.finish(lambda: self._stream.publish(changes, position.number))
        return told
