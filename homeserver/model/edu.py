"""EDUs: what the contents that other servers send mean, read piece by piece and within bounds.

Pure parsing: who may say what about whom is decided elsewhere. Of contents that tell of one thing, one that is not
well-formed raises `BadJson`; of those that tell of many (receipts, presence), the pieces that are not are left out, and
so is what is over a bound. Nothing here asks whether users, rooms or events exist.

Spec: server-server API, "EDUs", "Typing Notifications", "Presence", "Receipts", "Device Management",
"End-to-End Encryption", "Send-to-device messaging"; data/api/server-server/definitions/event-schemas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from homeserver.errors import BadIdentifier, BadJson, InvalidParam

from .canonical_json import MAX_INTEGER, JsonObject
from .ids import EventID, RoomID, UserID
from .receipts import READ, read_thread_id

TYPING: Final = "m.typing"
PRESENCE: Final = "m.presence"
RECEIPT: Final = "m.receipt"
DEVICE_LIST_UPDATE: Final = "m.device_list_update"
SIGNING_KEY_UPDATE: Final = "m.signing_key_update"
DIRECT_TO_DEVICE: Final = "m.direct_to_device"

PRESENCE_STATES: Final = ("online", "unavailable", "offline")

# LIMIT: of one EDU: users whose presence, and receipts, that are looked at; users and devices that a message goes to.
MAX_PRESENCE: Final = 500
MAX_RECEIPTS: Final = 1_000
MAX_MESSAGES: Final = 1_000
# LIMIT: of one update of a device list: earlier ones that it names.
MAX_PREV_IDS: Final = 100
MAX_STATUS_CHARACTERS: Final = 2_048
MAX_TEXT_CHARACTERS: Final = 255
MAX_NAME_CHARACTERS: Final = 100
# Spec: m.direct_to_device: "of maximum length 32 codepoints"; other servers are not as strict.
MAX_MESSAGE_ID_CHARACTERS: Final = 255


@dataclass(frozen=True, slots=True)
class TypingEdu:
    """A user is typing in a room, or has stopped."""

    room_id: RoomID
    user_id: UserID
    is_typing: bool


@dataclass(frozen=True, slots=True)
class PresenceUpdate:
    """A user's presence; `last_active_ago_ms` is None where it was not said."""

    user_id: UserID
    state: str
    status_msg: str | None
    last_active_ago_ms: int | None
    is_active: bool


@dataclass(frozen=True, slots=True)
class ReceiptUpdate:
    """A user has read a room, or a thread of it (None: all of it), up to an event."""

    room_id: RoomID
    user_id: UserID
    event_id: EventID
    thread_id: str | None
    ts: int


@dataclass(frozen=True, slots=True)
class DeviceListUpdate:
    """A device has changed, or is gone. `prev_ids` and `stream_id` are of the sender's own numbering for this user.

    `keys` are the device's keys as they came, unchecked; None where it has none.
    """

    user_id: UserID
    device_id: str
    stream_id: int
    prev_ids: tuple[int, ...]
    is_deleted: bool
    display_name: str | None
    keys: JsonObject | None


@dataclass(frozen=True, slots=True)
class SigningKeyUpdate:
    """A user's cross-signing keys have changed; the keys are as they came, unchecked, None where not named."""

    user_id: UserID
    master_key: JsonObject | None
    self_signing_key: JsonObject | None


@dataclass(frozen=True, slots=True)
class DirectToDevice:
    """A message to devices: user -> device (`*`: all) -> content."""

    sender: UserID
    type: str
    message_id: str
    messages: Mapping[UserID, Mapping[str, JsonObject]]


def parse_typing(content: JsonObject) -> TypingEdu:
    """Return what an `m.typing` says, or raise BadJson."""
    is_typing = content.get("typing")
    if not isinstance(is_typing, bool):
        raise BadJson("'typing' must be true or false")
    return TypingEdu(_room_id(content.get("room_id")), _user_id(content, "user_id"), is_typing)


def parse_presence(content: JsonObject) -> list[PresenceUpdate]:
    """Return what an `m.presence` says of its first users, the last word on each; raise BadJson if it is no list."""
    push = content.get("push")
    if not isinstance(push, list):
        raise BadJson("'push' must be an array")
    updates: dict[UserID, PresenceUpdate] = {}
    for each in push[:MAX_PRESENCE]:
        update = _presence(each)
        if update is not None:
            updates[update.user_id] = update
    return list(updates.values())


def parse_receipts(content: JsonObject) -> list[ReceiptUpdate]:
    """Return the first read receipts of an `m.receipt`; may be empty. Receipts of other types are not told to others.

    Spec: client-server API, "Private read receipts": `m.read.private` is never sent to other servers.
    """
    found: list[ReceiptUpdate] = []
    for room, user, receipt in islice(_receipt_places(content), MAX_RECEIPTS):
        update = _receipt(room, user, receipt)
        if update is not None:
            found.append(update)
    return found


def parse_device_list_update(content: JsonObject) -> DeviceListUpdate:
    """Return what an `m.device_list_update` says, or raise BadJson."""
    previous = content.get("prev_id")
    if previous is None:
        previous = []
    if not isinstance(previous, list) or len(previous) > MAX_PREV_IDS:
        raise BadJson(f"'prev_id' must be an array of at most {MAX_PREV_IDS}")
    name = content.get("device_display_name")
    return DeviceListUpdate(
        _user_id(content, "user_id"),
        _text(content, "device_id", MAX_TEXT_CHARACTERS),
        _integer(content.get("stream_id"), "stream_id"),
        tuple(_integer(each, "prev_id") for each in previous),
        content.get("deleted") is True,
        # A name that is too long is worth less than the keys beside it.
        name[:MAX_NAME_CHARACTERS] if isinstance(name, str) and _is_utf8(name) else None,
        _optional_object(content, "keys"),
    )


