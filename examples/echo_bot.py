"""A bot: accepts invitations, and says again what it is told, once each, however often it is stopped or cut off.

python examples/echo_bot.py http://127.0.0.1:8008 USER PASSWORD [FILE]     or SENNIT_URL, _USER, _PASSWORD

Needs an account: `sennit user add echo` makes one. FILE keeps the place in the stream that it has reached.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from twisted.internet import task
from twisted.internet.defer import Deferred

from homeserver.streamclient import StreamClient, StreamError, invited_rooms, timeline_events


async def main(reactor, url: str, user: str, password: str, file: str = "echo_bot.since") -> None:
    place = Path(file)
    since = place.read_text() if place.exists() else None
    # Always the same device: the server knows its transactions.
    client = await StreamClient.log_in(
        url, user, password, device_id="ECHO", reactor=reactor, since=since, patience_s=60.0
    )
    async with client:
        print(f"{client.user_id} listens", flush=True)
        async for update in client.updates():
            for room_id in invited_rooms(update):
                await attempt(client.join(room_id))
            # What was said before its first start, or before it came into a room, is not for it.
            for event in timeline_events(update, joined=client.user_id) if since else ():
                if event["type"] == "m.room.message" and event["sender"] != client.user_id:
                    await echo(client, event)
            since = update["next_batch"]
            place.write_text(since)


async def echo(client: StreamClient, event: dict) -> None:
    """Answer a text with a notice, which other bots leave alone."""
    if event["content"].get("msgtype") == "m.text":
        content = {"msgtype": "m.notice", "body": event["content"].get("body", "")}
        # Were it killed before it has noted the place, it would say this again, which the transaction ID prevents.
        await attempt(client.send(event["room_id"], content, transaction_id="echo-" + event["event_id"]))


async def attempt(work) -> None:
    try:
        await work
    except StreamError as refusal:
        print(refusal, file=sys.stderr)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    arguments = sys.argv[1:] or [os.environ.get(f"SENNIT_{name}", "") for name in ("URL", "USER", "PASSWORD")]
    if len(arguments) not in (3, 4) or not all(arguments):
        raise SystemExit(__doc__)
    task.react(lambda reactor, *given: Deferred.fromCoroutine(main(reactor, *given)), arguments)
