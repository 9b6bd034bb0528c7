"""The messages of one room, with what was said about them later.

An event that edits, redacts or reacts to another one is no line of its own: it changes the message that it names.
Where it arrives before its message (the message is further back in the history), it waits, and takes effect when the
message is loaded.

Pure, and total: an event that is malformed is left out, whatever is wrong with it.

Spec: client-server API, "Event replacements", "Event annotations and reactions", "Redactions".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

# LIMIT: what is kept of one room; older messages are loaded again when they are asked for.
MAX_ITEMS: Final = 3000
KEPT_ITEMS: Final = 2000
# LIMIT: events that wait for their message, which may never come.
MAX_WAITING: Final = 500
# LIMIT: of one message.
MAX_EDITS: Final = 20
MAX_REACTIONS: Final = 200
# Dates from 1970 to 9999: others cannot be shown.
_MAX_TS_MS: Final = 253_370_764_800_000

# History is to be gone through from its newest end; what is known already is passed over.
FROM_NEWEST: Final = ""

_QUIET_TYPES: Final = frozenset({"m.room.redaction", "m.reaction"})


@dataclass(frozen=True, slots=True)
class Event:
    """An event whose members have the types that the spec gives them; nothing more is known of its content."""

    event_id: str
    type: str
    sender: str
    ts_ms: int
    content: Mapping[str, Any]
    state_key: str | None
    unsigned: Mapping[str, Any]
    redacts: str | None


@dataclass(slots=True)
class Message:
    """An event of the timeline, as it is to be shown."""

    event: Event
    redaction: Event | None = None
    is_redacted: bool = False
    edits: dict[str, Event] = field(default_factory=dict)
    # Event ID -> (key, sender).
    reactions: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def content(self) -> Mapping[str, Any]:
        """The content with the last edit applied; empty if it has been redacted."""
        if self.is_redacted:
            return {}
        if self.edits:
            last = max(self.edits.values(), key=_age)
            new = last.content.get("m.new_content")
            if isinstance(new, dict):
                return new
        return self.event.content

    def reaction_counts(self) -> list[tuple[str, int]]:
        """Return each reaction with the number of people who gave it, the most frequent first."""
        counts: dict[str, int] = {}
        for key, _sender in set(self.reactions.values()):
            counts[key] = counts.get(key, 0) + 1
        return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


@dataclass(frozen=True, slots=True)
class Notice:
    """A line of the chat's own between the messages. `is_bad`: something went wrong."""

    text: str
    is_bad: bool = False


Item = Message | Notice


