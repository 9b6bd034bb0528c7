"""Account data: what clients may store, and the few types whose content the server itself reads.

Spec: client-server API, "Client Config", "Room Tagging", "Ignoring Users".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from homeserver.errors import BadIdentifier, BadJson, InvalidParam, ServerOwned

from .canonical_json import JsonObject
from .event import MAX_KEY_BYTES
from .ids import UserID

FULLY_READ: Final = "m.fully_read"
IGNORED_USER_LIST: Final = "m.ignored_user_list"
PUSH_RULES: Final = "m.push_rules"
TAG: Final = "m.tag"
DIRECT: Final = "m.direct"

# Spec: client-server API, "Client Config", "Server Behaviour": "both global and room-specific".
SERVER_OWNED_TYPES: Final = frozenset({FULLY_READ, PUSH_RULES})

# Spec: client-server API, "Room Tagging".
MAX_TAG_BYTES: Final = 255

# LIMIT: each ignored user is looked up for every event that is read.
MAX_IGNORED_USERS: Final = 10_000

# One for all: Python would make an empty set for each user, of 216 bytes.
_NOBODY: Final[frozenset[UserID]] = frozenset()


def check_settable(data_type: str, content: Any) -> JsonObject:
    """Return `content` if a client may store it under `data_type`.

    Raises `ServerOwned` for the types that the server keeps itself, `InvalidParam` for a type of the wrong length and
    `BadJson` for content that is no object.
    """
    if data_type in SERVER_OWNED_TYPES:
        raise ServerOwned(f"Cannot set {data_type} through this API.")
    if not 0 < _bytes_of(data_type) <= MAX_KEY_BYTES or "\x00" in data_type:
        raise InvalidParam(f"the type must be 1 to {MAX_KEY_BYTES} bytes without NUL")
    if not isinstance(content, dict):
        raise BadJson("Content must be a JSON object.")
    return content


def check_tag_name(tag: str) -> str:
    """Return `tag` as the name of a tag, or raise `InvalidParam`."""
    # Spec: client-server API, "Room Tagging": "MUST NOT exceed 255 bytes".
    if not 0 < _bytes_of(tag) <= MAX_TAG_BYTES or "\x00" in tag:
        raise InvalidParam(f"the tag must be 1 to {MAX_TAG_BYTES} bytes without NUL")
    return tag


def check_tag(body: Any) -> JsonObject:
    """Return `body` as what is known about a tag; raises `BadJson`, or `InvalidParam` for its order."""
    if not isinstance(body, dict):
        raise BadJson("the body must be an object")
    order = body.get("order")
    # Spec: data/api/client-server/definitions/tag: "A number in a range `[0,1]`".
    if order is not None and (isinstance(order, bool) or not isinstance(order, (int, float)) or not 0 <= order <= 1):
        raise InvalidParam("order must be a number from 0 to 1")
    return body


def read_tags(content: Mapping[str, Any] | None) -> JsonObject:
    """Return the tags in the content of `m.tag`, by name; entries of another shape are left out."""
    tags = content.get("tags") if content is not None else None
    if not isinstance(tags, dict):
        return {}
    return {name: tag for name, tag in tags.items() if isinstance(tag, dict)}


def with_tag(content: Mapping[str, Any] | None, name: str, tag: Mapping[str, Any]) -> JsonObject:
    """Return the content of `m.tag` with one tag set."""
    return {"tags": {**read_tags(content), name: dict(tag)}}


def without_tag(content: Mapping[str, Any] | None, name: str) -> JsonObject:
    """Return the content of `m.tag` with one tag left out; it need not be there."""
    return {"tags": {each: tag for each, tag in read_tags(content).items() if each != name}}


def with_direct_successor(content: Mapping[str, Any] | None, old_room: str, new_room: str) -> JsonObject | None:
    """Return the content of `m.direct` with one room beside the one that it replaces; None where nothing changes.

    Spec: client-server API, "Direct Messaging".
    """
    changed = dict(content or {})
    for user_id, rooms in changed.items():
        if isinstance(rooms, list) and old_room in rooms and new_room not in rooms:
            changed[user_id] = [*rooms, new_room]
    return changed if changed != content else None


def read_ignored_users(content: Mapping[str, Any] | None, owner: str) -> frozenset[UserID]:
    """Return the users that the content of `m.ignored_user_list` names.

    What is no user ID is left out, and so is `owner`: a user who ignored themselves would not see what they send.
    """
    users = content.get("ignored_users") if content is not None else None
    if not isinstance(users, dict):
        return _NOBODY
    ignored: set[UserID] = set()
    for text in users:
        if len(ignored) >= MAX_IGNORED_USERS:
            break
        try:
            user_id = UserID.parse(text)
        except BadIdentifier:
            continue
        if user_id != owner:
            ignored.add(user_id)
    return frozenset(ignored)


def _bytes_of(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
