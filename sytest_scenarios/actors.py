"""Who acts in a story: `User`, one person at one device; `Server`, where they live; `Room`, where they meet.

The verbs of a `User` are what a person does with a client. Each asks the server as the client-server API says, fails
with a sentence if that does not succeed, and puts a line into the report. What has no verb is asked for as `session`
says.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from .asking import JsonObject, ask, media_parts, objects, text, unhurried
from .expect import Failed, shown
from .http import Answer, path_of
from .journal import Journal, Step
from .session import Session

if TYPE_CHECKING:
    from .host import Host
    from .stream import Stream

_TRANSACTIONS: Final = count(1)


@dataclass(frozen=True, slots=True)
class Room:
    """A room, by its ID."""

    id: str

    def path(self, *parts: str) -> str:
        """Return the path of something of this room: `room.path("state", "m.room.topic", "")`."""
        return path_of("rooms", self.id, *parts)

    def __str__(self) -> str:
        """Return the room ID."""
        return self.id


@dataclass(frozen=True, slots=True)
class Server:
    """A server, as one story sees it."""

    host: Host
    journal: Journal

    @property
    def name(self) -> str:
        """The server name, known after the first user was made."""
        return self.host.server_name

    @property
    def url(self) -> str:
        """The base of the client-server API."""
        return self.host.url

    async def request(self, method: str, path: str, body: Any = None, *, who: str = "Somebody", **how: Any) -> Answer:
        """Ask without being anybody, and return the answer; the keywords are those of `ask`."""
        return await ask(self.host.web, self.journal, who, self.url, method, path, body, **how)

    async def get(self, path: str, **query: Any) -> JsonObject:
        """Return the JSON object that anybody gets."""
        return (await unhurried(self.host, self.journal, lambda: self.request("GET", path, query=query))).good()

    async def kill(self) -> None:
        """Kill it (kill -9). The story must need OWN_SERVER."""
        self.journal.add(Step(f"{self.name} is killed", time.time()))
        await self.host.kill()

    async def stop(self) -> None:
        """Stop it as an operator does. The story must need OWN_SERVER."""
        self.journal.add(Step(f"{self.name} is stopped", time.time()))
        await self.host.stop()

    async def start(self) -> None:
        """Start it again after `kill` or `stop`, with what it has stored."""
        self.journal.add(Step(f"{self.name} is started", time.time()))
        await self.host.start()


@dataclass(slots=True)
class User(Session):
    """A person at a device."""

    # -- sessions ----------------------------------------------------------------------------------------------------

    async def log_in(self, name: str | None = None, *, device_id: str | None = None, **more: Any) -> User:
        """Log in once more, with the password, and return this person at the new device."""
        shown_name = name or f"{self.name} (again)"
        self._does(f"logs in as {shown_name}")
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.localpart},
            "password": self.password,
            **({} if device_id is None else {"device_id": device_id}),
            **more,
        }
        server = self.server
        found = (
            await unhurried(server.host, server.journal, lambda: server.request("POST", "/login", body, who=shown_name))
        ).good()
        return User(
            shown_name,
            self.server,
            text(found, "user_id"),
            self.password,
            text(found, "access_token"),
            text(found, "device_id"),
            refresh_token=found.get("refresh_token"),
        )

    async def confirm(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> JsonObject:
        """Ask for what needs the password once more, give it, and return the JSON object of the success.

        Spec: client-server API, "User-Interactive Authentication API".
        """
        asked = await self.request(method, path, dict(body or {}))
        if asked.status != 401 or not isinstance(asked.json, dict) or "session" not in asked.json:
            raise Failed(f"{asked.request} to ask for the password", shown(asked.good()))
        proof = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.localpart},
            "password": self.password,
            "session": text(asked.json, "session"),
        }
        return await self.call(method, path, {**(body or {}), "auth": proof})

    async def log_out(self) -> None:
        """End this session."""
        self._does("logs out")
        await self.post("/logout")

    # -- rooms -------------------------------------------------------------------------------------------------------

    async def create_room(self, *, invite: Iterable[User | str] = (), **settings: Any) -> Room:
        """Make a room; the settings are those of `POST /createRoom` (preset, name, topic, initial_state, …)."""
        self._does("makes a room")
        body = {**settings, "invite": [_id(each) for each in invite]}
        return Room(text(await self.post("/createRoom", body), "room_id"))

    async def create_room_with(self, *others: User, **settings: Any) -> Room:
        """Make a room, invite the others, and have them join."""
        room = await self.create_room(invite=others, **settings)
        for each in others:
            await each.join(room, via=self.server)
        return room

    async def create_open_room_with(self, *others: User, **settings: Any) -> Room:
        """Make a room that everybody may join, and have the others join: they are not notified of any invite."""
        room = await self.create_room(**{"preset": "public_chat", **settings})
        for each in others:
            await each.join(room, via=self.server)
        return room

    async def join(self, room: Room | str, *, via: Server | None = None) -> Room:
        """Join a room by its object, ID or alias; from another server, through `via`."""
        self._does(f"joins {room}")
        far = via is not None and via.host is not self.server.host
        query = {"via": via.name, "server_name": via.name} if via is not None and far else {}
        return Room(text(await self.post(path_of("join", str(room)), **query), "room_id"))

    async def leave(self, room: Room) -> None:
        """Leave, or decline an invite."""
        self._does(f"leaves {room}")
        await self.post(room.path("leave"))

    async def invite(self, room: Room, other: User | str, *, reason: str | None = None) -> None:
        """Invite."""
        await self._about("invite", room, other, reason)

    async def knock(self, room: Room, *, reason: str | None = None) -> None:
        """Ask to be let in."""
        self._does(f"knocks on {room}")
        await self.post(path_of("knock", room.id), {} if reason is None else {"reason": reason})

    async def kick(self, room: Room, other: User | str, *, reason: str | None = None) -> None:
        """Kick, or take back an invite."""
        await self._about("kick", room, other, reason)

    async def ban(self, room: Room, other: User | str, *, reason: str | None = None) -> None:
        """Ban."""
        await self._about("ban", room, other, reason)

    async def unban(self, room: Room, other: User | str, *, reason: str | None = None) -> None:
        """Unban."""
        await self._about("unban", room, other, reason)

    async def members(self, room: Room) -> dict[str, str]:
        """Return the membership of everybody who ever was in the room, by user ID, as the server tells it now."""
        found = (await self.get(room.path("members"))).get("chunk")
        return {text(each, "state_key"): text(each.get("content", {}), "membership") for each in objects(found)}

    # -- events ------------------------------------------------------------------------------------------------------

    async def say(self, room: Room, words: str, **content: Any) -> str:
        """Say something in the room; returns the event ID. More members of the content by keyword."""
        self._does(f"says {shown(words)}")
        return await self._send(room, "m.room.message", {"msgtype": "m.text", "body": words, **content})

    async def send(
        self, room: Room, event_type: str, content: Mapping[str, Any], *, transaction_id: str | None = None
    ) -> str:
        """Send an event and return its ID."""
        self._does(f"sends {event_type}")
        return await self._send(room, event_type, content, transaction_id)

    async def redact(self, room: Room, event_id: str, *, reason: str | None = None) -> str:
        """Redact an event; returns the ID of the redaction."""
        self._does("redacts an event")
        body = {} if reason is None else {"reason": reason}
        return text(await self.put(room.path("redact", event_id, _transaction()), body), "event_id")

    async def react(self, room: Room, event_id: str, key: str) -> str:
        """React to an event with an emoji; returns the ID of the reaction."""
        self._does(f"reacts with {key}")
        relation = {"rel_type": "m.annotation", "event_id": event_id, "key": key}
        return await self._send(room, "m.reaction", {"m.relates_to": relation})

    async def edit(self, room: Room, event_id: str, words: str, **content: Any) -> str:
        """Say that a message of before should have been these words; returns the ID of the edit."""
        self._does(f"edits a message to {shown(words)}")
        relation = {"rel_type": "m.replace", "event_id": event_id}
        new = {"msgtype": "m.text", "body": words, **content}
        edit = {"msgtype": "m.text", "body": f"* {words}", "m.new_content": new, "m.relates_to": relation}
        return await self._send(room, "m.room.message", edit)

    async def say_in_thread(self, room: Room, root: str, words: str) -> str:
        """Say something in the thread under an event; returns the event ID."""
        return await self.say(room, words, **{"m.relates_to": {"rel_type": "m.thread", "event_id": root}})

    async def related(self, room: Room, event_id: str, *kinds: str, **query: Any) -> JsonObject:
        """Return a page of what relates to an event, newest first; the kinds are a relation type and an event type."""
        return await self.get(f"/_matrix/client/v1{room.path('relations', event_id, *kinds)}", **query)

    async def set_state(self, room: Room, event_type: str, content: Mapping[str, Any], state_key: str = "") -> str:
        """Set state of the room and return the event ID."""
        self._does(f"sets {event_type}")
        return text(await self.put(room.path("state", event_type, state_key), dict(content)), "event_id")

    async def state(self, room: Room, event_type: str, state_key: str = "") -> JsonObject:
        """Return the content of a state event, as the server tells it now."""
        return await self.get(room.path("state", event_type, state_key))

    async def whole_state(self, room: Room) -> dict[tuple[str, str], JsonObject]:
        """Return all state events by type and state key, as the server tells them now."""
        answer = await self.request("GET", room.path("state"))
        if answer.status != 200:
            answer.good()
        return {(text(each, "type"), str(each.get("state_key"))): each for each in objects(answer.json)}

    async def set_power(self, room: Room, *levels_of: tuple[User, int], **levels: Any) -> None:
        """Change power levels and leave the rest: `set_power(room, (bob, 50), ban=60, events={"m.room.topic": 0})`."""
        content = await self.state(room, "m.room.power_levels")
        levels["users"] = {each.user_id: level for each, level in levels_of}
        for key, level in levels.items():
            content[key] = {**content.get(key, {}), **level} if isinstance(level, dict) else level
        await self.set_state(room, "m.room.power_levels", content)

    async def event(self, room: Room, event_id: str) -> JsonObject:
        """Return an event."""
        return await self.get(room.path("event", event_id))

    async def history(self, room: Room, *, limit: int = 100, **query: Any) -> list[JsonObject]:
        """Return the newest events of the room, oldest first."""
        found = await self.get(room.path("messages"), dir="b", limit=limit, **query)
        return objects(found.get("chunk"))[::-1]

    async def texts(self, room: Room) -> list[str]:
        """Return what was said in the room, oldest first, as the server's history tells it."""
        found = await self.history(room)
        return [each["content"]["body"] for each in found if "body" in each.get("content", {})]

    # -- reading -----------------------------------------------------------------------------------------------------

    async def read(self, room: Room, event_id: str, *, kind: str = "m.read", **body: Any) -> None:
        """Send a receipt: everything up to this event is read."""
        self._does("reads up to an event")
        await self.post(room.path("receipt", kind, event_id), body)

    async def type(self, room: Room, *, typing: bool = True, for_ms: int = 30_000) -> None:
        """Begin or stop typing."""
        self._does("types" if typing else "stops typing")
        body = {"typing": typing, **({"timeout": for_ms} if typing else {})}
        await self.put(room.path("typing", self.user_id), body)

    def stream(self, **parameters: Any) -> Stream:
        """Return the WebSocket of docs/stream.md, to be opened with `async with`; parameters as of /sync."""
        from .stream import Stream

        return Stream(self, parameters)

    # -- the person --------------------------------------------------------------------------------------------------

    async def set_profile(self, key: str, value: Any) -> None:
        """Set a field of the profile: displayname, avatar_url, …"""
        self._does(f"sets {key} to {shown(value)}")
        await self.put(path_of("profile", self.user_id, key), {key: value})

    async def profile(self, other: User) -> JsonObject:
        """Return somebody's profile."""
        return await self.get(path_of("profile", other.user_id))

    async def set_account_data(self, event_type: str, content: Mapping[str, Any], *, room: Room | None = None) -> None:
        """Keep something on the server, for oneself; for a room if one is said."""
        self._does(f"keeps {event_type}")
        await self.put(self._account_data(event_type, room), dict(content))

    async def account_data(self, event_type: str, *, room: Room | None = None) -> JsonObject:
        """Return what was kept."""
        return await self.get(self._account_data(event_type, room))

    # -- media -------------------------------------------------------------------------------------------------------

    async def upload(self, content: bytes, content_type: str, *, filename: str | None = None) -> str:
        """Upload a file and return its mxc: URI."""
        self._does(f"uploads {len(content)} bytes of {content_type}")
        answer = await self._unhurried(
            "POST",
            "/_matrix/media/v3/upload",
            content,
            query={"filename": filename},
            headers={"Content-Type": content_type},
        )
        return text(answer.good(), "content_uri")

    async def download(self, uri: str, *more: str, **query: Any) -> Answer:
        """Download a file of an mxc: URI; Refused unless that succeeds."""
        path = f"/_matrix/client/v1/media/download{path_of(*media_parts(uri), *more)}"
        answer = await self._unhurried("GET", path, query=query)
        if answer.status != 200:
            answer.good()
        return answer

    async def thumbnail(self, uri: str, width: int, height: int, **query: Any) -> Answer:
        """Download a thumbnail of a picture; Refused unless that succeeds."""
        path = f"/_matrix/client/v1/media/thumbnail{path_of(*media_parts(uri))}"
        answer = await self.request("GET", path, query={"width": width, "height": height, **query})
        if answer.status != 200:
            answer.good()
        return answer

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _send(
        self, room: Room, event_type: str, content: Mapping[str, Any], transaction_id: str | None = None
    ) -> str:
        path = room.path("send", event_type, transaction_id or _transaction())
        return text(await self.put(path, dict(content)), "event_id")

    async def _about(self, verb: str, room: Room, other: User | str, reason: str | None) -> None:
        self._does(f"{verb}s {other}")
        more = {} if reason is None else {"reason": reason}
        await self.post(room.path(verb), {"user_id": _id(other), **more})

    def _account_data(self, event_type: str, room: Room | None) -> str:
        of_room = [] if room is None else ["rooms", room.id]
        return path_of("user", self.user_id, *of_room, "account_data", event_type)


def initial(event_type: str, content: Mapping[str, Any], state_key: str = "") -> JsonObject:
    """Return a state event for the `initial_state` of a room that is made."""
    return {"type": event_type, "state_key": state_key, "content": dict(content)}


def _id(user: User | str) -> str:
    return user if isinstance(user, str) else user.user_id


def _transaction() -> str:
    return f"s{next(_TRANSACTIONS)}.{time.time_ns()}"
