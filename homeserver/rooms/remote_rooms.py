"""The published rooms of other servers: asked for a page at a time, and shown as far as they have the right form.

Spec: client-server API, "Published room directory"; server-server API, `POST /publicRooms`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from homeserver.errors import BadIdentifier, RemoteError
from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import RoomAlias, RoomID, ServerName
from homeserver.ports import RemoteServers
from homeserver.runtime.asked import Asked
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import Tasks

from .candidates import error_for_client
from .directory import DEFAULT_PAGE, MAX_PAGE, MAX_ROOM_TYPES, MAX_TERM_CHARACTERS

KEPT_S: Final = 30.0
REFUSED_S: Final = 10.0
ASK_S: Final = 20.0
# LIMIT: of what is shown of a room, and of tokens.
MAX_NAME_CHARACTERS: Final = 500
MAX_TOPIC_CHARACTERS: Final = 2_000
MAX_TEXT_CHARACTERS: Final = 255
MAX_URL_CHARACTERS: Final = 1_000
MAX_TOKEN_CHARACTERS: Final = 1_000
MAX_COUNT: Final = 2**53 - 1


class RemoteRooms:
    """Asks other servers for their lists of rooms."""

    def __init__(self, servers: RemoteServers, clock: Clock, tasks: Tasks) -> None:
        self._servers = servers
        self._asked: Asked[tuple[ServerName, bytes], JsonObject] = Asked(
            clock,
            tasks,
            "published rooms",
            kept_s=KEPT_S,
            refused_s=REFUSED_S,
            within_s=ASK_S,
            weigh=lambda page: len(orjson.dumps(page)),
        )

    async def __call__(self, server: ServerName, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a page of the rooms of another server; `body` is that of a POST /publicRooms, checked.

        Raises what clients are told where the server does not tell.
        """
        wanted = _question(body)
        key = (server, orjson.dumps(wanted, option=orjson.OPT_SORT_KEYS))

        async def ask() -> JsonObject:
            return cleaned(await self._servers.public_rooms(server, wanted), int(wanted["limit"]))

        try:
            return dict(await self._asked.get(key, ask))
        except RemoteError as fault:
            raise error_for_client(fault) from fault


def _question(body: Mapping[str, Any]) -> JsonObject:
    """Return what is asked: what we know of what the client said."""
    wanted: JsonObject = {"limit": min(body.get("limit") or DEFAULT_PAGE, MAX_PAGE)}
    since = body.get("since")
    if since:
        wanted["since"] = since[:MAX_TOKEN_CHARACTERS]
    chosen = body.get("filter") or {}
    asked: JsonObject = {}
    if chosen.get("generic_search_term"):
        asked["generic_search_term"] = chosen["generic_search_term"][:MAX_TERM_CHARACTERS]
    if chosen.get("room_types") is not None:
        asked["room_types"] = chosen["room_types"][:MAX_ROOM_TYPES]
    if asked:
        wanted["filter"] = asked
    for name in ("include_all_networks", "third_party_instance_id"):
        if body.get(name):
            named = body[name]
            wanted[name] = named[:MAX_TEXT_CHARACTERS] if isinstance(named, str) else named
    return wanted


def cleaned(page: Mapping[str, Any], limit: int) -> JsonObject:
    """Return a page of rooms as far as it has the right form, `limit` rooms at most."""
    chunk = page.get("chunk")
    rooms = (cleaned_room(entry) for entry in (chunk[:limit] if isinstance(chunk, list) else ()))
    answer: JsonObject = {"chunk": [room for room in rooms if room is not None]}
    for name in ("next_batch", "prev_batch"):
        token = page.get(name)
        if isinstance(token, str) and token and len(token) <= MAX_TOKEN_CHARACTERS:
            answer[name] = token
    total = _count(page.get("total_room_count_estimate"))
    if total is not None:
        answer["total_room_count_estimate"] = total
    return answer


def cleaned_room(entry: object) -> JsonObject | None:
    """Return what another server tells of a room as far as it has the right form; None where it names none.

    Spec: client-server API, "PublishedRoomsChunk".
    """
    if not isinstance(entry, Mapping):
        return None
    try:
        room_id = RoomID.parse(_text(entry, "room_id"))
    except BadIdentifier:
        return None
    room: JsonObject = {
        "room_id": str(room_id),
        "num_joined_members": _count(entry.get("num_joined_members")) or 0,
        "world_readable": entry.get("world_readable") is True,
        "guest_can_join": entry.get("guest_can_join") is True,
    }
    for name, length in (
        ("name", MAX_NAME_CHARACTERS),
        ("topic", MAX_TOPIC_CHARACTERS),
        ("join_rule", MAX_TEXT_CHARACTERS),
        ("room_type", MAX_TEXT_CHARACTERS),
    ):
        text = entry.get(name)
        if isinstance(text, str) and text:
            room[name] = text[:length]
    avatar = entry.get("avatar_url")
    if isinstance(avatar, str) and avatar.startswith("mxc://") and len(avatar) <= MAX_URL_CHARACTERS:
        room["avatar_url"] = avatar
    try:
        room["canonical_alias"] = str(RoomAlias.parse(_text(entry, "canonical_alias")))
    except BadIdentifier:
        pass
    return room


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    return value if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_COUNT else None
