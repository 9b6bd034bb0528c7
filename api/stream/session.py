"""One live connection, whatever its wire: requests come in, answers and updates go out.

A session holds a `Place` in the stream (see `feed.live`) and no queue of updates: it asks for the next one when there
is news and its wire has room, so a slow reader costs nothing and misses nothing. Requests are worked on a few at a
time; those beyond, and all while the wire is clogged, wait unread in the socket of whoever sends them. What was read in
the same piece already waits here, and is bounded by that.

Requests that name a room begin one after another for each room: the next when the one before is done or, being in the
room's lane, has its place; so messages keep their order, and many go to the disk together.

docs/stream.md is the protocol.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import orjson

from homeserver.errors import BadJson, BadRequest, InvalidParam, MatrixError, MissingParam, NotJson, Unrecognized
from homeserver.feed.feed import UserFeed
from homeserver.feed.live import Place
from homeserver.model.tokens import StreamToken
from homeserver.users.sessions import Requester
from homeserver.web.error_response import error_response
from homeserver.web.params import optional_str, require_str
from homeserver.web.request import Headers, WebRequest, parse_json_object
from homeserver.web.response import Answer, Response

from .methods import TWINS

if TYPE_CHECKING:
    from .door import StreamDoor

MAX_ID_BYTES: Final = 255
# Messages of one connection that are taken in one turn of the reactor, before others have theirs.
MAX_IN_TURN: Final = 50
PRESENCES: Final = (None, "online", "offline", "unavailable")

GOING_AWAY: Final = 1001
BINARY: Final = 1003
TOO_LARGE: Final = 1009
FAULT: Final = 1011
BAD_OPENING: Final = 4400
LOGGED_OUT: Final = 4401
TOKEN_EXPIRED: Final = 4402
FORBIDDEN: Final = 4403
TOO_SLOW: Final = 4408
TOO_MANY: Final = 4429

_PING: Final = b'{"method":"ping"}'
_EMPTY: Final = b"{}"


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a connection is closed. docs/stream.md, "Closing"."""

    code: int
    errcode: str | None
    error: str

    @property
    def reason(self) -> str:
        """The reason as a WebSocket's close frame has it."""
        return f"{self.errcode}: {self.error}" if self.errcode is not None else self.error


class Connection(Protocol):
    """The wire under a session."""

    client_ip: str
    user_agent: str | None
    # Whether `ping` is there; else the session sends a message.
    has_pings: bool

    def send(self, message: bytes) -> None:
        """Send one message, JSON as UTF-8 without line breaks."""

    def ping(self) -> None:
        """Ask for a sign of life."""

    def close(self, ending: Ending) -> None:
        """Tell why, and close within a few seconds."""

    def abort(self) -> None:
        """End it at once."""

    def pause(self) -> None:
        """Stop reading; what is parsed already may still come."""

    def resume(self) -> None:
        """Go on reading."""

    def untaken_bytes(self) -> int | None:
        """Return how much the peer has not taken in yet, None where that is not known."""


class Opening:
    """What a client asks for when it opens a stream, but for the token."""

    __slots__ = ("filter", "set_presence", "since", "state_after")

    def __init__(self, since: str | None, filter: Any, set_presence: str | None, state_after: str | None) -> None:
        if set_presence not in PRESENCES:
            raise InvalidParam("'set_presence' must be offline, online or unavailable")
        self.since = StreamToken.parse(since).position if since else None
        # Text (an ID, or JSON), an object, or None.
        self.filter = filter
        self.set_presence = set_presence
        self.state_after = state_after

    @classmethod
    def of_params(cls, params: dict[str, Any]) -> Opening:
        """Return what the params of `auth` say; raises BadJson, InvalidParam."""
        chosen = params.get("filter")
        if chosen is not None and not isinstance(chosen, str | dict):
            raise BadJson("'filter' must be an object or the ID of a filter")
        is_after = params.get("use_state_after", False)
        if not isinstance(is_after, bool):
            raise BadJson("'use_state_after' must be a boolean")
        state_after = "state_after" if is_after else None
        return cls(optional_str(params, "since"), chosen, optional_str(params, "set_presence"), state_after)


