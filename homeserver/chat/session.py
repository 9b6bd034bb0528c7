"""An account that is logged in: its model, kept up to date by the stream, and all that it can do.

What has a method of the stream goes over the stream, the rest over HTTP; this module alone knows which. Errors come
out as `ChatError`, with a sentence for the user.

Spec: docs/stream.md; client-server API, the sections of the endpoints.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure

from homeserver.streamclient import LinkState, StreamClient, StreamEnded, StreamError, to_device_messages

from . import text
from .commands import alias_localpart
from .http import USER_AGENT, ChatError, Http, Refused, Unreachable, refusal_text
from .login import log_out
from .model import Model, News, Room
from .naming import full_alias, full_user_id
from .saved import SavedSession, SavedSessions
from .timeline import FROM_NEWEST, parse_events

# What is asked of the stream.
FILTER: Final = {
    "room": {
        "timeline": {"limit": 30, "lazy_load_members": True},
        "state": {"lazy_load_members": True},
    }
}
PAGE: Final = 50
# LIMIT: pages of history that are gone through for the sake of one message that is not known yet.
MAX_PAGES: Final = 40
# How long others believe that we type, and after which time we say it again.
TYPING_TIMEOUT_MS: Final = 20_000
TYPING_AGAIN_S: Final = 8.0
SAVE_AFTER_S: Final = 10.0
# The answer to a send and the event itself come in any order.
RETURN_TIMEOUT_S: Final = 10.0
SETTLED_TIMEOUT_S: Final = 5.0
GOODBYE_TIMEOUT_S: Final = 2.0
# LIMIT: how many people's presence is asked for at a time.
MAX_ASKED: Final = 30
# A server takes no more than one presence in so many seconds, unless it is told otherwise.
PRESENCE_EVERY_S: Final = 10.0
MARK: Final = "org.sennit.chat.mark"

Answer = TypeVar("Answer")

_log = Logger()


class Listener(Protocol):
    """Who shows what happens."""

    def told(self, news: News) -> None:
        """There is an update, and the model holds it."""

    def connection(self, state: LinkState) -> None:
        """Something has become of the connection."""


class SessionEnded(ChatError):
    """The server has ended the session."""


class Session:
    """What an account knows and can do. `reactor` is where its timers run.

    `presence` is what its connections stand for, online unless it is said; with `offline` nobody sees them come and go.
    """

    def __init__(
        self, saved: SavedSession, store: SavedSessions, http: Http, reactor: Any, *, presence: str | None = None
    ) -> None:
        self.saved = saved
        self.model = Model(saved.user_id)
        self._store = store
        self._http = http
        self.reactor = reactor
        self._stream: StreamClient | None = None
        self._listener: Listener | None = None
        self._is_ended = False
        self._save_call: Any = None
        # Room ID -> when we last said that we type there.
        self._typing: dict[str, float] = {}
        self._being_read: set[str] = set()
        # Room ID -> the event up to which we have said that we have read.
        self._has_read: dict[str, str] = {}
        self._presence = presence
        # The presence and the status that were told last, and when.
        self._told_presence: tuple[str, str] | None = None
        self._told_presence_at = float("-inf")
        self._asked_presence: set[str] = set()
        # An initial sync tells who is there; `since` tells no more than changes.
        self._is_presence_known = saved.since is None
        self._waiting: list[Deferred[None]] = []
        self._is_ready = False
        self.is_connected = False
        self.unsent = 0
        self._sent: list[Deferred[None]] = []
        # What we wait for in the stream, by what is written on it.
        self._marks: dict[str, Deferred[None]] = {}
        # Event ID -> who waits for our own event to come back.
        self._returning: dict[str, Deferred[None]] = {}
        if saved.since is not None:
            self.model.restore(saved.snapshot)

    @property
    def user_id(self) -> str:
        """Who we are."""
        return self.saved.user_id

    # -- the stream --------------------------------------------------------------------------------------------------

    async def run(self, listener: Listener) -> None:
        """Keep the model up to date until `end`; raises SessionEnded when the server ends the session."""
        self._listener = listener
        while True:
            try:
                await self._run_stream(listener)
                return
            except StreamEnded as error:
                if self._is_ended:
                    return
                if error.errcode == "M_INVALID_PARAM" and self.model.next_batch is not None:
                    # A place that the server does not know: its database is another one. The session may be good.
                    self.model.forget()
                    continue
                if error.errcode in ("M_UNKNOWN_TOKEN", "M_USER_DEACTIVATED"):
                    self._forget()
                    raise SessionEnded("You have been logged out. Start again to log in.") from error
                raise SessionEnded(f"The connection has ended: {refusal_text(error)}") from error

    async def ready(self) -> None:
        """Wait until there is a connection, and the rooms are known."""
        if not self._is_ready:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            await waiting

    async def end(self) -> None:
        """Say that we are gone, close the stream, and remember the session."""
        self._is_ended = True
        self.save()
        if self._stream is not None:
            if self.is_connected and self.saved.access_token and self._presence != "offline":
                await self._within(GOODBYE_TIMEOUT_S, self._say_goodbye(self._stream))
            await self._stream.stop()

    async def settled(self) -> None:
        """Wait until the model holds all that the server knew when this was called.

        A message to our own device takes its place in the stream behind it.
        """
        mark = secrets.token_hex(16)
        marked = self._marks[mark] = Deferred()
        stream, device_id = self._need_stream(), self.saved.device_id
        messages = {self.user_id: {device_id: {"mark": mark}}}
        try:
            await self._done(stream.to_device(MARK, messages))
            await marked.addTimeout(SETTLED_TIMEOUT_S, self.reactor)
        except TimeoutError:
            # A device with a long inbox, or a server that is very busy; what comes later is told when it comes.
            pass
        finally:
            self._marks.pop(mark, None)

    async def log_out(self) -> None:
        """End the session on the server, and forget it here in any case."""
        self._is_ended = True
        self._forget()
        await log_out(self._http)

    def save(self) -> None:
        """Write down the place that is reached, with what is known there."""
        if self._save_call is not None and self._save_call.active():
            self._save_call.cancel()
        self._save_call = None
        if not self.saved.access_token:
            return
        self.saved.snapshot = self.model.snapshot()
        try:
            self._store.save(self.saved)
        except OSError as error:
            _log.warn("the session cannot be saved: {error}", error=error)

    async def _run_stream(self, listener: Listener) -> None:
        stream = StreamClient(
            self.saved.url,
            self.saved.access_token,
            reactor=self.reactor,
            since=self.model.next_batch,
            filter=FILTER,
            set_presence=self._presence,
            ca_file=self._http.ca_file,
            user_agent=USER_AGENT,
            watch=self._watch,
        )
        self._stream = stream
        async with stream:
            async for update in stream.updates():
                news = self.model.fold(update)
                listener.told(news)
                self._has_returned(news)
                self._have_come(update)
                self._is_ready_now()
                if self._save_call is None:
                    self._save_call = self.reactor.callLater(SAVE_AFTER_S, self.save)

    def _watch(self, state: LinkState) -> None:
        self.is_connected = state.is_connected
        if state.is_connected and self.model.next_batch is not None:
            self._is_ready_now()
        if self._listener is not None:
            self._listener.connection(state)

    def _has_returned(self, news: News) -> None:
        for messages in news.messages.values() if self._returning else ():
            for message in messages:
                waiting = self._returning.pop(message.event.event_id, None)
                if waiting is not None:
                    waiting.callback(None)

    def _have_come(self, update: dict[str, Any]) -> None:
        for message in to_device_messages(update) if self._marks else ():
            content = message.get("content")
            mark = content.get("mark") if message.get("type") == MARK and isinstance(content, dict) else None
            waiting = self._marks.pop(mark, None) if isinstance(mark, str) else None
            if waiting is not None:
                waiting.callback(None)

    async def _say_goodbye(self, stream: StreamClient) -> None:
        """Be offline at once, and not only after a while: this connection stands for nobody any more."""
        await self._done(stream.set_presence("offline"))
        if self.reactor.seconds() - self._told_presence_at >= PRESENCE_EVERY_S:
            known = self.model.presence.get(self.user_id)
            await self._done(stream.presence("offline", known.status if known is not None else ""))

    async def _within(self, seconds: float, work: Coroutine[Any, Any, None]) -> None:
        """Do something that is not worth much waiting, nor an error."""
        try:
            await Deferred.fromCoroutine(work).addTimeout(seconds, self.reactor)
        except (TimeoutError, CancelledError, ChatError):
            pass

    def _is_ready_now(self) -> None:
        if not self._is_ready and self._presence != "offline":
            partners = [self.model.partner(room) for room in self.model.listed()]
            users = [self.user_id, *(user_id for user_id in partners if user_id is not None)]
            Deferred.fromCoroutine(self.ask_presence(users)).addErrback(_not_known)
        self._is_ready = True
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    def _forget(self) -> None:
        self._store.forget(self.saved)
        self.saved.access_token = ""

    # -- what is said ------------------------------------------------------------------------------------------------

    async def say(self, room: Room, body: str, *, is_emote: bool = False) -> None:
        """Send a message, and return when it has come back as an event; it may wait for a connection."""
        if room.is_encrypted:
            raise ChatError("This room is encrypted, and this chat does not encrypt. Use another client here.")
        if room.room_id in self._typing:
            # Goes before the message, and nobody waits for it.
            Deferred.fromCoroutine(self._within(RETURN_TIMEOUT_S, self.typing(room, False)))
        # Spec: "User and room mentions": the member is there even if nobody is meant.
        mentioned = room.members.mentioned(body, self.user_id)
        content = {
            "msgtype": "m.emote" if is_emote else "m.text",
            "body": body,
            "m.mentions": {"user_ids": mentioned} if mentioned else {},
        }
        self.unsent += 1
        try:
            result = await self._ask("send", room_id=room.room_id, event_type="m.room.message", content=content)
        finally:
            self.unsent -= 1
            sent, self._sent = (self._sent, []) if not self.unsent else ([], self._sent)
            for each in sent:
                each.callback(None)
        event_id = result.get("event_id")
        if isinstance(event_id, str) and room.timeline.find(event_id) is None:
            waiting = self._returning[event_id] = Deferred()
            try:
                await waiting.addTimeout(RETURN_TIMEOUT_S, self.reactor)
            except TimeoutError:
                # It has been sent; that is all that matters.
                self._returning.pop(event_id, None)

    async def all_sent(self, seconds: float) -> bool:
        """Wait for the answers to what was said, where there is a connection; return whether all of it is sent."""
        if self.unsent and self.is_connected:
            sent: Deferred[None] = Deferred()
            self._sent.append(sent)
            try:
                await sent.addTimeout(seconds, self.reactor)
            except TimeoutError:
                self._sent.remove(sent)
        return not self.unsent

    async def typing(self, room: Room, is_typing: bool) -> None:
        """Tell that we type, or do no more; not more often than is worth it."""
        now = self.reactor.seconds()
        said = self._typing.get(room.room_id)
        if is_typing:
            if said is not None and now - said < TYPING_AGAIN_S:
                return
            self._typing[room.room_id] = now
            await self._ask("typing", room_id=room.room_id, typing=True, timeout=TYPING_TIMEOUT_MS)
        elif said is not None:
            del self._typing[room.room_id]
            await self._ask("typing", room_id=room.room_id, typing=False)

    async def read(self, room: Room) -> None:
        """Tell that we have read all of a room; one request at a time."""
        while room.room_id not in self._being_read:
            last = room.timeline.last()
            if last is None or self._has_read.get(room.room_id) == last.event.event_id:
                return
            event_id = last.event.event_id
            if not room.unread and (room.receipts.get(self.user_id) == event_id or last.event.sender == self.user_id):
                return
            self._has_read[room.room_id] = event_id
            self.model.read_up_to(room, event_id)
            self._being_read.add(room.room_id)
            try:
                await self._ask("read_markers", room_id=room.room_id, **{"m.fully_read": event_id, "m.read": event_id})
            finally:
                self._being_read.discard(room.room_id)

    async def set_presence(self, presence: str, status: str) -> None:
        """Tell whether we are there."""
        stream, now = self._need_stream(), self.reactor.seconds()
        if presence != self._presence:
            # For the connections to come.
            self._presence = presence
            await self._done(stream.set_presence(presence))
        if (presence, status) != self._told_presence or now - self._told_presence_at >= PRESENCE_EVERY_S:
            await self._done(stream.presence(presence, status))
            self._told_presence, self._told_presence_at = (presence, status), now

    async def ask_presence(self, users: Iterable[str]) -> None:
        """Ask who is there, of those of whom the stream has not told; no more than MAX_ASKED of them, and each once."""
        unknown = [user for user in users if user not in self._asked_presence and user not in self.model.presence]
        for user_id in unknown[:MAX_ASKED] if not self._is_presence_known else ():
            self._asked_presence.add(user_id)
            try:
                content = await self._http.ask("GET", "v3", "presence", user_id, "status")
            except Unreachable:
                self._asked_presence.discard(user_id)
                return
            except Refused:
                continue
            if user_id not in self.model.presence and self._listener is not None and not self._is_ended:
                event = {"type": "m.presence", "sender": user_id, "content": content}
                self._listener.told(self.model.fold({"presence": {"events": [event]}}))

    async def set_topic(self, room: Room, topic: str) -> None:
        """Set the topic of a room."""
        await self._ask("state", room_id=room.room_id, event_type="m.room.topic", content={"topic": topic})

    async def older(self, room: Room, *, is_wanted: Callable[[], bool] = lambda: True) -> int:
        """Load older messages; return how many, 0 at the beginning of the room."""
        for _page in range(MAX_PAGES):
            token = room.timeline.older
            if token is None:
                return 0
            params: dict[str, Any] = {"room_id": room.room_id, "dir": "b", "limit": PAGE}
            if token != FROM_NEWEST:
                params["from"] = token
            params["filter"] = {"lazy_load_members": True}
            page = await self._ask("messages", **params)
            self.model.learn_members(room, page.get("state"))
            end = page.get("end")
            if room.timeline.older != token:
                # Another page, or a new beginning, came in between.
                continue
            events = parse_events(page.get("chunk"))
            count = room.timeline.add_older(events, older=end if isinstance(end, str) and end != token else None)
            if count or not is_wanted():
                return count
        return 0

    # -- rooms -------------------------------------------------------------------------------------------------------

    async def join(self, typed: str) -> str:
        """Join a room by its ID or alias, and return its ID."""
        answer = await self._http.ask("POST", "v3", "join", full_alias(typed, self.user_id), body={})
        return _room_id(answer)

    async def accept(self, room: Room) -> None:
        """Accept an invite. A room for two is remembered as one."""
        await self._http.ask("POST", "v3", "join", room.room_id, body={})
        if room.is_direct and room.inviter is not None:
            await self._remember_direct(room.inviter, room.room_id)

    async def leave(self, room: Room) -> None:
        """Leave a room, or decline the invite to it."""
        await self._http.ask("POST", "v3", "rooms", room.room_id, "leave", body={})

    async def invite(self, room: Room, typed: str) -> str:
        """Invite somebody, and return the user ID."""
        user_id = full_user_id(typed, self.user_id)
        await self._http.ask("POST", "v3", "rooms", room.room_id, "invite", body={"user_id": user_id})
        return user_id

    async def create(self, name: str, *, is_public: bool) -> str:
        """Make a room and return its ID. A public one gets an alias, and is in the directory."""
        body: dict[str, Any] = {"name": name, "preset": "public_chat" if is_public else "private_chat"}
        if is_public:
            body["visibility"] = "public"
            if alias := alias_localpart(name):
                body["room_alias_name"] = alias
        return _room_id(await self._http.ask("POST", "v3", "createRoom", body=body))

    async def direct(self, typed: str) -> str:
        """Return the ID of a room for us and somebody else; it is made if there is none."""
        user_id = full_user_id(typed, self.user_id)
        if user_id == self.user_id:
            raise ChatError("That is you.")
        room = self.model.direct_room(user_id)
        if room is not None:
            return room.room_id
        body = {"preset": "trusted_private_chat", "is_direct": True, "invite": [user_id]}
        room_id = _room_id(await self._http.ask("POST", "v3", "createRoom", body=body))
        await self._remember_direct(user_id, room_id)
        return room_id

    async def who(self, room: Room) -> list[str]:
        """Return the user IDs of all who are in a room; the model then knows their names."""
        answer = await self._http.ask("GET", "v3", "rooms", room.room_id, "joined_members")
        joined = answer.get("joined")
        members = joined if isinstance(joined, dict) else {}
        for user_id, profile in members.items():
            named = profile.get("display_name") if isinstance(profile, dict) else None
            room.members.learn(user_id, {"membership": "join", "displayname": named})
        return sorted(members)

    async def set_name(self, displayname: str) -> None:
        """Set our display name."""
        path = ("v3", "profile", self.user_id, "displayname")
        await self._http.ask("PUT", *path, body={"displayname": displayname})

    async def _remember_direct(self, user_id: str, room_id: str) -> None:
        # Spec: "Direct Messaging": clients keep the list of these rooms, all of it in one piece.
        path = ("v3", "user", self.user_id, "account_data", "m.direct")
        try:
            content = await self._http.ask("GET", *path)
        except Refused as refusal:
            if refusal.errcode != "M_NOT_FOUND":
                raise
            content = {}
        rooms = content.get(user_id)
        known = rooms if isinstance(rooms, list) else []
        if room_id not in known:
            content[user_id] = [*known, room_id]
            await self._http.ask("PUT", *path, body=content)

    def _need_stream(self) -> StreamClient:
        if self._stream is None:
            raise ChatError("There is no connection yet.")
        return self._stream

    async def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._done(self._need_stream().request(method, params))

    @staticmethod
    async def _done(work: Awaitable[Answer]) -> Answer:
        try:
            return await work
        except StreamEnded as error:
            raise ChatError("There is no connection any more.") from error
        except StreamError as error:
            raise ChatError(refusal_text(error)) from error


def _not_known(failure: Failure) -> None:
    _log.failure("presence could not be asked for", failure)


def _room_id(answer: dict[str, Any]) -> str:
    room_id = answer.get("room_id")
    if not isinstance(room_id, str):
        raise ChatError(f"The server's answer names no room: {text.one_line(str(answer), 100)}")
    return room_id
