"""Presence of local users: from what their devices do to what others are told.

Each device says `online` or `unavailable` with its sync requests or by the endpoint, and is gone a while after the last
of them. A user is online while some device says so and the last activity is not too long ago, else unavailable while
there is a device, else offline.

What others are told is bounded, because one change may concern everybody on the server:

- while a user counts as currently active, further activity is not told at all;
- a user's changes are told at most once in a while, the newest state then (`STATE_INTERVAL_S`, `DETAIL_INTERVAL_S`);
- over all users there is a budget of receivers a second; what is over it waits, and is told in its newest state.

The last state is written to the database now and then, and read back after a restart.

Other servers that share a room with a user are told of the same changes, and again of who stays present, since they
take who is not heard of to be gone. What they say of their users is in `remote_presence`.

Spec: client-server API, "Presence"; `set_presence` of `GET /sync`; server-server API, "Presence".
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Any, Final

from homeserver.config import Presence as PresenceConfig
from homeserver.errors import InvalidParam, NotAllowed
from homeserver.feed.feed import Feed, Publication
from homeserver.feed.streams.presence import OFFLINE, PresenceState, PresenceStream
from homeserver.model.edu import PresenceUpdate
from homeserver.model.ids import UserID
from homeserver.ports import EduOutbox, NoEdus
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import Tasks
from storage import presence as storage
from storage.presence import PresenceRow
from storage.store import Store

from .presence_sharing import PresenceSharing
from .remote_presence import RemotePresence
from .sessions import Requester

logger = logging.getLogger(__name__)

ONLINE: Final = "online"
UNAVAILABLE: Final = "unavailable"
STATES: Final = (ONLINE, UNAVAILABLE, OFFLINE)
MAX_STATUS_CHARACTERS: Final = 2_048
# Between two publications of one user: of another state or status, and of whether the user is currently active.
STATE_INTERVAL_S: Final = 1.0
DETAIL_INTERVAL_S: Final = 5.0
# LIMIT: receivers that are told of presence in a second, over all users.
FAN_OUT_PER_S: Final = 5_000.0
# LIMIT: users whose devices are known.
MAX_USERS: Final = 50_000
# LIMIT: devices of one user.
MAX_DEVICES: Final = 50
WRITE_INTERVAL_S: Final = 10.0
_BATCH: Final = 200
_RESTORED: Final = "restored"


class _Device:
    __slots__ = ("expires", "said")

    def __init__(self, said: str, expires: float) -> None:
        self.said = said
        self.expires = expires


class _User:
    __slots__ = (
        "active_at",
        "active_ts",
        "devices",
        "due",
        "is_forced",
        "is_loaded",
        "shown",
        "shown_at",
        "status_msg",
        "user_id",
    )

    def __init__(self, user_id: UserID) -> None:
        self.user_id = user_id
        self.devices: dict[str | None, _Device] = {}
        self.status_msg: str | None = None
        # The last activity: on the monotonic clock, and since the epoch.
        self.active_at = float("-inf")
        self.active_ts: int | None = None
        # What was published last.
        self.shown: tuple[str, bool, str | None] = (OFFLINE, False, None)
        self.shown_at = float("-inf")
        self.is_forced = False
        # Whether what the database knows of the user is here.
        self.is_loaded = False
        self.due: float | None = None


class Presence:
    """Gathers what users' devices do and publishes what follows."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        clock: Clock,
        tasks: Tasks,
        config: PresenceConfig,
        *,
        stream: PresenceStream,
        edus: EduOutbox | None = None,
    ) -> None:
        self._remote = RemotePresence(store, feed, clock, tasks, stream=stream)
        self._sharing = PresenceSharing(store, clock, tasks, edus or NoEdus())
        self._store = store
        self._feed = feed
        self._clock = clock
        self._tasks = tasks
        self._stream = stream
        self._is_enabled = config.enabled
        self._takes_updates = config.enabled and config.accept_updates
        self._active_s = config.last_active_granularity_ms / 1000
        self._idle_s = config.idle_timeout_ms / 1000
        self._online_s = config.sync_online_timeout_ms / 1000
        self._users: dict[str, _User] = {}
        self._unloaded: dict[str, _User] = {}
        self._is_loading = False
        self._unsaved: dict[str, _User] = {}
        # Waiting to be published, in that order.
        self._ready: dict[str, _User] = {}
        self._is_draining = False
        self._budget = FAN_OUT_PER_S
        self._budget_at = clock.monotonic()
        self._heap: list[tuple[float, str]] = []
        self._timer: Any = None
        self._timer_at = 0.0
        self._is_stopped = False
        if self._is_enabled:
            feed.listen(self._on_publication)

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up who was present before a restart: who does not come back is told to be offline."""
        if not self._is_enabled:
            return
        now = self._clock.monotonic()
        for row in await self._store.database.read(lambda tx: storage.load_present(tx, MAX_USERS // 2)):
            if row.user_id in self._users:
                continue
            user = _User(UserID(row.user_id))
            self._fill(user, row)
            user.devices[_RESTORED] = _Device(row.state, now + self._online_s)
            self._users[row.user_id] = user
            self._review(user, now)
        self._tasks.every("presence to the database", WRITE_INTERVAL_S, self.write)
        self._remote.start()
        self._sharing.start()

    async def stop(self) -> None:
        """Write down the last state of all; the owner of the tasks stops them."""
        self._is_stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._is_enabled:
            self._unsaved.update(self._users)
            await self.write()

    # -- what devices do ---------------------------------------------------------------------------------------------

    def seen(
        self, user_id: UserID, device_id: str | None, set_presence: str | None = None, *, for_s: float = 30.0
    ) -> None:
        """Note that a device asks for the stream and may wait there for `for_s` seconds; no I/O.

        Spec: `set_presence` of `GET /sync`: without it the user is online; `offline` leaves the user as they are.
        """
        if set_presence is None:
            set_presence = ONLINE
        if not self._takes_updates or set_presence == OFFLINE:
            return
        now = self._clock.monotonic()
        user = self._users.get(user_id)
        device = user.devices.get(device_id) if user is not None else None
        if user is not None and device is not None and device.said == set_presence and user.shown[0] != OFFLINE:
            # Its end is looked at again when the old one comes.
            device.expires = now + for_s + self._online_s
            return
        user = user or self._add(user_id)
        if user is None or not self._say(user, device_id, set_presence, now + for_s + self._online_s):
            return
        if set_presence == ONLINE:
            # A device that comes, or comes back from being idle, is activity.
            self._bump(user, now)
        self._review(user, now)

    def active(self, user_id: str) -> None:
        """Note that a user has done something; no I/O. Without a device that is there, it makes nobody online."""
        user = self._users.get(user_id)
        if user is None or not self._takes_updates:
            return
        now = self._clock.monotonic()
        self._bump(user, now)
        if user.shown[1]:
            return
        # Spec: "Idle timeout": activity sets the user's presence to online.
        for device in user.devices.values():
            if device.said == UNAVAILABLE:
                device.said = ONLINE
        self._review(user, now)

    async def set(self, requester: Requester, user_id: UserID, state: str, status_msg: str | None) -> None:
        """Set the requester's presence by hand; raises NotAllowed for somebody else, InvalidParam."""
        if user_id != requester.user_id:
            raise NotAllowed("You cannot set the presence of somebody else")
        if state not in STATES:
            raise InvalidParam("presence must be online, unavailable or offline")
        if status_msg is not None and len(status_msg) > MAX_STATUS_CHARACTERS:
            raise InvalidParam(f"status_msg has at most {MAX_STATUS_CHARACTERS} characters")
        if not self._takes_updates:
            return
        await self._feed.user(requester.user_id, requester.user_nid)
        user = self._users.get(user_id) or self._add(user_id)
        if user is None:
            return
        now = self._clock.monotonic()
        self._say(user, requester.device_id, state, now + self._online_s)
        user.devices.pop(_RESTORED, None)
        user.status_msg = status_msg or None
        # What the database knows is older.
        user.is_loaded = True
        self._unsaved[user_id] = user
        self._bump(user, now)
        self._review(user, now)

    def receive(self, updates: Sequence[PresenceUpdate]) -> None:
        """Take in what another server says of its own users; the caller has seen to that."""
        if self._takes_updates:
            self._remote.receive(updates)

    async def get(self, requester: Requester, user_id: UserID) -> dict[str, object]:
        """Return a user's presence as clients see it; raises NotAllowed where no room is shared.

        Spec: `GET /presence/{userId}/status`.
        """
        if not self._is_enabled:
            return {"presence": OFFLINE}
        own_id, other_id = str(requester.user_id), str(user_id)
        if own_id != other_id and not await self._store.database.read(
            lambda tx: storage.share_a_room(tx, own_id, other_id)
        ):
            raise NotAllowed("You are not allowed to see their presence")
        now_ms = self._clock.now_ms()
        remote = self._remote.find(other_id)
        if remote is not None:
            return remote.render(now_ms)
        user = self._users.get(user_id)
        if user is None or not user.is_loaded:
            rows = await self._store.database.read(lambda tx: storage.load_presence(tx, [other_id]))
            user = self._users.get(user_id)
            if user is None:
                user = _User(user_id)
                self._fill(user, rows[0] if rows else None)
        state, is_active = self._state_of(user, self._clock.monotonic())
        return PresenceState(state, is_active, user.status_msg, user.active_ts).render(now_ms)

    # -- users -------------------------------------------------------------------------------------------------------

    def _add(self, user_id: UserID) -> _User | None:
        if self._is_stopped or len(self._users) >= MAX_USERS:
            return None
        user = self._users[user_id] = self._unloaded[user_id] = _User(user_id)
        if not self._is_loading:
            self._is_loading = True
            self._tasks.start("presence from the database", self._load())
        return user

    async def _load(self) -> None:
        try:
            while self._unloaded:
                names = list(self._unloaded)[:500]
                rows = await self._store.database.read(lambda tx, names=names: storage.load_presence(tx, names))  # type: ignore[misc]
                known = {row.user_id: row for row in rows}
                now = self._clock.monotonic()
                for name in names:
                    user = self._unloaded.pop(name)
                    if not user.is_loaded:
                        self._fill(user, known.get(name))
                        self._review(user, now)
        finally:
            self._is_loading = False

    def _fill(self, user: _User, row: PresenceRow | None) -> None:
        user.is_loaded = True
        if row is not None:
            user.status_msg = row.status_msg
            if user.active_ts is None and row.last_active_ts:
                user.active_ts = row.last_active_ts
                user.active_at = self._clock.monotonic() - max(0, self._clock.now_ms() - row.last_active_ts) / 1000
            user.shown = (OFFLINE, False, row.status_msg)

    def _say(self, user: _User, device_id: str | None, said: str, expires: float) -> bool:
        device = user.devices.get(device_id)
        if device is None:
            if len(user.devices) >= MAX_DEVICES:
                return False
            user.devices[device_id] = _Device(said, expires)
            # The device that was restored has come back.
            user.devices.pop(_RESTORED, None)
        else:
            device.said, device.expires = said, expires
        return True

    def _bump(self, user: _User, now: float) -> None:
        user.active_at = now
        user.active_ts = self._clock.now_ms()

    def _state_of(self, user: _User, now: float) -> tuple[str, bool]:
        """Return the state that follows from the devices, and whether the user is currently active."""
        state = OFFLINE
        for device in user.devices.values():
            if device.expires > now and device.said != OFFLINE:
                if device.said == ONLINE:
                    if now >= user.active_at + self._idle_s:
                        return UNAVAILABLE, False
                    return ONLINE, now < user.active_at + self._active_s
                state = UNAVAILABLE
        return state, False

    def _review(self, user: _User, now: float) -> None:
        """Queue the user for publication if there is news, and come back when there may be."""
        if not user.is_loaded:
            return
        state, is_active = self._state_of(user, now)
        due: list[float] = []
        for device_id in [device_id for device_id, device in user.devices.items() if device.expires <= now]:
            del user.devices[device_id]
        due.extend(device.expires for device in user.devices.values())
        if state == ONLINE:
            due.append(user.active_at + (self._active_s if is_active else self._idle_s))
        old_state, was_active, old_status = user.shown
        if user.is_forced or state != old_state or user.status_msg != old_status:
            due.append(self._publish_after(user, user.shown_at + STATE_INTERVAL_S, now))
        elif is_active != was_active:
            due.append(self._publish_after(user, user.shown_at + DETAIL_INTERVAL_S, now))
        upcoming = [moment for moment in due if moment > now]
        if upcoming:
            self._schedule(user, min(upcoming))
        elif old_state == OFFLINE and not user.devices:
            # Forgotten with the next writing.
            self._unsaved[user.user_id] = user

    def _publish_after(self, user: _User, moment: float, now: float) -> float:
        if moment <= now:
            self._ready.setdefault(user.user_id, user)
            if not self._is_draining and not self._is_stopped:
                self._is_draining = True
                self._tasks.start("presence", self._drain())
        return moment

    def _on_publication(self, publication: Publication) -> None:
        user = self._users.get(publication.stored.event.sender)
        if user is not None:
            self.active(user.user_id)
        for member in publication.members:
            self._sharing.on_member(member)
            user = self._users.get(member.user_id)
            if user is None or member.membership != "join" or member.before == "join":
                continue
            if user.shown[0] != OFFLINE:
                # Those in the room have not been told of the user.
                user.is_forced = True
                self._review(user, self._clock.monotonic())

    # -- time --------------------------------------------------------------------------------------------------------

    def _schedule(self, user: _User, due: float) -> None:
        if self._is_stopped or (user.due is not None and user.due <= due):
            return
        user.due = due
        heappush(self._heap, (due, user.user_id))
        self._arm()

    def _arm(self) -> None:
        if not self._heap or self._is_stopped:
            return
        due = self._heap[0][0]
        if self._timer is not None and self._timer.active():
            if self._timer_at <= due:
                return
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._clock.call_later(max(0.0, due - self._clock.monotonic()), self._tick)

    def _tick(self) -> None:
        now = self._clock.monotonic()
        for _ in range(_BATCH):
            # The timer may be early by the fraction that floats lose.
            if not self._heap or self._heap[0][0] > now + 0.001:
                break
            due, user_id = heappop(self._heap)
            user = self._users.get(user_id)
            if user is not None and user.due == due:
                user.due = None
                self._review(user, max(now, due))
        self._arm()

    # -- publishing --------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        try:
            while self._ready and not self._is_stopped:
                wait = self._refill()
                if wait > 0:
                    await self._clock.sleep(wait)
                    continue
                batch: list[_User] = []
                while self._ready and len(batch) < _BATCH and self._budget > 0:
                    user = self._ready.pop(next(iter(self._ready)))
                    if self._feed.find_user(user.user_id) is None:
                        await self._feed.user(user.user_id, await self._store.interner.user(user.user_id))
                    self._budget -= self._stream.fan_out(user.user_id)
                    batch.append(user)
                self._publish(batch)
        finally:
            self._is_draining = False

    def _refill(self) -> float:
        """Put into the budget what the time has brought; return for how many seconds it is still used up."""
        now = self._clock.monotonic()
        self._budget = min(FAN_OUT_PER_S, self._budget + (now - self._budget_at) * FAN_OUT_PER_S)
        self._budget_at = now
        return 0.0 if self._budget > 0 else max(0.001, -self._budget / FAN_OUT_PER_S)

    def _publish(self, users: Iterable[_User]) -> None:
        now = self._clock.monotonic()
        changes: dict[str, PresenceState] = {}
        for user in users:
            state, is_active = self._state_of(user, now)
            shown = (state, is_active, user.status_msg)
            if shown == user.shown and not user.is_forced:
                continue
            if shown[0] != user.shown[0] or shown[2] != user.shown[2]:
                self._unsaved[user.user_id] = user
            user.shown, user.shown_at, user.is_forced = shown, now, False
            changes[str(user.user_id)] = PresenceState(state, is_active, user.status_msg, user.active_ts)
            self._review(user, now)
        if not changes:
            return
        position = self._store.positions.allocate()
        position.finish(lambda: self._stream.publish(changes, position.number))
        self._sharing.tell(changes)

    # -- the database ------------------------------------------------------------------------------------------------

    async def write(self) -> None:
        """Write the last state of those who have changed, and forget those who are gone."""
        unsaved, self._unsaved = self._unsaved, {}
        if not unsaved:
            return
        try:
            nids = await self._store.interner.users(unsaved)
            rows = [
                PresenceRow(nids[user_id], user_id, user.shown[0], user.status_msg, user.active_ts or 0)
                for user_id, user in unsaved.items()
                if user.is_loaded
            ]
            await self._store.database.write(lambda tx: storage.store_presence(tx, rows))
        except BaseException:
            self._unsaved = {**unsaved, **self._unsaved}
            raise
        for user_id, user in unsaved.items():
            is_gone = user.shown[0] == OFFLINE and not user.devices and user.is_loaded
            if is_gone and user_id not in self._unsaved and user_id not in self._ready:
                self._users.pop(user_id, None)