class Session:
    """One connection of one device."""

    __slots__ = (
        "_changed",
        "_connection",
        "_door",
        "_headers",
        "_heard_at",
        "_holds",
        "_in_flight",
        "_is_clogged",
        "_is_paused",
        "_is_pinged",
        "_is_updating",
        "_message_since",
        "_opened_at",
        "_place",
        "_rooms",
        "_stalled",
        "_taken",
        "_untaken",
        "_user",
        "_waiting",
        "is_closed",
        "requester",
        "set_presence",
    )

    def __init__(self, door: StreamDoor, connection: Connection, now: float) -> None:
        self._door = door
        self._connection = connection
        self._headers: Headers = door.headers_for(connection.user_agent)
        self._place: Place | None = None
        self._user: UserFeed | None = None
        self.requester: Requester | None = None
        self.set_presence: str | None = None
        self.is_closed = False
        self._is_clogged = False
        self._is_paused = False
        self._is_updating = False
        # Changes of the filter that hold from the next update on, and are answered after the one that is being made.
        self._changed: tuple[bytes, ...] = ()
        # How many look at the token; while anybody does, nothing is taken and nothing told.
        self._holds = 0
        self._in_flight = 0
        self._taken = 0
        self._waiting: deque[bytes] | None = None
        # The rooms in which a request has no certain place yet, with those that wait for that.
        self._rooms: dict[str, deque[tuple[bytes, WebRequest]]] | None = None
        # Those of them in which nothing is worked on, since the client does not take answers.
        self._stalled: list[str] | None = None
        self._opened_at = self._heard_at = now
        self._message_since = 0.0
        self._is_pinged = False
        self._untaken = 0

    @property
    def client_ip(self) -> str:
        """The address of the client."""
        return self._connection.client_ip

    @property
    def user_agent(self) -> str | None:
        """What the client calls itself."""
        return self._connection.user_agent

    # -- from the wire -----------------------------------------------------------------------------------------------

    def received(self, message: bytes) -> None:
        """Take one whole message."""
        self._message_since = 0.0
        self.heard()
        if self.is_closed:
            return
        if self._may_take() and not self._waiting:
            self._take(message)
        else:
            if self._waiting is None:
                self._waiting = deque()
            self._waiting.append(message)
        self._regulate()

    def begun(self) -> None:
        """Note that a message has begun."""
        if not self._message_since:
            self._message_since = self._door.now()

    def heard(self) -> None:
        """Note a sign of life."""
        self._heard_at = self._door.now()
        self._is_pinged = False

    def clogged(self) -> None:
        """Send nothing more for now: the wire is full."""
        self._is_clogged = True
        self._regulate()

    def drained(self) -> None:
        """Go on: the client has taken in what was sent."""
        self._is_clogged = False
        if self.is_closed:
            return
        self.heard()
        self._go_on()

    def lost(self) -> None:
        """Forget everything: the connection is gone."""
        self.is_closed = True
        self._waiting = None
        self._door.leave(self, self._user)
        self._user = None

    # -- opening -----------------------------------------------------------------------------------------------------

    def open(self, requester: Requester, place: Place, set_presence: str | None, user: UserFeed) -> None:
        """Know whom the token has turned out to be; the first `wake` begins to tell."""
        self.requester = requester
        self.set_presence = set_presence
        self._place = place
        self._user = user

    def _authenticate(self, request_id: bytes, params: dict[str, Any]) -> None:
        token = require_str(params, "access_token")
        opening = Opening.of_params(params)
        self._holds += 1
        self._in_flight += 1
        is_first = self._place is None

        def done(requester: Requester) -> None:
            self._in_flight -= 1
            self._holds -= 1
            if not self.is_closed:
                who = {"user_id": requester.user_id, "device_id": requester.device_id}
                # The answer comes before the first update.
                self._answer(request_id, b"result", orjson.dumps(who, option=orjson.OPT_NON_STR_KEYS))
                self.wake()
            self._take_waiting()

        def failed(error: BaseException) -> None:
            self._in_flight -= 1
            self._holds -= 1
            if is_first:
                self.end(opening_refused(error))
            else:
                self._fail(request_id, error)
                self.wake()
            self._take_waiting()

        self._door.authenticate(self, token, opening, done, failed)

    def hold(self) -> None:
        """Take and tell nothing until `release`: whether the client may still be here is being found out."""
        self._holds += 1
        self._regulate()

    def release(self) -> None:
        """Go on after `hold`."""
        self._holds -= 1
        if not self.is_closed:
            self._go_on()

    # -- requests ----------------------------------------------------------------------------------------------------

    def _may_take(self) -> bool:
        return (
            not self._holds
            and not self._is_clogged
            and self._taken < MAX_IN_TURN
            and self._in_flight < self._door.max_in_flight
        )

    def _go_on(self) -> None:
        if not self._is_clogged and not self._holds:
            stalled, self._stalled = self._stalled, None
            for room_id in stalled or ():
                self._next_in(room_id)
        self._take_waiting()
        self.wake()

    def _next_turn(self) -> None:
        self._taken = 0
        if not self.is_closed:
            self._take_waiting()

    def _take_waiting(self) -> None:
        waiting = self._waiting
        while waiting and self._may_take() and not self.is_closed:
            self._take(waiting.popleft())
        if not waiting:
            self._waiting = None
        self._regulate()

    def _regulate(self) -> None:
        """Read from the wire if and only if what comes can be taken."""
        if self.is_closed:
            return
        is_full = bool(self._waiting) or not self._may_take()
        if is_full != self._is_paused:
            self._is_paused = is_full
            if is_full:
                self._connection.pause()
            else:
                if self._message_since:
                    # That it did not go on meanwhile was not the client's fault.
                    self._message_since = self._door.now()
                self._connection.resume()

    def _take(self, message: bytes) -> None:
        self._taken += 1
        if self._taken == MAX_IN_TURN:
            self._door.later(self._next_turn)
        request_id = b"null"
        try:
            request = _parse(message)
            method = request.get("method")
            if method == "pong" and "id" not in request:
                return
            request_id, id_text = _read_id(request)
            if not isinstance(method, str):
                raise MissingParam("a message needs 'method'") if method is None else BadJson("'method' is text")
            params = request.get("params")
            if params is None:
                params = {}
            elif type(params) is not dict:
                raise BadJson("'params' must be an object")
            if self._place is None and method != "auth":
                raise BadRequest("The first message has to be 'auth'")
            self._perform(method, request_id, id_text, params)
        except Exception as error:
            if self._place is None:
                self.end(opening_refused(error))
            else:
                self._fail(request_id, error)

    def _perform(self, method: str, request_id: bytes, id_text: str, params: dict[str, Any]) -> None:
        if method != "auth" and self._door.is_expired(self):
            return
        twin = TWINS.get(method)
        if twin is None:
            if method == "ping":
                self._answer(request_id, b"result", _EMPTY)
            elif method == "ack":
                self._acknowledge(request_id, params)
            elif method == "sync":
                self._change(request_id, params)
            elif method == "auth":
                self._authenticate(request_id, params)
            else:
                raise Unrecognized(f"Unrecognized method '{method[:100]}'")
            return
        assert self.requester is not None
        call = twin.call(params, id_text, self.requester)
        route = self._door.routes.get(method)
        if route is None:
            raise Unrecognized(f"The method '{method}' is not served here")
        request = WebRequest.of_route(
            route,
            call.args,
            requester=self.requester,
            client_ip=self._connection.client_ip,
            headers=self._headers,
            json=call.json,
            query=call.query,
        )
        self._in_flight += 1
        room_id = call.args.get("roomId")
        if room_id is not None:
            rooms = self._rooms
            if rooms is None:
                rooms = self._rooms = {}
            if room_id in rooms:
                rooms[room_id].append((request_id, request))
                return
            rooms[room_id] = deque()
        self._run(request_id, request, room_id)

    def _run(self, request_id: bytes, request: WebRequest, room_id: str | None) -> None:
        is_waited_for = room_id is not None

        def placed() -> None:
            nonlocal is_waited_for
            if is_waited_for:
                is_waited_for = False
                self._next_in(cast(str, room_id))

        def done(answer: Answer) -> None:
            self._in_flight -= 1
            if not self.is_closed:
                assert isinstance(answer, Response)
                is_good = answer.status < 400
                self._answer(request_id, b"result" if is_good else b"error", answer.body)
                if answer.status == 401:
                    self._door.check(self)
            placed()
            self._take_waiting()

        def failed(error: BaseException) -> None:
            # `call` answers whatever fails; only what ends everything comes here.
            done(error_response(error, f"{request.method} {request.path}"))

        # What a request has begun is brought to its end, also when the client has gone.
        self._door.run(request, placed, done, failed)

    def _next_in(self, room_id: str) -> None:
        rooms = self._rooms
        if rooms is None:
            return
        queue = rooms[room_id]
        if queue and not self.is_closed:
            if self._is_clogged or self._holds:
                self._stalled = [*(self._stalled or ()), room_id]
                return
            request_id, request = queue.popleft()
            # Rights may have changed while it waited.
            request.requester = self.requester
            self._run(request_id, request, room_id)
            return
        self._in_flight -= len(queue)
        del rooms[room_id]
        if not rooms:
            self._rooms = None

    def _acknowledge(self, request_id: bytes, params: dict[str, Any]) -> None:
        position = StreamToken.parse(require_str(params, "next_batch")).position
        place = self._place
        assert place is not None
        self._in_flight += 1

        def done(has_more: bool) -> None:
            self._in_flight -= 1
            self._answer(request_id, b"result", _EMPTY)
            if has_more:
                self.wake()
            self._take_waiting()

        def failed(error: BaseException) -> None:
            self._in_flight -= 1
            self._fail(request_id, error)
            self._take_waiting()

        self._door.acknowledge(place, position, done, failed)

    def _change(self, request_id: bytes, params: dict[str, Any]) -> None:
        presence = optional_str(params, "set_presence")
        if presence not in PRESENCES:
            raise InvalidParam("'set_presence' must be offline, online or unavailable")
        chosen = params.get("filter")
        if chosen is not None and not isinstance(chosen, str | dict):
            raise BadJson("'filter' must be an object or the ID of a filter")
        place, requester = self._place, self.requester
        assert place is not None and requester is not None

        def done(found: Any) -> None:
            if "filter" in params:
                place.filter = found
            if presence is not None:
                self.set_presence = presence
                self._door.present(self)
            if self._is_updating:
                # What is being made still follows the old filter, and has to come before the answer.
                self._changed = (*self._changed, request_id)
                return
            self._in_flight -= 1
            self._answer(request_id, b"result", _EMPTY)
            self._take_waiting()

        def failed(error: BaseException) -> None:
            self._in_flight -= 1
            self._fail(request_id, error)
            self._take_waiting()

        self._in_flight += 1
        self._door.find_filter(requester, chosen, done, failed)

    # -- updates -----------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Send the next update if there is any; called by the feed."""
        place, user = self._place, self._user
        if place is None or user is None or not self._may_tell():
            return
        if self._door.is_dropped(user) or self._door.has_news(place, user):
            self._update()

    def _may_tell(self) -> bool:
        return not (self._is_updating or self._is_clogged or self._holds or self.is_closed)

    def _update(self) -> None:
        if not self._is_updating and self._place is not None and not self.is_closed:
            self._is_updating = True
            self._door.next_update(self, self._place, self._user, self._updated, self._update_failed)

    def _updated(self, news: tuple[bytes | None, UserFeed]) -> None:
        self._is_updating = False
        body, user = news
        if self.is_closed:
            self._door.unfollow(self, user)
            return
        self._user = user
        if body is not None:
            self._connection.send(body)
        changed, self._changed = self._changed, ()
        for request_id in changed:
            self._in_flight -= 1
            self._answer(request_id, b"result", _EMPTY)
        if changed:
            self._take_waiting()
        place = self._place
        if not self._is_clogged and place is not None and self._door.has_news(place, user):
            # In another turn of the reactor: others wait, too.
            self._door.later(self.wake)

    def _update_failed(self, error: BaseException) -> None:
        self._is_updating = False
        error_response(error, "An update of a stream")
        self.end(Ending(FAULT, "M_UNKNOWN", "Internal server error"))

    # -- answers -----------------------------------------------------------------------------------------------------

    def _answer(self, request_id: bytes, kind: bytes, body: bytes) -> None:
        if not self.is_closed:
            self._connection.send(b'{"id":%b,"%b":%b}' % (request_id, kind, body or _EMPTY))

    def _fail(self, request_id: bytes, error: BaseException) -> None:
        answer = error_response(error, "A request of a stream")
        self._answer(request_id, b"error", answer.body)

    # -- the end -----------------------------------------------------------------------------------------------------

    def end(self, ending: Ending) -> None:
        """Close the connection."""
        if not self.is_closed:
            self.is_closed = True
            self._waiting = None
            self._connection.close(ending)

    def look(self, now: float) -> None:
        """See whether the client is still there, and has a right to be; called every few seconds."""
        if self.is_closed:
            return
        times = self._door.times
        if self._place is None:
            if now > self._opened_at + times.auth_s:
                self.end(Ending(TOO_SLOW, "M_UNKNOWN", "No 'auth' came in time"))
            return
        if self._message_since and not self._is_paused and now > self._message_since + times.message_s:
            self.end(Ending(TOO_SLOW, "M_UNKNOWN", "A message was begun and not ended in time"))
            return
        if self._may_tell() and self._door.has_other_counts(self._place):
            # Nobody is woken when others claim keys.
            self._update()
        if not self._is_updating and self._user is not None:
            self._door.move_on(self._place, self._user)
        silence = now - self._heard_at
        if silence < times.ping_s:
            return
        untaken = self._connection.untaken_bytes() or 0
        if untaken < self._untaken:
            # A slow reader is not gone.
            self._heard_at = now
        elif silence >= times.silence_s:
            self.is_closed = True
            self._connection.close(Ending(TOO_SLOW, "M_UNKNOWN", "Nothing was heard from the client"))
        elif not self._is_pinged:
            self._is_pinged = True
            self._door.present(self)
            if self._connection.has_pings:
                self._connection.ping()
            else:
                self._connection.send(_PING)
        self._untaken = untaken

    def is_expired(self, now_ms: int) -> bool:
        """Tell whether the access token's time is over."""
        requester = self.requester
        return requester is not None and requester.expires_ts is not None and requester.expires_ts <= now_ms


