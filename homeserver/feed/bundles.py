"""Bundled aggregations: what relates to an event, told together with it.

Most events have nothing related to them, and for those this costs nothing: `StoredEvent.is_related` knows. Else one
read per room answers for all events of a page, and a second one for the newest replies of threads, which have bundles
of their own.

What the reader may not see is not bundled: children pass `feed.visible` like everything else, those of ignored users
are left out, and for somebody who has left nothing after that counts.

Spec: client-server API, "Aggregations of child events", "Event replacements", "Threading", "Reference relations".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from homeserver.model.relations import ThreadSummary, bundle_relations, is_valid_edit, may_bundle
from homeserver.runtime.clock import Clock
from storage.events import StoredEvent
from storage.history import Bundled, load_bundled
from storage.store import Store

from .client_event import client_dict
from .feed import Feed, UserFeed
from .visible import Reader, Seen, load_stay, see

IgnoredUsers = Callable[[UserFeed], Awaitable[frozenset[str]]]

_NOTHING: Final[Mapping[int, bytes]] = {}
_NO_DICTS: Final[Mapping[int, dict[str, Any]]] = {}


class Bundles:
    """Gives the bundled aggregations of events."""

    def __init__(self, store: Store, feed: Feed, clock: Clock, ignored_users: IgnoredUsers) -> None:
        self._store = store
        self._feed = feed
        self._clock = clock
        self._ignored_users = ignored_users

    async def of(self, user: UserFeed, events: Sequence[StoredEvent]) -> Mapping[int, bytes]:
        """Return the JSON of `unsigned["m.relations"]` by event number, for those events that have any."""
        asked = [stored for stored in events if stored.is_related is not False and may_bundle(stored.event)]
        if not asked:
            return _NOTHING
        rooms: dict[int, list[StoredEvent]] = {}
        for stored in asked:
            rooms.setdefault(stored.room_nid, []).append(stored)
        ignored = await self._ignored_users(user)
        ignored_nids = list((await self._store.interner.find_users(ignored)).values()) if ignored else []
        result: dict[int, bytes] = {}
        for room_nid, children in rooms.items():
            found = await self._of_room(user, room_nid, children, ignored_nids, with_threads=True)
            result.update((nid, orjson.dumps(bundle)) for nid, bundle in found.items())
        return result

    async def _of_room(
        self,
        user: UserFeed,
        room_nid: int,
        parents: Sequence[StoredEvent],
        ignored_nids: Sequence[int],
        *,
        with_threads: bool,
    ) -> Mapping[int, dict[str, Any]]:
        before = self._feed.watermark
        reader, upto = await self._reader(user, room_nid, parents[0], before)
        targets = [str(stored.event_id) for stored in parents]
        bundled = await self._store.database.read(
            lambda tx: load_bundled(tx, room_nid, targets, user.user_nid, upto=upto, ignored_nids=ignored_nids)
        )
        related = {count.target_id for count in bundled.counts}
        for stored in parents:
            if stored.event_id in related:
                stored.is_related = True
            elif stored.is_related is None and not ignored_nids and upto == before == self._feed.watermark:
                # Nothing was published while this was read, and nothing was left out of the question.
                stored.is_related = False
        if not related:
            return _NO_DICTS
        children = await self._visible(reader, bundled)
        threads: Mapping[str, ThreadSummary] = {}
        if with_threads and bundled.thread_ends:
            threads = await self._threads(user, room_nid, parents, bundled, children, ignored_nids)
        return self._shape(parents, bundled, children, threads)

    async def _reader(self, user: UserFeed, room_nid: int, example: StoredEvent, watermark: int) -> tuple[Reader, int]:
        place = user.rooms.get(example.event.room_id)
        if place is None:
            return Reader(user.user_id, user.user_nid, None), watermark
        if place.membership == "join":
            return Reader(user.user_id, user.user_nid, place.since), watermark
        stay = await self._store.database.read(lambda tx: load_stay(tx, user.user_nid, room_nid))
        if stay is None:
            return Reader(user.user_id, user.user_nid, None), watermark
        has_left = place.membership == "leave" and not place.is_forgotten and stay.ended is not None
        return stay.reader(user.user_id, user.user_nid), (stay.ended or 0) if has_left else watermark

    async def _visible(self, reader: Reader, bundled: Bundled) -> dict[int, Seen]:
        nids = [nid for pairs in (bundled.edits, bundled.references, bundled.thread_ends) for _, nid in pairs]
        found = await self._store.events.get(dict.fromkeys(nids))
        return {seen.stored.nid: seen for seen in await see(self._store, reader, list(found.values()))}

    async def _threads(
        self,
        user: UserFeed,
        room_nid: int,
        parents: Sequence[StoredEvent],
        bundled: Bundled,
        children: Mapping[int, Seen],
        ignored_nids: Sequence[int],
    ) -> Mapping[str, ThreadSummary]:
        ends = {target: children[nid] for target, nid in bundled.thread_ends if nid in children}
        inner = [seen.stored for seen in ends.values() if seen.stored.is_related is not False]
        bundles: Mapping[int, dict[str, Any]] = _NO_DICTS
        if inner:
            bundles = await self._of_room(user, room_nid, inner, ignored_nids, with_threads=False)
        senders = {str(stored.event_id): stored.sender_nid for stored in parents}
        summaries: dict[str, ThreadSummary] = {}
        for count in bundled.counts:
            seen = ends.get(count.target_id)
            if count.rel_type != "m.thread" or seen is None:
                continue
            latest = self._shown(seen)
            if seen.stored.nid in bundles:
                latest["unsigned"]["m.relations"] = bundles[seen.stored.nid]
            summaries[count.target_id] = ThreadSummary(
                latest_event=latest,
                count=count.count,
                current_user_participated=count.is_by_reader or senders[count.target_id] == user.user_nid,
            )
        return summaries

    def _shape(
        self,
        parents: Sequence[StoredEvent],
        bundled: Bundled,
        children: Mapping[int, Seen],
        threads: Mapping[str, ThreadSummary],
    ) -> Mapping[int, dict[str, Any]]:
        edits: dict[str, list[Seen]] = {}
        references: dict[str, list[str]] = {}
        for target, nid in bundled.edits:
            if nid in children:
                edits.setdefault(target, []).append(children[nid])
        for target, nid in bundled.references:
            if nid in children:
                references.setdefault(target, []).append(str(children[nid].stored.event_id))
        result: dict[int, dict[str, Any]] = {}
        for stored in parents:
            event_id = str(stored.event_id)
            valid = [seen for seen in edits.get(event_id, ()) if is_valid_edit(stored.event, seen.stored.event)]
            edit = max(valid, key=lambda seen: (seen.stored.event.origin_server_ts, seen.stored.event_id), default=None)
            bundle = bundle_relations(
                stored.event,
                is_redacted=stored.redacted_by is not None,
                edit=self._shown(edit) if edit is not None else None,
                thread=threads.get(event_id),
                references=references.get(event_id, ()),
            )
            if bundle is not None:
                result[stored.nid] = bundle
        return result

    def _shown(self, seen: Seen) -> dict[str, Any]:
        return client_dict(seen.stored, self._clock.now_ms(), membership=seen.membership, with_room_id=True)
