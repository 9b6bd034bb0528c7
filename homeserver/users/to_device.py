"""Messages from device to device: put into inboxes here, or sent on to the servers of who they are for.

A request is carried out once: its transaction ID is written in the transaction that stores the messages, and with them
what goes to other servers. The same for what other servers send, by their message IDs.

A message waits until its device has acknowledged it, however long that takes; but a device that never comes back must
not fill the disk. So an inbox has bounds that no client in use comes near to (`inbox_bounds`). What comes for a full
one is dropped, and that is logged; what is there stays, for it was promised, and whoever would flood a device could
else push out what others have sent it. The sender is told nothing: the other devices of the same request get theirs.

Spec: client-server API, "Send-to-Device messaging"; server-server API, "Send-to-device messaging".
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256
from typing import Any, Final

import orjson

from homeserver.errors import BadIdentifier, BadJson, InvalidParam, TooLarge
from homeserver.feed.changes import store_change
from homeserver.feed.feed import Feed
from homeserver.feed.streams.to_device import ToDeviceStream
from homeserver.model.canonical_json import JsonObject, check_strict
from homeserver.model.device_keys import is_device_id
from homeserver.model.edu import parse_direct_to_device
from homeserver.model.ids import ServerName, UserID
from homeserver.ports import EduOutbox
from homeserver.runtime.clock import Clock
from homeserver.runtime.lanes import Lanes
from storage import device_keys as keys_storage
from storage import to_device as storage
from storage.outbox import OutboxEdu, store_edus
from storage.store import Store
from storage.to_device import Inbox, Request
from storage.transaction import Transaction

from .sessions import Requester

logger = logging.getLogger(__name__)

DIRECT_TO_DEVICE: Final = "m.direct_to_device"
ALL_DEVICES: Final = "*"
# LIMIT: of one message; what would make an event too large is too large for a message.
MAX_MESSAGE_BYTES: Final = 65_536
# LIMIT: devices in one request.
MAX_MESSAGES: Final = 10_000
MAX_TYPE_CHARACTERS: Final = 255
# LIMIT: of one EDU.
_EDU_MESSAGES: Final = 500
_EDU_BYTES: Final = 256 * 1024
# LIMIT: what one request makes of messages here, and of bytes: `*` stands for as many devices as there are.
MAX_STORED: Final = 20_000
MAX_STORED_BYTES: Final = 64 * 1024**2
# For how long a request is known to have been carried out: another server may try again after days.
KEEP_MS: Final = 7 * 24 * 3600 * 1000
# LIMIT: the newest requests of a device, and messages of a server, that are known to have been carried out. What is
# repeated was not answered: a client has a few such at once, a server those of one transaction.
KEPT_OF_DEVICE: Final = 200
KEPT_OF_SERVER: Final = 1_000

_EMPTY: Final = Inbox("", "", 0, 0)

Messages = Mapping[str, Mapping[str, JsonObject]]
"""user ID -> device ID or `*` -> content."""


class ToDevice:
    """Sends messages."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        clock: Clock,
        *,
        stream: ToDeviceStream,
        server_name: ServerName,
        outbox: EduOutbox,
    ) -> None:
        self._store = store
        self._feed = feed
        self._clock = clock
        self._stream = stream
        self._server_name = server_name
        self._outbox = outbox
        # By the owners of requests.
        self._lanes: Lanes[str] = Lanes()

    async def send(self, requester: Requester, event_type: str, txn_id: str, messages: Messages) -> None:
        """Send messages of one type; nothing happens where the device has sent under this ID before."""
        if len(event_type) > MAX_TYPE_CHARACTERS or "\x00" in event_type:
            raise InvalidParam("the event type is too long")
        local: dict[str, Mapping[str, JsonObject]] = {}
        edus: list[tuple[str, JsonObject]] = []
        remote: dict[str, dict[str, Mapping[str, JsonObject]]] = {}
        for user, by_device in messages.items():
            if not by_device:
                continue
            server = UserID.parse(user).server_name
            if server == self._server_name:
                local[user] = by_device
            else:
                remote.setdefault(server, {})[user] = by_device
        for destination, by_user in remote.items():
            for part in _edu_parts(by_user):
                content = {
                    "sender": str(requester.user_id),
                    "type": event_type,
                    "message_id": secrets.token_urlsafe(16),
                    "messages": part,
                }
                # What goes to others has to be canonical JSON.
                check_strict(content)
                edus.append((destination, content))
        now_ms = self._clock.now_ms()
        rows = [OutboxEdu(self._store.numbers.next(), server, DIRECT_TO_DEVICE, each, now_ms) for server, each in edus]
        device = requester.device_nid if requester.device_nid is not None else -requester.user_nid
        request = Request(_owner(device), _hash(event_type, txn_id))
        await self._deliver(request, KEPT_OF_DEVICE, str(requester.user_id), event_type, local, rows, now_ms)
        if rows:
            self._outbox.wake({row.destination for row in rows})

    async def receive(self, origin: str, content: JsonObject) -> None:
        """Take in an `m.direct_to_device` of a server for one of its users; raises BadJson, TooLarge."""
        sent = parse_direct_to_device(content)
        local = {str(user): each for user, each in sent.messages.items() if user.server_name == self._server_name}
        for by_device in local.values():
            for each in by_device.values():
                _check_content(each)
        if local:
            request = Request(_hash("server", origin), _hash(str(sent.sender), sent.message_id))
            await self._deliver(request, KEPT_OF_SERVER, str(sent.sender), sent.type, local, [], self._clock.now_ms())

    async def trim(self) -> None:
        """Forget requests that nobody will repeat, and what is left of devices that are gone."""
        before = self._clock.now_ms() - KEEP_MS
        while await self._store.database.write(lambda tx: storage.trim_transactions(tx, before)):
            pass
        await self._store.database.write(storage.trim_marks)

    def erase(self, tx: Transaction, user_nid: int, device_nids: Iterable[int]) -> None:
        """Delete what waits for devices, and what is known of their requests; a `DeviceEraser`."""
        nids = list(device_nids)
        storage.delete_inboxes(tx, nids)
        storage.delete_transactions(tx, [_owner(nid) for nid in nids])

    async def _deliver(
        self,
        request: Request,
        most: int,
        sender: str,
        event_type: str,
        local: Messages,
        rows: list[OutboxEdu],
        now_ms: int,
    ) -> None:
        # Encoded here, so that the writer's thread has little to do; a content that many get is encoded once.
        encoded: dict[int, bytes] = {}
        head = orjson.dumps({"type": event_type, "sender": sender})[:-1] + b',"content":'
        for by_device in local.values():
            for content in by_device.values():
                if id(content) not in encoded:
                    encoded[id(content)] = head + orjson.dumps(content) + b"}"

        full: frozenset[int] = frozenset()

        def write(tx: Transaction, position: int) -> dict[int, tuple[str, int]]:
            if not storage.begin_transaction(tx, request, position, now_ms, most=most):
                return {}
            found: dict[int, tuple[str, int]] = {}
            if local:
                found, inboxes = _inboxes(tx, local, encoded, full)
                storage.add_messages(tx, position, inboxes)
            store_edus(tx, rows)
            return found

        def publish(position: int, found: dict[int, tuple[str, int]]) -> None:
            if found:
                self._stream.publish({device_nid: user_id for device_nid, (user_id, _) in found.items()}, position)
                self._stream.bounds.added({device_nid: size for device_nid, (_, size) in found.items()})

        # Messages of one sender are stored in the order in which they came; what is stored has its place once it is
        # handed to the writer.
        async with self._lanes.enter(request.owner):
            full = await self._full(now_ms)
            stored = store_change(
                self._store.positions,
                lambda position: self._store.database.write(lambda tx: write(tx, position)),
                publish,
            )
        await stored

    async def _full(self, now_ms: int) -> frozenset[int]:
        """Return the devices that take nothing now; those of which it is in doubt are weighed first."""
        bounds = self._stream.bounds
        doubtful = bounds.doubtful()
        if doubtful:
            measured = await self._store.database.read(lambda tx: storage.measure_inboxes(tx, doubtful))
            for device_nid in doubtful:
                inbox = measured.get(device_nid, _EMPTY)
                if bounds.measured(device_nid, inbox.messages, inbox.size_bytes, now_ms):
                    logger.warning(
                        "%d messages of %d bytes wait for the device %s of %s: what is sent to it from now on is "
                        "dropped, until it syncs or is deleted",
                        inbox.messages,
                        inbox.size_bytes,
                        inbox.device_id,
                        inbox.user_id,
                    )
        return bounds.full(now_ms)


