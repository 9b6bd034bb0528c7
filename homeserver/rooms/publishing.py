"""Who may change what the room directory says: aliases, their removal, the list of published rooms.

Spec: client-server API, "Room aliases" and "Published room directory", which leave the permissions to the server: here,
whoever may set the room's canonical alias may also list the room and remove its aliases.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from homeserver.config import Rooms as RoomsConfig
from homeserver.errors import InvalidParam, MatrixError, NotAllowed, NotFound
from homeserver.model.content.power_levels import PowerLevels
from homeserver.model.event import EventTemplate
from homeserver.model.ids import RoomAlias, RoomID, ServerName, UserID

from .directory import Directory
from .door import RoomDoor
from .tip import RoomTip

logger = logging.getLogger(__name__)

_CANONICAL_ALIAS: Final = "m.room.canonical_alias"
# LIMIT: local aliases of one room; far above what anybody has asked for.
MAX_ALIASES: Final = 1_000


class Publishing:
    """Changes the directory for local users."""

    def __init__(self, door: RoomDoor, directory: Directory, *, server_name: ServerName, config: RoomsConfig) -> None:
        self._door = door
        self._directory = directory
        self._server_name = server_name
        self._config = config

    async def add_alias(self, user_id: UserID, alias: RoomAlias, room_id: RoomID) -> None:
        """Make a local alias of a room; NotAllowed, InvalidParam, AliasInUse."""
        if alias.server_name != self._server_name:
            raise InvalidParam(f"This server makes aliases that end in :{self._server_name} only")
        if any(character.isspace() for character in alias):
            # COMPAT(synapse): nobody could tell such an alias from the text around it.
            raise InvalidParam("A room alias contains no white space")
        if self._config.aliases_need_membership:
            tip = await self._joined_tip(room_id, user_id)
        else:
            tip = await self._door.tip(room_id)
        if len(await self._directory.aliases_of(tip.room_nid)) >= MAX_ALIASES:
            raise NotAllowed(f"A room has at most {MAX_ALIASES} aliases")
        await self._directory.add_alias(alias, tip.room_nid, user_id)

    async def remove_alias(self, user_id: UserID, alias: RoomAlias, *, is_admin: bool = False) -> None:
        """Remove an alias; NotFound, NotAllowed.

        A canonical alias event that names it is changed as well, if the user may do that.
        """
        room_id = await self._directory.find(alias) if alias.server_name == self._server_name else None
        if room_id is None:
            raise NotFound(f"The room alias {alias} does not exist")
        if not (
            is_admin
            or await self._directory.creator_of(alias) == user_id
            or await self._may_set_alias(room_id, user_id)
        ):
            raise NotAllowed("You may not remove this alias")
        await self._directory.remove_alias(alias)
        await self._take_from_room(room_id, user_id, alias)

    async def aliases_of(self, user_id: UserID, room_id: RoomID, *, is_admin: bool = False) -> list[RoomAlias]:
        """Return the local aliases of a room whose member the user is, or that all may read; NotAllowed."""
        try:
            tip = await self._door.tip(room_id)
        except NotFound as fault:
            raise NotAllowed("You are not in this room") from fault
        if not is_admin and not await self._is_joined(room_id, user_id):
            history = await self._door.state_event(room_id, "m.room.history_visibility")
            if history is None or history.event.content.get("history_visibility") != "world_readable":
                raise NotAllowed("You are not in this room")
        return await self._directory.aliases_of(tip.room_nid)

    async def is_published(self, room_id: RoomID) -> bool:
        """Tell whether a room is listed; NotFound."""
        return await self._directory.is_published((await self._door.tip(room_id)).room_nid)

    async def publish(self, user_id: UserID, room_id: RoomID, is_published: bool, *, is_admin: bool = False) -> None:
        """List a room, or take it out; NotFound, NotAllowed."""
        tip = await self._door.tip(room_id)
        if not (is_admin or await self._may_set_alias(room_id, user_id)):
            raise NotAllowed("You may not change whether this room is listed")
        await self._directory.publish(tip.room_nid, is_published)

    async def check_new_canonical_alias(self, room_id: RoomID, content: Mapping[str, Any]) -> None:
        """Raise InvalidParam or BadAlias unless a user may say this in the room's `m.room.canonical_alias`."""
        present = await self._door.state_event(room_id, _CANONICAL_ALIAS)
        previous = present.event.content if present is not None else None
        await self._directory.check_canonical_alias(content, previous, room_id)

    # -- private -----------------------------------------------------------------------------------------------------

    async def _is_joined(self, room_id: RoomID, user_id: UserID) -> bool:
        member = await self._door.state_event(room_id, "m.room.member", user_id)
        return member is not None and member.event.membership == "join"

    async def _joined_tip(self, room_id: RoomID, user_id: UserID) -> RoomTip:
        # The same answer for a room that is not there: strangers are not told which rooms are.
        try:
            if await self._is_joined(room_id, user_id):
                return await self._door.tip(room_id)
        except NotFound:
            pass
        raise NotAllowed("You are not in this room")

    async def _may_set_alias(self, room_id: RoomID, user_id: UserID) -> bool:
        if not await self._is_joined(room_id, user_id):
            return False
        tip = await self._door.tip(room_id)
        event = await self._door.state_event(room_id, "m.room.power_levels")
        levels = PowerLevels.from_events(tip.version, tip.create.event, event.event if event is not None else None)
        return levels.of(user_id) >= levels.needed_for(_CANONICAL_ALIAS, is_state=True)

    async def _take_from_room(self, room_id: RoomID, user_id: UserID, alias: RoomAlias) -> None:
        present = await self._door.state_event(room_id, _CANONICAL_ALIAS)
        if present is None:
            return
        content = without_alias(present.event.content, alias)
        if content == present.event.content:
            return
        try:
            await self._door.send(room_id, EventTemplate(_CANONICAL_ALIAS, content, user_id, state_key=""))
        except MatrixError as refusal:
            # Spec: DELETE /directory/room/{roomAlias}: "delete the alias and return a successful response even if the
            # user does not have permission to update the m.room.canonical_alias event".
            logger.info("%s stays in the canonical aliases of %s: %s", alias, room_id, refusal.message)


def without_alias(content: Mapping[str, Any], alias: str) -> dict[str, Any]:
    """Return the content of `m.room.canonical_alias` without one alias; everything else stays."""
    changed = dict(content)
    if changed.get("alias") == alias:
        del changed["alias"]
    others = changed.get("alt_aliases")
    if isinstance(others, list) and alias in others:
        remaining = [other for other in others if other != alias]
        if remaining:
            changed["alt_aliases"] = remaining
        else:
            del changed["alt_aliases"]
    return changed
