"""CPU time of the server for what end-to-end encryption asks of it, beside that of a plain message.

    python -m tools.bench_encryption [--database sqlite|mariadb|URL] [--devices 500] [--members 2000] [--repeats 15]
    python -m tools.bench_encryption --url URL --secret SECRET --pid PID

Without `--url` it starts a server of its own, with its files in a temporary folder; `mariadb` is a private one that
ends with the program, and its CPU time is not counted. With `--url` it is any server that has the shared-secret
registration endpoint and its rate limits out of the way.

Every user has one device with identity keys, one-time keys and cross-signing keys, and the device is signed by them.
One request is made at a time, over a connection that is kept. Counted is the CPU time of the server's process, all of
its threads, until a moment after the answer: of a run of requests of different users, as each of them alone would
mostly be waking up; for each of the run. Printed are the least and the middle of all repeats, in ms.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from tests.support.databases import shared_mariadb
from tests.support.encryption import Keys
from tests.support.server import run_server
from tools.bench_sends import PASSWORD, Connection, make_user, measure, register

CLIENT: Final = "/_matrix/client/v3"
ONE_TIME_KEYS: Final = 50
# What sharing the key of a room with one device takes.
CIPHERTEXT: Final = "c" * 900
# For what a server does after it has answered.
SETTLE_S: Final = 0.02
SENDERS: Final = 20
SEND_S: Final = 4.0
# Requests in a run; of those that are for everybody.
RUN: Final = 10
FEW: Final = 3
# What a client asks /sync for that is up to date.
NOW: Final = "timeout=0"


class Client:
    """A user with one device, on one connection."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        made = register(server.url, server.secret, name)
        self.token, self.user_id, self.device_id = made["access_token"], made["user_id"], made["device_id"]
        self.keys = Keys(self.user_id, self.device_id)
        self.since = ""

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Make a request; return the answer's JSON."""
        return self.server.call(self.token, method, path, body)

    def sync(self) -> Any:
        """Ask for what is new."""
        answer = self.call("GET", f"/sync?{NOW}" + (f"&since={quote(self.since)}" if self.since else ""))
        self.since = answer["next_batch"]
        return answer

    def publish_keys(self) -> None:
        """Upload all keys, and sign the device."""
        device = self.keys.device()
        self.call("POST", "/keys/upload", {"device_keys": device})
        self.call("POST", "/keys/device_signing/upload", self.keys.cross_signing())
        signed = {self.user_id: {self.device_id: self.keys.sign_by_self(device)}}
        self.call("POST", "/keys/signatures/upload", signed)


