"""Whose lists of devices changed, who has to hear of it, and the lists of users of other servers.

Each user has one row with the newest change, so that the table does not grow with changes; that of a user of another
server goes when no room is shared any more. Who comes back after however long a time is told of each member of the own
rooms at most once: where much has changed, it is looked for among those, not among all changes.

Spec: client-server API, "Tracking the device list for a user"; server-server API, "Device Management".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import orjson
from sqlalchemy import delete, func, select, update

from .tables.accounts import accounts
from .tables.e2ee import cross_signing_keys, device_lists, remote_devices, untold_devices
from .tables.federation_rooms import partial_rooms, room_servers
from .tables.identity import user_ids
from .tables.rooms import memberships, rooms
from .transaction import Transaction, chunks

# Of so many changed lists it is asked whose they are; of more, only those of the members of certain rooms are read.
_FEW: Final = 1_000


class RemoteList(NamedTuple):
    """What is known of the list of a user of another server; `stream_id` None: not which version it is."""

    user_nid: int
    stream_id: int | None
    is_fetched: bool


class RemoteDevice(NamedTuple):
    """A device of a user of another server; `content` is canonical JSON."""

    user_nid: int
    device_id: str
    content: bytes
    display_name: str | None


class Moved(NamedTuple):
    """What a change of a user's devices touches: the user's rooms, and the servers in them (ours included)."""

    rooms: tuple[str, ...]
    servers: tuple[str, ...]
    previous_stream_id: int | None


# -- changes ---------------------------------------------------------------------------------------------------------


def note_change(tx: Transaction, user_nid: int, position: int, *, has_stream_id: bool) -> Moved:
    """Note that a local user's devices or keys changed; with `has_stream_id` the position is the list's new version."""
    previous = find_stream_id(tx, user_nid)
    set_list(tx, user_nid, position if has_stream_id else previous, position, is_fetched=False)
    return Moved(*rooms_and_servers(tx, user_nid), previous)


def touch_list(tx: Transaction, user_nid: int, position: int) -> None:
    """Note that something about a user's devices is to be looked at again, whoever's user it is."""
    columns = ("user_nid", "position", "stream_id", "is_fetched")
    tx.insert_many(device_lists, columns, [(user_nid, position, None, False)], update=("position",))


def note_untold(tx: Transaction, user_nid: int, device_ids: Iterable[str]) -> None:
    """Note devices (or "" for the cross-signing keys) whose change has yet to be told."""
    rows = [(user_nid, device_id) for device_id in device_ids]
    tx.insert_many(untold_devices, ("user_nid", "device_id"), rows, ignore=True)


def load_untold(tx: Transaction, user_nid: int, limit: int) -> list[str]:
    """Return devices of a user whose change has yet to be told."""
    query = select(untold_devices.c.device_id).where(untold_devices.c.user_nid == user_nid).limit(limit)
    return [row[0] for row in tx.all(query)]


def load_users_with_untold(tx: Transaction) -> list[tuple[int, str]]:
    """Return (user_nid, user ID) of whoever has such devices."""
    query = (
        select(untold_devices.c.user_nid, user_ids.c.user_id)
        .join(user_ids, user_ids.c.user_nid == untold_devices.c.user_nid)
        .distinct()
    )
    return [(row[0], row[1]) for row in tx.all(query)]


def delete_untold(tx: Transaction, user_nid: int, device_ids: Iterable[str]) -> None:
    """Changes are told."""
    table = untold_devices.c
    for part in chunks(device_ids):
        tx.execute(delete(untold_devices).where(table.user_nid == user_nid, table.device_id.in_(part)))


def servers_elsewhere(tx: Transaction, user_nid: int, room_nid: int) -> set[str]:
    """Return the servers with a joined user in any room of the user but this one."""
    query = (
        select(room_servers.c.server)
        .join(memberships, memberships.c.room_nid == room_servers.c.room_nid)
        .where(
            memberships.c.user_nid == user_nid,
            memberships.c.membership == "join",
            memberships.c.room_nid != room_nid,
            room_servers.c.joined > 0,
        )
        .distinct()
    )
    return {row[0] for row in tx.all(query)} | _named_servers(tx, user_nid, but=room_nid)


def rooms_and_servers(tx: Transaction, user_nid: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the rooms that a user is joined to, and the servers with a joined user in any of them."""
    joined = (memberships.c.user_nid == user_nid) & (memberships.c.membership == "join")
    room_ids = select(rooms.c.room_id).join(memberships, memberships.c.room_nid == rooms.c.room_nid).where(joined)
    servers = (
        select(room_servers.c.server)
        .join(memberships, memberships.c.room_nid == room_servers.c.room_nid)
        .where(joined, room_servers.c.joined > 0)
        .distinct()
    )
    found = {row[0] for row in tx.all(servers)} | _named_servers(tx, user_nid)
    return tuple(row[0] for row in tx.all(room_ids)), tuple(found)


