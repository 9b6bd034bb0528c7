"""Guarded reads of relations: the children of an event, and the threads of a room.

Spec: client-server API, "Relationships API", "Querying threads in a room", "Ignoring Users".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from homeserver.errors import NotAllowed, NotFound
from homeserver.feed.bundles import Bundles, IgnoredUsers
from homeserver.feed.client_event import client_dict
from homeserver.feed.visible import Seen, see
from homeserver.model.filters import Filter
from homeserver.model.ids import EventID, RoomID
from homeserver.model.redaction import redact_content
from homeserver.model.tokens import MAX_POSITION, PaginationToken
from homeserver.runtime.clock import Clock
from storage.events import find_nids
from storage.history import load_descendants, load_related_page, load_threads
from storage.store import Store

from .access import RoomAccess, RoomView, Viewer
from .door import RoomDoor
from .history import EVENT_NOT_FOUND
from .rendering import array, renderer

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100
# Spec: "Homeservers SHOULD traverse at least 3 levels of relationships".
MAX_HOPS: Final = 3
# LIMIT: events whose children are looked for in a recursive request.
MAX_PARENTS: Final = 400
# LIMIT: events looked at for one page when most of them may not be shown.
MAX_SCANNED: Final = 500


class RelationReads:
    """Reads what relates to what."""

    def __init__(
        self,
        store: Store,
        door: RoomDoor,
        access: RoomAccess,
        bundles: Bundles,
        clock: Clock,
        ignored_users: IgnoredUsers,
    ) -> None:
        self._store = store
        self._door = door
        self._access = access
        self._bundles = bundles
        self._clock = clock
        self._ignored_users = ignored_users

    async def children(
        self,
        viewer: Viewer,
        room_id: RoomID,
        event_id: str,
        *,
        rel_type: str | None,
        event_type: str | None,
        start: PaginationToken | None,
        stop: PaginationToken | None,
        backwards: bool,
        limit: int,
        recurse: bool | None,
    ) -> bytes:
        """Return a page of the events that relate to an event, as JSON; `recurse` None where it was not asked.

        Raises NotFound where the event is not in the room or may not be seen, or the room may not be read.
        """
        try:
            view = await self._access.view(viewer, room_id)
        except NotAllowed as fault:
            raise NotFound(EVENT_NOT_FOUND) from fault
        parent = await self._store.events.get_by_id(view.room_nid, event_id)
        if parent is None or parent.position is None or not await see(self._store, view.reader, [parent]):
            raise NotFound(EVENT_NOT_FOUND)
        parents, depth = [event_id], 1
        if recurse and parent.is_related is not False:
            parents, depth = await self._store.database.read(
                lambda tx: load_descendants(tx, view.room_nid, event_id, hops=MAX_HOPS, most=MAX_PARENTS)
            )
        cursor = start.position if start is not None else (view.upto if backwards else -MAX_POSITION)
        end: int | None = None
        found: list[Seen] = []
        if parent.is_related is not False:
            found, end = await self._page(
                view,
                parents,
                rel_type=rel_type,
                event_type=event_type,
                cursor=cursor,
                stop=None if stop is None else stop.position,
                backwards=backwards,
                limit=limit,
            )
        answer = [b'{"chunk":' + await self._shown(viewer, view, found)]
        if start is not None:
            answer.append(b'"prev_batch":"%s"' % str(start).encode())
        if end is not None:
            answer.append(b'"next_batch":"%s"' % str(PaginationToken(end)).encode())
        if recurse is not None:
            answer.append(b'"recursion_depth":%d' % (depth if recurse else 0))
        return b",".join(answer) + b"}"

    async def _page(
        self,
        view: RoomView,
        parents: Sequence[str],
        *,
        rel_type: str | None,
        event_type: str | None,
        cursor: int,
        stop: int | None,
        backwards: bool,
        limit: int,
    ) -> tuple[list[Seen], int | None]:
        if backwards:
            cursor = min(cursor, view.upto)
        else:
            stop = view.upto if stop is None else min(stop, view.upto)
        ignored = await self._ignored_users(view.user)
        found: list[Seen] = []
        scanned = 0
        while scanned < MAX_SCANNED:
            count, start = limit - len(found) + 1, cursor
            pairs = await self._store.database.read(
                lambda tx, start=start, count=count: load_related_page(  # type: ignore[misc]
                    tx,
                    view.room_nid,
                    parents,
                    rel_type=rel_type,
                    event_type=event_type,
                    start=start,
                    stop=stop,
                    backwards=backwards,
                    limit=count,
                )
            )
            scanned += len(pairs)
            loaded = await self._store.events.get(nid for nid, _ in pairs)
            batch = [loaded[nid] for nid, _ in pairs if nid in loaded]
            shown = [stored for stored in batch if stored.event.sender not in ignored or stored.event.is_state]
            for seen in await see(self._store, view.reader, shown):
                found.append(seen)
                if len(found) == limit:
                    position = seen.stored.position or 0
                    is_last = seen.stored is batch[-1] and len(pairs) < count
                    return found, None if is_last else (position - 1 if backwards else position)
            if len(pairs) < count:
                return found, None
            position = pairs[-1][1]
            cursor = position - 1 if backwards else position
        return found, cursor

    async def _shown(self, viewer: Viewer, view: RoomView, events: Sequence[Seen]) -> bytes:
        bundles = await self._bundles.of(view.user, [seen.stored for seen in events])
        show = renderer(self._clock.now_ms(), viewer.device_nid, Filter.default(), bundles)
        return array([show(seen.stored, seen.membership) for seen in events])

    async def threads(
        self, viewer: Viewer, room_id: RoomID, *, start: PaginationToken | None, limit: int, participated: bool
    ) -> bytes:
        """Return roots of threads, the one that was replied to last first, as JSON; raise NotAllowed."""
        view = await self._access.view(viewer, room_id)
        cursor = None if start is None else start.position
        found: list[Seen] = []
        end: int | None = None
        scanned = 0
        participant = viewer.user_nid if participated else None
        while scanned < MAX_SCANNED:
            first, count = cursor, limit - len(found) + 1
            pairs = await self._store.database.read(
                lambda tx, first=first, count=count: load_threads(  # type: ignore[misc]
                    tx, view.room_nid, start=first, limit=count, upto=view.upto, participant_nid=participant
                )
            )
            scanned += len(pairs)
            for seen, position in await self._visible_roots(view, pairs):
                found.append(seen)
                if len(found) == limit:
                    end = None if position == pairs[-1][1] and len(pairs) < count else position - 1
                    return await self._thread_page(viewer, view, found, end)
            if len(pairs) < count:
                return await self._thread_page(viewer, view, found, None)
            cursor = pairs[-1][1] - 1
        return await self._thread_page(viewer, view, found, cursor)

    async def _visible_roots(self, view: RoomView, pairs: Sequence[tuple[str, int]]) -> list[tuple[Seen, int]]:
        nids = await self._store.database.read(lambda tx: find_nids(tx, view.room_nid, [root for root, _ in pairs]))
        loaded = await self._store.events.get(nids.values())
        newest = {nids[EventID(root)]: position for root, position in pairs if root in nids}
        roots = [loaded[nid] for nid in newest if nid in loaded and loaded[nid].position is not None]
        return [(seen, newest[seen.stored.nid]) for seen in await see(self._store, view.reader, roots)]

    async def _thread_page(self, viewer: Viewer, view: RoomView, roots: Sequence[Seen], end: int | None) -> bytes:
        bundles = await self._bundles.of(view.user, [seen.stored for seen in roots])
        ignored = await self._ignored_users(view.user)
        now_ms = self._clock.now_ms()
        show = renderer(now_ms, viewer.device_nid, Filter.default(), bundles)
        encoded: list[bytes] = []
        for seen in roots:
            if seen.stored.event.sender in ignored:
                encoded.append(await self._redacted(view, seen, bundles.get(seen.stored.nid), now_ms))
            else:
                encoded.append(show(seen.stored, seen.membership))
        answer = b'{"chunk":' + array(encoded)
        if end is not None:
            answer += b',"next_batch":"%s"' % str(PaginationToken(end)).encode()
        return answer + b"}"

    async def _redacted(self, view: RoomView, seen: Seen, bundle: bytes | None, now_ms: int) -> bytes:
        # Spec: `GET /threads`: the root of an ignored user "is returned redacted to the caller".
        version = (await self._door.tip(view.room_id)).version
        shown: dict[str, Any] = client_dict(
            seen.stored, now_ms, membership=seen.membership, relations=bundle, with_room_id=True
        )
        shown["content"] = redact_content(version, seen.stored.event.type, shown["content"])
        return orjson.dumps(shown)
