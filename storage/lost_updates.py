"""Servers for which changes of device lists were dropped, as they had waited for too long or were too many.

Of such a server a note is kept, a row of `outbox_edus` that is no EDU: its number is 0, which no EDU has, and its
content where the list of those it is told of has come to. When it is back, it is sent an update without `prev_id` of
each local user with devices who shares a room with it, some at a time, so that it asks for their lists. That is a row
for a server that never comes back, and nothing for each user.

Spec: server-server API, "Device Management".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import delete, select

from homeserver.model.canonical_json import JsonObject
from homeserver.model.device_keys import add_signatures
from homeserver.model.edu import DEVICE_LIST_UPDATE

from .device_keys import LocalDevice, load_device_keys, load_signatures
from .outbox import OutboxEdu, WaitingEdu, store_edus
from .tables.e2ee import device_lists
from .tables.federation_rooms import room_servers
from .tables.identity import user_ids
from .tables.outbox import outbox_edus
from .tables.rooms import memberships
from .transaction import Transaction

# Users of whom a server is told at once.
TOLD_AT_ONCE: Final = 50
_NOTE_NID: Final = 0
_NOTE_KIND: Final = "lost updates"
# It does not grow old.
_FOREVER_TS: Final = 2**53 - 1


class Lost(NamedTuple):
    """What a server is to be told next: of users with their lists' versions; `last_nid` is of the last one, or None."""

    users: Sequence[tuple[int, str, int]]
    after: int
    last_nid: int | None


def note_lost(tx: Transaction, destinations: Iterable[str]) -> None:
    """Note that changes of lists were dropped; whoever was being told of all of them is told anew."""
    rows = [(name, _NOTE_NID, _NOTE_KIND, None, _FOREVER_TS, b'{"after":0}') for name in destinations]
    columns = ("destination", "edu_nid", "kind", "collapse_key", "created_ts", "content")
    tx.insert_many(outbox_edus, columns, rows, update=("content",))


def is_note(row: WaitingEdu) -> bool:
    """Tell whether a row is such a note and no EDU; it is the first of its server."""
    return row.edu_nid == _NOTE_NID


def find_lost(tx: Transaction, destination: str) -> Lost | None:
    """Return what a server is to be told next, or None: it has missed nothing."""
    content = tx.scalar(_note(select(outbox_edus.c.content), destination))
    if content is None:
        return None
    after = int(orjson.loads(bytes(content))["after"])
    query = (
        select(device_lists.c.user_nid, user_ids.c.user_id, device_lists.c.stream_id)
        .join(user_ids, user_ids.c.user_nid == device_lists.c.user_nid)
        .join(memberships, memberships.c.user_nid == device_lists.c.user_nid)
        .join(room_servers, room_servers.c.room_nid == memberships.c.room_nid)
        .where(
            device_lists.c.user_nid > after,
            device_lists.c.stream_id.is_not(None),
            memberships.c.is_local.is_(True),
            memberships.c.membership == "join",
            room_servers.c.server == destination,
            room_servers.c.joined > 0,
        )
        .distinct()
        .order_by(device_lists.c.user_nid)
        .limit(TOLD_AT_ONCE)
    )
    users = [(row[0], row[1], row[2]) for row in tx.all(query)]
    return Lost(users, after, users[-1][0] if len(users) == TOLD_AT_ONCE else None)


def store_lost(tx: Transaction, destination: str, lost: Lost, numbers: Sequence[int], now_ms: int) -> None:
    """Store the updates that a server is to be sent, with `numbers` for them, and how far it has been told."""
    content = tx.scalar(_note(select(outbox_edus.c.content), destination))
    if content is None or int(orjson.loads(bytes(content))["after"]) != lost.after:
        return
    if lost.last_nid is None:
        tx.execute(_note(delete(outbox_edus), destination))
    else:
        further = orjson.dumps({"after": lost.last_nid})
        row = (destination, _NOTE_NID, _NOTE_KIND, None, _FOREVER_TS, further)
        columns = ("destination", "edu_nid", "kind", "collapse_key", "created_ts", "content")
        tx.insert_many(outbox_edus, columns, [row], update=("content",))
    nids = [user_nid for user_nid, _, _ in lost.users]
    devices: dict[int, LocalDevice] = {}
    for device in load_device_keys(tx, nids):
        devices.setdefault(device.user_nid, device)
    signatures = load_signatures(tx, nids, None)
    rows: list[OutboxEdu] = []
    for number, (user_nid, user_id, stream_id) in zip(numbers, lost.users, strict=True):
        if user_nid in devices:
            device = devices[user_nid]
            keys = add_signatures(orjson.loads(device.content), signatures.get((user_nid, device.device_id), {}))
            update: JsonObject = {
                "user_id": user_id,
                "device_id": device.device_id,
                "stream_id": stream_id,
                "prev_id": [],
                "keys": keys,
            }
        else:
            # All were deleted; which is all the same, the list is asked for.
            update = {"user_id": user_id, "device_id": "NONE", "stream_id": stream_id, "prev_id": [], "deleted": True}
        rows.append(OutboxEdu(number, destination, DEVICE_LIST_UPDATE, update, now_ms, user_id))
    store_edus(tx, rows)


def _note(statement: Any, destination: str) -> Any:
    return statement.where(outbox_edus.c.destination == destination, outbox_edus.c.edu_nid == _NOTE_NID)
