"""Making a room: a request as a list of first events, then what the directory is told.

Spec: client-server API, "Creation", `POST /createRoom`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from homeserver.errors import AuthRuleBroken, InvalidRoomState, RoomInUse
from homeserver.model.content.reading import is_user_id
from homeserver.model.ids import RoomAlias, RoomID, UserID
from homeserver.model.presets import RoomRequest, RoomVisibility, initial_events
from homeserver.model.room_versions import get_room_version
from homeserver.runtime.lanes import Lanes

from .directory import Directory
from .door import RoomDoor
from .membership import InvitePolicy, ProfileOf

OpaqueID = Callable[[], str]


class RoomCreation:
    """Makes rooms for local users."""

    def __init__(
        self,
        door: RoomDoor,
        directory: Directory,
        *,
        default_version: str,
        profile_of: ProfileOf,
        may_invite: InvitePolicy,
        opaque_id: OpaqueID,
        encryption_for: Callable[[RoomRequest], Mapping[str, Any] | None] = lambda request: None,
    ) -> None:
        """`opaque_id` gives the random part of a room ID, `encryption_for` the `m.room.encryption` content if any."""
        self._door = door
        self._directory = directory
        self._default_version = default_version
        self._profile_of = profile_of
        self._may_invite = may_invite
        self._opaque_id = opaque_id
        self._encryption_for = encryption_for
        # Who makes a room under an alias has it until the room is there: of two, one makes no room at all.
        self._aliases: Lanes[RoomAlias] = Lanes()

    async def create(self, creator: UserID, request: RoomRequest) -> RoomID:
        """Make the room; return its ID when all its first events are on disk.

        Raises UnsupportedRoomVersion, RoomInUse, InvalidRoomState, BadJson and InvalidParam; then nothing is made.
        """
        alias = request.alias(creator)
        if alias is None:
            return await self._create(creator, request, None)
        async with self._aliases.enter(alias):
            if await self._directory.find(alias) is not None:
                raise RoomInUse(f"The room alias {alias} is taken")
            return await self._create(creator, request, alias)

    async def _create(self, creator: UserID, request: RoomRequest, alias: RoomAlias | None) -> RoomID:
        version = get_room_version(request.room_version or self._default_version)
        invitees = [user_id for user_id in request.invite if user_id != creator]
        for user_id in dict.fromkeys((*invitees, *_invited_by_state(request))):
            await self._may_invite(creator, user_id)
        profiles = await self._profiles([creator, *invitees], creator.server_name)
        templates = initial_events(
            request, version, creator, profiles=profiles, encryption=self._encryption_for(request)
        )
        room_id = None
        if not version.room_id_is_create_hash:
            room_id = RoomID(f"!{self._opaque_id()}:{creator.server_name}")
        try:
            new_id = await self._door.create(version, templates[0], room_id, templates[1:])
        except AuthRuleBroken as fault:
            # What was asked for contradicts itself, such as power levels that forbid the next event.
            raise InvalidRoomState(f"The room cannot be made so: {fault.message}") from fault
        tip = await self._door.tip(new_id)
        if alias is not None:
            await self._directory.add_alias(alias, tip.room_nid, creator)
        if request.visibility is RoomVisibility.PUBLIC:
            await self._directory.publish(tip.room_nid, True)
        return new_id

    async def _profiles(self, users: list[UserID], server_name: str) -> dict[UserID, Mapping[str, Any]]:
        return {user: await self._profile_of(user) for user in users if user.server_name == server_name}


def _invited_by_state(request: RoomRequest) -> list[UserID]:
    """Return whom `initial_state` invites; the rules of the room see to what is no user ID."""
    return [
        UserID(entry.state_key)
        for entry in request.initial_state
        if entry.type == "m.room.member" and entry.content.get("membership") == "invite" and is_user_id(entry.state_key)
    ]
