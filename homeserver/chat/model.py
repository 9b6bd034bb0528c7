"""What the chat knows: its rooms and the people in them, folded from the updates of the stream.

Each update is applied whole by `Model.fold`, which returns what in it is to be told. The model holds what is needed to
show it, and it can be written down and read again together with the token of its last update (`snapshot`, `restore`):
a chat that is started again goes on from there. Messages are not written down; they are loaded when a room is opened.

Pure, and total: what has another shape than the spec says is passed over.

Spec: client-server API, "Syncing", the response of GET /sync; docs/stream.md for what updates promise beyond.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from . import text
from .naming import Members, room_name
from .timeline import Event, Message, Timeline, parse_events

Json = dict[str, Any]

# State that the chat shows or goes by; the rest is not kept.
_KEPT_STATE: Final = frozenset(
    {"m.room.name", "m.room.canonical_alias", "m.room.topic", "m.room.encryption", "m.room.tombstone", "m.room.create"}
)
# LIMIT: of one room.
_MAX_TYPING: Final = 100
_MAX_RECEIPTS: Final = 5000


@dataclass(slots=True)
class Presence:
    """Whether somebody is there. `status` is neutralised."""

    presence: str
    status: str


@dataclass(slots=True)
class Room:
    """A room that we are in, or invited to."""

    room_id: str
    membership: str
    timeline: Timeline = field(default_factory=Timeline)
    members: Members = field(default_factory=Members)
    # (type, state key) -> content, of `_KEPT_STATE`.
    state: dict[tuple[str, str], Json] = field(default_factory=dict)
    heroes: list[str] = field(default_factory=list)
    joined: int = 0
    invited: int = 0
    unread: int = 0
    highlights: int = 0
    typing: list[str] = field(default_factory=list)
    # User ID -> event ID that they have read up to.
    receipts: dict[str, str] = field(default_factory=dict)
    inviter: str | None = None
    is_direct: bool = False
    last_ts_ms: int = 0

    @property
    def is_encrypted(self) -> bool:
        """Whether messages have to be encrypted here."""
        return ("m.room.encryption", "") in self.state

    @property
    def topic(self) -> str:
        """The topic on one line."""
        return text.one_line(self._state("m.room.topic").get("topic"))

    @property
    def alias(self) -> str:
        """The canonical alias, or nothing."""
        return text.one_line(self._state("m.room.canonical_alias").get("alias"), 255)

    def name(self, own_user_id: str) -> str:
        """Return what to call the room, from our point of view."""
        others = self.heroes or [user_id for user_id in self.members.present() if user_id != own_user_id]
        joined, invited = self.joined, self.invited
        if self.membership == "invite":
            # An invite has no counts; who invites is there.
            joined, invited = 1, len(others)
        return room_name(
            name=self._state("m.room.name").get("name"),
            alias=self._state("m.room.canonical_alias").get("alias"),
            heroes=[self.members.shown(user_id) for user_id in others],
            joined=joined,
            invited=invited,
        )

    def readers(self, event_id: str, own_user_id: str) -> list[str]:
        """Return who else has read up to an event."""
        return [user for user, read in self.receipts.items() if read == event_id and user != own_user_id]

    def _state(self, kind: str) -> Json:
        return self.state.get((kind, ""), {})


@dataclass(slots=True)
class News:
    """What an update tells: new or edited messages and invites by room ID, and rooms we are out of, with the reason."""

    messages: dict[str, list[Message]] = field(default_factory=dict)
    invites: list[str] = field(default_factory=list)
    left: list[tuple[Room, str]] = field(default_factory=list)


class Model:
    """All that is known of one account."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.rooms: dict[str, Room] = {}
        self.presence: dict[str, Presence] = {}
        self.direct: dict[str, list[str]] = {}
        self.next_batch: str | None = None

    # -- reading -----------------------------------------------------------------------------------------------------

    def name_of(self, room: Room) -> str:
        """Return what to call a room."""
        return room.name(self.user_id)

    def listed(self) -> list[Room]:
        """Return all rooms in the order of the list: invites, then the one with the newest message first."""
        return sorted(
            self.rooms.values(), key=lambda room: (room.membership != "invite", -room.last_ts_ms, room.room_id)
        )

    def partner(self, room: Room) -> str | None:
        """Return the one other person of a room for two."""
        if not room.is_direct:
            return None
        others = [user_id for user_id in (room.heroes or room.members.present()) if user_id != self.user_id]
        return others[0] if len(others) == 1 else None

    def is_online(self, user_id: str) -> bool:
        """Whether somebody is there now."""
        known = self.presence.get(user_id)
        return known is not None and known.presence == "online"

    def direct_room(self, user_id: str) -> Room | None:
        """Return a room for us and somebody else that we are in."""
        for room_id in self.direct.get(user_id, ()):
            room = self.rooms.get(room_id)
            if room is not None and room.membership == "join":
                return room
        return None

    # -- folding -----------------------------------------------------------------------------------------------------

    def fold(self, update: Mapping[str, Any]) -> News:
        """Apply an update."""
        news = News()
        for event in _objects(_member(update, "account_data"), "events"):
            if event.get("type") == "m.direct":
                self._learn_direct(_member(event, "content"))
        for event in _objects(_member(update, "presence"), "events"):
            self._learn_presence(event)
        rooms = _member(update, "rooms")
        for room_id, told in _rooms(rooms, "join"):
            self._learn_joined(room_id, told, news)
        for room_id, told in _rooms(rooms, "invite"):
            self._learn_invite(room_id, told, news)
        for room_id, told in _rooms(rooms, "leave"):
            self._learn_left(room_id, told, news)
        next_batch = update.get("next_batch")
        if isinstance(next_batch, str):
            self.next_batch = next_batch
        return news

    def read_up_to(self, room: Room, event_id: str) -> None:
        """Remember that we have read a room; the server will say the same."""
        room.receipts[self.user_id] = event_id
        room.unread = room.highlights = 0

    def learn_members(self, room: Room, events: object) -> None:
        """Take the memberships that come with a page of history; those that are known are newer."""
        for event in parse_events(events):
            if event.type == "m.room.member" and event.state_key not in room.members.memberships:
                _learn_state(room, event)

    def forget(self) -> None:
        """Know nothing any more but who we are."""
        self.rooms.clear()
        self.presence.clear()
        self.direct.clear()
        self.next_batch = None

    def _learn_joined(self, room_id: str, told: Json, news: News) -> None:
        room = self._room(room_id, "join")
        summary = _member(told, "summary")
        heroes = summary.get("m.heroes")
        if isinstance(heroes, list):
            room.heroes = [hero for hero in heroes if isinstance(hero, str)]
        room.joined = _count(summary, "m.joined_member_count", room.joined)
        room.invited = _count(summary, "m.invited_member_count", room.invited)
        for event in parse_events(_member(told, "state").get("events")):
            _learn_state(room, event)
        timeline = _member(told, "timeline")
        events = parse_events(timeline.get("events"))
        for event in events:
            _learn_state(room, event)
            room.last_ts_ms = max(room.last_ts_ms, event.ts_ms)
        prev_batch = timeline.get("prev_batch")
        messages = room.timeline.add(
            events,
            older=prev_batch if isinstance(prev_batch, str) else None,
            is_limited=timeline.get("limited") is True,
        )
        if messages:
            news.messages[room_id] = messages
        counts = _member(told, "unread_notifications")
        room.unread = _count(counts, "notification_count", room.unread)
        room.highlights = _count(counts, "highlight_count", room.highlights)
        for event_json in _objects(_member(told, "ephemeral"), "events"):
            _learn_ephemeral(room, event_json)

    def _learn_invite(self, room_id: str, told: Json, news: News) -> None:
        room = Room(room_id, "invite", is_direct=False)
        for event in _objects(_member(told, "invite_state"), "events"):
            # Stripped state has no event IDs.
            kind, state_key, content = event.get("type"), event.get("state_key"), event.get("content")
            if not (isinstance(kind, str) and isinstance(state_key, str) and isinstance(content, dict)):
                continue
            if kind == "m.room.member":
                room.members.learn(state_key, content)
                if state_key == self.user_id:
                    sender = event.get("sender")
                    room.inviter = sender if isinstance(sender, str) else None
                    room.is_direct = content.get("is_direct") is True
            elif kind in _KEPT_STATE:
                room.state[kind, state_key] = content
        self.rooms[room_id] = room
        news.invites.append(room_id)

    def _learn_left(self, room_id: str, told: Json, news: News) -> None:
        room = self.rooms.pop(room_id, None)
        if room is None:
            return
        why = ""
        events = _objects(_member(told, "timeline"), "events") + _objects(_member(told, "state"), "events")
        for event in events:
            if event.get("type") == "m.room.member" and event.get("state_key") == self.user_id:
                content, sender = _member(event, "content"), event.get("sender")
                if isinstance(sender, str) and sender != self.user_id:
                    verb = "banned" if content.get("membership") == "ban" else "removed"
                    reason = text.one_line(content.get("reason"))
                    why = f"{room.members.shown(sender)} has {verb} you" + (f": {reason}" if reason else "")
        news.left.append((room, why))

    def _room(self, room_id: str, membership: str) -> Room:
        room = self.rooms.get(room_id)
        if room is None or room.membership != membership:
            room = self.rooms[room_id] = Room(room_id, membership)
            room.is_direct = any(room_id in rooms for rooms in self.direct.values())
        return room

    def _learn_direct(self, content: Json) -> None:
        self.direct = {
            user_id: [room_id for room_id in rooms if isinstance(room_id, str)]
            for user_id, rooms in content.items()
            if isinstance(rooms, list)
        }
        direct = {room_id for rooms in self.direct.values() for room_id in rooms}
        for room in self.rooms.values():
            if room.membership == "join":
                room.is_direct = room.room_id in direct

    def _learn_presence(self, event: Json) -> None:
        sender, content = event.get("sender"), _member(event, "content")
        presence = content.get("presence")
        if event.get("type") == "m.presence" and isinstance(sender, str) and isinstance(presence, str):
            self.presence[sender] = Presence(presence, text.one_line(content.get("status_msg"), 100))

    # -- written down ------------------------------------------------------------------------------------------------

    def snapshot(self) -> Json:
        """Return what `restore` needs: JSON in the shape of an update, without messages."""
        joined: Json = {}
        for room in self.rooms.values():
            if room.membership == "join":
                joined[room.room_id] = {
                    "summary": {
                        "m.heroes": room.heroes,
                        "m.joined_member_count": room.joined,
                        "m.invited_member_count": room.invited,
                    },
                    "state": {"events": list(_written_state(room))},
                    "unread_notifications": {"notification_count": room.unread, "highlight_count": room.highlights},
                    "last_ts_ms": room.last_ts_ms,
                }
        invited = {
            room.room_id: {"invite_state": {"events": list(_written_state(room))}}
            for room in self.rooms.values()
            if room.membership == "invite"
        }
        return {
            "next_batch": self.next_batch,
            "account_data": {"events": [{"type": "m.direct", "content": self.direct}]},
            "rooms": {"join": joined, "invite": invited},
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take what `snapshot` returned."""
        self.fold(snapshot)
        for room_id, told in _rooms(_member(snapshot, "rooms"), "join"):
            self.rooms[room_id].last_ts_ms = _count(told, "last_ts_ms", 0)


def _learn_state(room: Room, event: Event) -> None:
    if event.state_key is None:
        return
    if event.type == "m.room.member":
        room.members.learn(event.state_key, dict(event.content))
    elif event.type in _KEPT_STATE:
        room.state[event.type, event.state_key] = dict(event.content)


def _learn_ephemeral(room: Room, event: Json) -> None:
    content = _member(event, "content")
    if event.get("type") == "m.typing":
        users = content.get("user_ids")
        room.typing = [user for user in users if isinstance(user, str)][:_MAX_TYPING] if isinstance(users, list) else []
    elif event.get("type") == "m.receipt":
        for event_id, kinds in content.items():
            for user_id in _member(kinds, "m.read") if isinstance(kinds, dict) else ():
                if len(room.receipts) < _MAX_RECEIPTS or user_id in room.receipts:
                    room.receipts[user_id] = event_id


def _written_state(room: Room) -> Iterator[Json]:
    number = 0
    for (kind, state_key), content in room.state.items():
        number += 1
        yield {"type": kind, "state_key": state_key, "content": content, "sender": "", "event_id": f"${number}"}
    for user_id, membership in room.members.memberships.items():
        number += 1
        content = {"membership": membership, "displayname": room.members.displayname(user_id)}
        if membership == "invite" and room.is_direct:
            content["is_direct"] = True
        sender = room.inviter or ""
        yield {
            "type": "m.room.member",
            "state_key": user_id,
            "content": content,
            "sender": sender,
            "event_id": f"${number}",
        }


def _member(value: Mapping[str, Any], key: str) -> Json:
    """Return a member that is an object, else an empty one."""
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _objects(value: Json, key: str) -> list[Json]:
    found = value.get(key)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _rooms(rooms: Json, membership: str) -> list[tuple[str, Json]]:
    return [(room_id, told) for room_id, told in _member(rooms, membership).items() if isinstance(told, dict)]


def _count(value: Json, key: str, otherwise: int) -> int:
    found = value.get(key)
    return found if isinstance(found, int) and found >= 0 else otherwise
