"""A bot: accepts invitations, and says again what it is told, once each, however often it is killed or cut off.

.venv/bin/python examples/echo_bot.py URL USER PASSWORD [FILE]            or SENNIT_URL, SENNIT_USER, SENNIT_PASSWORD

Beside `make run`, URL is http://127.0.0.1:8008, and `.venv/bin/sennit user add echo` makes the account.
FILE keeps the bot's session and the place in the stream that it has reached; remove it to begin anew.
"""

import json
import logging
import os
import sys
from pathlib import Path

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.web.client import ResponseFailed

from homeserver.streamclient import StreamClient, StreamError, invited_rooms, timeline_events


async def run(reactor, url: str, *words: str) -> None:
    try:
        await main(reactor, url, *words)
    except StreamError as refusal:
        sys.exit(f"The server refuses: {refusal}")
    except (ConnectError, DNSLookupError, ResponseFailed, TimeoutError) as error:
        sys.exit(f"There is no answer from {url}: {error}")
    except ValueError as error:
        sys.exit(f"That cannot be: {error}")


async def main(reactor, url: str, user: str, password: str, file: str = "echo_bot.json") -> None:
    options = {"reactor": reactor, "patience_s": 60.0}  # rate limits are waited for
    place, new_place = Path(file), Path(f"{file}.new")
    if place.exists():
        client = StreamClient(url, **json.loads(place.read_text()), **options)
    else:
        client = await StreamClient.log_in(url, user, password, device_name="Echo", **options)
    async with client:
        print(f"{client.user_id} listens", flush=True)
        async for update in client.updates():
            for room_id in invited_rooms(update):
                await attempt(client.join(room_id))
            # What was said before its first start, or before it came into a room, is not for it.
            for event in timeline_events(update, joined=client.user_id) if client.since else ():
                content = event["content"]
                if event["sender"] != client.user_id and content.get("msgtype") == "m.text":
                    # A notice: other bots leave those alone. Killed before it has noted its place, it would say this
                    # again; the transaction ID prevents that.
                    answer = {"msgtype": "m.notice", "body": content.get("body")}
                    await attempt(client.send(event["room_id"], answer, transaction_id=f"echo-{event['event_id']}"))
            new_place.touch(0o600)
            new_place.write_text(json.dumps({"access_token": client.access_token, "since": update["next_batch"]}))
            new_place.replace(place)


async def attempt(work) -> None:
    try:
        await work
    except StreamError as refusal:
        print(refusal, file=sys.stderr)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    given = sys.argv[1:] or [os.environ.get(f"SENNIT_{name}", "") for name in ("URL", "USER", "PASSWORD")]
    if len(given) not in (3, 4) or not all(given):
        raise SystemExit(__doc__)
    task.react(lambda reactor, *words: Deferred.fromCoroutine(run(reactor, *words)), given)
