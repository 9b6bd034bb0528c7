"""What a sync response is asked for with, and what it is made of on its way.

Spec: client-server API, "Syncing", `GET /_matrix/client/v3/sync`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from homeserver.model.filters import Filter
from homeserver.model.ids import UserID
from storage.events import StoredEvent

from .device_sections import DeviceSections
from .feed import UserFeed, UserRoom
from .streams.protocol import RoomStream, UserStream
from .stretch import Stretch
from .unread import Unread
from .visible import Seen


# Not frozen, as some others below: made for each update, and a frozen one takes three times as long to make.
@dataclass(slots=True)
class SyncRequest:
    """What a device asks for. `since` is None for an initial sync; `timeout_s` is how long to wait for something."""

    user_id: UserID
    user_nid: int
    device_nid: int | None
    since: int | None
    filter: Filter
    timeout_s: float = 0.0
    full_state: bool = False
    # The name of the state section that the client asked for instead of `state`, if it did.
    state_after: str | None = None
    # Most events of a room that the client knows already; with it, the response ends (`Built.cut`) before one has more.
    unbroken_limit: int | None = None


class Bundles(Protocol):
    """Bundled aggregations of events."""

    async def of(self, user: UserFeed, events: Sequence[StoredEvent]) -> Mapping[int, bytes]:
        """Return the JSON of `unsigned["m.relations"]` by event number, for those events that have any."""


@dataclass(frozen=True, slots=True)
class Streams:
    """The streams that make up a response besides the timeline."""

    ephemeral: Sequence[RoomStream]
    room_account_data: RoomStream
    account_data: UserStream
    presence: UserStream
    unread: Unread
    bundles: Bundles
    ignored_users: Callable[[UserFeed], Awaitable[frozenset[str]]]
    # Whether a user, by number, takes no invites and is told of none.
    blocks_invites: Callable[[int], Awaitable[bool]]
    devices: DeviceSections | None = None


@dataclass(slots=True)
class RoomPart:
    """A joined or left room on its way into the response. `after` is None where everything is to be told."""

    place: UserRoom
    after: int | None
    upto: int
    is_left: bool = False
    # Of a left room: the position of the last join, None for who was never in it or has been told of the end before.
    last_join: int | None = None
    events: list[Seen] | None = None
    is_limited: bool = False
    # Whether the timeline may lack state changes of its own time.
    is_sieved: bool = True
    # The state after all of the timeline's time, where that is known.
    state_group: int | None = None
    # Where a response has to end that is to leave nothing out: the timeline begins behind events that are shown.
    shown_upto: int | None = None
    # Whether ends of the room's graph met in that time: then the state changes by more than the events say.
    is_forked: bool = False
    state: list[StoredEvent] | None = None
    summary: bytes = b""
    stretch: Stretch | None = None


@dataclass(slots=True)
class Built:
    """A response that is put together; `cut` is where an unbroken one has to end instead, then there is no body.

    `counts` are the members in it that every response to the device has.
    """

    body: bytes
    is_empty: bool
    cut: int | None = None
    counts: bytes = b""
