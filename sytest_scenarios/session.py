"""A device that is logged in: what it asks, and what it was told.

    await alice.get("/account/whoami")                          the JSON object of a success; `Refused` otherwise
    await alice.put(room.path("tags"), {…}, server="x")         behind /_matrix/client/v3; keywords: the query
    await alice.request("GET", "/_matrix/client/v1/…")          an `Answer` of any status
    await bob.until("the topic to be told", lambda view: view.room(room).content("m.room.topic"))

`until` syncs until the look at the `View` is true, and returns what it gave.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .asking import JsonObject, ask, sleep, unhurried
from .expect import Failed
from .http import Answer
from .journal import Step
from .view import View

if TYPE_CHECKING:
    from .actors import Room, Server

T = TypeVar("T")

WAIT_S: Final = 10.0
LONG_POLL_S: Final = 5.0


@dataclass(slots=True)
class Session:
    """A device that is logged in."""

    name: str
    server: Server
    user_id: str
    password: str
    token: str
    device_id: str
    view: View = field(default_factory=View)
    refresh_token: str | None = None

    @property
    def localpart(self) -> str:
        """The user ID without the server."""
        return self.user_id[1:].partition(":")[0]

    def __str__(self) -> str:
        """Return the name by which the story knows them."""
        return self.name

    # -- asking ------------------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        patience_s: float | None = None,
    ) -> Answer:
        """Ask as this user and return the answer, whatever it is. A `body` of bytes goes as it is, all else as JSON."""
        return await ask(
            self.server.host.web,
            self.server.journal,
            self.name,
            self.server.url,
            method,
            path,
            body,
            query=query,
            headers={"Authorization": f"Bearer {self.token}", **(headers or {})},
            patience_s=patience_s,
        )

    async def call(
        self, method: str, path: str, body: Any = None, *, query: Mapping[str, Any] | None = None
    ) -> JsonObject:
        """Ask and return the JSON object of the success, waiting out a rate limit; Refused if it is refused."""
        return (await self._unhurried(method, path, body, query=query)).good()

    async def get(self, path: str, **query: Any) -> JsonObject:
        """GET."""
        return await self.call("GET", path, query=query)

    async def put(self, path: str, body: Any, **query: Any) -> JsonObject:
        """PUT."""
        return await self.call("PUT", path, body, query=query)

    async def post(self, path: str, body: Any = None, **query: Any) -> JsonObject:
        """POST; without a body, an empty object."""
        return await self.call("POST", path, {} if body is None else body, query=query)

    async def delete(self, path: str, body: Any = None, **query: Any) -> JsonObject:
        """DELETE."""
        return await self.call("DELETE", path, body, query=query)

    # -- hearing -----------------------------------------------------------------------------------------------------

    async def sync(self, *, timeout_ms: int = 0, since: str | None = None, **query: Any) -> JsonObject:
        """Ask /sync once and return what it says, without taking it in; from the beginning unless `since` is said."""
        answer = await self._unhurried(
            "GET",
            "/sync",
            query={"timeout": timeout_ms, "since": since, **query},
            patience_s=timeout_ms / 1000 + self.server.host.web.patience_s,
        )
        return answer.good()

    async def catch_up(self, *, wait_ms: int = 0, **query: Any) -> View:
        """Sync once from where the last one ended, take it in, and return the view."""
        self.view.merge(await self.sync(timeout_ms=wait_ms, since=self.view.since, **query))
        return self.view

    async def until(self, expected: str, look: Callable[[View], T], *, within_s: float = WAIT_S, **query: Any) -> T:
        """Sync until `look` finds in the view what is wanted (a true value), and return that.

        `expected` ends the sentence "expected …" if it does not come. A LookupError in `look` is "not yet".
        """
        self._does(f"waits for {expected}")
        journal = self.server.journal
        deadline = journal.patience_ends(within_s)
        if self.view.since is None:
            await self.catch_up(**query)
        while True:
            try:
                found = look(self.view)
            except LookupError:
                found = None
            if found:
                return found
            left_s = deadline + journal.waited_s - time.monotonic()
            if left_s <= 0:
                raise Failed(
                    f"{expected} (as {self.name} sees it, within {within_s * journal.time_factor:g} s)",
                    self.view.sight(),
                )
            before, began = self.view.since, time.monotonic()
            await self.catch_up(wait_ms=int(min(left_s, LONG_POLL_S) * 1000), **query)
            if self.view.since == before and time.monotonic() - began < 0.05:
                await sleep(0.1)

    async def sees(self, room: Room, event_id: str, *, within_s: float = WAIT_S) -> JsonObject:
        """Sync until an event is in the room's timeline, and return it."""
        return await self.until(
            f"the event {event_id} in the timeline",
            lambda view: view.room(room).event(event_id) or {},
            within_s=within_s,
        )

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _unhurried(self, method: str, path: str, body: Any = None, **how: Any) -> Answer:
        """Ask as `request` does, and wait out a rate limit."""
        server = self.server
        return await unhurried(server.host, server.journal, lambda: self.request(method, path, body, **how))

    def _does(self, what: str) -> None:
        self.server.journal.add(Step(f"{self.name} {what}", time.time()))
