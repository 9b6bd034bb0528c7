"""What a relation that a local user sends must be like; refused before there is an event.

What other servers send is taken as it is: these are rules for clients.

Spec: client-server API, "Avoiding duplicate annotations", "Validation of `m.thread` relationships".
"""

from __future__ import annotations

from collections.abc import Awaitable

from homeserver.errors import DuplicateAnnotation
from homeserver.model.event import EventTemplate
from homeserver.model.ids import RoomID
from homeserver.model.relations import ANNOTATION, THREAD, check_thread_root, read_relation, relation_of
from homeserver.runtime.lanes import Lanes
from storage.append import TransactionRow
from storage.events import StoredEvent
from storage.history import has_annotation
from storage.store import Store

from .door import RoomDoor


class RelationRules:
    """Lets relations of local users pass, or refuses them."""

    def __init__(self, store: Store, door: RoomDoor) -> None:
        self._store = store
        self._door = door
        # An annotation is looked for and sent before the next of the same user on the same event is looked for.
        self._lanes: Lanes[tuple[str, str]] = Lanes()

    async def send(
        self, room_id: RoomID, template: EventTemplate, *, transaction: TransactionRow | None = None
    ) -> StoredEvent:
        """Send an event by the door if the relation that its content makes may be made.

        Raises DuplicateAnnotation, BadRequest for a thread that would start inside of another relation, and what the
        door raises.
        """

        def send() -> Awaitable[StoredEvent]:
            return self._door.send(room_id, template, transaction=transaction)

        relation = read_relation(template.content)
        if relation is None or relation.event_id is None or relation.rel_type not in (ANNOTATION, THREAD):
            return await send()
        member = await self._door.state_event(room_id, "m.room.member", template.sender)
        if member is None or member.event.membership != "join":
            # The rules of the room will refuse it; nothing about the event is told before.
            return await send()
        if relation.rel_type == THREAD:
            root = await self._store.events.get_by_id(member.room_nid, relation.event_id)
            if root is not None:
                check_thread_root(relation_of(root.event))
            return await send()
        key = relation.key
        if key is None:
            return await send()
        target, kind = str(relation.event_id), template.type
        sender_nid = await self._store.interner.user(template.sender)
        async with self._lanes.enter((template.sender, target)):
            if await self._store.database.read(
                lambda tx: has_annotation(tx, member.room_nid, target, kind, key, sender_nid=sender_nid)
            ):
                raise DuplicateAnnotation("You have annotated the event in this way already")
            return await send()
