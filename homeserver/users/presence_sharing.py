"""Telling other servers who is present here: those that share a room with the user, and no others.

Which those are is read for each user and remembered for a while. Changes of a moment go out together, in one EDU for
each server; who stays present is told again from time to time, as other servers take who is not heard of to be gone.

Spec: server-server API, "Presence": "Servers should only send presence updates for users that the receiving server
would be interested in."
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from homeserver.feed.feed import MemberChange
from homeserver.feed.streams.presence import OFFLINE, PresenceState
from homeserver.model.canonical_json import JsonObject
from homeserver.model.edu import PRESENCE
from homeserver.ports import EduOutbox, NoEdus
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import Tasks
from storage.presence import load_sharing_servers
from storage.store import Store

# How often who stays present is told again, and how often it is looked for those.
REPEAT_S: Final = 25 * 60.0
LOOK_S: Final = 60.0
# Changes within this time are told together.
COALESCE_S: Final = 0.5
# How long it is believed which servers share a room with a user, where no change of a membership was seen.
SERVERS_S: Final = 600.0
# LIMIT: users whose servers are remembered, and who wait to be told of; servers that are told of one user.
MAX_USERS: Final = 20_000
MAX_SERVERS: Final = 5_000
# LIMIT: users that are told of in one round.
BATCH: Final = 200


class PresenceSharing:
    """Tells other servers of local users' presence."""

    def __init__(self, store: Store, clock: Clock, tasks: Tasks, edus: EduOutbox) -> None:
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._edus = edus
        self._is_federating = not isinstance(edus, NoEdus)
        self._waiting: dict[str, PresenceState] = {}
        self._is_running = False
        # Of those who are present: what was told last, and when.
        self._told: dict[str, tuple[PresenceState, float]] = {}
        # The servers, and when that was read.
        self._servers: dict[str, tuple[tuple[str, ...], float]] = {}

    def start(self) -> None:
        """Repeat from now on who stays present."""
        if self._is_federating:
            self._tasks.every("presence to other servers again", LOOK_S, self.repeat)

    def tell(self, changes: Mapping[str, PresenceState]) -> None:
        """Tell of the presence of local users, a moment later; no I/O."""
        if not self._is_federating:
            return
        for user_id, presence in changes.items():
            if user_id in self._waiting or len(self._waiting) < MAX_USERS:
                self._waiting[user_id] = presence
        if self._waiting and not self._is_running:
            self._is_running = True
            self._tasks.start("presence to other servers", self._run())

    def on_member(self, change: MemberChange) -> None:
        """Take notice of a change of membership: a local user may share rooms with other servers now."""
        if not self._servers:
            return
        if change.is_local:
            self._servers.pop(str(change.user_id), None)

    async def repeat(self) -> None:
        """Tell again of those who have been present for long."""
        before = self._clock.monotonic() - REPEAT_S
        self.tell({user_id: presence for user_id, (presence, told) in self._told.items() if told <= before})

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._clock.sleep(COALESCE_S)
                names = list(self._waiting)[:BATCH]
                await self._send({user_id: self._waiting.pop(user_id) for user_id in names})
        finally:
            self._is_running = False

    async def _send(self, batch: Mapping[str, PresenceState]) -> None:
        await self._find_servers(batch)
        now, now_ms = self._clock.monotonic(), self._clock.now_ms()
        by_servers: dict[tuple[str, ...], list[JsonObject]] = {}
        for user_id, presence in batch.items():
            self._told.pop(user_id, None)
            if presence.state != OFFLINE and len(self._told) < MAX_USERS:
                self._told[user_id] = (presence, now)
            servers = self._servers.get(user_id, ((), 0.0))[0]
            if servers:
                # Spec: m.presence: `last_active_ago` is required.
                update = {"user_id": user_id, "last_active_ago": 0, **presence.render(now_ms)}
                by_servers.setdefault(servers, []).append(update)
        for servers, updates in by_servers.items():
            for update in updates:
                # One for each user, so that a newer one takes its place while it waits; they are sent together.
                self._edus.send(servers, PRESENCE, {"push": [update]}, key=str(update["user_id"]))

    async def _find_servers(self, batch: Mapping[str, PresenceState]) -> None:
        now = self._clock.monotonic()
        old = now - SERVERS_S
        wanted = [user_id for user_id in batch if self._servers.get(user_id, ((), old - 1))[1] < old]
        if not wanted:
            return
        found = await self._store.database.read(lambda tx: load_sharing_servers(tx, wanted, MAX_SERVERS))
        for user_id in wanted:
            self._servers.pop(user_id, None)
            self._servers[user_id] = (found.get(user_id, ()), now)
        while len(self._servers) > MAX_USERS:
            del self._servers[next(iter(self._servers))]
