"""The unbroken stream of a live connection: one update after the other, each from where the last one ended.

A connection is a `Place`: a position, and what has to be known of its device's inbox. It holds no queue. Whoever can
take the next update asks for it, and gets what has come meanwhile: nothing that is in a room's timeline is left out,
however long that was. What would not fit into one update ends at an earlier position, and the rest is in the next.

Of messages to the device, an update tells those at positions up to its own; they stay in the inbox until they are
acknowledged. An inbox that once did not fit into a response has a mark (see `streams.to_device`): then the next
messages come only after an acknowledgement, as with /sync. The inbox belongs to the place of its device that began
last: what is still under way for a connection that the client has given up must not set a mark that the client, which
goes on elsewhere, never hears of.

docs/stream.md is the contract.
"""

from __future__ import annotations

from typing import Final
from weakref import WeakValueDictionary

from homeserver.model.filters import Filter
from homeserver.model.ids import UserID
from homeserver.runtime.lanes import Lanes
from storage.store import Store

from .device_sections import DeviceSections
from .feed import Feed, UserFeed, UserRoom
from .moves import load_memberships_at
from .response import SyncRequest
from .streams.to_device import NOTHING, Told
from .sync import Sync

# LIMIT: events of one room in an update that goes on from an earlier one.
MAX_IN_UPDATE: Final = 100


class Place:
    """Where a live connection stands in the stream.

    `position` is None before the first update of one that came without a token.
    """

    __slots__ = (
        "__weakref__",
        "_acknowledged",
        "_counts",
        "_has_begun",
        "_inbox_upto",
        "_is_waiting",
        "device_nid",
        "filter",
        "position",
        "state_after",
        "user_id",
        "user_nid",
    )

    def __init__(
        self,
        user_id: UserID,
        user_nid: int,
        device_nid: int | None,
        position: int | None,
        filter: Filter,
        state_after: str | None = None,
    ) -> None:
        self.user_id = user_id
        self.user_nid = user_nid
        self.device_nid = device_nid
        self.position = position
        self.filter = filter
        self.state_after = state_after
        # The position of the newest token that the client has certainly got.
        self._acknowledged = position
        # Up to where the inbox has been told; None: it is to be taken anew, with what `_acknowledged` acknowledges.
        self._inbox_upto: int | None = None
        # Whether the inbox has been asked for.
        self._has_begun = False
        # Whether more of the inbox may only be told after an acknowledgement.
        self._is_waiting = False
        # The counts of keys that were told last.
        self._counts = b""


