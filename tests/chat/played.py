"""Events and updates as a server sends them, for the pure tests of the chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.chat.model import Model
from homeserver.chat.timeline import Event, parse_event

ALICE, BOB, CAROL = "@alice:x", "@bob:x", "@carol:x"
ROOM = "!room:x"
# 2026-11-21 14:05 UTC.
NOON_MS = 1_795_269_900_000


def event(
    event_id: str,
    body: object = "hello",
    *,
    sender: str = BOB,
    kind: str = "m.room.message",
    content: Mapping[str, Any] | None = None,
    state_key: str | None = None,
    ts_ms: int = NOON_MS,
    **more: Any,
) -> dict[str, Any]:
    """An event as JSON; a text message unless `content` is given."""
    made: dict[str, Any] = {
        "event_id": event_id,
        "type": kind,
        "sender": sender,
        "origin_server_ts": ts_ms,
        "content": {"msgtype": "m.text", "body": body} if content is None else content,
        **more,
    }
    if state_key is not None:
        made["state_key"] = state_key
    return made


def parsed(*args: Any, **kwargs: Any) -> Event:
    """The same as the model has it."""
    made = parse_event(event(*args, **kwargs))
    assert made is not None
    return made


def member(user_id: str, displayname: object = None, membership: str = "join", **more: Any) -> dict[str, Any]:
    """A membership event of somebody's own."""
    content = {"membership": membership, "displayname": displayname}
    sender = more.pop("sender", user_id)
    return event(
        f"$m{user_id}{membership}{displayname}",
        kind="m.room.member",
        content=content,
        state_key=user_id,
        sender=sender,
        **more,
    )


def state(kind: str, **content: Any) -> dict[str, Any]:
    """A state event with an empty state key."""
    return event(f"${kind}{content}", kind=kind, content=content, state_key="")


def edit(event_id: str, target: str, body: str, **more: Any) -> dict[str, Any]:
    """An edit of a message."""
    content = {
        "msgtype": "m.text",
        "body": f"* {body}",
        "m.new_content": {"msgtype": "m.text", "body": body},
        "m.relates_to": {"rel_type": "m.replace", "event_id": target},
    }
    return event(event_id, content=content, **more)


def reaction(event_id: str, target: str, key: object, **more: Any) -> dict[str, Any]:
    """A reaction to a message."""
    content = {"m.relates_to": {"rel_type": "m.annotation", "event_id": target, "key": key}}
    return event(event_id, kind="m.reaction", content=content, **more)


def redaction(event_id: str, target: str, **more: Any) -> dict[str, Any]:
    """A redaction as in rooms of version 11 and later."""
    return event(event_id, kind="m.room.redaction", content={"redacts": target}, **more)


def joined(
    *timeline: Any, state_events: Any = (), room_id: str = ROOM, next_batch: str = "s1", **more: Any
) -> dict[str, Any]:
    """An update about one room that we are in; `more` goes into the room."""
    limited = more.pop("limited", False)
    room = {
        "state": {"events": list(state_events)},
        "timeline": {"events": list(timeline), "limited": limited, "prev_batch": more.pop("prev_batch", "p1")},
        **more,
    }
    return {"next_batch": next_batch, "rooms": {"join": {room_id: room}}}


def model_of(*updates: dict[str, Any], user_id: str = ALICE) -> Model:
    """A model that has seen these updates."""
    model = Model(user_id)
    for update in updates:
        model.fold(update)
    return model