def _named_servers(tx: Transaction, user_nid: int, *, but: int | None = None) -> set[str]:
    """Return the servers that are known by name in rooms of a user, but for one, whose members are not all known."""
    query = (
        select(partial_rooms.c.room_nid, partial_rooms.c.servers)
        .join(memberships, memberships.c.room_nid == partial_rooms.c.room_nid)
        .where(memberships.c.user_nid == user_nid, memberships.c.membership == "join")
    )
    return {server for room_nid, names in tx.all(query) if room_nid != but for server in orjson.loads(names)}


def find_stream_id(tx: Transaction, user_nid: int) -> int | None:
    """Return the version of a user's list, or None."""
    found: int | None = tx.scalar(select(device_lists.c.stream_id).where(device_lists.c.user_nid == user_nid))
    return found


# -- who shares a room -----------------------------------------------------------------------------------------------


def sharing_with(tx: Transaction, user_nid: int, others: Iterable[int]) -> set[int]:
    """Return those of `others` who are joined to a room with this user, who counts as one."""
    own, other = memberships.alias(), memberships.alias()
    query = (
        select(other.c.user_nid)
        .join(own, own.c.room_nid == other.c.room_nid)
        .where(own.c.user_nid == user_nid, own.c.membership == "join", other.c.membership == "join")
        .distinct()
    )
    wanted = set(others)
    found = {row[0] for part in chunks(wanted) for row in tx.all(query.where(other.c.user_nid.in_(part)))}
    if user_nid in wanted:
        found.add(user_nid)
    return found


def shared_with_us(tx: Transaction, others: Iterable[int], *, except_room: int | None = None) -> set[int]:
    """Return those of `others` who are joined to a room with a local user, in another room than `except_room`."""
    own, other = memberships.alias(), memberships.alias()
    # Of each room one of ours is enough: there may be thousands.
    is_ours = select(own.c.room_nid).where(
        own.c.room_nid == other.c.room_nid, own.c.is_local.is_(True), own.c.membership == "join"
    )
    query = select(other.c.user_nid).where(other.c.membership == "join", is_ours.exists()).distinct()
    if except_room is not None:
        query = query.where(other.c.room_nid != except_room)
    return {row[0] for part in chunks(set(others)) for row in tx.all(query.where(other.c.user_nid.in_(part)))}


def members_of(tx: Transaction, room_nids: Iterable[int]) -> set[int]:
    """Return who is joined to any of these rooms."""
    query = select(memberships.c.user_nid).where(memberships.c.membership == "join").distinct()
    return {row[0] for part in chunks(room_nids) for row in tx.all(query.where(memberships.c.room_nid.in_(part)))}


def members_before(tx: Transaction, places: Mapping[int, int]) -> set[int]:
    """Return who is joined to rooms without a change since a position in each: room_nid -> position."""
    query = select(memberships.c.room_nid, memberships.c.user_nid, memberships.c.position).where(
        memberships.c.membership == "join"
    )
    return {
        user_nid
        for part in chunks(places)
        for room_nid, user_nid, position in tx.all(query.where(memberships.c.room_nid.in_(part)))
        if position < places[room_nid]
    }


def changed_since(
    tx: Transaction, user_nid: int, joined_nids: Iterable[int], after: int
) -> tuple[set[int], set[int], set[int]]:
    """Return whose lists changed after a position; who came to these rooms, and who left them.

    Of the first, all who share no room may be missing, or some may be among them.
    """
    has_changed = device_lists.c.position > after
    few = tx.all(select(device_lists.c.user_nid).where(has_changed).limit(_FEW + 1))
    lists = {row[0] for row in few} if len(few) <= _FEW else _changed_members(tx, user_nid, joined_nids, after)
    moved: dict[str, set[int]] = {"join": set(), "leave": set(), "ban": set()}
    for part in chunks(joined_nids):
        for membership, users in moved.items():
            query = select(memberships.c.user_nid).where(
                memberships.c.room_nid.in_(part),
                memberships.c.membership == membership,
                memberships.c.position > after,
            )
            users.update(row[0] for row in tx.all(query))
    return lists, moved["join"], moved["leave"] | moved["ban"]


def _changed_members(tx: Transaction, user_nid: int, room_nids: Iterable[int], after: int) -> set[int]:
    # Of all the changes of months those that matter: as many as the rooms have members at most.
    query = (
        select(device_lists.c.user_nid)
        .join(memberships, memberships.c.user_nid == device_lists.c.user_nid)
        .where(device_lists.c.position > after, memberships.c.membership == "join")
        .distinct()
    )
    found = {row[0] for part in chunks(room_nids) for row in tx.all(query.where(memberships.c.room_nid.in_(part)))}
    # Who is in no room follows the own devices all the same.
    own = select(device_lists.c.position).where(device_lists.c.user_nid == user_nid)
    if (tx.scalar(own) or 0) > after:
        found.add(user_nid)
    return found


