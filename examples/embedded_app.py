"""A Twisted application that is a Matrix homeserver too: its own page, a bot in the process, a rule for messages.

python examples/embedded_app.py FOLDER          then http://127.0.0.1:8080 and, for Matrix clients, the same address
python examples/embedded_app.py FOLDER --once   says hello to itself and ends
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from twisted.internet import endpoints, task
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data

from homeserver import Config, EventCommitted, EventTemplate, GateDenied, Homeserver, RoomID

NAME = "localhost"


class HouseRules:
    """A gate: denies links, and tidies up what is said."""

    async def check(self, room_id: RoomID, template: EventTemplate) -> EventTemplate:
        body = template.content.get("body")
        if not isinstance(body, str):
            return template
        if "://" in body:
            raise GateDenied("No links here")
        return replace(template, content={**template.content, "body": body.strip()})


async def main(reactor, folder: str, *options: str) -> None:
    homeserver = Homeserver(
        Config.from_mapping({"server": {"name": NAME, "data_dir": folder}, "listeners": []}), reactor=reactor
    )
    homeserver.add_gate(HouseRules())
    seen: Deferred[str] = Deferred()

    def on_event(committed: EventCommitted) -> None:
        body = committed.event.content.get("body")
        if body is not None:
            print(f"bot saw: {body}", flush=True)
            if not seen.called:
                seen.callback(body)

    homeserver.observe(EventCommitted, on_event)
    await homeserver.start()
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(homeserver.stop()))

    if not await homeserver.accounts.has_any():
        await homeserver.accounts.create("bot", "a long secret", admin=False)
    bot = homeserver.as_user(f"@bot:{NAME}")
    room_id = await bot.create_room(preset="public_chat", name="Lobby")
    await bot.send(room_id, "  hello  ")
    await seen
    if "--once" in options:
        return

    # The host's own web server, with Matrix under /_matrix.
    root = Resource()
    root.putChild(b"", Data(b"<h1>My application</h1>", "text/html"))
    root.putChild(b"_matrix", homeserver.client_resource())
    await endpoints.serverFromString(reactor, "tcp:8080:interface=127.0.0.1").listen(Site(root))
    await Deferred()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    task.react(lambda reactor, *arguments: Deferred.fromCoroutine(main(reactor, *arguments)), sys.argv[1:])
