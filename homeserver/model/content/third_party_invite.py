"""`m.room.third_party_invite`: an invite to somebody whose user ID is not known.

Spec: client-server API, `m.room.third_party_invite`.
"""

from __future__ import annotations

from typing import Final

from ..event import Event
from .reading import sequence, text

# LIMIT: keys beyond these are not tried; identity servers give two.
MAX_PUBLIC_KEYS: Final = 8


def public_keys(event: Event) -> tuple[str, ...]:
    """Return the keys that may sign the token, base64, as they stand there: `public_key`, then `public_keys`."""
    found: dict[str, None] = {}
    first = text(event.content, "public_key")
    if first is not None:
        found[first] = None
    for entry in sequence(event.content, "public_keys")[:MAX_PUBLIC_KEYS]:
        key = text(entry, "public_key") if isinstance(entry, dict) else None
        if key is not None:
            found[key] = None
    return tuple(found)[:MAX_PUBLIC_KEYS]