@dataclass
class Server:
    """The server that is measured."""

    url: str
    secret: str
    pid: int
    connection: http.client.HTTPConnection = field(init=False)

    def __post_init__(self) -> None:
        place = urlsplit(self.url)
        self.connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=300)
        # Linux: the clock that counts the CPU time of another process, to the nanosecond.
        self._clock = (~self.pid << 3) | 2

    def call(self, token: str, method: str, path: str, body: Any = None) -> Any:
        """Make a request of the client API."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        # Encoded here, so that head and body leave in one piece.
        self.connection.request(method, CLIENT + path, None if body is None else json.dumps(body).encode(), headers)
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{method} {path}: {answer.status} {content[:500]!r}")
        return json.loads(content)

    def cpu_ms(self, acts: Sequence[Callable[[], Any]]) -> tuple[float, list[Any]]:
        """Return what the server spent on each of some acts, one after the other, and their results."""
        before = time.clock_gettime_ns(self._clock)
        results = [act() for act in acts]
        time.sleep(SETTLE_S)
        return (time.clock_gettime_ns(self._clock) - before) / 1e6 / len(acts), results


class Table:
    """What is printed."""

    def __init__(self) -> None:
        print(f"{'':52} {'target':>7} {'least':>8} {'middle':>8}", flush=True)

    def row(self, name: str, target: float | None, took: list[float]) -> None:
        """Print a line."""
        wanted = "" if target is None else f"{target:g}"
        print(f"{name:52} {wanted:>7} {min(took):8.2f} {statistics.median(took):8.2f}", flush=True)


def make_room(owner: Client, guests: Iterable[Client]) -> str:
    """Make an encrypted room that everybody of these is in."""
    encryption = {
        "type": "m.room.encryption",
        "state_key": "",
        "content": {"algorithm": "m.megolm.v1.aes-sha2"},
    }
    body = {"preset": "public_chat", "initial_state": [encryption]}
    room_id: str = owner.call("POST", "/createRoom", body)["room_id"]
    for guest in guests:
        guest.call("POST", f"/join/{quote(room_id)}", {})
    return room_id


def measure_send(server: Server, table: Table) -> None:
    """Plain messages, as `tools/bench_sends.py` sends them."""
    users = [make_user(server.url, server.secret, f"sender{tag()}-{number}") for number in range(SENDERS)]
    took = []
    for turn in range(3):
        connections = [
            Connection("http", server.url, user, None, f"{turn}-{number}-") for number, user in enumerate(users)
        ]
        took.append(measure(connections, SEND_S, server.pid, 1)[1])
    table.row("send: a message, 20 users in private rooms", None, took)


def measure_keys(server: Server, table: Table, clients: list[Client], repeats: int) -> None:
    """Uploading, asking and claiming."""
    took = []
    for start in range(0, len(clients), RUN):
        bodies = [(client, {"one_time_keys": client.keys.one_time(ONE_TIME_KEYS)}) for client in clients[start:][:RUN]]
        acts = [partial(client.call, "POST", "/keys/upload", body) for client, body in bodies]
        took.append(server.cpu_ms(acts)[0])
    table.row(f"keys/upload: {ONE_TIME_KEYS} one-time keys", 3, took)

    count = len(clients)
    query: dict[str, Any] = {"device_keys": {client.user_id: [] for client in clients}}
    took = []
    for _ in range(repeats):
        cpu_ms, answers = server.cpu_ms([partial(each.call, "POST", "/keys/query", query) for each in clients[:FEW]])
        took.append(cpu_ms)
        for answer in answers:
            assert all(len(answer[each]) == count for each in ("device_keys", "master_keys", "self_signing_keys"))
    table.row(f"keys/query: {count} users", 25 * count / 500, took)

    claim = {"one_time_keys": {client.user_id: {client.device_id: "signed_curve25519"} for client in clients}}
    took = []
    for _ in range(repeats):
        cpu_ms, answers = server.cpu_ms([partial(each.call, "POST", "/keys/claim", claim) for each in clients[:FEW]])
        took.append(cpu_ms)
        assert all(len(answer["one_time_keys"]) == count for answer in answers)
    table.row(f"keys/claim: of {count} devices", 40 * count / 500, took)


def measure_to_device(server: Server, table: Table, clients: list[Client], repeats: int) -> None:
    """Sending to all devices, and what is synced by some of them."""
    receivers = clients[1 : RUN + 1]
    syncs = [client.sync for client in receivers]
    sent, told, acknowledged = [], [], []
    server.cpu_ms(syncs)
    for _ in range(repeats):
        messages = {
            client.user_id: {
                client.device_id: {
                    "algorithm": "m.olm.v1.curve25519-aes-sha2",
                    "sender_key": "k" * 43,
                    "ciphertext": {f"{number:043}": {"type": 0, "body": CIPHERTEXT}},
                }
            }
            for number, client in enumerate(clients)
        }
        body = {"messages": messages}
        acts = [
            partial(client.call, "PUT", f"/sendToDevice/m.room.encrypted/{tag()}", body) for client in clients[:FEW]
        ]
        sent.append(server.cpu_ms(acts)[0])
        cpu_ms, answers = server.cpu_ms(syncs)
        told.append(cpu_ms)
        assert all(len(answer["to_device"]["events"]) == FEW for answer in answers)
        acknowledged.append(server.cpu_ms(syncs)[0])
    table.row(f"sendToDevice: to {len(clients)} devices", 60 * len(clients) / 500, sent)
    table.row(f"sync: of a device that has {FEW} such messages", 2, told)
    table.row("sync: the next one, by which they are acknowledged", 2, acknowledged)


def measure_lists(server: Server, table: Table, clients: list[Client], repeats: int) -> None:
    """A member's new device in the large room."""
    changes, told = [], []
    for client in clients:
        client.sync()
    syncs = [client.sync for client in clients[1 : RUN + 1]]
    server.cpu_ms(syncs)
    for number in range(repeats):
        member = clients[-1 - number]
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": member.user_id}}
        made = member.call("POST", "/login", {**login, "password": PASSWORD})
        body = {"device_keys": Keys(member.user_id, made["device_id"]).device()}
        changes.append(server.cpu_ms([partial(server.call, made["access_token"], "POST", "/keys/upload", body)])[0])
        cpu_ms, answers = server.cpu_ms(syncs)
        told.append(cpu_ms)
        assert all(answer["device_lists"]["changed"] == [member.user_id] for answer in answers)
    table.row(f"keys/upload: a new device, in a room of {len(clients)}", None, changes)
    table.row(f"sync: after that, of a member of the room of {len(clients)}", 2, told)


def tag() -> str:
    """Return a text that was not there before."""
    return f"{time.time_ns():x}"


def run(server: Server, devices: int, members: int, repeats: int) -> None:
    """Make everybody, measure everything."""
    started = time.monotonic()
    clients = [Client(server, f"bench{tag()}-{number}") for number in range(max(devices, members))]
    for client in clients[:devices]:
        client.publish_keys()
    make_room(clients[0], clients[1:devices])
    print(f"{devices} devices are there after {time.monotonic() - started:.0f} s", file=sys.stderr)
    table = Table()
    measure_send(server, table)
    measure_keys(server, table, clients[:devices], repeats)
    measure_to_device(server, table, clients[:devices], repeats)
    make_room(clients[0], clients[1:members])
    measure_lists(server, table, clients[:members], repeats)
    measure_send(server, table)


def main() -> None:
    """Read the command line, start a server if it names none."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--database", default="sqlite", help="sqlite, mariadb or the URL of an empty database")
    parser.add_argument("--url", help="a server that runs")
    parser.add_argument("--secret", help="its registration secret")
    parser.add_argument("--pid", type=int, help="its process")
    parser.add_argument("--devices", type=int, default=500)
    parser.add_argument("--members", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    with ExitStack() as stack:
        if options.url:
            server = Server(options.url, options.secret, options.pid)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sennit-bench-")))
            url = options.database
            if url == "sqlite":
                url = f"sqlite:///{folder / 'homeserver.db'}"
            elif url == "mariadb":
                url = stack.enter_context(shared_mariadb(folder / "mariadb", os.getpid()).fresh_database())
            started = stack.enter_context(run_server(folder / "server", url, server_name="bench.localhost"))
            server = Server(started.url, started.shared_secret, started.process.pid)
            print(f"the server is process {server.pid}", file=sys.stderr)
        run(server, options.devices, options.members, options.repeats)


if __name__ == "__main__":
    main()
