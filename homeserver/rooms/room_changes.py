"""How the current state of a room changes with an event, besides what the event itself says.

Where branches of the graph meet, events of either may come to count, or cease to: memberships, names, what directories
show.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from homeserver.feed.feed import MemberChange
from homeserver.model.ids import UserID, server_name_of
from storage.events import StoredEvent
from storage.state_groups import differing_keys
from storage.store import Store

from .effects import as_redacted, stats_of, stats_without
from .gather import Tips
from .tip import RoomTip, StatePoint

# What a room is called after.
_NAMING: Final = frozenset({"m.room.name", "m.room.canonical_alias"})


@dataclass(frozen=True, slots=True)
class RoomChange:
    """How the current state of the room changes with an event."""

    members: tuple[MemberChange, ...] = ()
    stats: dict[str, Any] | None = None
    is_renamed: bool = False
    # Whether it changes by more than the event says, or from something else than the event replaces.
    is_further: bool = False


class RoomChanges:
    """Compares the current state of a room before and after."""

    def __init__(self, store: Store, tips: Tips, server_name: str) -> None:
        self._store = store
        self._tips = tips
        self._server_name = server_name

    async def between(
        self, tip: RoomTip, point: StatePoint, own: StoredEvent, redacted_nids: Collection[int]
    ) -> RoomChange:
        """Return what the new current state changes besides what the event itself says.

        `redacted_nids` are the events that it redacts.
        """
        if point.state_group == tip.state_group:
            return RoomChange()
        keys = differing_keys([tip.chain, point.chain], [tip.state, point.state])
        if not keys:
            return RoomChange()
        names = await self._store.interner.key_names(keys)
        nids = {nid for key in keys for state in (tip.state, point.state) if (nid := state.get(key)) is not None}
        events = await self._tips.load(nids - {own.nid})
        events[own.nid] = own
        events.update((nid, as_redacted(tip.version, events[nid], own)) for nid in redacted_nids if nid in events)
        members: list[MemberChange] = []
        stats: dict[str, Any] = {}
        is_renamed = False
        for key in sorted(keys):
            kind, state_key = names[key]
            old, new = events.get(tip.state.get(key, 0)), events.get(point.state.get(key, 0))
            if kind == "m.room.member":
                members.append(await self._member_change(state_key, old, new))
            elif state_key == "":
                stats.update(stats_of(new.event) if new is not None else stats_without(kind))
                is_renamed = is_renamed or kind in _NAMING
        own_key = own.key_nid
        is_further = keys != {own_key} or own_key is None or tip.state.get(own_key) != own.replaces_nid
        return RoomChange(tuple(members), stats, is_renamed, is_further)

    async def _member_change(self, state_key: str, old: StoredEvent | None, new: StoredEvent | None) -> MemberChange:
        user_id = UserID(state_key)
        telling = new or old
        assert telling is not None
        return MemberChange(
            user_id=user_id,
            user_nid=await self._store.interner.user(user_id),
            membership=(new.event.membership if new is not None else None) or "leave",
            before=old.event.membership if old is not None else None,
            is_local=server_name_of(user_id) == self._server_name,
            nid=telling.nid,
            sender_nid=telling.sender_nid,
        )
