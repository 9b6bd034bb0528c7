"""Building the live streams: the door for connections, on the client API's own routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from api.auth import Authenticator
from api.client.chosen_filter import ChosenFilters
from api.stream.door import Seen, StreamDoor
from homeserver.feed.live import LiveUpdates
from homeserver.web.json_resource import JsonResource
from homeserver.web.router import Route, Router

if TYPE_CHECKING:
    from homeserver.parts import Base, Data, Users


def build_stream(
    base: Base,
    data: Data,
    users: Users,
    authenticator: Authenticator,
    filters: ChosenFilters,
    seen: Seen,
    routes: Sequence[Route],
    reactor: Any,
) -> tuple[StreamDoor, list[Route]]:
    """Return the door for connections, and the route that opens them; `routes` are what requests are calls of."""
    # Imported late, as Autobahn is large.
    from api.stream.websocket import StreamEndpoint, StreamFactory

    config = base.config.stream
    inner = JsonResource(Router(routes), authenticate=authenticator.authenticate, limit=base.rates.limit)
    door = StreamDoor(
        inner,
        LiveUpdates(base.store, base.feed, data.sync, data.encryption.sections),
        base.feed,
        users.sessions,
        base.clock,
        config,
        base.config.limits.connections,
        find_filter=filters.of_value,
        seen=seen,
    )
    factory = StreamFactory(reactor, max_message_bytes=config.max_message_bytes, compression=config.compression)
    return door, StreamEndpoint(door, factory, base.clock).routes()
