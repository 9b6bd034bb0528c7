"""Rooms that every new user joins.

Spec: none; the settings `auto_join_rooms` and `autocreate_auto_join_rooms` are those of Synapse.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from homeserver.errors import HomeserverError, RoomInUse
from homeserver.model.ids import RoomAlias, UserID
from homeserver.model.presets import RoomRequest

from .creation import RoomCreation
from .directory import Directory
from .membership import Membership

logger = logging.getLogger(__name__)


class AutoJoin:
    """Takes new users into the configured rooms."""

    def __init__(
        self,
        creation: RoomCreation,
        membership: Membership,
        directory: Directory,
        *,
        aliases: Sequence[str],
        makes_rooms: bool,
    ) -> None:
        """`makes_rooms`: the first new user makes a room that does not exist, and owns it."""
        self._creation = creation
        self._membership = membership
        self._directory = directory
        self._aliases = tuple(aliases)
        self._makes_rooms = makes_rooms

    async def welcome(self, user_id: UserID) -> None:
        """Join the rooms; one that refuses is told in the log and does not keep the user from the others."""
        for name in self._aliases:
            try:
                await self._join(user_id, RoomAlias.parse(name))
            except HomeserverError as fault:
                logger.warning("The new user %s could not join %s: %s", user_id, name, fault)

    async def _join(self, user_id: UserID, alias: RoomAlias) -> None:
        room_id = await self._directory.find(alias)
        if room_id is not None:
            await self._membership.join(room_id, user_id)
        elif self._makes_rooms and alias.server_name == user_id.server_name:
            request = RoomRequest.parse({"preset": "public_chat", "room_alias_name": alias.localpart})
            try:
                await self._creation.create(user_id, request)
            except RoomInUse:
                # Another new user was quicker.
                await self._membership.join(await self._directory.resolve(alias), user_id)
        else:
            logger.warning("The new user %s could not join %s: there is no such room", user_id, alias)
