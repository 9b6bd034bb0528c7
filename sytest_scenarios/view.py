"""What a client knows after syncing: the answers of `/sync`, or the updates of a stream, merged as clients merge them.

A story asks it what a person would see: `view.room(room).texts`, `view.room(room).unread`, `view.invites`. What has not
been told is empty, so that a look at it never fails; an answer of the wrong shape fails with a sentence.

Spec: client-server API, "Syncing".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .expect import Failed, shown

MEMBERSHIPS: Final = ("join", "invite", "leave", "knock")


@dataclass(slots=True)
class RoomView:
    """One room, as the client knows it."""

    membership: str = ""
    """The section in which it was told last: join, invite, leave or knock."""
    timeline: list[dict[str, Any]] = field(default_factory=list)
    """All events told in the timeline, oldest first; after a gap (`limited`) what was before it stays."""
    state: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """State events by type and state key; of an invite, the stripped ones."""
    unread: int = 0
    highlights: int = 0
    account_data: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Contents by type: `m.fully_read`, `m.tag`, …"""
    receipts: dict[tuple[str, str], str] = field(default_factory=dict)
    """By type and user ID, the event ID of the unthreaded receipt."""
    typing: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    limited: bool = False
    """Whether the last timeline had a gap before it."""
    prev_batch: str | None = None
    """Where what came before the last timeline begins."""

    def event(self, event_id: str) -> dict[str, Any] | None:
        """Return an event of the timeline, the latest telling of it."""
        return next((each for each in reversed(self.timeline) if each.get("event_id") == event_id), None)

    def of_type(self, event_type: str) -> list[dict[str, Any]]:
        """Return the events of a type in the timeline, oldest first."""
        return [each for each in self.timeline if each.get("type") == event_type]

    @property
    def texts(self) -> list[str]:
        """The bodies of the messages in the timeline, oldest first."""
        return [str(content_of(each).get("body", "")) for each in self.of_type("m.room.message")]

    def content(self, event_type: str, state_key: str = "") -> dict[str, Any]:
        """Return the content of a state event; empty if there is none."""
        return content_of(self.state.get((event_type, state_key), {}))

    def member(self, user_id: str) -> str | None:
        """Return somebody's membership in the room."""
        found = self.content("m.room.member", user_id).get("membership")
        return found if isinstance(found, str) else None


@dataclass(slots=True)
class View:
    """Everything that a client was told."""

    since: str | None = None
    rooms: dict[str, RoomView] = field(default_factory=dict)
    account_data: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Contents by type: `m.direct`, `m.push_rules`, …"""
    presence: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Contents by user ID."""
    to_device: list[dict[str, Any]] = field(default_factory=list)
    devices_changed: list[str] = field(default_factory=list)
    devices_left: list[str] = field(default_factory=list)
    key_counts: dict[str, int] = field(default_factory=dict)
    syncs: int = 0

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> View:
        """Return what a client knows that was told this one answer and nothing before it."""
        view = cls()
        view.merge(answer)
        return view

    def room(self, room: object) -> RoomView:
        """Return what is known of a room (a Room or its ID); nothing is known of one that was not told."""
        return self.rooms.get(str(room), RoomView())

    def in_membership(self, membership: str) -> list[str]:
        """Return the IDs of the rooms told as joined, invited, left or knocked."""
        return [room_id for room_id, each in self.rooms.items() if each.membership == membership]

    @property
    def joined(self) -> list[str]:
        """The IDs of the rooms that the user is in."""
        return self.in_membership("join")

    @property
    def invites(self) -> list[str]:
        """The IDs of the rooms that the user is invited to."""
        return self.in_membership("invite")

    def merge(self, update: Mapping[str, Any]) -> None:
        """Take in an answer of /sync or an update of a stream; Failed if it has not the form of one."""
        since = update.get("next_batch")
        if not isinstance(since, str) or not since:
            raise Failed("next_batch, a text, in what /sync tells", shown(dict(update)))
        self.since = since
        self.syncs += 1
        for each in _events(update, "account_data"):
            self.account_data[_text(each, "type")] = content_of(each)
        for each in _events(update, "presence"):
            self.presence[_text(each, "sender")] = content_of(each)
        self.to_device.extend(_events(update, "to_device"))
        lists = part(update, "device_lists")
        self.devices_changed.extend(lists.get("changed") or [])
        self.devices_left.extend(lists.get("left") or [])
        self.key_counts.update(part(update, "device_one_time_keys_count"))
        for membership in MEMBERSHIPS:
            for room_id, told in part(update, "rooms", membership).items():
                if not isinstance(told, dict):
                    raise Failed(f"an object for the room {room_id} in what /sync tells", shown(told))
                _merge_room(self.rooms.setdefault(room_id, RoomView()), membership, told)

    def sight(self) -> str:
        """Say in a line what is known, for the sentence of a story that waits in vain."""
        rooms = [
            f"{room_id} ({each.membership}) {', '.join(_short(event) for event in each.timeline[-6:]) or 'nothing'}"
            f"; unread {each.unread}"
            for room_id, each in list(self.rooms.items())[:5]
        ]
        return f"{self.syncs} updates, {len(self.rooms)} rooms" + "".join(f"; {each}" for each in rooms)


