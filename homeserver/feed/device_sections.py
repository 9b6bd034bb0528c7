"""What a sync response tells a device for end-to-end encryption: messages for it, changed device lists, its keys.

Spec: client-server API, "Extensions to /sync" of "Send-to-Device messaging" and of "End-to-End Encryption".
"""

from __future__ import annotations

import orjson

from .feed import UserFeed
from .streams.device_lists import NO_CHANGES, DeviceListsStream
from .streams.key_counts import KeyCounts
from .streams.to_device import NOTHING, ToDeviceStream, Told


class DeviceSections:
    """The sections of a response that depend on the device."""

    def __init__(self, to_device: ToDeviceStream, device_lists: DeviceListsStream, key_counts: KeyCounts) -> None:
        self._to_device = to_device
        self._device_lists = device_lists
        self._key_counts = key_counts

    async def take(self, device_nid: int | None, since: int | None) -> Told:
        """Return the messages that the response tells; see `ToDeviceStream.take`."""
        return NOTHING if device_nid is None else await self._to_device.take(device_nid, since)

    async def between(self, device_nid: int, after: int) -> tuple[Told, bool]:
        """Return messages for who stays, and whether those are all; see `ToDeviceStream.between`."""
        return await self._to_device.between(device_nid, after)

    async def acknowledge(self, device_nid: int, position: int) -> None:
        """Forget the messages that a token of this position acknowledges."""
        await self._to_device.acknowledge(device_nid, position)

    async def counts(self, device_nid: int | None) -> bytes:
        """Return the members that every response to a device has, without braces; empty without a device."""
        if device_nid is None:
            return b""
        return self._key_counts.known(device_nid) or await self._key_counts.of(device_nid)

    def known_counts(self, device_nid: int) -> bytes | None:
        """Return what `counts` does if that is in memory."""
        return self._key_counts.known(device_nid)

    async def news(self, user: UserFeed, told: Told, since: int | None, upto: int) -> list[bytes]:
        """Return the members that there are only with news, without braces."""
        sections: list[bytes] = []
        if told.messages:
            sections.append(b'"to_device":{"events":[' + b",".join(told.messages) + b"]}")
        if since is not None:
            changes = await self._device_lists.between(user, since, upto)
            if changes is not NO_CHANGES and (changes.changed or changes.left):
                lists = {"changed": changes.changed, "left": changes.left}
                sections.append(b'"device_lists":' + orjson.dumps(lists))
        return sections
