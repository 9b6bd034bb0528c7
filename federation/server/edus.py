"""EDUs of other servers, checked and handed to whoever they concern.

A server speaks for its own users alone, and of a room only while it is in it and the room's ACL lets it. What fails
that, and what is not well-formed, is dropped without a word: nobody is told what is wrong with an EDU. Of several that
say something of the same, the last counts; and there are bounds to how many rooms and users one transaction can make
this server look for.

Spec: server-server API, "EDUs", "Server Access Control Lists (ACLs)" for `m.typing` and `m.receipt`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from twisted.internet.defer import CancelledError

from homeserver.errors import BadJson, HomeserverError, InternalFault, MatrixError
from homeserver.model.canonical_json import JsonObject
from homeserver.model.edu import (
    DEVICE_LIST_UPDATE,
    DIRECT_TO_DEVICE,
    PRESENCE,
    RECEIPT,
    SIGNING_KEY_UPDATE,
    TYPING,
    PresenceUpdate,
    ReceiptUpdate,
    parse_presence,
    parse_receipts,
    parse_typing,
    subject_of,
)
from homeserver.model.ids import RoomID, UserID, server_name_of
from homeserver.rooms.door import RoomDoor
from homeserver.rooms.server_guard import ServerGuard

logger = logging.getLogger(__name__)

# LIMIT: of one transaction: rooms that are looked for, and receipts.
MAX_ROOMS: Final = 500
MAX_RECEIPTS: Final = 2_000
# What this server calls the unstable names of.
_SAME: Final = {"org.matrix.signing_key_update": SIGNING_KEY_UPDATE}

EduHandler = Callable[[str, JsonObject], Awaitable[None]]


class TypingInlet(Protocol):
    """`homeserver.users.typing.Typing`."""

    def receive(self, room_id: RoomID, room_nid: int, user_id: UserID, *, is_typing: bool) -> None: ...


class ReceiptsInlet(Protocol):
    """`homeserver.users.receipts.Receipts`."""

    async def receive(self, room_id: RoomID, room_nid: int, updates: Sequence[ReceiptUpdate]) -> None: ...


class PresenceInlet(Protocol):
    """`homeserver.users.presence.Presence`."""

    def receive(self, updates: Sequence[PresenceUpdate]) -> None: ...


@dataclass(slots=True)
class _Said:
    """What one transaction says of rooms and presence: the last word on each."""

    typing: dict[RoomID, dict[UserID, bool]] = field(default_factory=dict)
    receipts: dict[RoomID, dict[tuple[UserID, str | None], ReceiptUpdate]] = field(default_factory=dict)
    presence: dict[UserID, PresenceUpdate] = field(default_factory=dict)
    count: int = 0


class EduInlet:
    """Takes EDUs in."""

    def __init__(
        self,
        guard: ServerGuard,
        door: RoomDoor,
        *,
        typing: TypingInlet,
        receipts: ReceiptsInlet,
        presence: PresenceInlet,
    ) -> None:
        self._guard = guard
        self._door = door
        self._typing = typing
        self._receipts = receipts
        self._presence = presence
        self._handlers: dict[str, EduHandler] = {}

    def register(self, kind: str, handler: EduHandler) -> None:
        """Have `handler(origin, content)` called with each EDU of a kind that concerns a user of the origin.

        For `m.device_list_update`, `m.signing_key_update` and `m.direct_to_device`: that the user is of the origin is
        seen to here, the rest of the content is as it came.
        """
        if kind not in (DEVICE_LIST_UPDATE, SIGNING_KEY_UPDATE, DIRECT_TO_DEVICE):
            raise ValueError(f"EDUs of the kind {kind} are not handed on")
        self._handlers[kind] = handler

    async def receive(self, origin: str, edus: Sequence[JsonObject]) -> None:
        """Take in the EDUs of a transaction; raises only InternalFault, for trouble of our own."""
        said = _Said()
        for edu in edus:
            kind, content = edu.get("edu_type"), edu.get("content")
            if not isinstance(kind, str) or not isinstance(content, dict):
                continue
            try:
                await self._take(origin, _SAME.get(kind, kind), content, said)
            except (CancelledError, InternalFault):
                raise
            except HomeserverError as fault:
                logger.debug("An EDU %s of %s was dropped: %s", kind[:100], origin, fault)
            except Exception:  # one that something stumbles over must not keep the others from being heard
                logger.exception("An EDU %s of %s failed", kind[:100], origin)
        self._presence.receive(list(said.presence.values()))
        for index, room_id in enumerate({**said.typing, **said.receipts}):
            if index >= MAX_ROOMS:
                break
            try:
                await self._tell_room(origin, room_id, said)
            except (CancelledError, InternalFault):
                raise
            except Exception:
                logger.exception("EDUs of %s for %s failed", origin, room_id)

    async def _take(self, origin: str, kind: str, content: JsonObject, said: _Said) -> None:
        if kind == TYPING:
            typing = parse_typing(content)
            if server_name_of(typing.user_id) == origin:
                said.typing.setdefault(typing.room_id, {})[typing.user_id] = typing.is_typing
        elif kind == RECEIPT:
            for receipt in parse_receipts(content):
                if said.count < MAX_RECEIPTS and server_name_of(receipt.user_id) == origin:
                    said.count += 1
                    said.receipts.setdefault(receipt.room_id, {})[receipt.user_id, receipt.thread_id] = receipt
        elif kind == PRESENCE:
            for update in parse_presence(content):
                if server_name_of(update.user_id) == origin:
                    said.presence[update.user_id] = update
        else:
            handler = self._handlers.get(kind)
            if handler is None:
                return
            if server_name_of(subject_of(kind, content)) != origin:
                raise BadJson("a server speaks for its own users")
            await handler(origin, content)

    async def _tell_room(self, origin: str, room_id: RoomID, said: _Said) -> None:
        """Hand on what was said of a room by those who are in it, if their server may take part in the room."""
        try:
            room_nid = (await self._guard.require_in_room(room_id, origin)).room_nid
        except MatrixError as refusal:
            logger.debug("EDUs of %s for %s were dropped: %s", origin, room_id, refusal)
            return
        typing = said.typing.get(room_id, {})
        receipts = said.receipts.get(room_id, {})
        joined = await self._joined(room_id, {*typing, *(user_id for user_id, _ in receipts)})
        for user_id, is_typing in typing.items():
            # Spec: "Typing Notifications": "a user in the given room, and is a user belonging to the sending server".
            if user_id in joined:
                self._typing.receive(room_id, room_nid, user_id, is_typing=is_typing)
        read = [receipt for receipt in receipts.values() if receipt.user_id in joined]
        if read:
            await self._receipts.receive(room_id, room_nid, read)

    async def _joined(self, room_id: RoomID, users: set[UserID]) -> set[UserID]:
        found = await self._door.state_events(room_id, [("m.room.member", str(user_id)) for user_id in sorted(users)])
        return {
            user_id
            for user_id in users
            if (stored := found.get(("m.room.member", str(user_id)))) is not None and stored.event.membership == "join"
        }