def content_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event's content; empty if it has none."""
    found = event.get("content")
    return found if isinstance(found, dict) else {}


def bundled(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the server tells along with an event of those that relate to it, by relation type."""
    return part(event, "unsigned", "m.relations")


def part(value: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """Return the object at a path of keys; empty where there is none, Failed where there is something else."""
    found: Any = value
    for depth, key in enumerate(path):
        found = found.get(key)
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise Failed(f"an object at {'.'.join(path[: depth + 1])} in what the server tells", shown(found))
    return dict(found)


def _merge_room(room: RoomView, membership: str, told: Mapping[str, Any]) -> None:
    room.membership = membership
    if membership in ("invite", "knock"):
        room.state = {}
    for section in ("state", "state_after", "invite_state", "knock_state"):
        for each in _events(told, section):
            room.state[_text(each, "type"), str(each.get("state_key", ""))] = each
    timeline = part(told, "timeline")
    if timeline:
        room.limited = bool(timeline.get("limited"))
        room.prev_batch = timeline.get("prev_batch", room.prev_batch)
    for each in _events(told, "timeline"):
        room.timeline.append(each)
        if "state_key" in each and "state_after" not in told:
            room.state[_text(each, "type"), str(each["state_key"])] = each
    for each in _events(told, "account_data"):
        room.account_data[_text(each, "type")] = content_of(each)
    for each in _events(told, "ephemeral"):
        _merge_ephemeral(room, each)
    counts = part(told, "unread_notifications")
    room.unread = counts.get("notification_count", room.unread)
    room.highlights = counts.get("highlight_count", room.highlights)
    room.summary.update(part(told, "summary"))


def _merge_ephemeral(room: RoomView, event: Mapping[str, Any]) -> None:
    content = content_of(event)
    if event.get("type") == "m.typing":
        room.typing = list(content.get("user_ids") or [])
    elif event.get("type") == "m.receipt":
        for event_id in content:
            for receipt_type, readers in part(content, event_id).items():
                for user_id, receipt in readers.items() if isinstance(readers, dict) else ():
                    if isinstance(receipt, dict) and receipt.get("thread_id") in (None, "main"):
                        room.receipts[receipt_type, user_id] = event_id


def _events(value: Mapping[str, Any], section: str) -> list[dict[str, Any]]:
    found = part(value, section).get("events") or []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise Failed(f"a list of events at {section}.events in what the server tells", shown(found))
    return found


def _text(event: Mapping[str, Any], key: str) -> str:
    found = event.get(key)
    if not isinstance(found, str):
        raise Failed(f"{key}, a text, in an event", shown(dict(event)))
    return found


def _short(event: Mapping[str, Any]) -> str:
    body = content_of(event).get("body")
    return f"{event.get('type')}" + (f" {shown(body)[:60]}" if body is not None else "")
