"""Rooms that a user is invited to or knocks at, with the few state events that they may be shown.

Spec: client-server API, "Stripped state".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from storage.outside import load_stripped
from storage.store import Store

from .client_event import render_stripped, render_told
from .feed import UserFeed, UserRoom

# Spec: "Stripped state": what an invitee may be shown of the room.
STRIPPED: Final = (
    ("m.room.create", ""),
    ("m.room.name", ""),
    ("m.room.avatar", ""),
    ("m.room.topic", ""),
    ("m.room.join_rules", ""),
    ("m.room.canonical_alias", ""),
    ("m.room.encryption", ""),
)


async def render_stripped_rooms(
    store: Store, user: UserFeed, places: Sequence[UserRoom], ignored: frozenset[str]
) -> list[bytes]:
    """Return invited or knocked rooms with the stripped state that the user may be shown."""
    result: list[bytes] = []
    interner = store.interner
    for place in places:
        member = (await store.events.get([place.nid])).get(place.nid)
        if member is None or member.event.sender in ignored:
            continue
        name = b"invite_state" if place.membership == "invite" else b"knock_state"
        if member.room_group is None:
            # A room that this server is not in: what came with the invite is all that is known of it.
            told = await store.database.read(
                lambda tx, nid=place.room_nid: load_stripped(tx, user.user_nid, [nid])  # type: ignore[misc]
            )
            events = [*render_told(told.get(place.room_nid)), render_stripped(member)]
            result.append(orjson.dumps(place.room_id) + b':{"' + name + b'":' + _events(events) + b"}")
            continue
        state = await store.states.get(member.room_group)
        keys = [*STRIPPED, ("m.room.member", str(member.event.sender))]
        key_nids = await interner.find_keys(keys)
        nids = [nid for key in keys if key in key_nids and (nid := state.get(key_nids[key])) is not None]
        nids = [nid for nid in dict.fromkeys(nids) if nid != place.nid]
        found = await store.events.get(nids)
        events = [render_stripped(found[nid]) for nid in nids if nid in found]
        events.append(render_stripped(member))
        result.append(orjson.dumps(place.room_id) + b':{"' + name + b'":' + _events(events) + b"}")
    return result


def _events(encoded: Sequence[bytes]) -> bytes:
    return b'{"events":[' + b",".join(encoded) + b"]}"
