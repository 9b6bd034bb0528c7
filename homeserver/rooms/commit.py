"""Committing: appends go to the writer, and what is stored is published in the order of positions.

Whoever sent may go away; a commit, once handed over, is not forgotten. If it fails, everything composed on top of it
fails as well, and the room's next append starts from what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.feed.feed import Feed, Publication
from homeserver.model.event_json import without_slack
from homeserver.model.ids import RoomID
from storage.events import Flag, StoredEvent
from storage.store import Store

from .advance import Prepared
from .gather import Tips


class Commit:
    """Hands appends to the writer and publishes them."""

    def __init__(self, store: Store, feed: Feed, tips: Tips, *, on_failure: Callable[[RoomID], None]) -> None:
        """`on_failure` is told of a room whose append could not be stored."""
        self._store = store
        self._feed = feed
        self._tips = tips
        self._on_failure = on_failure

    def abandon(self, prepared: Sequence[Prepared]) -> None:
        """Give up appends that were not handed over."""
        for step in prepared:
            self._tips.land(step.stored)
            step.position.abandon()

    def hand_over(self, room_id: RoomID, prepared: Sequence[Prepared]) -> list[Deferred[StoredEvent]]:
        """Queue appends of a room that are stored together; each Deferred fires when its event is visible."""
        head = prepared[0].append
        if len(prepared) > 1:
            # All of them are stored together or none is.
            head.then = tuple(step.append for step in prepared[1:])
            for append in head.then:
                append.head = head
        waiting: list[Deferred[StoredEvent]] = [Deferred() for _ in prepared]
        for step in prepared:
            self._tips.fly(step.stored)
        self._tips.begin(room_id)
        self._tips.keep(prepared[-1].after)
        written: Any = self._store.database.submit(head)
        # Not awaited: whoever sent the events may go away, the commit may not be forgotten.
        written.addCallbacks(
            self._committed, self._failed, callbackArgs=(prepared, waiting), errbackArgs=(prepared, waiting)
        )
        return waiting

    def _settle(self, prepared: Sequence[Prepared]) -> None:
        for step in prepared:
            # Neither the chain of appends nor what was written must be held in memory for ever.
            append = step.append
            append.after = append.head = None
            append.then = ()
            append.encoded = b""
        self._tips.settle(prepared[0].after.room_id)

    def _committed(self, _result: Any, prepared: Sequence[Prepared], waiting: Sequence[Deferred[StoredEvent]]) -> None:
        store = self._store
        try:
            for step in prepared:
                if step.after.version.strict_canonical_json:
                    step.stored.event.pack(without_slack(step.append.encoded))
                store.events.add(step.stored)
                for group, state in step.new_states:
                    store.states.add(group, state, 4)
                if step.append.wakes_nid is not None:
                    self._wake(step.after.room_id, step.append.wakes_nid)
            self._settle(prepared)
        finally:
            for step, answer in zip(prepared, waiting, strict=True):
                step.position.finish(partial(self._publish, step, answer))

    def _publish(self, step: Prepared, answer: Deferred[StoredEvent]) -> None:
        self._tips.land(step.stored)
        if step.stored.position is None or step.is_history:
            # Nobody is shown it, or it is from before all that the feed has in memory.
            for nid in step.redaction.nids if step.redaction is not None else ():
                self._store.events.redact(step.after.version, nid, step.stored)
            answer.callback(step.stored)
            return
        try:
            redacted = []
            if step.redaction is not None:
                for nid in step.redaction.nids:
                    new = self._store.events.redact(step.after.version, nid, step.stored)
                    if new is not None:
                        redacted.append(new)
                    # What replaces it, and was composed before the redaction was seen, would tell its old content.
                    for later in self._tips.in_flight.values():
                        if later.replaces_nid == nid:
                            later.replaced_content = new.event.content if new is not None else {}
                            later.head = None
            self._feed.publish(
                Publication(
                    stored=step.stored,
                    room_id=step.after.room_id,
                    joined_members=step.after.joined_members,
                    members=step.members,
                    is_renamed=step.is_renamed,
                    redacted=tuple(redacted),
                    redacted_nids=step.redaction.nids if step.redaction is not None else (),
                    destinations=step.append.destinations,
                    is_after_gap=step.append.gap is not None,
                )
            )
        finally:
            answer.callback(step.stored)

    def _wake(self, room_id: RoomID, nid: int) -> None:
        """Show a redaction that was waiting for what it redacts, wherever it is held: as one object or as several."""
        room = self._feed.find_room(room_id)
        held = [stored for stored in room.recent if stored.nid == nid] if room is not None else []
        for redaction in (self._store.events.find(nid), self._tips.in_flight.get(nid), *held):
            if redaction is not None:
                redaction.flags &= ~int(Flag.INERT)
                redaction.head = None

    def _failed(self, failure: Any, prepared: Sequence[Prepared], waiting: Sequence[Deferred[StoredEvent]]) -> None:
        # Everything composed on top of this append fails as well; the next one starts from what is stored.
        self._tips.drop(prepared[0].after.room_id)
        self._on_failure(prepared[0].after.room_id)
        try:
            for step in prepared:
                # The writer may be about to ask this of the next append already.
                step.append.failed = True
                self._tips.land(step.stored)
            self._settle(prepared)
        finally:
            for step in prepared:
                room_id, number = step.after.room_id, step.position.number
                step.position.finish(partial(self._feed.distrust, room_id, number, step.members))
            for answer in waiting:
                answer.errback(failure)


async def all_of(waiting: Sequence[Deferred[StoredEvent]]) -> list[StoredEvent]:
    """Return all results; if one fails, the failures behind it are the same one told again."""
    results: list[StoredEvent] = []
    try:
        for stored in waiting:
            results.append(await stored)
    except BaseException:
        for stored in waiting[len(results) + 1 :]:
            stored.addErrback(lambda _: None)
        raise
    return results
