"""Which servers are asked on the way into a room or out of it, in which order, and what is told when none helps.

Clients, aliases, invites and room IDs name servers; each may be wrong, gone, or somebody's joke. So the list is short,
has each server once, and those that did not answer lately come last. The client is told of the refusal that says most:
that the user is not allowed in says more than that some other server could not be reached.

Of what another server says only a few errors are passed on. Others would mean something else coming from this server:
`M_UNKNOWN_TOKEN`, for one, would log the user out.

Spec: client-server API, `POST /join/{roomIdOrAlias}`; server-server API, "Joining Rooms" and "Restricted rooms".
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

from twisted.internet.defer import CancelledError, Deferred

from homeserver.errors import (
    BadIdentifier,
    IncompatibleRoomVersion,
    InviteBlocked,
    MatrixError,
    NotAllowed,
    NotFound,
    RemoteError,
    RemoteRefused,
    RemoteUnreachable,
    UnableToAuthoriseJoin,
    UnableToGrantJoin,
    UnreachableServers,
    UselessServers,
)
from homeserver.model.ids import RoomID, ServerName
from homeserver.runtime.clock import Clock

# LIMIT: servers that one request may make us ask.
MAX_CANDIDATES: Final = 20
# LIMIT: names in a list of servers that are looked at.
MAX_NAMED: Final = 100
# For so long a server that did not answer comes last; and so many are remembered.
SILENT_FOR_S: Final = 600.0
MAX_SILENT: Final = 1_000
# LIMIT: what is shown of the text of another server's error.
MAX_MESSAGE_CHARACTERS: Final = 300

NO_SERVERS: Final = "Can't join remote room because no servers that are in the room have been provided."

T = TypeVar("T")


def server_of_room(room_id: RoomID) -> tuple[str, ...]:
    """Return the server that a room ID names: none from room version 12 on; it may long have left the room."""
    _, colon, server_name = room_id.partition(":")
    return (server_name,) if colon else ()


def choose_candidates(
    own: str, *sources: Iterable[str], is_silent: Callable[[str], bool] = lambda server: False
) -> tuple[ServerName, ...]:
    """Return whom to ask, in order: each server once, never `own`, the silent ones last, at most twenty.

    The sources are looked at one after the other; what is no server name is left out.
    """
    found: dict[ServerName, None] = {}
    for source in sources:
        for number, name in enumerate(source):
            if number >= MAX_NAMED:
                break
            try:
                server = ServerName.parse(name)
            except BadIdentifier:
                continue
            if server != own:
                found[server] = None
    ordered = sorted(found, key=is_silent)
    return tuple(ordered[:MAX_CANDIDATES])


class SilentServers:
    """Remembers for a while which servers did not answer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def note(self, server: str) -> None:
        """Note that a server did not answer."""
        self._since.pop(server, None)
        self._since[server] = self._clock.monotonic()
        if len(self._since) > MAX_SILENT:
            del self._since[next(iter(self._since))]

    def forget(self, server: str) -> None:
        """Note that a server answered."""
        self._since.pop(server, None)

    def __call__(self, server: str) -> bool:
        """Tell whether a server did not answer lately."""
        since = self._since.get(server)
        return since is not None and self._clock.monotonic() - since < SILENT_FOR_S


class Refusals:
    """What the servers that were asked said, for the error that the client is told."""

    def __init__(self) -> None:
        self._best: MatrixError | None = None

    def add(self, fault: RemoteError) -> None:
        """Take in what a server said, or did not."""
        error = error_for_client(fault)
        if self._best is None or _rank(error) > _rank(self._best):
            self._best = error

    def error(self) -> MatrixError:
        """Return what the client is told: NotFound if there was nobody to ask."""
        return NotFound(NO_SERVERS) if self._best is None else self._best


def error_for_client(fault: RemoteError) -> MatrixError:
    """Return the error that a client is told for one of another server."""
    detail = str(fault)[:1000]
    if isinstance(fault, RemoteUnreachable):
        return UnreachableServers("No server that was asked answered in time", detail=detail)
    if isinstance(fault, RemoteRefused):
        message = fault.message[:MAX_MESSAGE_CHARACTERS]
        if fault.status == 403:
            kind = InviteBlocked if fault.errcode == InviteBlocked.errcode else NotAllowed
            return kind(message, detail=detail)
        if fault.status == 404:
            return NotFound(message, detail=detail)
        # Spec: `PUT /_matrix/federation/v2/send_join`, 400: "The error should be passed through to clients".
        if fault.status == 400 and fault.errcode == UnableToAuthoriseJoin.errcode:
            return UnableToAuthoriseJoin(message, detail=detail)
        if fault.status == 400 and fault.errcode == UnableToGrantJoin.errcode:
            return UnableToGrantJoin(message, detail=detail)
        if fault.status == 400 and fault.errcode == IncompatibleRoomVersion.errcode:
            return IncompatibleRoomVersion("unknown", message, detail=detail)
    # Spec: there: `M_MISSING_PARAM` and `M_INVALID_PARAM` are our own doing: "SHOULD fail with a 5xx error".
    return UselessServers("No server that was asked could help", detail=detail)


def _rank(error: MatrixError) -> int:
    order = (UselessServers, UnreachableServers, NotFound, UnableToGrantJoin, UnableToAuthoriseJoin)
    return next((number for number, kind in enumerate(order) if isinstance(error, kind)), len(order))


async def within(clock: Clock, seconds: float, server: str, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work`, a question to a server, gives; cancel it in the end and raise RemoteUnreachable."""
    running = Deferred.fromCoroutine(work)
    timer = clock.call_later(seconds, running.cancel)
    try:
        return await running
    except CancelledError:
        if timer.active():
            # Not by the timer: whoever waits goes away.
            raise
        raise RemoteUnreachable(server, f"no answer within {seconds:.0f} s") from None
    finally:
        if timer.active():
            timer.cancel()
