"""Messages a second, and the CPU time of the server for each: over HTTP, WebSocket and lines, side by side.

    python tools/bench_sends.py URL SECRET PID [--lines PORT] [--users 40] [--seconds 8] [--depth 16]

Each user has a private room and one connection. Over HTTP, where a connection has one request at a time, the next
message goes when the last one is answered; on the stream as many are on the way as `--depth` says, 1 and that. There
the filter leaves messages out, as nobody listens over HTTP either; `ws+updates` is with them. Starts nothing: the
server is one with raised rate limits, as `tools/bench.sh` makes.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import os
import selectors
import socket
import struct
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

NOTHING = {"room": {"timeline": {"types": []}, "ephemeral": {"types": []}}, "presence": {"types": []}}
PASSWORD = "a long password"
CONTENT = {"msgtype": "m.text", "body": "How much wood would a woodchuck chuck?"}


@dataclass
class User:
    token: str
    room_id: str


class Connection:
    """A user's connection: what is sent as the message of a number, and how many answers a piece of bytes has."""

    def __init__(self, way: str, url: str, user: User, lines_port: int | None, tag: str) -> None:
        place = urlsplit(url)
        host, port = place.hostname or "", place.port or 80
        self.way, self.user, self.tag = way, user, tag
        self.socket = socket.create_connection((host, lines_port if way == "lines" else port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.host = f"{host}:{port}"
        self.sent = 0
        self._open()
        self.socket.setblocking(False)

    def _open(self) -> None:
        wanted = {} if self.way == "ws+updates" else NOTHING
        if self.way == "lines":
            params = {"access_token": self.user.token, "filter": wanted}
            self.socket.sendall(json.dumps({"id": "auth", "method": "auth", "params": params}).encode() + b"\n")
            self._read_until(b'"id":"auth"')
        elif self.way != "http":
            query = f"access_token={quote(self.user.token)}&filter={quote(json.dumps(wanted))}"
            self.socket.sendall(
                f"GET /_matrix/client/unstable/stream?{query} HTTP/1.1\r\nHost: {self.host}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                "Sec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            self._read_until(b"next_batch")

    def _read_until(self, mark: bytes) -> None:
        got = b""
        while mark not in got:
            piece = self.socket.recv(65_536)
            if not piece:
                raise SystemExit(f"{self.way}: closed with {got!r}")
            got += piece

    def send(self) -> None:
        """Send the next message."""
        self.sent += 1
        txn = f"{self.tag}{self.sent}"
        if self.way == "http":
            body = json.dumps(CONTENT).encode()
            room = quote(self.user.room_id)
            self.socket.sendall(
                f"PUT /_matrix/client/v3/rooms/{room}/send/m.room.message/{txn} HTTP/1.1\r\nHost: {self.host}\r\n"
                f"Authorization: Bearer {self.user.token}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            return
        params = {"room_id": self.user.room_id, "event_type": "m.room.message", "content": CONTENT}
        message = json.dumps({"id": txn, "method": "send", "params": params}).encode()
        if self.way == "lines":
            self.socket.sendall(message + b"\n")
        else:
            # A mask of zeros leaves the payload as it is.
            self.socket.sendall(struct.pack("!BBHI", 0x81, 0x80 | 126, len(message), 0) + message)

    def answers(self) -> int:
        """Return how many answers have come."""
        piece = self.socket.recv(65_536)
        if not piece or b'"errcode"' in piece:
            raise SystemExit(f"{self.way}: {piece!r}")
        return piece.count(b'{"event_id"')


def call(url: str, token: str | None, method: str, path: str, body: Any = None) -> Any:
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    request = urllib.request.Request(
        url + path, None if body is None else json.dumps(body).encode(), headers, method=method
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def register(url: str, secret: str, name: str) -> Any:
    """Make a user by the shared secret; return the answer."""
    path = "/_synapse/admin/v1/register"
    nonce = call(url, None, "GET", path)["nonce"]
    mac = hmac.new(secret.encode(), "\0".join((nonce, name, PASSWORD, "notadmin")).encode(), hashlib.sha1)
    body = {"nonce": nonce, "username": name, "password": PASSWORD, "admin": False, "mac": mac.hexdigest()}
    return call(url, None, "POST", path, body)


def make_user(url: str, secret: str, name: str) -> User:
    token = register(url, secret, name)["access_token"]
    room_id = call(url, token, "POST", "/_matrix/client/v3/createRoom", {"preset": "private_chat"})["room_id"]
    return User(token, room_id)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(connections: list[Connection], seconds: float, pid: int, depth: int) -> tuple[float, float]:
    """Return (messages a second, milliseconds of the server's CPU time for each)."""
    selector = selectors.DefaultSelector()
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    count, start, before = 0, time.monotonic(), cpu_s(pid)
    for connection in connections * depth:
        connection.send()
    while time.monotonic() < start + seconds:
        for key, _ in selector.select(1):
            for _ in range(key.data.answers()):
                count += 1
                key.data.send()
    took, used = time.monotonic() - start, cpu_s(pid) - before
    time.sleep(0.5)
    for connection in connections:
        connection.socket.close()
    return count / took, used * 1000 / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("secret")
    parser.add_argument("pid", type=int)
    parser.add_argument("--lines", type=int, metavar="PORT")
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--depth", type=int, default=16)
    options = parser.parse_args()
    tag = f"{time.time_ns():x}"
    users = [make_user(options.url, options.secret, f"bench{tag}-{number}") for number in range(options.users)]
    streams = ["ws", "ws+updates", *(["lines"] if options.lines else [])]
    ways = [("http", 1), *((way, depth) for way in streams for depth in (1, options.depth))]
    for turn in range(2):
        for way, depth in ways:
            connections = [
                Connection(way, options.url, user, options.lines, f"{way}{turn}-{depth}-{number}-")
                for number, user in enumerate(users)
            ]
            per_s, cpu_ms = measure(connections, options.seconds, options.pid, depth)
            print(
                json.dumps({"way": way, "depth": depth, "per_s": round(per_s), "cpu_ms_per_op": round(cpu_ms, 3)}),
                flush=True,
            )


if __name__ == "__main__":
    main()
