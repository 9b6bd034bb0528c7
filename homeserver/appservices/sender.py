"""Telling application services what happens: to each by a queue of its own, which has its own pace.

This is where what happens is handed out; `queue` has the rest.

Spec: application service API, "Pushing events", "Pushing ephemeral data".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.feed.feed import Feed, Publication
from homeserver.feed.streams.device_lists import DeviceListsStream
from homeserver.feed.streams.key_counts import KeyCounts
from homeserver.feed.streams.presence import PresenceState
from homeserver.feed.streams.to_device import ToDeviceStream
from homeserver.model.receipts import READ_PRIVATE
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import Tasks
from storage import appservices as storage
from storage.receipts import NamedReceipt
from storage.store import Store

from .client import AppserviceClient
from .queue import Queue
from .registry import Registry


class AppserviceSender:
    """Sends to all services that have a URL."""

    def __init__(
        self, store: Store, feed: Feed, clock: Clock, tasks: Tasks, registry: Registry, client: AppserviceClient
    ) -> None:
        self._store = store
        self._feed = feed
        self._tasks = tasks
        self._queues = {
            service.id: Queue(store, feed, clock, service, client) for service in registry if service.url is not None
        }
        self._ephemeral = tuple(queue for queue in self._queues.values() if queue.service.sends_ephemeral_as)
        self._following = tuple(self._queues.values())
        self._telling = tuple(queue for queue in self._following if queue.news is not None)

    @property
    def wants_ephemeral(self) -> bool:
        """Whether any service wants ephemeral events."""
        return bool(self._ephemeral)

    async def start(self) -> None:
        """Go on where the last run stopped; a service that was not known before is told what comes from now on."""
        known = frozenset(self._queues)
        await self._store.database.write(lambda tx: storage.delete_other_queues(tx, known))
        if not self._queues:
            return
        for queue in self._following:
            await queue.load()
        self._feed.listen(self._on_publication)
        for queue in self._following:
            self._tasks.start(f"application service {queue.service.id}", queue.run())

    def follow_devices(self, messages: ToDeviceStream, lists: DeviceListsStream, counts: KeyCounts) -> None:
        """Tell services that encrypt what happens to devices from now on; what happened before is looked up."""
        if not self._telling:
            return
        messages.listen(self._on_messages)
        lists.listen(self._on_lists)
        counts.listen(self._on_counts)
        for queue in self._telling:
            queue.taken = messages.taken

    def retry_now(self, appservice_id: str) -> None:
        """Try again at once: the service has shown that it is there."""
        queue = self._queues.get(appservice_id)
        if queue is not None:
            queue.retry_now()

    # -- what happens ------------------------------------------------------------------------------------------------

    def _on_publication(self, publication: Publication) -> None:
        for queue in self._following:
            queue.offer(publication.stored)

    def _on_messages(self, devices: Mapping[int, str]) -> None:
        for queue in self._telling:
            if queue.news is not None and queue.news.on_messages(devices):
                queue.wake()

    def _on_lists(self) -> None:
        for queue in self._telling:
            if queue.news is not None:
                queue.news.on_lists()
                queue.wake()

    def _on_counts(self, device_nids: Sequence[int]) -> None:
        for queue in self._telling:
            if queue.news is not None:
                queue.news.on_counts(device_nids)

    def on_typing(self, room_nid: int, user_ids: Sequence[str]) -> None:
        """Tell who is typing in a room from now on."""
        event = {"type": "m.typing", "content": {"user_ids": list(user_ids)}}
        for queue in self._ephemeral:
            queue.offer_ephemeral(("m.typing", room_nid), event)

    def on_receipt(self, receipt: NamedReceipt) -> None:
        """Tell of a receipt."""
        said: dict[str, Any] = {"ts": receipt.ts}
        if receipt.thread_id:
            said["thread_id"] = receipt.thread_id
        content = {receipt.event_id: {receipt.receipt_type: {receipt.user_id: said}}}
        event = {"type": "m.receipt", "content": content}
        key = ("m.receipt", receipt.room_nid, receipt.user_id, receipt.receipt_type, receipt.thread_id)
        for queue in self._ephemeral:
            # Spec: "Private read receipts MUST only be sent for users matching one of the … namespaces".
            if receipt.receipt_type != READ_PRIVATE or queue.service.is_user(receipt.user_id):
                queue.offer_ephemeral(key, event)

    def on_presence(self, changes: Mapping[str, PresenceState]) -> None:
        """Tell of users' presence."""
        for user_id, presence in changes.items():
            for queue in self._ephemeral:
                queue.offer_ephemeral(("m.presence", user_id), presence)
