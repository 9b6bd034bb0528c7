"""Events of a room in words.

Both user interfaces show what is made here. Everything in it is neutralised (see `text`).

Spec: client-server API, "Instant Messaging", "Room membership", the content of the events that are told.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from . import text
from .model import Room
from .timeline import Event, Message

if TYPE_CHECKING:
    from homeserver.streamclient import LinkState

_FILES: Final = {"m.image": "a picture", "m.file": "a file", "m.audio": "a sound", "m.video": "a video"}
_MAX_QUOTE: Final = 40
_MAX_REACTIONS: Final = 12


class Kind(Enum):
    """How a line is meant: somebody says, does, or a program says; or it tells what happened to the room."""

    SAID = "said"
    DONE = "done"
    NOTICE = "notice"
    HAPPENED = "happened"


@dataclass(frozen=True, slots=True)
class Words:
    """A message to be shown: `lines` is never empty; `note` is what is said beside it, such as "edited"."""

    kind: Kind
    sender: str
    lines: tuple[str, ...]
    note: str = ""
    # What was said is not there: removed, or encrypted.
    is_absent: bool = False
    reactions: tuple[str, ...] = ()


def words_of(room: Room, message: Message) -> Words | None:
    """Return how to tell a message, or None where it is not told."""
    event = message.event
    sender = room.members.shown(event.sender)
    if event.state_key is not None:
        happened = _happened(room, event, sender)
        return Words(Kind.HAPPENED, sender, (happened,)) if happened else None
    if message.is_redacted:
        return Words(Kind.SAID, sender, (_removed(room, message),), is_absent=True)
    if event.type == "m.room.encrypted":
        return Words(Kind.SAID, sender, ("(encrypted)",), is_absent=True)
    kind, lines = _said(event.type, message.content)
    if not lines:
        return None
    notes = ["edited"] if message.edits else []
    quote = _quote(room, event)
    if quote:
        lines = [quote, *lines]
    reactions = tuple(
        f"{text.one_line(key, 20)} {count}" if count > 1 else text.one_line(key, 20)
        for key, count in message.reaction_counts()[:_MAX_REACTIONS]
        if text.one_line(key, 20)
    )
    return Words(kind, sender, tuple(lines), ", ".join(notes), reactions=reactions)


def clock(ts_ms: int) -> str:
    """Return the local time of day."""
    return time.strftime("%H:%M", time.localtime(ts_ms // 1000))


def day(ts_ms: int) -> str:
    """Return the local date."""
    return time.strftime("%A, %d %B %Y", time.localtime(ts_ms // 1000))


def typing_line(room: Room, own_user_id: str) -> str:
    """Return who is typing, in a sentence, or nothing."""
    names = [room.members.shown(user_id) for user_id in room.typing if user_id != own_user_id]
    if not names:
        return ""
    if len(names) > 3:
        return f"{len(names)} people are typing…"
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{listed} {'is' if len(names) == 1 else 'are'} typing…"


def seen_line(room: Room, own_user_id: str) -> str:
    """Return who has read the last message, where it is ours."""
    last = room.timeline.last()
    if last is None or last.event.sender != own_user_id:
        return ""
    names = sorted(room.members.shown(user_id) for user_id in room.readers(last.event.event_id, own_user_id))
    if not names:
        return ""
    return f"Seen by {', '.join(names)}" if len(names) <= 3 else f"Seen by {len(names)} people"


def connection_line(state: LinkState, since_s: float) -> str:
    """Return what has become of the connection `since_s` seconds ago."""
    if state.is_connected:
        return "connected"
    if state.wait_s is None:
        return "connecting…"
    left_s = max(0, round(state.wait_s - since_s))
    why = text.one_line(state.why, 80)
    return f"reconnecting in {left_s} s" + (f": {why}" if why else "") if left_s else "reconnecting…"


def _said(kind: str, content: Mapping[str, Any]) -> tuple[Kind, list[str]]:
    """Return what an event that is no state says; no lines where it says nothing."""
    body = content.get("body")
    if kind == "m.room.message":
        msgtype = content.get("msgtype")
        if isinstance(msgtype, str) and msgtype in _FILES:
            return Kind.DONE, [_file(_FILES[msgtype], content)]
        if msgtype == "m.location":
            return Kind.DONE, [f"shares a place: {text.one_line(body) or text.one_line(content.get('geo_uri'))}"]
        if not isinstance(body, str):
            return Kind.SAID, ["(a message without text)"]
        lines = text.lines(_without_fallback(body) if _replied_to(content) else body)
        return {"m.emote": Kind.DONE, "m.notice": Kind.NOTICE}.get(str(msgtype), Kind.SAID), lines
    if kind == "m.sticker":
        return Kind.DONE, [f"sends a sticker: {text.one_line(body)}"]
    if kind == "m.call.invite":
        return Kind.DONE, ["calls (this chat has no calls)"]
    if kind.startswith("m.") or not isinstance(body, str):
        return Kind.SAID, []
    return Kind.SAID, text.lines(body)


def _file(what: str, content: Mapping[str, Any]) -> str:
    named = text.one_line(content.get("filename"), 100) or text.one_line(content.get("body"), 100)
    caption = text.one_line(content.get("body")) if isinstance(content.get("filename"), str) else ""
    place = text.one_line(content.get("url"), 300)
    line = f"sends {what}: {named}" if named else f"sends {what}"
    if caption and caption != named:
        line += f" – {caption}"
    return f"{line} <{place}>" if place else line


def _removed(room: Room, message: Message) -> str:
    if message.redaction is None:
        return "(removed)"
    reason = text.one_line(message.redaction.content.get("reason"), 200)
    by = "" if message.redaction.sender == message.event.sender else room.members.shown(message.redaction.sender)
    return "(removed" + (f" by {by}" if by else "") + (f": {reason}" if reason else "") + ")"


def _replied_to(content: Mapping[str, Any]) -> str:
    relates = content.get("m.relates_to")
    reply = relates.get("m.in_reply_to") if isinstance(relates, dict) else None
    target = reply.get("event_id") if isinstance(reply, dict) else None
    if isinstance(relates, dict) and relates.get("is_falling_back") is True:
        # Spec: "Threading", "Fallback for unthreaded clients": no reply, only the last message of the thread.
        return ""
    return target if isinstance(target, str) else ""


def _quote(room: Room, event: Event) -> str:
    """Return a line that says what a message answers."""
    target = room.timeline.find(_replied_to(event.content))
    if target is None:
        return ""
    _kind, lines = _said(target.event.type, target.content)
    said = text.one_line(lines[0] if lines else "…", _MAX_QUOTE)
    return f"┊ {room.members.shown(target.event.sender)}: {said}"


def _without_fallback(body: str) -> str:
    """Strip the quoted lines that older clients put before a reply. Spec: "Rich replies"."""
    if not body.startswith("> <"):
        return body
    lines = body.split("\n")
    while lines and lines[0].startswith("> "):
        lines.pop(0)
    return "\n".join(lines[1:] if lines and not lines[0] else lines)


def _happened(room: Room, event: Event, sender: str) -> str:
    """Return what a state event does, in a sentence, or nothing where it is not worth one."""
    content = event.content
    if event.type == "m.room.member":
        return _membership(room, event, sender)
    if event.type == "m.room.create":
        return f"{sender} has made this room"
    if event.type == "m.room.name":
        named = text.one_line(content.get("name"), text.MAX_NAME)
        return f"{sender} calls the room {named}" if named else f"{sender} has taken the room's name away"
    if event.type == "m.room.topic":
        topic = text.one_line(content.get("topic"))
        return f"{sender} sets the topic: {topic}" if topic else f"{sender} has taken the topic away"
    if event.type == "m.room.encryption":
        return f"{sender} has turned on encryption; this chat can neither read nor write here"
    if event.type == "m.room.tombstone":
        return f"{sender} has replaced this room: /join {text.one_line(content.get('replacement_room'), 255)}"
    return ""


def _membership(room: Room, event: Event, sender: str) -> str:
    who = room.members.shown(event.state_key or "")
    content = event.content
    before = event.unsigned.get("prev_content")
    before = before if isinstance(before, dict) else {}
    was, now = before.get("membership"), content.get("membership")
    reason = text.one_line(content.get("reason"), 200)
    because = f": {reason}" if reason else ""
    is_own = event.sender == event.state_key
    if now == "join" and was == "join":
        return _renamed(event.state_key or "", before, content)
    if now == "join":
        return f"{who} is here now"
    if now == "invite":
        return f"{sender} invites {who}{because}"
    if now == "knock":
        return f"{who} asks to be let in{because}"
    if now == "ban":
        return f"{sender} bans {who}{because}"
    if now != "leave":
        return ""
    if is_own:
        return f"{who} declines the invite" if was == "invite" else f"{who} has left{because}"
    if was == "ban":
        return f"{sender} lifts the ban of {who}"
    verb = "takes back the invite of" if was == "invite" else "removes"
    return f"{sender} {verb} {who}{because}"


def _renamed(user_id: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    old, new = text.name(before.get("displayname"), user_id), text.name(after.get("displayname"), user_id)
    return f"{old} is called {new} now" if old != new else ""
