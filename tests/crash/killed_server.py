"""A federating server in a process of its own that can be killed, and a room of 300 members on a played server.

server = KilledServer(federation.make())
await server.start()                             again after `kill`, with what is on the disk
dave = await server.front.register("dave")
await server.kill()
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from homeserver.graph.command import check
from homeserver.model.event_format import event_from_wire
from homeserver.model.ids import EventID, UserID
from tests.support.elsewhere import Elsewhere, _key_of
from tests.support.federation import FederatedServer
from tests.support.played_server import PlayedRequest, PlayedServer, pause, until
from tests.support.residents import Residents
from tests.support.server import LIMITS, ROOT

V1, V2 = "/_matrix/federation/v1", "/_matrix/federation/v2"


class KilledServer:
    """The process; `front` is where to ask it."""

    def __init__(self, front: FederatedServer) -> None:
        self.front = front
        config = front.config
        self._folder = Path(config.server.data_dir)
        self._path = self._folder / "config.toml"
        self._path.write_text(_toml(front))
        self._path.chmod(0o600)
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start, and return when it answers."""
        with (self._folder / "log").open("ab") as log:
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "homeserver", "run", "-c", str(self._path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

        async def answers() -> bool:
            assert process.poll() is None, self.log
            try:
                return (await self.front.request("GET", "/_matrix/client/versions")).status == 200
            except Exception:
                return False

        await until(answers, timeout_s=60, what="the start of the server")

    async def kill(self) -> None:
        """Kill it, whatever it is doing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            while process.poll() is None:
                await pause(0.01)
        # Whoever asked learns that nobody answers any more.
        await pause(0.05)

    async def stop(self) -> None:
        """Let it end."""
        process, self._process = self._process, None
        assert process is not None
        process.terminate()
        await until(lambda: process.poll() is not None, what="the end of the server")

    @property
    def log(self) -> str:
        """The end of what it has written."""
        return (self._folder / "log").read_text(errors="replace")[-6_000:]

    def check(self) -> str:
        """Return what `sennit graph --check` finds, nothing if all is sound; while it does not run."""
        out = StringIO()
        return "" if check(self.front.config, (), out=out) == 0 else out.getvalue()


def _toml(front: FederatedServer) -> str:
    config, listener = front.config, front.config.listeners[0]
    ca_files = [str(path) for path in config.federation.ca_files]
    rates = "\n".join(f"{name} = {{ per_second = 1000, burst_count = 1000 }}" for name in LIMITS)
    # JSON's strings and lists are TOML's too.
    return f"""\
[server]
name = {json.dumps(front.name)}
data_dir = {json.dumps(str(config.server.data_dir))}
[[listeners]]
port = {front.port}
bind = [{json.dumps(front.address)}]
tls_certificate_path = {json.dumps(str(listener.tls_certificate_path))}
tls_key_path = {json.dumps(str(listener.tls_key_path))}
[database]
url = {json.dumps(config.database.url)}
pool_size = 2
[registration]
enabled = true
without_verification = true
bcrypt_rounds = 4
[federation]
ca_files = {json.dumps(ca_files)}
ip_range_allowlist = ["127.0.0.0/8"]
trusted_key_servers = []
[limits]
{rates}
"""


class Resident:
    """A played server with a room, which lets others in, notes what they send, and sends events itself."""

    def __init__(self, played: PlayedServer, members: int) -> None:
        self.played = played
        played.keys = [_key_of(played.name)]
        self.alice = UserID(played.user("alice"))
        self.room = Elsewhere("12", creator=self.alice)
        for number in range(members):
            self.room.join(UserID(played.user(f"u{number}")))
        self.room.say(self.alice)
        self.residents = Residents(self.room)
        # The IDs of what was received.
        self.received: set[str] = set()
        played.answers |= {
            f"{V1}/make_join/": self._make_join,
            f"{V2}/send_join/": self._send_join,
            f"{V1}/state/": self._state,
            f"{V1}/send/": self._send,
        }

    def _make_join(self, request: PlayedRequest) -> Any:
        template = self.residents.template(_segment(request, -1), "join", self.played.name)
        return {"room_version": template.room_version, "event": template.event}

    def _send_join(self, request: PlayedRequest) -> Any:
        room = self.room
        join = self.residents.take(request.json, _segment(request, -1))
        ids = list(room.state_before(join.prev_event_ids).values())
        chain = self.residents.auth_chain([*ids, join.event_id])
        ids = [each for each in ids if room.by_id[each].type != "m.room.member"]
        return {
            "event": join.wire,
            "state": [room.by_id[each].wire for each in ids],
            "auth_chain": [each.wire for each in chain],
            "members_omitted": True,
            "servers_in_room": [self.played.name],
        }

    def _state(self, request: PlayedRequest) -> Any:
        event_id = EventID(parse_qs(request.uri.partition("?")[2])["event_id"][0])
        ids = list(self.room.state_before(self.room.by_id[event_id].prev_event_ids).values())
        return {
            "pdus": [self.room.by_id[each].wire for each in ids],
            "auth_chain": [each.wire for each in self.residents.auth_chain(ids)],
        }

    def _send(self, request: PlayedRequest) -> Any:
        for wire in request.json.get("pdus", ()):
            self.received.add(event_from_wire(self.room.version, wire).event_id)
        return {"pdus": {}}


def _segment(request: PlayedRequest, place: int) -> str:
    return unquote(request.path.split("/")[place])
