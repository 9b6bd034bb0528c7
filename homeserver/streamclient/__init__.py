"""A client of the stream (docs/stream.md), for bots, for embedders and for our own tests.

    async with StreamClient("https://example.org", access_token) as client:
        async for event in client.events():
            …

It rests on Autobahn and Twisted alone, imports nothing of the server, and works in any Twisted application:
it has no threads, no asyncio, and all its timers are those of the reactor that it is given.

What it promises. Every update of the server reaches the program once and in order, whatever becomes of connections:
the client knows the place that it has reached, and goes on from there. What the program asked for and was not
answered is asked again, under the same ID, which the server does once. Memory is bounded: a program that is slower than
its rooms makes the client stop reading, and then the server sends less often and more at a time.

`client` is the face; `link` makes connections, one after another, and `conversation` is one of them, over a `wire`;
`requests` and `inbox` are what goes up and what comes down, and outlive connections.
"""

from __future__ import annotations

from .client import StreamClient
from .errors import StreamEnded, StreamError
from .inbox import invited_rooms, timeline_events, to_device_messages
from .link import LinkState

__all__ = [
    "LinkState",
    "StreamClient",
    "StreamEnded",
    "StreamError",
    "invited_rooms",
    "timeline_events",
    "to_device_messages",
]
