"""A client that sends whatever it is told to, and notes how the server took it."""

from __future__ import annotations

import http.client
import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

PREFIX = "/_matrix/client/v3"
# What hangs or is quadratic takes longer than this on any machine, and what is in order less on a busy one.
MAX_ANSWER_S = 5.0
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; `json` is None where the body is not JSON."""

    status: int
    json: Any
    seconds: float
    is_empty: bool = False

    @property
    def errcode(self) -> str | None:
        return self.json.get("errcode") if isinstance(self.json, dict) else None

    def fault(self) -> str | None:
        """Say what is wrong with this as an answer to anything at all, or None."""
        if self.status >= 500:
            return f"answered {self.status}"
        if self.seconds > MAX_ANSWER_S:
            return f"took {self.seconds:.1f} s"
        # A challenge of user-interactive authentication has no errcode.
        is_challenge = self.status == 401 and isinstance(self.json, dict) and "flows" in self.json
        is_named = isinstance(self.errcode, str) and self.errcode.startswith("M_")
        if self.status >= 400 and not is_named and not is_challenge:
            return f"answered {self.status} without an errcode"
        return None


@dataclass
class Actor:
    """A user with a connection that is kept."""

    url: str
    name: str
    token: str | None = None
    user_id: str = ""
    device_id: str = ""
    _connection: http.client.HTTPConnection | None = field(default=None, repr=False)

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send bytes to a path that is encoded already."""
        sent = {"Content-Type": "application/json", **(headers or {})}
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        began = time.monotonic()
        for attempt in (1, 2):
            if self._connection is None:
                parts = urlsplit(self.url)
                self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
            try:
                self._connection.request(method, path, body, sent)
                answer = self._connection.getresponse()
                content = answer.read()
                break
            except (http.client.HTTPException, OSError):
                # A refused body may close the connection while it is still being sent.
                self._connection.close()
                self._connection = None
                if attempt == 2:
                    raise
        try:
            value = json.loads(content)
        except ValueError:
            value = None
        return Reply(answer.status, value, time.monotonic() - began, not content)

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Send a proper request below /_matrix/client/v3 and return the answer's JSON; it must succeed."""
        reply = self.send(method, PREFIX + path, None if body is None else json.dumps(body).encode())
        assert 200 == reply.status, (method, path, reply)
        assert isinstance(reply.json, dict)
        return reply.json

    # -- what everybody does -----------------------------------------------------------------------------------------

    def register(self) -> Actor:
        """Make the account."""
        username = f"{self.name}{next(_numbers)}"
        answer = self.call(
            "POST", "/register", {"username": username, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        )
        self.token, self.user_id, self.device_id = answer["access_token"], answer["user_id"], answer["device_id"]
        return self

    def is_logged_in(self) -> bool:
        return self.token is not None and self.send("GET", f"{PREFIX}/account/whoami").status == 200

    def create_room(self, **request: Any) -> str:
        return str(self.call("POST", "/createRoom", {"preset": "public_chat", **request})["room_id"])

    def say(self, room_id: str, text: str = "hello") -> str:
        path = f"/rooms/{quote(room_id, safe='')}/send/m.room.message/t{next(_numbers)}"
        return str(self.call("PUT", path, {"msgtype": "m.text", "body": text})["event_id"])

    def newest(self, room_id: str) -> list[str]:
        """Return the IDs of the newest events of a room."""
        answer = self.call("GET", f"/rooms/{quote(room_id, safe='')}/messages?dir=b&limit=5")
        return [event["event_id"] for event in answer["chunk"]]

    def sync(self, since: str | None = None) -> dict[str, Any]:
        return self.call("GET", f"/sync?timeout=0&since={quote(since)}" if since else "/sync?timeout=0")
