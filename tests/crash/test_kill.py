"""A server that is killed in the middle of work: whatever it has acknowledged is there afterwards, once.

`SENNIT_KILL_ROUNDS` says how often it is killed (2).
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.hostile.client import PREFIX, Actor
from tests.support.server import RunningServer, ServerFailed, run_server

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("SENNIT_KILL_ROUNDS", "2"))
SENDERS = 6


class Sender(threading.Thread):
    """Sends until the server is gone; `acknowledged` are the texts by event ID, `uncertain` the last one's."""

    def __init__(self, url: str, token: str, room_id: str, name: str) -> None:
        super().__init__(daemon=True)
        self._actor = Actor(url, name, token)
        self._room = f"{PREFIX}/rooms/{quote(room_id, safe='')}/send/m.room.message"
        self._name = name
        self.acknowledged: dict[str, str] = {}
        self.refused: list[Any] = []
        self.uncertain: tuple[str, bytes] | None = None

    def run(self) -> None:
        for number in range(1_000_000):
            text = f"{self._name}-{number}"
            path = f"{self._room}/{text}"
            body = json.dumps({"msgtype": "m.text", "body": text}).encode()
            self.uncertain = (path, body)
            try:
                reply = self._actor.send("PUT", path, body)
                while reply.status == 429:
                    time.sleep(reply.json["retry_after_ms"] / 1000)
                    reply = self._actor.send("PUT", path, body)
            except Exception:
                return
            if reply.status != 200:
                self.refused.append(reply)
                return
            self.acknowledged[reply.json["event_id"]] = text


def read_all(actor: Actor, room_id: str) -> list[tuple[str, str]]:
    """Return (event ID, text) of every message of the room, newest first."""
    found: list[tuple[str, str]] = []
    path = f"/rooms/{quote(room_id, safe='')}/messages?dir=b&limit=100"
    token = ""
    while True:
        answer = actor.call("GET", path + token)
        found += [
            (event["event_id"], event["content"]["body"])
            for event in answer["chunk"]
            if event["type"] == "m.room.message"
        ]
        if "end" not in answer or not answer["chunk"]:
            return found
        token = f"&from={quote(answer['end'])}"


def kill_while_sending(server: RunningServer, token: str, room_id: str, number: int) -> list[Sender]:
    """Let several clients send, kill the server among it, and return the clients."""
    senders = [Sender(server.url, token, room_id, f"r{number}s{each}") for each in range(SENDERS)]
    for sender in senders:
        sender.start()
    time.sleep(random.uniform(0.3, 1.5))
    server.process.kill()
    server.process.wait()
    for sender in senders:
        sender.join(30)
    assert [] == [reply for sender in senders for reply in sender.refused]
    return senders


def test_every_acknowledged_event_is_there_once_after_a_kill(database_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    acknowledged: dict[str, str] = {}
    last: list[Sender] = []
    actor = Actor("", "alice")
    room_id = ""
    for number in range(ROUNDS + 1):
        try:
            with run_server(folder, database_url) as server:
                actor = Actor(server.url, "alice", actor.token)
                if number == 0:
                    actor.register()
                    room_id = actor.create_room()
                # What was sent last is sent again, as a client does: it must not be there twice.
                for sender in last:
                    if sender.uncertain is not None:
                        path, body = sender.uncertain
                        reply = actor.send("PUT", path, body)
                        assert 200 == reply.status, reply
                        acknowledged[reply.json["event_id"]] = json.loads(body)["body"]
                found = read_all(actor, room_id)
                texts = [text for _, text in found]
                assert len(set(texts)) == len(texts)
                stored = dict(found)
                assert acknowledged == {event_id: stored.get(event_id) for event_id in acknowledged}
                assert len(stored) == len(acknowledged)
                actor.sync()
                if number < ROUNDS:
                    last = kill_while_sending(server, str(actor.token), room_id, number)
                    for sender in last:
                        acknowledged.update(sender.acknowledged)
        except ServerFailed as failed:
            # This is how `run_server` takes it that the server was killed.
            if "ended by itself with -9" not in str(failed):
                raise
    assert len(acknowledged) > ROUNDS * SENDERS