def _inboxes(
    tx: Transaction, local: Messages, encoded: Mapping[int, bytes], full: Collection[int]
) -> tuple[dict[int, tuple[str, int]], list[tuple[int, bytes]]]:
    """Return whom messages are for: device_nid -> (user ID, bytes); and the messages. Raises TooLarge."""
    users = keys_storage.find_local_users(tx, local)
    devices = keys_storage.load_device_ids(tx, users.values())
    found: dict[int, tuple[str, int]] = {}
    inboxes: list[tuple[int, bytes]] = []
    size = 0
    for user_id, user_nid in users.items():
        wanted = local[user_id]
        everybody = wanted.get(ALL_DEVICES)
        for device_id, device_nid in devices.get(user_nid, {}).items():
            content = wanted.get(device_id, everybody)
            if content is None or device_nid in full:
                continue
            message = encoded[id(content)]
            size += len(message)
            if len(inboxes) == MAX_STORED or size > MAX_STORED_BYTES:
                raise TooLarge("the messages are for too many devices")
            found[device_nid] = user_id, len(message)
            inboxes.append((device_nid, message))
    return found, inboxes


def read_messages(body: JsonObject) -> Messages:
    """Return the messages of a body; raises BadJson, InvalidParam, TooLarge."""
    messages = body.get("messages")
    if not isinstance(messages, dict):
        raise BadJson("'messages' must be an object")
    count = 0
    for user, by_device in messages.items():
        if not isinstance(by_device, dict):
            raise BadJson("'messages' must hold objects")
        try:
            UserID.parse(user)
        except BadIdentifier as fault:
            raise BadJson("'messages' must be for users") from fault
        count += len(by_device)
        if count > MAX_MESSAGES:
            raise InvalidParam(f"at most {MAX_MESSAGES} devices can be sent to at once")
        for device_id, content in by_device.items():
            if not is_device_id(device_id):
                raise BadJson("'messages' must be for devices")
            _check_content(content)
    return messages


def _check_content(content: Any) -> None:
    if not isinstance(content, dict):
        raise BadJson("the content of a message must be an object")
    if len(orjson.dumps(content)) > MAX_MESSAGE_BYTES:
        raise TooLarge(f"a message has at most {MAX_MESSAGE_BYTES} bytes")


def _edu_parts(by_user: Mapping[str, Mapping[str, JsonObject]]) -> Iterable[dict[str, dict[str, JsonObject]]]:
    part: dict[str, dict[str, JsonObject]] = {}
    count = size = 0
    for user, by_device in by_user.items():
        for device_id, content in by_device.items():
            length = len(orjson.dumps(content))
            if part and (count >= _EDU_MESSAGES or size + length > _EDU_BYTES):
                yield part
                part, count, size = {}, 0, 0
            part.setdefault(user, {})[device_id] = content
            count += 1
            size += length
    if part:
        yield part


def _owner(device_nid: int) -> str:
    return _hash("client", str(device_nid))


def _hash(*parts: str) -> str:
    return sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