class LiveUpdates:
    """Makes the updates of live connections."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        sync: Sync,
        devices: DeviceSections | None,
        *,
        max_in_update: int = MAX_IN_UPDATE,
    ) -> None:
        self._max_in_update = max_in_update
        self._store = store
        self._feed = feed
        self._sync = sync
        self._devices = devices
        # By device: whose the inbox is.
        self._inboxes: WeakValueDictionary[int, Place] = WeakValueDictionary()
        self._taking: Lanes[int] = Lanes()

    def has_news(self, place: Place, user: UserFeed) -> bool:
        """Tell whether `next` might have something, without looking closely."""
        position = place.position
        if position is None or user.last_change > position or position < user.floor:
            return True
        if position > self._feed.watermark:
            # Not a place in this stream: `next` finds one.
            return True
        # At the beginning, and after an acknowledgement that was waited for: the inbox may have something from before.
        return self._has_device(place) and place._inbox_upto is None and not place._is_waiting

    def move_on(self, place: Place, user: UserFeed) -> None:
        """Move a place to the present if nothing has concerned the user since; not while its update is being made.

        A place that stood still would be left behind by what the feed has in memory, and its next update be read from
        the database.
        """
        position = place.position
        if position is not None and user.floor <= position >= user.last_change:
            place.position = max(position, self._feed.watermark)

    def has_other_counts(self, place: Place) -> bool:
        """Tell whether the device's keys may have become fewer since they were told of; that wakes nobody."""
        if self._devices is None or place.device_nid is None:
            return False
        return self._devices.known_counts(place.device_nid) != place._counts

    async def next(self, place: Place) -> bytes | None:
        """Return the next update, and move the place behind it; None if there is nothing to tell.

        One at a time for each place.
        """
        while True:
            # An acknowledgement may come at any time.
            is_waiting = place._is_waiting
            told, is_whole = await self._told(place)
            user = self._feed.find_user(place.user_id)
            if user is None:
                await self._feed.user(place.user_id, place.user_nid)
                continue
            # Nothing is waited for between `_told` and this, as in `Sync.respond`.
            watermark = self._feed.watermark
            if place.position is not None and place.position > watermark:
                # A token from a stream that ran further than this one (a restored backup): go on from here.
                place.position, place._acknowledged = watermark, None
            body, upto, told_here = await self._make(place, user, told, watermark if is_whole else told.positions[-1])
            place.position = upto
            if self._has_device(place) and not is_waiting:
                self._note_told(place, told, told_here, upto)
            if body is not None or (upto == watermark and is_whole):
                return body

    async def acknowledge(self, place: Place, position: int) -> bool:
        """Take note that the client has got all updates up to a token's position; True: more may be told at once."""
        if self._devices is None or place.device_nid is None or place.position is None:
            return False
        if not place._is_waiting and self._inboxes.get(place.device_nid) is not place:
            # What another connection has been told since is not in the updates of this one.
            return False
        position = min(position, place.position)
        if position <= (place._acknowledged or 0):
            return False
        before, place._acknowledged = place._acknowledged, position
        waited_upto = place._inbox_upto if place._is_waiting else None
        if waited_upto is not None and position < waited_upto:
            return False
        if place._inbox_upto is not None and self._inboxes.get(place.device_nid) is place:
            # Not with what is taken next: the client is told now that this is done, and may be gone by then.
            try:
                await self._devices.acknowledge(place.device_nid, position)
            except BaseException:
                if place._acknowledged == position:
                    # The client may say it again.
                    place._acknowledged = before
                raise
        # Another acknowledgement may have led on meanwhile.
        if waited_upto is None or not place._is_waiting or place._inbox_upto != waited_upto:
            return False
        place._is_waiting, place._inbox_upto = False, None
        return True

    async def _told(self, place: Place) -> tuple[Told, bool]:
        """Return the messages that the next update may tell, and whether those are all there are."""
        if self._devices is None or place.device_nid is None or place._is_waiting:
            return NOTHING, True
        if not self._has_inbox(place, place.device_nid):
            return NOTHING, True
        if place._inbox_upto is None:
            # Whoever has it now is at work to the end, mark and all, before the next begins.
            async with self._taking.enter(place.device_nid):
                if not self._has_inbox(place, place.device_nid):
                    return NOTHING, True
                return await self._devices.take(place.device_nid, place._acknowledged), True
        return await self._devices.between(place.device_nid, place._inbox_upto)

    def _has_inbox(self, place: Place, device_nid: int) -> bool:
        """Tell whether the device's inbox is this place's: it has begun last, or those that did so later are gone."""
        if self._inboxes.get(device_nid) is place:
            return True
        if place._has_begun and device_nid in self._inboxes:
            return False
        place._has_begun, place._inbox_upto = True, None
        self._inboxes[device_nid] = place
        return True

    def _has_device(self, place: Place) -> bool:
        return self._devices is not None and place.device_nid is not None

    async def _make(self, place: Place, user: UserFeed, told: Told, upto: int) -> tuple[bytes | None, int, Told]:
        """Return an update that ends at `upto` or before, None if it would be empty, where it ends, what it told."""
        is_first = place.position is None
        request = SyncRequest(
            user_id=place.user_id,
            user_nid=place.user_nid,
            device_nid=place.device_nid,
            since=place.position,
            filter=place.filter,
            state_after=place.state_after,
            unbroken_limit=None if is_first else self._max_in_update,
        )
        places = None
        if upto < self._feed.watermark:
            places = await self._rooms_at(user, upto)
        told_here = told.upto(upto)
        built = await self._sync.build(request, user, upto, told_here, places)
        while built.cut is not None:
            upto = built.cut
            told_here = told.upto(upto)
            built = await self._sync.build(request, user, upto, told_here, await self._rooms_at(user, upto))
        if built.is_empty and not is_first and built.counts == place._counts:
            return None, upto, told_here
        place._counts = built.counts
        return built.body, upto, told_here

    def _note_told(self, place: Place, told: Told, told_here: Told, upto: int) -> None:
        if told.mark is None:
            place._inbox_upto = upto
        elif told_here is told:
            # Only an acknowledgement of this update, or a later one, leads on.
            place._inbox_upto, place._is_waiting = upto, True

    async def _rooms_at(self, user: UserFeed, upto: int) -> list[UserRoom]:
        """Return the user's rooms as they were at an earlier position."""
        rooms = list(user.rooms.values())
        moved = [room for room in rooms if room.since > upto]
        if not moved:
            return rooms
        nids = [room.room_nid for room in moved]
        found = await self._store.database.read(lambda tx: load_memberships_at(tx, user.user_nid, nids, upto))
        result = [room for room in rooms if room.since <= upto]
        for room in moved:
            earlier = found.get(room.room_nid)
            if earlier is not None:
                membership, event_nid, since = earlier
                result.append(UserRoom(room.room_id, room.room_nid, membership, event_nid, since))
        return result
