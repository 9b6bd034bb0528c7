"""Making a room: a request as a list of first events, then what the directory is told.

Spec: client-server API, "Creation", `POST /createRoom`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from homeserver.errors import AuthRuleBroken, InvalidRoomState, MatrixError, RoomInUse
from homeserver.model.content.reading import is_user_id
from homeserver.model.event import EventTemplate
from homeserver.model.ids import RoomAlias, RoomID, UserID, server_name_of
from homeserver.model.presets import RoomRequest, RoomVisibility, initial_events
from homeserver.model.room_versions import get_room_version
from homeserver.runtime.lanes import Lanes

from .directory import Directory
from .door import RoomDoor
from .membership import InvitePolicy, ProfileOf

logger = logging.getLogger(__name__)

OpaqueID = Callable[[], str]

InviteRemote = Callable[[RoomID, EventTemplate], Awaitable[object]]
"""Sends the invite of a user of another server, once the room is there."""


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
        invite_remote: InviteRemote | None = None,
    ) -> None:
        """`opaque_id` gives the random part of a room ID, `encryption_for` the `m.room.encryption` content if any.

        `invite_remote` sends the invites of users of other servers.
        """
        self._door = door
        self._directory = directory
        self._default_version = default_version
        self._profile_of = profile_of
        self._may_invite = may_invite
        self._opaque_id = opaque_id
        self._encryption_for = encryption_for
        self._invite_remote = invite_remote
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
        remote = [each for each in templates if self._invite_remote is not None and _is_remote_invite(each, creator)]
        first = [each for each in templates if each not in remote]
        try:
            new_id = await self._door.create(version, first[0], room_id, first[1:])
        except AuthRuleBroken as fault:
            # What was asked for contradicts itself, such as power levels that forbid the next event.
            raise InvalidRoomState(f"The room cannot be made so: {fault.message}") from fault
        tip = await self._door.tip(new_id)
        if alias is not None:
            await self._directory.add_alias(alias, tip.room_nid, creator)
        if request.visibility is RoomVisibility.PUBLIC:
            await self._directory.publish(tip.room_nid, True)
        await self._invite_elsewhere(new_id, remote)
        return new_id

    async def _invite_elsewhere(self, room_id: RoomID, invites: Sequence[EventTemplate]) -> None:
        """Invite users of other servers, who are then to answer; the room is made whatever they say."""
        if self._invite_remote is None:
            return
        for template in invites:
            try:
                await self._invite_remote(room_id, template)
            except MatrixError as fault:
                logger.info("%s could not be invited to %s: %s", template.state_key, room_id, fault)

    async def _profiles(self, users: list[UserID], server_name: str) -> dict[UserID, Mapping[str, Any]]:
        return {user: await self._profile_of(user) for user in users if user.server_name == server_name}


def _is_remote_invite(template: EventTemplate, creator: UserID) -> bool:
    return (
        template.type == "m.room.member"
        and template.content.get("membership") == "invite"
        and server_name_of(template.state_key or "") != creator.server_name
    )


def _invited_by_state(request: RoomRequest) -> list[UserID]:
    """Return whom `initial_state` invites; the rules of the room see to what is no user ID."""
    return [
        UserID(entry.state_key)
        for entry in request.initial_state
        if entry.type == "m.room.member" and entry.content.get("membership") == "invite" and is_user_id(entry.state_key)
    ]
