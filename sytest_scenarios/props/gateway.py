"""A push gateway, as the makers of an app run one: a small web server on this machine that notes what it is told.

    async with PushGateway() as gateway:
        await bob.post("/pushers/set", gateway.pusher("Bob's phone"))
        note = await gateway.until("the message", lambda notes: [each for each in notes if each["event_id"] == said])

Only servers on the same machine reach it. Spec: push gateway API.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from twisted.web.resource import Resource
from twisted.web.server import Site

from ..asking import sleep
from ..clock import REACTOR
from ..expect import Failed, shown

T = TypeVar("T")

PATH: Final = "/_matrix/push/v1/notify"
WITHIN_S: Final = 10.0


class PushGateway:
    """One gateway of one story."""

    def __init__(self) -> None:
        self.app = f"org.example.app.{secrets.token_hex(4)}"
        """The app_id: of this gateway alone, as a push key belongs to one person in each app."""
        self.notes: list[dict[str, Any]] = []
        """The notifications it was told, in order."""
        self.rejected: list[str] = []
        """The push keys that it does not want to hear of any more."""
        self.failing = 0
        """So many requests to come are answered with an error."""
        self._port: Any = None

    async def __aenter__(self) -> PushGateway:
        """Begin to listen."""
        self._port = REACTOR.listenTCP(0, Site(_Notify(self)), interface="127.0.0.1")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Listen no more."""
        await self._port.stopListening()

    @property
    def url(self) -> str:
        """Where homeservers send notifications to."""
        return f"http://127.0.0.1:{self._port.getHost().port}{PATH}"

    def pusher(self, key: str, **data: Any) -> dict[str, Any]:
        """Return the body for POST /pushers/set that has notifications sent here, under a push key."""
        return {
            "kind": "http",
            "app_id": self.app,
            "pushkey": key,
            "app_display_name": "Example",
            "device_display_name": key,
            "lang": "en",
            "data": {"url": self.url, **data},
        }

    async def until(self, expected: str, look: Callable[[list[dict[str, Any]]], T], *, within_s: float = WITHIN_S) -> T:
        """Wait until `look` finds in the notifications what is wanted (a true value), and return that."""
        deadline = time.monotonic() + within_s
        while not (found := look(self.notes)):
            if time.monotonic() > deadline:
                raise Failed(f"{expected} at the push gateway within {within_s:g} s", shown(self.notes))
            await sleep(0.05)
        return found

    async def hears_of(self, event_id: str, *, within_s: float = WITHIN_S) -> dict[str, Any]:
        """Wait for the notification of an event, and return it."""
        return await self.until(
            f"a notification of {event_id}",
            lambda notes: next((each for each in notes if each.get("event_id") == event_id), None) or {},
            within_s=within_s,
        )

    def told(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Take in a request, and return status and answer."""
        if self.failing > 0:
            self.failing -= 1
            return 502, {"errcode": "M_UNKNOWN", "error": "out of order"}
        try:
            note = json.loads(body)["notification"]
        except (ValueError, LookupError, TypeError):
            return 400, {"errcode": "M_BAD_JSON", "error": "no notification"}
        self.notes.append(note)
        keys = [each.get("pushkey") for each in note.get("devices", [])]
        return 200, {"rejected": [each for each in keys if each in self.rejected]}


class _Notify(Resource):
    """POST /_matrix/push/v1/notify, and nothing else."""

    isLeaf = True

    def __init__(self, gateway: PushGateway) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._gateway = gateway

    def render(self, request: Any) -> bytes:
        """Answer."""
        status, answer = 404, {"errcode": "M_UNRECOGNIZED", "error": "not here"}
        if request.method == b"POST" and request.path == PATH.encode():
            status, answer = self._gateway.told(request.content.read())
        request.setResponseCode(status)
        request.setHeader(b"Content-Type", b"application/json")
        return json.dumps(answer).encode()
