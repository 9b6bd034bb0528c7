"""What a user has set for a room, copied to the room that replaces it.

Push rules, tags, and whether the room is a direct chat. What the user has set for the new room already stays. Each is
copied by itself: one that fails does not keep the others back, nor whoever asked. The push rules come first: what is
muted must be so when the first message comes.

Spec: client-server API, "Room Upgrades", "Server behaviour", the last sentence.
"""

from __future__ import annotations

import logging

from homeserver.errors import MatrixError
from homeserver.model.ids import RoomID, UserID
from storage.interning import Interner

from .account_data import AccountData
from .push_rules import PushRules
from .sessions import Requester

logger = logging.getLogger(__name__)


class RoomSettings:
    """Copies settings of rooms."""

    def __init__(self, interner: Interner, account_data: AccountData, push_rules: PushRules) -> None:
        self._interner = interner
        self._account_data = account_data
        self._push_rules = push_rules

    async def carry_over(self, user_id: UserID, old_id: RoomID, new_id: RoomID) -> None:
        """Copy what a local user has set for one room to another; refusals are logged."""
        requester = Requester(user_id, await self._interner.user(user_id))
        for copy in (self._push_rules.copy_room, self._account_data.copy_tags, self._account_data.copy_direct):
            try:
                await copy(requester, old_id, new_id)
            except MatrixError as refusal:
                logger.info("settings of %s for %s are not copied to %s: %s", user_id, old_id, new_id, refusal.message)
