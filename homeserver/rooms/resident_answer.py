"""What a server that joins is told: the state before its join and the auth chain, from the stored bytes.

A large room has tens of thousands of state events. They are copied from the database to a file as they are stored, in a
database thread, a few hundred at a time; no event is made an object. The file is in memory while it is small.

Where the other server can do without, members are left out: all but those that the rest of the state and the join rest
on, whose events are told anyway, and in a room without a name those whom it is named after.

Spec: server-server API, `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`; client-server API, `GET /sync`,
`m.heroes`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

import orjson
from sqlalchemy import select

from homeserver.errors import BrokenInvariant
from homeserver.model.content.member import Membership
from homeserver.model.event_json import dump_event, load_event
from homeserver.model.ids import UserID
from homeserver.model.redaction import redact
from homeserver.model.room_summary import HERO_COUNT, select_heroes
from homeserver.model.room_versions import RoomVersion
from storage.auth_index import auth_chain
from storage.events import StoredEvent
from storage.store import Store
from storage.tables.identity import user_ids
from storage.tables.rooms import events, memberships
from storage.transaction import Transaction, chunks

from .tip import RoomTip

# LIMIT: what an answer may take of memory; a larger one is written to the disk.
MAX_IN_MEMORY: Final = 1024 * 1024
# A room that has either is not named after its members.
_NAMING: Final = (("m.room.name", ""), ("m.room.canonical_alias", ""))


@dataclass(frozen=True, slots=True)
class JoinAnswer:
    """`length` bytes of JSON in `file`, which stands at its start; whoever has it closes it."""

    file: BinaryIO
    length: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """Of which events an answer is made, by number, and what is said besides."""

    version: RoomVersion
    join_nid: int
    state: Sequence[int]
    auth_chain: Sequence[int]
    rest: bytes


async def write_join_answer(
    store: Store,
    tip: RoomTip,
    join: StoredEvent,
    *,
    server_name: str,
    omit_members: bool,
    as_list: bool = False,
) -> JoinAnswer:
    """Return the body of the answer to a join that was accepted; `tip` is the end of the room's graph before it.

    `as_list`: in the form of version 1 of the endpoint.
    """
    if join.state_group is None or join.key_nid is None:
        raise BrokenInvariant(f"the join {join.event_id} has no state")
    after = await store.states.get(join.state_group)
    naming = await store.interner.find_keys(_NAMING)
    is_named = any(key_nid in after for key_nid in naming.values())
    file = cast(BinaryIO, tempfile.SpooledTemporaryFile(MAX_IN_MEMORY))  # noqa: SIM115

    def write(tx: Transaction) -> int:
        # It may run more than once.
        file.seek(0)
        file.truncate()
        state = {nid for key_nid, nid in after.items() if key_nid != join.key_nid}
        if join.replaces_nid is not None:
            state.add(join.replaces_nid)
        said: dict[str, object] = {"origin": server_name}
        if omit_members:
            kept = _kept(tx, tip, join, state, is_named=is_named)
            chain = auth_chain(tx, [*kept, join.nid])
            # Who made the room what it is, and who invited: they are told in any case.
            kept |= chain & state
            said.update(members_omitted=len(kept) < len(state), servers_in_room=list(tip.servers.names))
            # Spec: "any events that are returned in `state` may be omitted from `auth_chain`".
            chain -= kept
            state = kept
        else:
            chain = auth_chain(tx, [*state, join.nid])
        plan = _Plan(tip.version, join.nid, sorted(state), sorted(chain), orjson.dumps(said)[1:])
        length = _write(tx, file, plan, as_list)
        file.seek(0)
        return length

    try:
        length = await store.database.read(write)
    except BaseException:
        file.close()
        raise
    return JoinAnswer(file, length)


def _kept(tx: Transaction, tip: RoomTip, join: StoredEvent, state: Collection[int], *, is_named: bool) -> set[int]:
    """Return what of the state is told where members are left out."""
    kept = _without_members(tx, state)
    kept.update(_nids_of(tx, tip.room_nid, join.event.auth_event_ids).intersection(state))
    if join.replaces_nid is not None:
        kept.add(join.replaces_nid)
    if not is_named:
        kept.update(_heroes(tx, tip.room_nid, join.event.sender).intersection(state))
    return kept


def _write(tx: Transaction, file: BinaryIO, plan: _Plan, as_list: bool) -> int:
    file.write(b'[200,{"auth_chain":[' if as_list else b'{"auth_chain":[')
    _write_events(tx, file, plan.version, plan.auth_chain)
    file.write(b'],"state":[')
    _write_events(tx, file, plan.version, plan.state)
    file.write(b'],"event":')
    _write_events(tx, file, plan.version, [plan.join_nid])
    file.write(b"," + plan.rest)
    if as_list:
        file.write(b"]")
    return file.tell()


def _write_events(tx: Transaction, file: BinaryIO, version: RoomVersion, nids: Iterable[int]) -> None:
    query = select(events.c.json, events.c.redacted_by).order_by(events.c.event_nid)
    separator = b""
    for part in chunks(nids):
        for raw, redacted_by in tx.all(query.where(events.c.event_nid.in_(part))):
            if redacted_by:
                raw = dump_event(version, redact(version, load_event(version, raw)))
            file.write(separator)
            file.write(raw)
            separator = b","


def _without_members(tx: Transaction, nids: Iterable[int]) -> set[int]:
    result: set[int] = set()
    query = select(events.c.event_nid).where(events.c.type != "m.room.member")
    for part in chunks(nids):
        result.update(row[0] for row in tx.all(query.where(events.c.event_nid.in_(part))))
    return result


def _nids_of(tx: Transaction, room_nid: int, event_ids: Iterable[str]) -> set[int]:
    query = select(events.c.event_nid).where(events.c.room_nid == room_nid, events.c.event_id.in_(list(event_ids)))
    return {row[0] for row in tx.all(query)}


def _heroes(tx: Transaction, room_nid: int, viewer: UserID) -> set[int]:
    """Return the member events of those whom a nameless room is named after."""

    def members(kinds: tuple[str, ...]) -> list[tuple[UserID, Membership, int]]:
        query = (
            select(user_ids.c.user_id, memberships.c.membership, memberships.c.event_nid)
            .join(user_ids, user_ids.c.user_nid == memberships.c.user_nid)
            .where(memberships.c.room_nid == room_nid, memberships.c.membership.in_(kinds))
            .order_by(memberships.c.position)
            .limit(HERO_COUNT + 1)
        )
        return [(UserID(row[0]), Membership(row[1]), row[2]) for row in tx.all(query)]

    first = members(("join", "invite"))
    if len(first) <= 1:
        first += members(("leave", "ban"))
    chosen = set(select_heroes(((user_id, membership) for user_id, membership, _ in first), viewer))
    return {nid for user_id, _, nid in first if user_id in chosen}
