"""Building what devices need for end-to-end encryption: the wiring and nothing else.

It stands on the store, the feed and the ways to other servers; the streams of sync, the devices of users and both APIs
are handed its pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from api.client.dehydrated_devices import DehydratedDevicesApi
from api.client.key_backup import KeyBackupApi
from api.client.keys import KeysApi
from api.client.to_device import ToDeviceApi
from federation.server.auth import Signed
from federation.server.devices import DevicesAPI
from federation.server.edus import EduInlet
from homeserver.feed.device_sections import DeviceSections
from homeserver.feed.feed import Feed
from homeserver.feed.streams.device_lists import DeviceListsStream
from homeserver.feed.streams.key_counts import KeyCounts
from homeserver.feed.streams.to_device import ToDeviceStream
from homeserver.model.edu import DEVICE_LIST_UPDATE, DIRECT_TO_DEVICE, SIGNING_KEY_UPDATE
from homeserver.model.ids import ServerName
from homeserver.ports import EduOutbox, RemoteServers
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import Tasks
from homeserver.users.accounts import AccountEraser
from homeserver.users.cross_signing import CrossSigning
from homeserver.users.dehydrated_devices import DehydratedDevices
from homeserver.users.device_keys import DeviceKeys
from homeserver.users.device_lists import DeviceLists
from homeserver.users.devices import DeviceEraser, DeviceRenamed, Devices, DevicesDeleted
from homeserver.users.interactive_auth import InteractiveAuth
from homeserver.users.key_backup import KeyBackups
from homeserver.users.one_time_keys import OneTimeKeys
from homeserver.users.remote_devices import RemoteDevices
from homeserver.users.remote_keys import RemoteKeys
from homeserver.users.sessions import Sessions
from homeserver.users.to_device import ToDevice
from homeserver.web.router import Route
from storage.dehydrated_devices import delete_dehydrated
from storage.store import Store

_TRIM_INTERVAL_S = 3600.0
_SWEEP_INTERVAL_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Encryption:
    """The parts. `sections` is for `Streams.devices`, `erasers` and `observe` are for `Devices`."""

    server_name: ServerName
    store: Store
    feed: Feed
    tasks: Tasks
    lists_stream: DeviceListsStream
    to_device_stream: ToDeviceStream
    key_counts: KeyCounts
    sections: DeviceSections
    device_lists: DeviceLists
    device_keys: DeviceKeys
    one_time_keys: OneTimeKeys
    cross_signing: CrossSigning
    key_backups: KeyBackups
    to_device: ToDevice
    remote: RemoteDevices | None

    @property
    def erasers(self) -> Sequence[DeviceEraser]:
        """What deletes the keys and messages of devices; the first notes what others have to be told."""
        return (self.device_lists.erase, self.one_time_keys.erase, self.to_device.erase, delete_dehydrated)

    @property
    def account_erasers(self) -> Sequence[AccountEraser]:
        """What deletes the keys of users; for `Accounts`."""
        return (self.cross_signing.erase, self.key_backups.erase)

    def observe(self, change: DevicesDeleted | DeviceRenamed) -> None:
        """Forget and tell what changed."""
        if isinstance(change, DevicesDeleted):
            self.one_time_keys.changed([device_nid for device_nid, _ in change.devices])
            for device_nid, _ in change.devices:
                self.to_device_stream.forget(device_nid)
        self.device_lists.observe(change)

    async def start(self) -> None:
        """Go on with what the last stop interrupted."""
        self.tasks.every("trim to-device transactions", _TRIM_INTERVAL_S, self.to_device.trim)
        self.tasks.start("sweep key backups", self.key_backups.sweep())
        self.tasks.every("sweep key backups", _TRIM_INTERVAL_S, self.key_backups.sweep)
        await self.device_lists.start()
        if self.remote is not None:
            self.tasks.start("sweep device lists", self.remote.sweep())
            self.tasks.every("sweep device lists", _SWEEP_INTERVAL_S, self.remote.sweep)

    def routes(self, sessions: Sessions, devices: Devices, interactive_auth: InteractiveAuth) -> list[Route]:
        """Return the routes of the client API; `devices` deletes by `erasers`."""
        dehydrated = DehydratedDevices(self.store, self.tasks, sessions, devices=devices, keys=self.device_keys)
        keys = KeysApi(
            self.device_keys, self.one_time_keys, self.cross_signing, interactive_auth, self.feed, self.lists_stream
        )
        return [
            *keys.routes(),
            *KeyBackupApi(self.key_backups).routes(),
            *ToDeviceApi(self.to_device).routes(),
            *DehydratedDevicesApi(dehydrated).routes(),
        ]

    def inlets(self, signed: Signed, edus: EduInlet) -> list[Route]:
        """Take in EDUs from now on, and return the routes of the server-server API."""
        if self.remote is not None:
            edus.register(DEVICE_LIST_UPDATE, self.remote.on_device_list_update)
            edus.register(SIGNING_KEY_UPDATE, self.remote.on_signing_key_update)
        edus.register(DIRECT_TO_DEVICE, self.to_device.receive)
        return DevicesAPI(signed, self.device_keys, self.one_time_keys, self.server_name).routes()


def build_encryption(
    store: Store,
    feed: Feed,
    clock: Clock,
    tasks: Tasks,
    *,
    server_name: ServerName,
    outbox: EduOutbox,
    servers: RemoteServers | None,
    tells_names: bool,
) -> Encryption:
    """Build the parts; `servers` is None for a server that does not federate."""
    lists_stream, to_device_stream, counts = (
        DeviceListsStream(store, feed),
        ToDeviceStream(store, feed),
        KeyCounts(store),
    )
    remote_devices = remote_keys = None
    if servers is not None:
        remote_devices = RemoteDevices(store, feed, tasks, servers=servers, stream=lists_stream)
        remote_keys = RemoteKeys(store, clock, servers=servers, devices=remote_devices)
    device_lists = DeviceLists(
        store,
        feed,
        clock,
        tasks,
        stream=lists_stream,
        server_name=server_name,
        outbox=outbox,
        tells_names=tells_names,
    )
    one_time_keys = OneTimeKeys(store, counts=counts, server_name=server_name, remote=remote_keys)
    return Encryption(
        server_name=server_name,
        store=store,
        feed=feed,
        tasks=tasks,
        lists_stream=lists_stream,
        to_device_stream=to_device_stream,
        key_counts=counts,
        sections=DeviceSections(to_device_stream, lists_stream, counts),
        device_lists=device_lists,
        device_keys=DeviceKeys(
            store,
            device_lists=device_lists,
            one_time_keys=one_time_keys,
            server_name=server_name,
            remote=remote_keys,
            tells_names=tells_names,
        ),
        one_time_keys=one_time_keys,
        cross_signing=CrossSigning(store, device_lists=device_lists, stream=lists_stream, remote=remote_keys),
        key_backups=KeyBackups(store.database),
        to_device=ToDevice(store, feed, clock, stream=to_device_stream, server_name=server_name, outbox=outbox),
        remote=remote_devices,
    )
