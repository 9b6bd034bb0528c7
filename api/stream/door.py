"""The door for live connections: who may come in, what sessions use of the server, and the look after all of them.

One sweep looks at a share of the sessions every quarter of a second, each every few seconds: no session has a timer of
its own. Connections come in at a bounded rate, so that thousands that return at once after a restart are spread over
some seconds; and they are bounded in number: all, by address, by user.

docs/stream.md; `[stream]` and `limits.connections` of the configuration.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import count, islice
from typing import Any, Final

from twisted.internet.defer import Deferred

from homeserver.config import RateLimit
from homeserver.config_stream import Stream as StreamConfig
from homeserver.errors import InvalidParam, LimitExceeded, MatrixError, UserLocked
from homeserver.feed.feed import Feed, UserFeed
from homeserver.feed.live import LiveUpdates, Place
from homeserver.model.filters import Filter
from homeserver.runtime.clock import Clock, Scheduled
from homeserver.runtime.in_line import when_in_line
from homeserver.runtime.steps import drive
from homeserver.users.sessions import MAX_TOKEN_CHARACTERS, Requester, Sessions
from homeserver.web.json_resource import JsonResource
from homeserver.web.request import Headers, WebRequest
from homeserver.web.response import Answer
from homeserver.web.router import Route

from .methods import TWINS
from .session import (
    FAULT,
    GOING_AWAY,
    LOGGED_OUT,
    TOKEN_EXPIRED,
    TOO_MANY,
    Connection,
    Ending,
    Opening,
    Session,
    opening_refused,
)

logger = logging.getLogger(__name__)

# Each session is looked at in about this time, or less where a ping and the end of patience are close together.
LOOK_S: Final = 4.0
_SWEEP_S: Final = 0.25
# Who would have to wait longer at the door is sent away.
MAX_WAIT_S: Final = 5.0
# How long clients have to answer when the server stops.
STOP_S: Final = 2.0

FindFilter = Callable[[Requester, Any], Awaitable[Filter]]
"""Returns the filter that an object, or text (an ID or JSON), stands for, None for no filter; raises MatrixErrors."""

Seen = Callable[[Requester, str | None, float], None]
"""Told that a device is here, with its `set_presence`, and for how many seconds it may stay without a sign."""


@dataclass(frozen=True, slots=True)
class Times:
    """Deadlines, in seconds."""

    auth_s: float
    message_s: float
    ping_s: float
    silence_s: float


class StreamDoor:
    """Takes connections in and knows all that are open."""

    def __init__(
        self,
        inner: JsonResource,
        live: LiveUpdates,
        feed: Feed,
        sessions: Sessions,
        clock: Clock,
        config: StreamConfig,
        connections: RateLimit,
        *,
        find_filter: FindFilter,
        seen: Seen,
    ) -> None:
        """`inner` has the endpoints that requests of the stream are calls of."""
        self._inner = inner
        self._live = live
        self._feed = feed
        self._sessions = sessions
        self._clock = clock
        self._config = config
        self._find_filter = find_filter
        self._seen = seen
        self._refused = 0
        self.times = Times(
            config.auth_timeout_ms / 1000,
            config.message_timeout_ms / 1000,
            config.ping_interval_ms / 1000,
            config.silence_timeout_ms / 1000,
        )
        # A new one may be looked at after twice that, and has to be pinged before it is taken for gone.
        self._look_s = max(_SWEEP_S, min(LOOK_S, (self.times.silence_s - self.times.ping_s) / 4))
        self.max_in_flight = config.requests_in_flight
        self.max_message_bytes = config.max_message_bytes
        by_template = {(route.method, route.path_template): route for route in inner.router.routes}
        found = {name: by_template.get((twin.http_method, twin.template)) for name, twin in TWINS.items()}
        self.routes: Mapping[str, Route] = {name: route for name, route in found.items() if route is not None}
        self._all: dict[Session, None] = {}
        self._by_address: Counter[str] = Counter()
        self._by_user: dict[int, set[Session]] = {}
        self._per_second = connections.per_second
        self._burst = connections.burst_count
        self._full_at = 0.0
        self._sweeping: Scheduled | None = None
        # Those who are still to be looked at in this round; who has gone since is looked at for nothing.
        self._round: Iterator[Session] = iter(())
        # A heap of sessions by when their tokens expire; some may be gone, or have a fresh token.
        self._expiring: list[tuple[int, int, Session]] = []
        self._expiries = count()
        self._is_stopped = False
        # The newest look at the rights of each session of which that is under way.
        self._checks: dict[Session, object] = {}
        self._all_gone: Deferred[None] | None = None
        sessions.when_forgotten(self._rights_changed)
        sessions.when_taken_over(self._taken_over)

    # -- coming in ---------------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """The number of open connections."""
        return len(self._all)

    def refusal(self, client_ip: str) -> LimitExceeded | None:
        """Return why a new connection has to go, None if it may come in; it is not counted before `begin`."""
        if self._is_stopped or len(self._all) >= self._config.max_sessions:
            return LimitExceeded(self._retry_ms(), "The server has too many open connections")
        if self._by_address[client_ip] >= self._config.sessions_per_address:
            return LimitExceeded(self._retry_ms(), "There are too many open connections from this address")
        return None

    def wait_s(self) -> float:
        """Count a new connection, and return how long it has to wait; raises LimitExceeded where that is too long."""
        now = self._clock.monotonic()
        if self._per_second <= 0:
            raise LimitExceeded(self._retry_ms(), "The server takes no connections")
        full_at = max(self._full_at, now) + 1 / self._per_second
        wait = full_at - now - self._burst / self._per_second
        if wait > MAX_WAIT_S:
            raise LimitExceeded(int(wait * 1000) + self._retry_ms(), "Too many connect at once")
        self._full_at = full_at
        return max(0.0, wait)

    def begin(self, connection: Connection) -> Session:
        """Return a session for a new connection; it waits for `auth` until it is opened."""
        session = Session(self, connection, self.now())
        self._all[session] = None
        self._by_address[connection.client_ip] += 1
        if self._sweeping is None and not self._is_stopped:
            self._sweeping = self._clock.call_later(_SWEEP_S, self._sweep)
        if self._is_stopped:
            # It was being let in at that moment.
            self.later(lambda: session.end(Ending(GOING_AWAY, None, "The server stops")))
        return session

    def authenticate(
        self,
        session: Session,
        token: str,
        opening: Opening,
        done: Callable[[Requester], object],
        failed: Callable[[BaseException], object],
    ) -> None:
        """Open a session with a token, or give an open one a fresh token."""

        async def work() -> Requester:
            requester = await self.requester_for(token)
            before = session.requester
            if before is None:
                await self.open(session, requester, opening)
            elif (before.user_nid, before.device_nid) != (requester.user_nid, requester.device_nid):
                raise InvalidParam("A connection stays with its user and device")
            else:
                session.requester = requester
                self._note_expiry(session, requester)
                self._check_unless_current(session, requester)
            return requester

        drive(work(), done, failed)

    async def requester_for(self, token: str) -> Requester:
        """Return whom an access token stands for; raises UnknownToken, UserDeactivated, UserLocked."""
        requester = await self._sessions.requester_for(token[: MAX_TOKEN_CHARACTERS + 1])
        if requester.is_locked:
            raise UserLocked("This account has been locked")
        return requester

    async def prepare(self, requester: Requester, opening: Opening) -> tuple[Place, UserFeed]:
        """Return where a stream begins, and the user's feed; raises MatrixErrors where it may not."""
        mine = self._by_user.get(requester.user_nid)
        if mine is not None and len(mine) >= self._config.sessions_per_user:
            raise LimitExceeded(self._retry_ms(), "You have too many open connections")
        chosen = await self._find_filter(requester, opening.filter)
        user = await self._feed.user(requester.user_id, requester.user_nid)
        place = Place(
            requester.user_id,
            requester.user_nid,
            requester.device_nid,
            opening.since,
            chosen,
            opening.state_after,
        )
        return place, user

    async def open(self, session: Session, requester: Requester, opening: Opening) -> None:
        """Open a session that was begun; raises MatrixErrors where that may not be."""
        self.open_prepared(session, requester, opening, *await self.prepare(requester, opening))

    def open_prepared(
        self, session: Session, requester: Requester, opening: Opening, place: Place, user: UserFeed
    ) -> None:
        """Open a session at a place that was prepared for it."""
        if session.is_closed:
            return
        mine = self._by_user.setdefault(requester.user_nid, set())
        if len(mine) >= self._config.sessions_per_user:
            # Others have come in since `prepare`.
            session.end(Ending(TOO_MANY, "M_LIMIT_EXCEEDED", "You have too many open connections"))
            return
        mine.add(session)
        # One that is not kept any more is told to the session by its first update.
        self._feed.follow(user, session)
        session.open(requester, place, opening.set_presence, user)
        self._note_expiry(session, requester)
        self._sessions.note_seen(requester, session.client_ip, session.user_agent)
        self.present(session)
        self._check_unless_current(session, requester)

    def leave(self, session: Session, user: UserFeed | None) -> None:
        """Forget a session whose connection is gone."""
        if self._all.pop(session, self) is self:
            return
        address = session.client_ip
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]
        if user is not None:
            self._feed.unfollow(user, session)
        if not self._all:
            self._gone()
        requester = session.requester
        if requester is None:
            return
        mine = self._by_user.get(requester.user_nid)
        if mine is not None:
            mine.discard(session)
            if not mine:
                del self._by_user[requester.user_nid]
            elif any(each.requester and each.requester.device_nid == requester.device_nid for each in mine):
                return
        if not self._is_stopped:
            self._seen(requester, session.set_presence, 0.0)

    # -- what sessions use -------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return the seconds of a clock that never goes back."""
        return self._clock.monotonic()

    def later(self, work: Callable[[], object]) -> None:
        """Call `work` in another turn of the reactor."""
        self._clock.call_later(0, work)

    def headers_for(self, user_agent: str | None) -> Headers:
        """Return the headers of the requests of a client."""
        return _headers_for(user_agent)

    def run(
        self,
        request: WebRequest,
        placed: Callable[[], object],
        done: Callable[[Answer], object],
        failed: Callable[[BaseException], object],
    ) -> None:
        """Carry a request out; `placed()` is called when it has its place in its room's order, if it gets one."""

        async def work() -> Answer:
            when_in_line(placed)
            return await self._inner.call(request)

        drive(work(), done, failed)

    def find_filter(
        self,
        requester: Requester,
        chosen: Any,
        done: Callable[[Filter], object],
        failed: Callable[[BaseException], object],
    ) -> None:
        """Look a filter up."""

        async def work() -> Filter:
            return await self._find_filter(requester, chosen)

        drive(work(), done, failed)

    def acknowledge(
        self, place: Place, position: int, done: Callable[[bool], object], failed: Callable[[BaseException], object]
    ) -> None:
        """Note what a client has got; `done(whether there may be more to tell)`."""
        drive(self._live.acknowledge(place, position), done, failed)

    def is_dropped(self, user: UserFeed) -> bool:
        """Tell whether a user's feed is not kept any more."""
        return self._feed.find_user(user.user_id) is not user

    def is_expired(self, session: Session) -> bool:
        """Close a session whose access token has expired; tell whether that is so."""
        if not session.is_expired(self._clock.now_ms()):
            return False
        session.end(Ending(TOKEN_EXPIRED, "M_UNKNOWN_TOKEN", "The access token has expired"))
        return True

    def move_on(self, place: Place, user: UserFeed) -> None:
        """Keep a place in the present while nothing happens."""
        if not self.is_dropped(user):
            self._live.move_on(place, user)

    def has_news(self, place: Place, user: UserFeed) -> bool:
        """Tell whether there may be something to tell."""
        return self._live.has_news(place, user)

    def has_other_counts(self, place: Place) -> bool:
        """Tell whether a device's keys may have become fewer."""
        return self._live.has_other_counts(place)

    def next_update(
        self,
        session: Session,
        place: Place,
        user: UserFeed | None,
        done: Callable[[tuple[bytes | None, UserFeed]], object],
        failed: Callable[[BaseException], object],
    ) -> None:
        """Make the next update of a place; with it comes the user's feed, which the session follows then."""
        drive(self._next_update(session, place, user), done, failed)

    async def _next_update(
        self, session: Session, place: Place, user: UserFeed | None
    ) -> tuple[bytes | None, UserFeed]:
        body = await self._live.next(place)
        while user is None or self._feed.find_user(place.user_id) is not user:
            if user is not None:
                self._feed.unfollow(user, session)
            user = await self._feed.user(place.user_id, place.user_nid)
            self._feed.follow(user, session)
        return body, user

    def unfollow(self, session: Session, user: UserFeed) -> None:
        """Wake a session no more."""
        self._feed.unfollow(user, session)

    def present(self, session: Session) -> None:
        """Note that a session's device is there."""
        requester = session.requester
        if requester is not None:
            self._seen(requester, session.set_presence, 2 * self.times.ping_s)

    # -- rights ------------------------------------------------------------------------------------------------------

    def _taken_over(self, user_nid: int, device_nid: int) -> None:
        # The device is still there, but its old tokens are not.
        for session in tuple(self._by_user.get(user_nid, ())):
            if session.requester is not None and session.requester.device_nid == device_nid:
                session.end(Ending(LOGGED_OUT, "M_UNKNOWN_TOKEN", "Somebody has logged in anew on this device"))

    def _rights_changed(self, user_nid: int) -> None:
        for session in tuple(self._by_user.get(user_nid, ())):
            self.check(session)

    def _check_unless_current(self, session: Session, requester: Requester) -> None:
        # Changes of before it was known here were not told to it.
        if not self._sessions.is_current(requester):
            self.check(session)

    def check(self, session: Session) -> None:
        """Find out whether a session's token still stands, and for what; close it if not."""
        requester = session.requester
        if requester is None or session.is_closed:
            return

        session.hold()
        mark = self._checks[session] = object()

        def done(renewed: Requester) -> None:
            # Of several at once, the one that began last knows of all changes.
            if self._checks.get(session) is mark:
                del self._checks[session]
                if session.requester is requester:
                    session.requester = renewed
            session.release()

        def failed(error: BaseException) -> None:
            self._checks.pop(session, None)
            if isinstance(error, MatrixError):
                session.end(opening_refused(error))
            else:
                logger.error("Whether a stream may go on could not be found out", exc_info=error)
                session.end(Ending(FAULT, "M_UNKNOWN", "Internal server error"))

        drive(self._sessions.renewed(requester), done, failed)

    # -- the look after all ------------------------------------------------------------------------------------------

    def _note_expiry(self, session: Session, requester: Requester) -> None:
        if requester.expires_ts is None:
            return
        if len(self._expiring) > 2 * len(self._all) + 1_000:
            self._expiring = [each for each in self._expiring if each[2] in self._all]
            heapify(self._expiring)
        heappush(self._expiring, (requester.expires_ts, next(self._expiries), session))

    def _sweep(self) -> None:
        self._sweeping = None
        if not self._all:
            return
        self._sweeping = self._clock.call_later(_SWEEP_S, self._sweep)
        now, now_ms = self.now(), self._clock.now_ms()
        while self._expiring and self._expiring[0][0] <= now_ms:
            self.is_expired(heappop(self._expiring)[2])
        share = int(len(self._all) * _SWEEP_S / self._look_s) + 1
        looked_at = list(islice(self._round, share))
        if len(looked_at) < share:
            self._round = iter(tuple(self._all))
        for session in looked_at:
            session.look(now)

    async def stop(self) -> None:
        """Close all connections, as the server stops; return when they are gone, or after a while."""
        self._is_stopped = True
        if self._sweeping is not None and self._sweeping.active():
            self._sweeping.cancel()
        for session in tuple(self._all):
            session.end(Ending(GOING_AWAY, None, "The server stops"))
        if self._all:
            self._all_gone = Deferred()
            timer = self._clock.call_later(STOP_S, self._gone)
            await self._all_gone
            if timer.active():
                timer.cancel()

    def _gone(self) -> None:
        all_gone, self._all_gone = self._all_gone, None
        if all_gone is not None:
            all_gone.callback(None)

    def _retry_ms(self) -> int:
        # Not all at the same time again: spread evenly, however many they are.
        self._refused += 1
        return 1000 + self._refused * 2_473 % 4_000


@lru_cache(maxsize=256)
def _headers_for(user_agent: str | None) -> Headers:
    return Headers.of({} if user_agent is None else {"User-Agent": user_agent})