def parse_signing_key_update(content: JsonObject) -> SigningKeyUpdate:
    """Return what an `m.signing_key_update` says, or raise BadJson."""
    return SigningKeyUpdate(
        _user_id(content, "user_id"),
        _optional_object(content, "master_key"),
        _optional_object(content, "self_signing_key"),
    )


def parse_direct_to_device(content: JsonObject) -> DirectToDevice:
    """Return what an `m.direct_to_device` says, or raise BadJson."""
    raw = content.get("messages")
    if not isinstance(raw, dict):
        raise BadJson("'messages' must be an object")
    messages: dict[UserID, Mapping[str, JsonObject]] = {}
    count = 0
    for name, by_device in raw.items():
        if not isinstance(by_device, dict):
            raise BadJson("'messages' must hold objects")
        count += len(by_device)
        if count > MAX_MESSAGES:
            raise BadJson(f"'messages' must be for at most {MAX_MESSAGES} devices")
        try:
            user_id = UserID.parse(_storable(name))
        except BadIdentifier:
            continue
        messages[user_id] = {
            device_id: said
            for device_id, said in by_device.items()
            if isinstance(said, dict) and len(device_id) <= MAX_TEXT_CHARACTERS and _is_utf8(device_id)
        }
    return DirectToDevice(
        _user_id(content, "sender"),
        _text(content, "type", MAX_TEXT_CHARACTERS),
        _text(content, "message_id", MAX_MESSAGE_ID_CHARACTERS),
        messages,
    )


def subject_of(kind: str, content: JsonObject) -> UserID:
    """Return the user for whom an EDU of a kind that tells of one user speaks; raise BadJson.

    Spec: "Device Management", "Send-to-device messaging": a server speaks for its own users.
    """
    return _user_id(content, "sender" if kind == DIRECT_TO_DEVICE else "user_id")


# -- pieces ----------------------------------------------------------------------------------------------------------


def _presence(each: Any) -> PresenceUpdate | None:
    if not isinstance(each, dict) or each.get("presence") not in PRESENCE_STATES:
        return None
    try:
        user_id = _user_id(each, "user_id")
    except BadJson:
        return None
    status = each.get("status_msg")
    ago = each.get("last_active_ago")
    return PresenceUpdate(
        user_id,
        each["presence"],
        status[:MAX_STATUS_CHARACTERS] if isinstance(status, str) and status and _is_utf8(status) else None,
        ago if type(ago) is int and 0 <= ago <= MAX_INTEGER else None,
        each.get("currently_active") is True,
    )


def _receipt_places(content: JsonObject) -> Iterator[tuple[str, str, Any]]:
    for room, by_type in content.items():
        by_user = by_type.get(READ) if isinstance(by_type, dict) else None
        if not isinstance(by_user, dict):
            # What is no receipt counts as one, so that a walk over many such is short as well.
            yield "", "", None
            continue
        for user, receipt in by_user.items():
            yield room, user, receipt


def _receipt(room: str, user: str, receipt: Any) -> ReceiptUpdate | None:
    if not isinstance(receipt, dict):
        return None
    event_ids, data = receipt.get("event_ids"), receipt.get("data")
    # Spec: m.receipt: `event_ids` has exactly one.
    if not isinstance(event_ids, list) or not event_ids or not isinstance(data, dict):
        return None
    ts = data.get("ts")
    thread = data.get("thread_id")
    if isinstance(thread, str) and not _is_utf8(thread):
        return None
    if type(ts) is not int or not 0 <= ts <= MAX_INTEGER:
        return None
    try:
        return ReceiptUpdate(
            RoomID.parse(_storable(room)),
            UserID.parse(_storable(user)),
            EventID.parse(_storable(event_ids[0])),
            read_thread_id(data),
            ts,
        )
    except (BadIdentifier, InvalidParam):
        return None


def _user_id(content: JsonObject, name: str) -> UserID:
    try:
        return UserID.parse(_storable(content.get(name)))
    except BadIdentifier as fault:
        raise BadJson(f"'{name}' must be a user ID") from fault


def _room_id(value: Any) -> RoomID:
    try:
        return RoomID.parse(_storable(value))
    except BadIdentifier as fault:
        raise BadJson("'room_id' must be a room ID") from fault


def _text(content: JsonObject, name: str, most: int) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not value or len(value) > most or not _is_utf8(value):
        raise BadJson(f"'{name}' must be text of at most {most} characters")
    return value


def _integer(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_INTEGER:
        raise BadJson(f"'{name}' must be an integer")
    return value


def _optional_object(content: JsonObject, name: str) -> JsonObject | None:
    value = content.get(name)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise BadJson(f"'{name}' must be an object")
    return value


def _storable(value: Any) -> str:
    if not isinstance(value, str) or not _is_utf8(value):
        raise BadIdentifier("not an identifier")
    return value


def _is_utf8(text: str) -> bool:
    # A parser may let through halves of surrogate pairs, which no database stores.
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
