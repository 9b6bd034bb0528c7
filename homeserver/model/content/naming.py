"""What a room is called and shown as: name, topic, picture, canonical alias.

Spec: client-server API, `m.room.name`, `m.room.topic`, `m.room.avatar`, `m.room.canonical_alias`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..event import Event
from .reading import sequence, text

# LIMIT: aliases beyond these are not shown; they have to fit into one event anyway.
MAX_ALT_ALIASES: Final = 1000


def room_name(event: Event | None) -> str | None:
    """Return the name, or None where it is absent or empty, which the spec holds equal."""
    return (text(event.content, "name") or None) if event is not None else None


def room_topic(event: Event | None) -> str | None:
    """Return the topic as plain text, or None where it is absent or empty."""
    return (text(event.content, "topic") or None) if event is not None else None


def room_avatar_url(event: Event | None) -> str | None:
    """Return the URI of the room's picture, or None."""
    return (text(event.content, "url") or None) if event is not None else None


def canonical_alias(event: Event | None) -> str | None:
    """Return the canonical alias as it stands there, unchecked, or None where it is absent or empty."""
    return (text(event.content, "alias") or None) if event is not None else None


def alternative_aliases(event: Event | None) -> tuple[str, ...]:
    """Return the other published aliases, in order, unchecked."""
    if event is None:
        return ()
    aliases = sequence(event.content, "alt_aliases")[:MAX_ALT_ALIASES]
    return tuple(alias for alias in aliases if isinstance(alias, str))


def topic_content(topic: str) -> Mapping[str, Any]:
    """Return the content of an `m.room.topic` event for a plain topic.

    Spec: client-server API, `m.room.topic`, "TopicContentBlock"; createRoom, `topic`: "with a `text/plain` mimetype".
    """
    return {"topic": topic, "m.topic": {"m.text": [{"mimetype": "text/plain", "body": topic}]}}