class Timeline:
    """The messages of a room, oldest first.

    `older` is the token to load what came before: FROM_NEWEST where there is none, None where there is nothing more.
    """

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.older: str | None = FROM_NEWEST
        self._messages: dict[str, Message] = {}
        self._waiting: dict[str, list[Event]] = {}
        # Where an update began, by its first event: the room may be cut there.
        self._cuts: dict[str, str] = {}
        self._known: set[str] = set()

    def add(self, events: Iterable[Event], *, older: str | None, is_limited: bool) -> list[Message]:
        """Take the timeline of an update, and return the new messages, and those that were edited anew.

        `is_limited`: events between those known and these are missing. The room is then told from here on, and what
        came before is loaded when it is asked for.
        """
        events = list(events)
        if not self._messages or (is_limited and not any(event.event_id in self._known for event in events)):
            self._restart(older)
        told: dict[str, Message] = {}
        first: Message | None = None
        for event in events:
            message = self._take(event) if event.event_id not in self._known else None
            if message is None:
                continue
            if message.event is event:
                self._place(message)
                self.items.append(message)
                first = first or message
            told.setdefault(message.event.event_id, message)
        if first is not None and older is not None:
            self._cuts[first.event.event_id] = older
        self._trim()
        return list(told.values())

    def add_older(self, events: Iterable[Event], *, older: str | None) -> int:
        """Take a page of history, newest first, and return how many messages it brought."""
        page: list[Message] = []
        for event in events:
            if event.event_id not in self._known:
                message = self._take(event)
                if message is not None and message.event is event:
                    self._place(message)
                    page.append(message)
        self.items[:0] = reversed(page)
        self.older = older
        return len(page)

    def note(self, notice: Notice) -> None:
        """Add a line of our own at the end."""
        self.items.append(notice)
        self._trim()

    def find(self, event_id: str) -> Message | None:
        """Return a message by its event ID, if it is here."""
        return self._messages.get(event_id)

    def last(self) -> Message | None:
        """Return the newest message."""
        return next((item for item in reversed(self.items) if isinstance(item, Message)), None)

    # -- one event ---------------------------------------------------------------------------------------------------

    def _take(self, event: Event) -> Message | None:
        """Return the message that an event is, or that it changes in a way to be told."""
        self._known.add(event.event_id)
        if event.type == "m.room.redaction" and event.state_key is None:
            self._redact(event)
            return None
        relation, target_id = _relation(event)
        if event.type == "m.reaction" or relation == "m.replace":
            target = self._messages.get(target_id)
            if target is None:
                self._wait(target_id, event)
                return None
            return target if self._apply(target, event) and relation == "m.replace" else None
        if event.type in _QUIET_TYPES:
            return None
        return Message(event)

    def _place(self, message: Message) -> None:
        """Make a message known, with what waited for it and what the server says of it."""
        event = message.event
        self._messages[event.event_id] = message
        because = event.unsigned.get("redacted_because")
        if isinstance(because, dict):
            message.is_redacted = True
            message.redaction = parse_event(because)
        bundled = event.unsigned.get("m.relations")
        replacement = parse_event(bundled.get("m.replace")) if isinstance(bundled, dict) else None
        if replacement is not None:
            self._apply(message, replacement)
        for later in self._waiting.pop(event.event_id, ()):
            if later.type == "m.room.redaction":
                self._redact_message(message, later)
            else:
                self._apply(message, later)

    def _apply(self, message: Message, event: Event) -> bool:
        """Apply an edit or a reaction; return False if it is not valid."""
        if "redacted_because" in event.unsigned:
            return False
        relation, _target = _relation(event)
        if event.type == "m.reaction":
            key = event.content["m.relates_to"].get("key") if relation == "m.annotation" else None
            if not isinstance(key, str) or len(message.reactions) >= MAX_REACTIONS:
                return False
            message.reactions[event.event_id] = (key, event.sender)
            return True
        # Spec: "Event replacements", "Validity of replacement events".
        original = message.event
        if (
            event.sender != original.sender
            or event.type != original.type
            or event.state_key is not None
            or original.state_key is not None
            or not isinstance(event.content.get("m.new_content"), dict)
        ):
            return False
        message.edits[event.event_id] = event
        if len(message.edits) > MAX_EDITS:
            del message.edits[min(message.edits.values(), key=_age).event_id]
        return True

    def _redact(self, event: Event) -> None:
        target_id = event.redacts
        if target_id is None:
            return
        message = self._messages.get(target_id)
        if message is not None:
            self._redact_message(message, event)
            return
        for message in reversed(self._messages.values()):
            if target_id in message.reactions or target_id in message.edits:
                message.reactions.pop(target_id, None)
                message.edits.pop(target_id, None)
                return
        for waiting in self._waiting.values():
            waiting[:] = [later for later in waiting if later.event_id != target_id]
        self._wait(target_id, event)

    @staticmethod
    def _redact_message(message: Message, event: Event) -> None:
        message.is_redacted = True
        message.redaction = event
        message.edits.clear()
        message.reactions.clear()

    def _wait(self, target_id: str, event: Event) -> None:
        if sum(map(len, self._waiting.values())) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting.setdefault(target_id, []).append(event)

    # -- bounds ------------------------------------------------------------------------------------------------------

    def _restart(self, older: str | None) -> None:
        self.items = [item for item in self.items if isinstance(item, Notice)]
        self.older = FROM_NEWEST if older is None else older
        self._messages.clear()
        self._known.clear()
        self._cuts.clear()

    def _trim(self) -> None:
        if len(self._known) > 4 * MAX_ITEMS:
            self._known = set(self._messages)
        if len(self.items) <= MAX_ITEMS:
            return
        start = len(self.items) - KEPT_ITEMS
        older = FROM_NEWEST
        for place in range(start, len(self.items)):
            item = self.items[place]
            cut = self._cuts.get(item.event.event_id) if isinstance(item, Message) else None
            if cut is not None:
                start, older = place, cut
                break
        gone, self.items, self.older = self.items[:start], self.items[start:], older
        for item in gone:
            if isinstance(item, Message):
                event_id = item.event.event_id
                del self._messages[event_id]
                self._cuts.pop(event_id, None)
        self._known = set(self._messages)


def _age(event: Event) -> tuple[int, str]:
    """Order edits of a message. Spec: client-server API, "Server-side aggregation of m.replace relationships"."""
    return event.ts_ms, event.event_id


def parse_event(raw: object) -> Event | None:
    """Return an event as it came from the server, or None if that is none."""
    if not isinstance(raw, dict):
        return None
    event_id, kind, sender = raw.get("event_id"), raw.get("type"), raw.get("sender")
    if not (isinstance(event_id, str) and isinstance(kind, str) and isinstance(sender, str)):
        return None
    ts_ms, content, state_key = raw.get("origin_server_ts"), raw.get("content"), raw.get("state_key")
    unsigned = raw.get("unsigned")
    content = content if isinstance(content, dict) else {}
    # Spec: rooms/v11, "Moving the redacts property": it is in the content from there on.
    redacts = raw.get("redacts", content.get("redacts"))
    return Event(
        event_id=event_id,
        type=kind,
        sender=sender,
        ts_ms=min(max(ts_ms, 0), _MAX_TS_MS) if isinstance(ts_ms, int) else 0,
        content=content,
        state_key=state_key if isinstance(state_key, str) else None,
        unsigned=unsigned if isinstance(unsigned, dict) else {},
        redacts=redacts if isinstance(redacts, str) else None,
    )


def parse_events(raw: object) -> list[Event]:
    """Return the events of a list, without those that are none."""
    return [event for each in raw if (event := parse_event(each)) is not None] if isinstance(raw, list) else []


def _relation(event: Event) -> tuple[str, str]:
    """Return how an event relates to which other one; two empty strings if it does not."""
    relates = event.content.get("m.relates_to")
    if not isinstance(relates, dict):
        return "", ""
    kind, target = relates.get("rel_type"), relates.get("event_id")
    return (kind, target) if isinstance(kind, str) and isinstance(target, str) else ("", "")
