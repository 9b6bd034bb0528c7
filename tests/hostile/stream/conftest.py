"""Two running servers, and what must not happen to them.

`running` has patience, `strict` has none: short deadlines, few connections. After every test the server must answer
others at once, have no more memory than before but for a margin, and no traceback in its log.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.client import Actor
from tests.support.server import RunningServer, run_server
from tests.support.stream_wire import Wire, dial

ANSWER_S = 5.0
# What an attack may take at most, and what the allocator and caches may keep of it and of the room that it was sent to.
MARGIN_BYTES = 40 * 1024**2
KEPT_BYTES = 64 * 1024**2

PATIENT = """
[stream]
sessions_per_user = 300
sessions_per_address = 2000

[sessions]
refreshable_access_token_lifetime_ms = 4000
"""
STRICT = """
[stream]
auth_timeout_ms = 1000
message_timeout_ms = 1000
ping_interval_ms = 500
silence_timeout_ms = 1500
sessions_per_user = 5
sessions_per_address = 40
max_sessions = 60
"""


def resident_bytes(server: RunningServer, name: str = "VmRSS") -> int:
    """Return how much memory the server has, or with `VmHWM`, has had at most."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def forget_peak(server: RunningServer) -> None:
    """Make the memory of now the most that the server has had (proc(5), clear_refs)."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


def established(server: RunningServer) -> int:
    """Return the number of connections that the server has open."""
    folder = f"/proc/{server.process.pid}/fd"
    found = 0
    port = f":{int(server.url.rpartition(':')[2]):04X}"
    inodes = set()
    with open(f"/proc/{server.process.pid}/net/tcp") as table:
        for line in table.readlines()[1:]:
            parts = line.split()
            if parts[1].endswith(port) and parts[2] != "00000000:0000" and parts[9] != "0":
                inodes.add(parts[9])
    for name in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{name}")
        except OSError:
            continue
        found += target.removeprefix("socket:[").rstrip("]") in inodes
    return found


class Witness:
    """Somebody who goes on using the server meanwhile, by a stream that is cut again and again."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.actor = Actor(url, "witness").register()
        self.room_id = self.actor.create_room()
        self.since = str(self.actor.sync()["next_batch"])
        self._count = 0

    def dial(self) -> Wire:
        return dial(self.url, token=self.actor.token, query=f"since={self.since}&set_presence=offline")

    def check(self) -> None:
        """Fail unless the server works, at once: over HTTP, over a new stream, with nothing lost or told twice."""
        self._count += 1
        began = time.monotonic()
        versions = self.actor.send("GET", "/_matrix/client/versions")
        assert (200, None) == (versions.status, versions.fault())
        with self.dial() as wire:
            content = {"msgtype": "m.text", "body": f"still here {self._count}"}
            params = {"room_id": self.room_id, "event_type": "m.room.message", "content": content}
            event_id = wire.call(f"w{self._count}", "send", params)["result"]["event_id"]
            seen: list[str] = []
            while event_id not in seen:
                update = wire.update()
                self.since = update["next_batch"]
                room = update.get("rooms", {}).get("join", {}).get(self.room_id, {})
                seen += [event["event_id"] for event in room.get("timeline", {}).get("events", [])]
        assert [event_id] == seen
        assert time.monotonic() - began < ANSWER_S


@pytest.fixture(scope="package", params=["sqlite", pytest.param("mariadb", marks=pytest.mark.mariadb)])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with patience; one for each kind of database."""
    folder = tmp_path_factory.mktemp("stream")
    with ExitStack() as stack:
        url = f"sqlite:///{folder / 'homeserver.db'}"
        if request.param == "mariadb":
            url = stack.enter_context(request.getfixturevalue("mariadb").database())
        yield stack.enter_context(run_server(folder / "server", url, more=PATIENT))


@pytest.fixture(scope="package")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server without patience."""
    folder = tmp_path_factory.mktemp("strict")
    with run_server(folder / "server", f"sqlite:///{folder / 'homeserver.db'}", more=STRICT) as server:
        yield server


@pytest.fixture(scope="package")
def witness(running: RunningServer) -> Witness:
    """Whoever must not notice anything, on `running`."""
    return Witness(running.url)


@pytest.fixture(scope="package")
def strict_witness(strict: RunningServer) -> Witness:
    """Whoever must not notice anything, on `strict`."""
    return Witness(strict.url)


def _unharmed(server: RunningServer, witness: Witness) -> Iterator[None]:
    # That all is well before was seen after the test before.
    log = server.folder / "log"
    logged, resident = log.stat().st_size, resident_bytes(server)
    yield
    witness.check()
    with log.open("rb") as opened:
        opened.seek(logged)
        news = opened.read().decode(errors="replace")
    assert "Traceback" not in news, news[-4000:]
    assert "Unhandled" not in news, news[-4000:]
    assert resident_bytes(server) - resident < KEPT_BYTES


@pytest.fixture
def unharmed(running: RunningServer, witness: Witness) -> Iterator[None]:
    """Fail unless `running` is as well after the test as before."""
    yield from _unharmed(running, witness)


@pytest.fixture
def strict_unharmed(strict: RunningServer, strict_witness: Witness) -> Iterator[None]:
    """Fail unless `strict` is as well after the test as before."""
    yield from _unharmed(strict, strict_witness)


@pytest.fixture
def mallory(running: RunningServer) -> Actor:
    """A user with bad intentions."""
    return Actor(running.url, "mallory").register()


@pytest.fixture
def wire(mallory: Actor) -> Iterator[Wire]:
    """A stream of theirs that has nothing to tell."""
    with dial(mallory.url, token=mallory.token, query=f"since={mallory.sync()['next_batch']}") as opened:
        yield opened


@pytest.fixture
def pile() -> Iterator[Callable[[Any], Any]]:
    """A function that keeps connections until the end of the test, where they are dropped."""
    with ExitStack() as stack:
        yield stack.enter_context
