"""Rooms written straight into the tables, forks and refused events among them: what a checker is shown.

    graph = GraphBuilder(V12)
    alice_joins = graph.create()
    left = graph.add("m.room.name", ALICE, {"name": "left"}, "", prev=[graph.newest])
    await graph.store(database)

States are kept as whole maps, one state group each; the tip is what `add` leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import insert

from homeserver.graph.check import check_room
from homeserver.graph.event_checks import KnownKey
from homeserver.graph.report import Report
from homeserver.model.auth.needed import needed_state
from homeserver.model.compose import GraphPlace, compose
from homeserver.model.event import Event, EventTemplate, StateKey
from homeserver.model.hashing import reference_hashes
from homeserver.model.ids import EventID, RoomID, UserID, server_name_of
from homeserver.model.resolution.resolve import resolve_states
from homeserver.model.room_versions import RoomVersion
from homeserver.model.signing import generate_signing_key
from storage.database import Database
from storage.inspection import RoomRow
from storage.state_groups import encode_delta
from storage.tables import rooms as t
from storage.tables.federation_rooms import room_servers
from storage.tables.identity import user_ids
from storage.transaction import Transaction

SERVER = "a.example"
ALICE = UserID("@alice:a.example")
BOB = UserID("@bob:a.example")
CAROL = UserID("@carol:a.example")
KEY = generate_signing_key(b"\x07" * 32, "a")
KEYS = {(SERVER, KEY.key_id): KnownKey(KEY.verify_key)}
ROOM_NID = 1

REJECTED, SOFT_FAILED, OUTLIER = 2, 4, 1

States = dict[StateKey, EventID]


@dataclass(slots=True)
class BuiltEvent:
    """An event with what will be stored of it; tests change it before `store`."""

    event: Event
    nid: int
    flags: int
    before: States
    after: States
    prevs: tuple[EventID, ...]
    wire: dict[str, Any]
    redacted_by: int | None = None


class GraphBuilder:
    """A room whose graph a test makes event by event."""

    def __init__(self, version: RoomVersion) -> None:
        self.version = version
        self.room_id = RoomID("!room:a.example")
        self.built: dict[EventID, BuiltEvent] = {}
        self.extremities: list[EventID] = []
        self.tip_groups: dict[EventID, States] = {}
        # The accepted events with the room's state after each.
        self.shown: list[tuple[EventID, States]] = []
        self._nid = 100

    @property
    def row(self) -> RoomRow:
        """The room's row."""
        return RoomRow(ROOM_NID, self.room_id, self.version.identifier)

    @property
    def events(self) -> dict[EventID, Event]:
        """The events by ID."""
        return {event_id: each.event for event_id, each in self.built.items()}

    @property
    def state(self) -> States:
        """What the extremities make."""
        return self.resolved([self.built[end].after for end in self.extremities])

    def create(self, *members: UserID) -> Event:
        """Add Alice's room, open to all, with these members; return its newest event."""
        content: dict[str, Any] = {"room_version": self.version.identifier}
        if self.version.creator_in_content:
            content["creator"] = str(ALICE)
        self.add("m.room.create", ALICE, content, "")
        self.add("m.room.member", ALICE, {"membership": "join"}, ALICE)
        levels = {} if self.version.privileged_creators else {str(ALICE): 100}
        self.add("m.room.power_levels", ALICE, {"users": {**levels, str(BOB): 50}}, "")
        newest = self.add("m.room.join_rules", ALICE, {"join_rule": "public"}, "")
        for member in members:
            newest = self.add("m.room.member", member, {"membership": "join"}, member)
        return newest

    def add(
        self,
        kind: str,
        sender: UserID,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        prev: Sequence[Event] | None = None,
        auth: Sequence[Event] | None = None,
        flags: int = 0,
    ) -> Event:
        """Add an event on top of `prev`, else of the extremities, allowed or not."""
        prevs = tuple(self.extremities) if prev is None else tuple(event.event_id for event in prev)
        before = self.resolved([self.built[each].after for each in prevs]) if prevs else {}
        cited = self._cited(kind, sender, content, state_key, before) if auth is None else auth
        event = compose(
            self.version,
            EventTemplate(kind, dict(content), sender, state_key),
            room_id=None if kind == "m.room.create" and self.version.room_id_is_create_hash else self.room_id,
            place=GraphPlace(
                prevs,
                tuple(each.event_id for each in cited),
                len(self.built) + 1,
                reference_hashes(self.version, [*cited, *(self.events[each] for each in prevs)]),
            ),
            server_name=SERVER,
            key=KEY,
            now_ms=1_000 + len(self.built),
        )
        self.room_id = event.room_id
        after = dict(before)
        if state_key is not None and not flags & REJECTED:
            after[kind, state_key] = event.event_id
        self._nid += 1
        self.built[event.event_id] = BuiltEvent(event, self._nid, flags, before, after, prevs, dict(event.wire))
        if not flags:
            self.extremities = [end for end in self.extremities if end not in prevs] + [event.event_id]
            if len(self.extremities) > 1:
                self.tip_groups[event.event_id] = self.state
            self.shown.append((event.event_id, self.state))
        return event

    def resolved(self, states: Sequence[States]) -> States:
        """Return the state that these make."""
        if all(state == states[0] for state in states):
            return dict(states[0])
        rejected = {event_id for event_id, each in self.built.items() if each.flags & REJECTED}
        create = next(iter(self.built.values())).event
        return dict(resolve_states(self.version, states, self.events, create=create, rejected=rejected))

    async def store(self, database: Database) -> None:
        """Write all of it."""
        await database.write(self._write)

    def _cited(
        self, kind: str, sender: UserID, content: Mapping[str, Any], state_key: str | None, state: States
    ) -> list[Event]:
        keys = needed_state(self.version, type=kind, sender=sender, state_key=state_key, content=content)
        return [self.events[state[key]] for key in keys if key in state]

    # -- rows --------------------------------------------------------------------------------------------------------

    def _write(self, tx: Transaction) -> None:
        keys = {
            key: 1_000 + number for number, key in enumerate(sorted({k for b in self.built.values() for k in b.after}))
        }
        for each in self.built.values():
            if each.event.state_key is not None:
                keys.setdefault((each.event.type, each.event.state_key), 2_000 + len(keys))
        users = {
            user: 5_000 + number for number, user in enumerate(sorted({b.event.sender for b in self.built.values()}))
        }
        for (kind, state_key), _ in list(keys.items()):
            if kind == "m.room.member":
                users.setdefault(UserID(state_key), 6_000 + len(users))
        version = self.version.identifier
        _put(tx, t.rooms, [{"room_nid": ROOM_NID, "room_id": self.room_id, "version": version, "created_ts": 1}])
        _put(tx, t.state_keys, [{"key_nid": nid, "type": k[0], "state_key": k[1]} for k, nid in keys.items()])
        _put(tx, user_ids, [{"user_nid": nid, "user_id": user} for user, nid in users.items()])
        groups: list[dict[str, Any]] = []

        def group(state: States) -> int:
            delta = {keys[key]: self.built[event_id].nid for key, event_id in state.items()}
            number = 10_000 + len(groups)
            row = {"state_group": number, "room_nid": ROOM_NID, "parent": None, "chain_index": 0}
            groups.append({**row, "delta": encode_delta(delta)})
            return number

        _put(tx, t.events, [self._event_row(each, keys, users, group) for each in self.built.values()])
        edges = [
            {"event_nid": each.nid, "prev_nid": self.built[prev].nid}
            for each in self.built.values()
            for prev in each.prevs
            if prev in self.built
        ]
        _put(tx, t.event_edges, edges)
        state = self.state
        tip = {"room_nid": ROOM_NID, "extremities": orjson.dumps([self.built[end].nid for end in self.extremities])}
        _put(
            tx, t.room_tips, [{**tip, "depth": 1_000, "state_group": group(state), "position": self._newest_position()}]
        )
        _put(tx, t.state_groups, groups)
        members = {key[1]: self.built[event_id] for key, event_id in state.items() if key[0] == "m.room.member"}
        self._write_memberships(tx, users)
        joined = sum(each.event.membership == "join" for each in members.values())
        invited = sum(each.event.membership == "invite" for each in members.values())
        servers = Counter(server_name_of(user) for user, each in members.items() if each.event.membership == "join")
        _put(tx, room_servers, [{"room_nid": ROOM_NID, "server": name, "joined": n} for name, n in servers.items()])
        stats = {"room_nid": ROOM_NID, "joined_members": joined, "invited_members": invited, "join_rule": "public"}
        name = state.get(("m.room.name", ""))
        _put(tx, t.room_stats, [{**stats, "name": self.events[name].content.get("name") if name else None}])

    def _newest_position(self) -> int:
        return max((each.nid for each in self.built.values() if not each.flags), default=0)

    def _write_memberships(self, tx: Transaction, users: Mapping[UserID, int]) -> None:
        rows: dict[int, dict[str, Any]] = {}
        changes: list[dict[str, Any]] = []
        before: States = {}
        for shown_id, state in self.shown:
            for key in sorted(before.keys() | state.keys()):
                old, new = before.get(key), state.get(key)
                if key[0] != "m.room.member" or old == new or shown_id not in self.built:
                    continue
                telling = self.built[new or old]  # type: ignore[index]
                membership = self.built[new].event.membership if new else "leave"
                row = {
                    "room_nid": ROOM_NID,
                    "user_nid": users[UserID(key[1])],
                    "membership": membership,
                    "event_nid": telling.nid,
                    "position": self.built[shown_id].nid,
                }
                rows[row["user_nid"]] = {**row, "sender_nid": users[telling.event.sender], "is_local": True}
                if membership != (self.built[old].event.membership if old else None):
                    changes.append(row)
            before = state
        _put(tx, t.memberships, list(rows.values()))
        _put(tx, t.membership_changes, changes)

    def _event_row(
        self, each: BuiltEvent, keys: Mapping[StateKey, int], users: Mapping[UserID, int], group: Any
    ) -> dict[str, Any]:
        event = each.event
        key = None if event.state_key is None else (event.type, event.state_key)
        replaced = each.before.get(key) if key is not None and not each.flags else None
        room_state = self.tip_groups.get(event.event_id)
        return {
            "event_nid": each.nid,
            "event_id": event.event_id,
            "room_nid": ROOM_NID,
            "position": None if each.flags else each.nid,
            "depth": event.depth,
            "type": event.type,
            "key_nid": None if key is None else keys[key],
            "sender_nid": users[event.sender],
            "origin_server_ts": event.origin_server_ts,
            "received_ts": 1,
            "state_group": None if each.flags & OUTLIER else group(each.after),
            "tip_group": None if room_state is None or room_state == each.after else group(room_state),
            "replaces_nid": None if replaced is None else self.built[replaced].nid,
            "redacted_by": each.redacted_by,
            "flags": each.flags,
            "json": orjson.dumps(each.wire),
        }


def _put(tx: Transaction, table: Any, rows: list[dict[str, Any]]) -> None:
    if rows:
        tx.connection.execute(insert(table), rows)


async def check_graph(graph: GraphBuilder, database: Database) -> Report:
    """Store a room and return what the checker finds."""
    await graph.store(database)
    return await recheck(graph, database)


async def recheck(graph: GraphBuilder, database: Database) -> Report:
    """Return what the checker finds in a room that is stored."""
    report = Report()
    await database.read(lambda tx: check_room(tx, graph.row, KEYS, report))
    return report
