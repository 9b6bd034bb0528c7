"""Where the operator does not allow encryption: local users neither turn it on in a room nor send what is encrypted.

What other servers' users do in a room that both are in is the room's business, and is shown as it is.
"""

from __future__ import annotations

from typing import Final

from homeserver.errors import GateDenied
from homeserver.model.event import EventTemplate
from homeserver.model.ids import RoomID

_ENCRYPTION: Final = frozenset({"m.room.encryption", "m.room.encrypted"})


class EncryptionGate:
    """Denies encryption."""

    async def check(self, room_id: RoomID, template: EventTemplate) -> EventTemplate:
        if template.type in _ENCRYPTION:
            raise GateDenied("This server does not allow encryption")
        return template
