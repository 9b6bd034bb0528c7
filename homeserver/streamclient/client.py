"""The face of the client: what a program calls."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from twisted.internet.task import deferLater

from homeserver.runtime.backoff import Backoff

from .address import Address, Trust
from .errors import StreamError
from .http import HTTP, NO_ANSWER, segment
from .inbox import Inbox, Update, timeline_events
from .link import FIRST_WAIT_S, LONGEST_WAIT_S, Link, LinkState, Refresh, Watch, chance
from .requests import Requests
from .wire import Wires

USER_AGENT: Final = "sennit-streamclient"
# LIMIT: of one update; the initial sync of somebody in thousands of rooms may be large.
MAX_UPDATE_BYTES: Final = 256 * 1024 * 1024


class StreamClient:
    """A session on a stream that goes on across connections.

    Everything here belongs to the reactor's thread. Coroutines can be started side by side
    (`Deferred.fromCoroutine(client.send(…))`): requests are made in the order of the calls.
    """

    def __init__(
        self,
        url: str,
        access_token: str,
        *,
        reactor: Any = None,
        since: str | None = None,
        filter: Mapping[str, Any] | str | None = None,
        set_presence: str | None = None,
        use_state_after: bool = False,
        refresh: Refresh | None = None,
        patience_s: float = 0.0,
        watch: Watch | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        verify: bool = True,
        user_agent: str | None = USER_AGENT,
        max_update_bytes: int = MAX_UPDATE_BYTES,
    ) -> None:
        """Connect to nothing yet; `start` does.

        `url` is the base of the client API (`https://example.org`), or a port of lines (`tcp://` or `tls://host:port`).
        `reactor` defaults to the global one. `since` is where the stream goes on; without it, it begins with an initial
        sync. `filter` (an ID or the filter), `set_presence` and `use_state_after` are those of `/sync`.
        `refresh` is asked for another token when this one has expired, `watch` is told what becomes of connections.
        What is refused because it comes too often is asked again when the server says so, within `patience_s`.
        Certificates are checked, against those of `ca_file` (PEM) or else the system's; `verify=False` is for tests.
        ValueError tells of a wrong URL or file. Lines have no HTTP: `log_in`, `join` and `call` raise ValueError there.
        """
        if reactor is None:
            from homeserver.runtime.reactor import global_reactor

            reactor = global_reactor()
        self._reactor = reactor
        self._token = access_token
        self._filter = filter
        self._set_presence = set_presence
        self._use_state_after = use_state_after
        self._refresh = refresh
        self._patience_s = patience_s
        self._user_agent = user_agent
        self._address = Address.parse(url)
        self._trust = Trust(ca_file, verify=verify)
        self._http: HTTP | None = None
        self._identity: Mapping[str, Any] = {}
        self._events: deque[dict[str, Any]] = deque()
        self._requests = Requests(self._flow)
        self._inbox = Inbox(since, self._flow, self._dealt_with)
        self._link = Link(
            reactor,
            Wires(reactor, self._address, self._trust, user_agent=user_agent, max_message_bytes=max_update_bytes),
            self._inbox,
            self._requests,
            auth=self._auth,
            refreshed=self._refreshed,
            watch=watch or _look_away,
        )
        self._is_started = False

    @classmethod
    async def log_in(
        cls,
        url: str,
        user: str,
        password: str,
        *,
        device_id: str | None = None,
        device_name: str | None = None,
        reactor: Any = None,
        ca_file: str | os.PathLike[str] | None = None,
        verify: bool = True,
        user_agent: str | None = USER_AGENT,
        **more: Any,
    ) -> StreamClient:
        """Return a client of a new session, not started yet; `user` is an ID or its localpart, `more` as for the class.

        With a `device_id` that is known already, the session replaces that device's. Raises StreamError if refused,
        what Twisted raises if there is no answer, and ValueError if `url` is one of lines (`tcp://`, `tls://`).
        """
        if reactor is None:
            from homeserver.runtime.reactor import global_reactor

            reactor = global_reactor()
        http = HTTP(reactor, Address.parse(url), Trust(ca_file, verify=verify), user_agent=user_agent)
        content = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user},
            "password": password,
            "device_id": device_id,
            "initial_device_display_name": device_name,
        }
        answer = await http.call("POST", "/login", {key: value for key, value in content.items() if value is not None})
        client = cls(
            url,
            answer["access_token"],
            reactor=reactor,
            ca_file=ca_file,
            verify=verify,
            user_agent=user_agent,
            **more,
        )
        client._identity = answer
        return client

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, and return when the server has let us in for the first time, however long that takes.

        Raises StreamEnded if it refuses us for good, or if its certificate is not believed. Connections that are lost
        later are made again by themselves.
        """
        if self._link.has_ended:
            raise RuntimeError("a client can be started once")
        self._is_started = True
        self._identity = await self._link.start()

    async def stop(self) -> None:
        """Close the connection. Iterators end, and requests without an answer raise StreamEnded.

        The end of the reactor does that too.
        """
        await self._link.stop()

    async def __aenter__(self) -> StreamClient:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def user_id(self) -> str:
        """Who we are; empty before the start."""
        return str(self._identity.get("user_id", ""))

    @property
    def device_id(self) -> str | None:
        """Our device, if the session has one."""
        return self._identity.get("device_id")

    @property
    def access_token(self) -> str:
        """The token in use, which `refresh` may have replaced."""
        return self._token

    @property
    def since(self) -> str | None:
        """The place up to which all updates have been dealt with: keep it, and hand it to the next client."""
        return self._inbox.since

    # -- what comes ---------------------------------------------------------------------------------------------------

    async def updates(self) -> AsyncIterator[Update]:
        """Give the updates, each shaped like a response of `/sync`, once and in order.

        An update counts as dealt with when the next one is asked for: then `since` moves on, and its messages to the
        device are acknowledged. A loop may be left and another one begun, but there is one at a time.
        Ends after `stop`; raises StreamEnded when the stream is over for good.
        """
        while (update := await self._inbox.next()) is not None:
            self._events.clear()
            yield update

    async def events(self, *, history: bool = False) -> AsyncIterator[dict[str, Any]]:
        """Give the events of the timelines of joined rooms, each with `room_id` added, and pass over all else.

        What was before is left out unless `history` asks for it: the initial sync of a client without `since`, and of a
        room that we join what others said before. The next loop goes on where the last one was left.
        `since` moves on with the last event of an update.
        """
        while True:
            while self._events:
                yield self._events.popleft()
            update = await self._inbox.next()
            if update is None:
                return
            if history or self._inbox.since is not None:
                self._events.extend(timeline_events(update, None if history else self.user_id))

    # -- what goes ----------------------------------------------------------------------------------------------------

    async def request(
        self, method: str, params: Mapping[str, Any] | None = None, *, request_id: str | None = None
    ) -> dict[str, Any]:
        """Make any request of the stream and return its result; raises StreamError if it is refused.

        Without a connection it waits for the next one; if one is lost before the answer came, it is made again, with
        the same ID. `request_id` is for IDs that shall be known beforehand. Who cancels it gives it up: it may still
        happen.
        """
        if not self._is_started:
            raise RuntimeError("the client has not been started")
        return await self._patiently(lambda: self._requests.ask(method, params, request_id))

    async def send(
        self,
        room_id: str,
        content: str | Mapping[str, Any],
        *,
        event_type: str = "m.room.message",
        transaction_id: str | None = None,
    ) -> str:
        """Send an event to a room and return its ID; text is sent as `m.text`.

        With a `transaction_id`, sending the same again sends nothing, even after this program was started anew with the
        same device. Without, each call sends.
        """
        if isinstance(content, str):
            content = {"msgtype": "m.text", "body": content}
        params = {"room_id": room_id, "event_type": event_type, "content": content}
        return _event_id(await self.request("send", params, request_id=transaction_id))

    async def state(self, room_id: str, event_type: str, content: Mapping[str, Any], state_key: str = "") -> str:
        """Set a room's state and return the ID of the event."""
        params = {"room_id": room_id, "event_type": event_type, "state_key": state_key, "content": content}
        return _event_id(await self.request("state", params))

    async def redact(
        self, room_id: str, event_id: str, reason: str | None = None, *, transaction_id: str | None = None
    ) -> str:
        """Redact an event and return the ID of the redaction."""
        params = _given(room_id=room_id, event_id=event_id, reason=reason)
        return _event_id(await self.request("redact", params, request_id=transaction_id))

    async def typing(self, room_id: str, is_typing: bool = True, timeout_ms: int = 30_000) -> None:
        """Say that we are typing, for so long at most, or no longer."""
        timeout = {"timeout": timeout_ms} if is_typing else {}
        await self.request("typing", {"room_id": room_id, "typing": is_typing, **timeout})

    async def receipt(
        self, room_id: str, event_id: str, receipt_type: str = "m.read", thread_id: str | None = None
    ) -> None:
        """Say that all up to the event has been read."""
        await self.request(
            "receipt", _given(room_id=room_id, event_id=event_id, receipt_type=receipt_type, thread_id=thread_id)
        )

    async def read_markers(
        self, room_id: str, *, fully_read: str | None = None, read: str | None = None, read_private: str | None = None
    ) -> None:
        """Set the fully read marker and the receipts to events."""
        markers = {"m.fully_read": fully_read, "m.read": read, "m.read.private": read_private}
        await self.request("read_markers", _given(room_id=room_id, **markers))

    async def presence(self, presence: str, status_msg: str | None = None) -> None:
        """Say how present we are: `online`, `unavailable` or `offline`."""
        await self.request("presence", _given(presence=presence, status_msg=status_msg))

    async def messages(
        self,
        room_id: str,
        *,
        direction: str = "b",
        start: str | None = None,
        end: str | None = None,
        limit: int | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return a page of a room's history, as `/messages`: `chunk`, `start`, and `end` where there is more.

        `direction` is `b`, newest first, or `f`.
        """
        page = {"dir": direction, "from": start, "to": end, "limit": limit, "filter": filter}
        return await self.request("messages", _given(room_id=room_id, **page))

    async def to_device(
        self,
        event_type: str,
        messages: Mapping[str, Mapping[str, Mapping[str, Any]]],
        *,
        transaction_id: str | None = None,
    ) -> None:
        """Send messages to devices: user ID to device ID, or `*`, to content."""
        params = {"event_type": event_type, "messages": messages}
        await self.request("to_device", params, request_id=transaction_id)

    async def set_filter(self, filter: Mapping[str, Any] | str | None) -> None:
        """Filter from the next update on; None is no filter."""
        self._filter = filter
        await self.request("sync", {"filter": filter})

    async def set_presence(self, presence: str) -> None:
        """Set what presence this connection stands for, and those after it."""
        self._set_presence = presence
        await self.request("sync", {"set_presence": presence})

    async def ping(self) -> None:
        """Return when the server has answered."""
        await self.request("ping")

    # -- over HTTP ----------------------------------------------------------------------------------------------------

    async def call(
        self, method: str, path: str, content: Any = None, *, query: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Call any endpoint of the client-server API over HTTP, `path` being below `/_matrix/client/v3`.

        Raises StreamError if it is refused, and what Twisted raises if there is no answer. ValueError over lines.
        """
        if self._http is None:
            self._http = HTTP(self._reactor, self._address, self._trust, user_agent=self._user_agent)
        http = self._http
        return await self._patiently(lambda: http.call(method, path, content, token=self._token, query=query))

    async def join(self, room_id_or_alias: str, *, via: Sequence[str] = ()) -> str:
        """Join a room, over HTTP, and return its ID. Without an answer it is tried again, like other requests.

        ValueError over lines.
        """
        path, query = f"/join/{segment(room_id_or_alias)}", {"via": via} if via else None
        backoff = Backoff(FIRST_WAIT_S, LONGEST_WAIT_S, chance=chance)
        while True:
            try:
                return str((await self.call("POST", path, {}, query=query)).get("room_id", room_id_or_alias))
            except NO_ANSWER:
                if self._link.has_ended:
                    raise
                await self._sleep(backoff.next_s())

    # -- what the parts ask -------------------------------------------------------------------------------------------

    def _auth(self) -> Mapping[str, Any]:
        return _given(
            access_token=self._token,
            since=self._inbox.rewind(),
            filter=self._filter,
            set_presence=self._set_presence,
            use_state_after=self._use_state_after or None,
        )

    async def _patiently(self, ask: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """Ask; where that is too often, again when the server says so, while patience lasts."""
        deadline = self._reactor.seconds() + self._patience_s
        while True:
            try:
                return await ask()
            except StreamError as error:
                wait_ms = error.retry_after_ms
                if wait_ms is None or self._reactor.seconds() + wait_ms / 1000 > deadline:
                    raise
                await self._sleep(wait_ms / 1000)

    async def _sleep(self, seconds: float) -> None:
        await deferLater(self._reactor, seconds, lambda: None)

    async def _refreshed(self) -> bool:
        if self._refresh is None:
            return False
        self._token = await self._refresh()
        return True

    def _dealt_with(self, update: Update) -> None:
        if update.get("to_device"):
            self._requests.tell("ack", {"next_batch": update["next_batch"]})

    def _flow(self) -> None:
        self._link.flow()


def _look_away(_state: LinkState) -> None:
    """Nobody wants to know."""


def _event_id(result: Mapping[str, Any]) -> str:
    return str(result.get("event_id", ""))


def _given(**params: Any) -> dict[str, Any]:
    """Return the parameters that there are."""
    return {name: value for name, value in params.items() if value is not None}
