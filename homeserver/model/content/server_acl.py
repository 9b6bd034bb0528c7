"""`m.room.server_acl`: which servers may take part, as it stands in the event.

What the lists mean for a server is told by `homeserver.model.acl`.

Spec: client-server API, `m.room.server_acl`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..event import Event
from .reading import sequence


@dataclass(frozen=True, slots=True)
class ServerACLContent:
    """What a server ACL event says; entries that are not text are left out."""

    allow: tuple[str, ...]
    deny: tuple[str, ...]
    allow_ip_literals: bool


def server_acl_content(event: Event) -> ServerACLContent:
    """Return what the event says: a list that is absent or no list is empty, so that without `allow` nobody may."""
    return ServerACLContent(
        allow=_texts(event, "allow"),
        deny=_texts(event, "deny"),
        # Spec: `allow_ip_literals`: "Defaults to `true` if missing or otherwise not a boolean."
        allow_ip_literals=event.content.get("allow_ip_literals") is not False,
    )


def _texts(event: Event, key: str) -> tuple[str, ...]:
    return tuple(entry for entry in sequence(event.content, key) if isinstance(entry, str))