def opening_refused(error: BaseException) -> Ending:
    """Return how a connection ends that could not be opened."""
    if not isinstance(error, MatrixError):
        error_response(error, "Opening a stream")
        return Ending(FAULT, "M_UNKNOWN", "Internal server error")
    body = error.body()
    if error.status == 401 or error.errcode == "M_USER_DEACTIVATED":
        is_soft = body.get("soft_logout") is True and error.errcode == "M_UNKNOWN_TOKEN"
        code = TOKEN_EXPIRED if is_soft else LOGGED_OUT
    elif error.status == 429:
        code = TOO_MANY
    elif error.status == 403:
        code = FORBIDDEN
    else:
        code = BAD_OPENING
    return Ending(code, error.errcode, error.message)


def _parse(message: bytes) -> dict[str, Any]:
    try:
        return parse_json_object(message)
    except NotJson:
        raise NotJson("the message is not JSON") from None
    except BadJson as error:
        raise BadJson(error.message.replace("the body", "the message")) from None


def _read_id(request: dict[str, Any]) -> tuple[bytes, str]:
    """Return a request's ID as JSON and as text; raises BadJson, MissingParam, InvalidParam."""
    found = request.get("id")
    if type(found) is str:
        if not found or len(found.encode()) > MAX_ID_BYTES:
            raise InvalidParam(f"'id' has 1 to {MAX_ID_BYTES} bytes")
        return orjson.dumps(found), found
    if type(found) is int:
        text = str(found)
        return text.encode(), text
    if found is None:
        raise MissingParam("a message needs 'id'")
    raise BadJson("'id' is text or an integer")
