"""Acting as a local user from inside the process, for embedding applications.

Everything goes through the same doors as a client's request; only the access token is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.errors import NotFound
from homeserver.model.event import Event, EventTemplate
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.presets import RoomRequest
from homeserver.rooms.creation import RoomCreation
from homeserver.rooms.door import RoomDoor
from homeserver.rooms.membership import Membership
from homeserver.users.accounts import Accounts


class LocalUser:
    """A user of this server; made by `Homeserver.as_user`. Errors are those of `homeserver.errors`."""

    def __init__(
        self, user_id: UserID, accounts: Accounts, creation: RoomCreation, membership: Membership, door: RoomDoor
    ) -> None:
        self.user_id = user_id
        self._accounts = accounts
        self._creation = creation
        self._membership = membership
        self._door = door

    async def create_room(self, **request: Any) -> RoomID:
        """Make a room; the arguments are the members of a createRoom request, such as `preset="private_chat"`."""
        await self._check()
        return await self._creation.create(self.user_id, RoomRequest.parse(request))

    async def join(self, room_id: str) -> None:
        """Join a room by its ID."""
        await self._check()
        await self._membership.join(RoomID.parse(room_id), self.user_id)

    async def leave(self, room_id: str, *, reason: str | None = None) -> None:
        """Leave a room or decline an invite."""
        await self._membership.leave(RoomID.parse(room_id), self.user_id, reason=reason)

    async def invite(self, room_id: str, user_id: str) -> None:
        """Invite a user to a room."""
        await self._check()
        await self._membership.invite(RoomID.parse(room_id), self.user_id, UserID.parse(user_id))

    async def send(self, room_id: str, content: Mapping[str, Any] | str, *, type: str = "m.room.message") -> EventID:
        """Send an event; text stands for a text message. Returns the event's ID when it is on disk."""
        await self._check()
        if isinstance(content, str):
            content = {"msgtype": "m.text", "body": content}
        stored = await self._door.send(RoomID.parse(room_id), EventTemplate(type, dict(content), self.user_id))
        return stored.event_id

    async def set_state(self, room_id: str, type: str, content: Mapping[str, Any], *, state_key: str = "") -> EventID:
        """Send a state event; returns its ID when it is on disk."""
        await self._check()
        template = EventTemplate(type, dict(content), self.user_id, state_key=state_key)
        return (await self._door.send(RoomID.parse(room_id), template)).event_id

    async def get_state(self, room_id: str, type: str, state_key: str = "") -> Event | None:
        """Return the current state event of a key, or None."""
        stored = await self._door.state_event(RoomID.parse(room_id), type, state_key)
        return stored.event if stored is not None else None

    async def _check(self) -> None:
        account = await self._accounts.find(self.user_id)
        if account is None or account.is_deactivated:
            raise NotFound(f"There is no account {self.user_id}")