def count_local_members(tx: Transaction, room_nid: int, limit: int) -> int:
    """Return how many local users are joined to a room, counting no further than `limit`."""
    query = select(memberships.c.user_nid).where(
        memberships.c.room_nid == room_nid, memberships.c.membership == "join", memberships.c.is_local.is_(True)
    )
    return len(tx.all(query.limit(limit)))


def remote_members(tx: Transaction, room_nid: int) -> list[int]:
    """Return the users of other servers who are joined to a room."""
    query = select(memberships.c.user_nid).where(
        memberships.c.room_nid == room_nid, memberships.c.membership == "join", memberships.c.is_local.is_(False)
    )
    return [row[0] for row in tx.all(query)]


def user_names(tx: Transaction, user_nids: Iterable[int]) -> list[str]:
    """Return the user IDs of numbers."""
    query = select(user_ids.c.user_id)
    return [row[0] for part in chunks(user_nids) for row in tx.all(query.where(user_ids.c.user_nid.in_(part)))]


# -- lists of users of other servers ---------------------------------------------------------------------------------


def load_remote_lists(tx: Transaction, user_nids: Iterable[int]) -> dict[int, RemoteList]:
    """Return what is known of the lists of these users."""
    table = device_lists.c
    query = select(table.user_nid, table.stream_id, table.is_fetched)
    return {
        row[0]: RemoteList(row[0], row[1], bool(row[2]))
        for part in chunks(user_nids)
        for row in tx.all(query.where(table.user_nid.in_(part)))
    }


def load_remote_devices(tx: Transaction, user_nids: Iterable[int]) -> list[RemoteDevice]:
    """Return the known devices of users of other servers."""
    table = remote_devices.c
    query = select(table.user_nid, table.device_id, table.content, table.display_name)
    return [
        RemoteDevice(row[0], row[1], bytes(row[2]), row[3])
        for part in chunks(user_nids)
        for row in tx.all(query.where(table.user_nid.in_(part)))
    ]


def measure_remote_devices(tx: Transaction, user_nid: int, *, but: str) -> tuple[int, int]:
    """Return how many devices of a user are known besides one, and of how many bytes their keys are."""
    table = remote_devices.c
    query = select(func.count(), func.sum(func.length(table.content)))
    row = tx.first(query.where(table.user_nid == user_nid, table.device_id != but))
    return int(row[0]), int(row[1] or 0)


def set_remote_devices(tx: Transaction, devices: Sequence[RemoteDevice]) -> None:
    """Store devices of users of other servers."""
    tx.insert_many(
        remote_devices,
        ("user_nid", "device_id", "content", "display_name"),
        [tuple(each) for each in devices],
        update=("content", "display_name"),
    )


def delete_remote_device(tx: Transaction, user_nid: int, device_id: str) -> None:
    """Forget one device."""
    tx.execute(
        delete(remote_devices).where(remote_devices.c.user_nid == user_nid, remote_devices.c.device_id == device_id)
    )


def keep_remote_list(tx: Transaction, user_nid: int, devices: Sequence[RemoteDevice], stream_id: int | None) -> None:
    """Store a whole list in the place of what was known; that is no change to tell of."""
    tx.execute(delete(remote_devices).where(remote_devices.c.user_nid == user_nid))
    set_remote_devices(tx, devices)
    columns = ("user_nid", "position", "stream_id", "is_fetched")
    tx.insert_many(device_lists, columns, [(user_nid, 0, stream_id, True)], update=("stream_id", "is_fetched"))


def set_list(tx: Transaction, user_nid: int, stream_id: int | None, position: int, *, is_fetched: bool) -> None:
    """Note which version of a list is known, and that it changed."""
    tx.upsert(
        device_lists,
        {"user_nid": user_nid},
        {"position": position, "stream_id": stream_id, "is_fetched": is_fetched},
    )


def list_remote_lists(tx: Transaction, after: int, limit: int) -> list[int]:
    """Return users of other servers of whose lists something is known, by their numbers from `after` on."""
    query = (
        select(device_lists.c.user_nid)
        .outerjoin(accounts, accounts.c.user_nid == device_lists.c.user_nid)
        .where(device_lists.c.user_nid > after, accounts.c.user_nid.is_(None))
        .order_by(device_lists.c.user_nid)
        .limit(limit)
    )
    return [row[0] for row in tx.all(query)]


def forget_remote_lists(tx: Transaction, user_nids: Iterable[int], *, is_shared: bool = False) -> None:
    """Forget what users of other servers have: nobody tells of changes any more.

    With `is_shared` a room is shared again, but not since the last of these changes.
    """
    for part in chunks(user_nids):
        tx.execute(delete(remote_devices).where(remote_devices.c.user_nid.in_(part)))
        tx.execute(delete(cross_signing_keys).where(cross_signing_keys.c.user_nid.in_(part)))
        if is_shared:
            unknown = {"is_fetched": False, "stream_id": None}
            tx.execute(update(device_lists).where(device_lists.c.user_nid.in_(part)).values(unknown))
        else:
            tx.execute(delete(device_lists).where(device_lists.c.user_nid.in_(part)))
