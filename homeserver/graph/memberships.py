"""Memberships: the current ones of a room against its state, and how those of local users changed, event by event.

`memberships` has a row for everybody who was ever a member, `membership_changes` one for each time that a local user
became something else. What the changes are follows from the room's states after each event that was shown, in the order
of showing. Where a state or a member event is not there to be compared (history that begins somewhere, or was deleted)
nothing is expected and nothing is told.

A local user may have a membership in a room that this server is not in: it rests on a member event that came alone, and
its changes have positions of their own. So has that by which members see a room anew when all its members are known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Final

from homeserver.model.ids import server_name_of
from storage.inspection import ChangeRow, EventRow, MemberRow, RoomRow, find_user_nids, read_changes, read_members
from storage.transaction import Transaction, chunks

from .report import RoomFindings
from .resolving import Resolver
from .sharing import Sharing
from .states import State
from .stored_events import Known, StoredEvents

_MEMBER: Final = "m.room.member"


class MembershipChanges:
    """Follows the memberships of local users while the graph is walked in the order of showing."""

    def __init__(self, events: StoredEvents, resolver: Resolver, server_name: str | None) -> None:
        self._events = events
        self._resolver = resolver
        self._server_name = server_name
        self._state: State | None = None
        # Whether nothing can be expected any more.
        self.is_lost = False
        # (user, position) -> member event and membership; None where that cannot be told.
        self.expected: dict[tuple[str, int], tuple[int, str] | None] = {}
        # User -> position of the newest event that changed the member event; None where that cannot be told.
        self.newest: dict[str, int | None] = {}
        # Positions before which something is not here.
        self.gaps: set[int] = set()

    def lose(self) -> None:
        """Expect nothing any more: the order of showing is broken."""
        self.is_lost = True
        self._state = None

    def walk(self, position: int, state: State | None, own: tuple[int, int] | None, *, is_whole: bool) -> None:
        """Take the room's state after an event; `own` is its own key and number, for a state event.

        `is_whole`: all that it builds on is here.
        """
        before, self._state = self._state, state
        if self.is_lost:
            return
        if state is None or before is None or not is_whole:
            self.gaps.add(position)
            # Whoever changed meanwhile is not known.
            self.newest = dict.fromkeys(self.newest)
            return
        if before.is_same(state):
            return
        changes: Iterator[tuple[int, int | None, int | None]]
        if own is not None and before.changed((own,)).is_same(state):
            changes = iter(((own[0], before.get(own[0]), own[1]),))
        else:
            changes = before.differences(state)
        for key_nid, old_nid, new_nid in list(changes):
            self._note(position, key_nid, old_nid, new_nid)

    def is_return(self, row: EventRow) -> bool:
        """Tell whether an event after a gap is a join by which this server comes back: nobody of its own was left."""
        if row.type != _MEMBER or row.key is None or self._state is None or not self._is_local(row.key[1]):
            return False
        names = self._resolver.names(self._state.entries)
        own = [
            nid
            for key_nid, nid in self._state.entries.items()
            if (name := names.get(key_nid)) is not None and name[0] == _MEMBER and self._is_local(name[1])
        ]
        return all(known.event.membership != "join" for known in self._events.get(own).values())

    def _is_local(self, user_id: str) -> bool:
        return self._server_name is not None and server_name_of(user_id) == self._server_name

    def start(self, state: State) -> None:
        """Begin with this state: nothing, before the room's create event."""
        self._state = state

    def _note(self, position: int, key_nid: int, old_nid: int | None, new_nid: int | None) -> None:
        kind, user_id = self._resolver.names((key_nid,)).get(key_nid, ("", ""))
        if kind != _MEMBER:
            return
        self.newest[user_id] = position
        if not self._is_local(user_id):
            return
        old, new = self._events.find(old_nid), self._events.find(new_nid)
        if (old is None and old_nid is not None) or (new is None and new_nid is not None):
            self.expected[user_id, position] = None
            return
        before = None if old is None else old.event.membership
        after = "leave" if new is None else new.event.membership or "leave"
        if after != before:
            self.expected[user_id, position] = (new_nid or old_nid or 0, after)


class MemberCheck:
    """Compares what is stored of a room's memberships."""

    def __init__(
        self,
        tx: Transaction,
        room: RoomRow,
        events: StoredEvents,
        resolver: Resolver,
        changes: MembershipChanges,
        sharing: Sharing,
        positions: Collection[int],
        server_name: str | None,
        found: RoomFindings,
    ) -> None:
        """`positions` are those of all events of the room."""
        self._sharing = sharing
        self._positions = positions
        self._tx = tx
        self._room = room
        self._events = events
        self._resolver = resolver
        self._changes = changes
        self.server_name = server_name
        self._found = found
        self._user_nids: dict[str, int] = {}
        # How many users of each server are joined.
        self.servers: Counter[str] = Counter()

    @property
    def users(self) -> dict[int, str]:
        """Those who have a membership, by number."""
        return {nid: user_id for user_id, nid in self._user_nids.items()}

    def compare_outside(self) -> None:
        """Compare the memberships of local users in a room that this server is not in, and knows nothing else of."""
        rows = self._read_rows()
        newest: dict[int, ChangeRow] = {}
        for change in read_changes(self._tx, self._room.room_nid, [row.user_nid for row in rows.values()]):
            if change.user_nid not in newest or change.position > newest[change.user_nid].position:
                newest[change.user_nid] = change
        for user_id, row in rows.items():
            aspect = f"membership of {user_id!r}"
            if not row.is_local:
                self._found.differs(None, aspect, "none for a user of another server", row.membership)
                continue
            self._check_outside(user_id, row)
            last = newest.get(row.user_nid)
            told = (row.position, row.event_nid, row.membership)
            if last is None or (last.position, last.event_nid, last.membership) != told:
                sentence = "the newest change is another" if last is not None else "there is no change of it"
                self._found.tells(None, aspect, sentence)

    def compare(self, state: State | None) -> tuple[int, int] | None:
        """Compare; return how many have joined and are invited in a state, None where that cannot be told."""
        rows = self._read_rows()
        is_in = any(row.is_local and row.membership == "join" for row in rows.values())
        # Who was invited, or kept out, after this server had left.
        outside = {
            user_id: row
            for user_id, row in rows.items()
            if not is_in and row.is_local and row.event_nid in self._sharing.outside
        }
        for user_id, row in rows.items():
            if user_id in outside:
                self._check_outside(user_id, row)
            else:
                self._check_row(row)
        counts = None if state is None else self._compare_state(state, rows, outside)
        if self.server_name is not None and not self._changes.is_lost:
            self._compare_changes()
        return counts

    def _read_rows(self) -> dict[str, MemberRow]:
        rows: dict[str, MemberRow] = {}
        for row in read_members(self._tx, self._room.room_nid):
            if row.user_id is None:
                self._found.tells(
                    None, "memberships", f"user number {row.user_nid} has no name", kind="members without names"
                )
            else:
                rows[row.user_id] = row
        self._user_nids = {user_id: row.user_nid for user_id, row in rows.items()}
        return rows

    def _check_outside(self, user_id: str, row: MemberRow) -> None:
        aspect = f"membership of {user_id!r}"
        each = self._events.find(row.event_nid) if row.event_nid in self._sharing.outside else None
        if each is None:
            stored = f"{row.membership} by {self._name(row.event_nid)}"
            self._found.differs(None, aspect, "by a member event that came alone", stored)
        elif (each.event.type, each.event.state_key) != (_MEMBER, user_id):
            self._found.differs(None, aspect, "by a member event of the user", f"by {each.event.event_id}")
        else:
            self._compare_member(user_id, row, each)

    def _check_row(self, row: MemberRow) -> None:
        user_id = row.user_id or ""
        aspect = f"membership of {user_id!r}"
        if self.server_name is not None:
            is_local = server_name_of(user_id) == self.server_name
            if row.is_local != is_local:
                told = {True: "of a user of this server", False: "of a user of another server"}
                self._found.differs(None, aspect, told[is_local], told[row.is_local])
        newest = self._changes.newest.get(user_id)
        if newest is None or self._changes.is_lost or row.position == newest:
            return
        # Who was told by a join, and came to be in the state before an earlier one when all members were known.
        is_told_again = self._sharing.is_top(newest) and row.position > newest and self._sharing.is_top(row.position)
        if not is_told_again:
            self._found.differs(None, aspect, f"position {newest}", row.position)

    def _compare_state(
        self, state: State, rows: dict[str, MemberRow], outside: Collection[str]
    ) -> tuple[int, int] | None:
        counts = {"join": 0, "invite": 0}
        is_whole = True
        left = dict(rows)
        names = self._resolver.names(state.entries)
        members = [(names[key][1], nid) for key, nid in state.entries.items() if names.get(key, ("",))[0] == _MEMBER]
        for part in chunks(members):
            known = self._events.get(nid for _, nid in part)
            for user_id, nid in part:
                row = left.pop(user_id, None)
                if nid not in known:
                    is_whole = False
                    continue
                if user_id in outside:
                    membership = known[nid].event.membership or "leave"
                else:
                    membership = self._compare_member(user_id, row, known[nid])
                if membership in counts:
                    counts[membership] += 1
                if membership == "join":
                    self.servers[server_name_of(user_id)] += 1
        for part in chunks(sorted(left.items())):
            known = self._events.get(row.event_nid for _, row in part)
            for user_id, row in part:
                if user_id in outside:
                    continue
                self._check_former(user_id, row, known.get(row.event_nid))
        return (counts["join"], counts["invite"]) if is_whole else None

    def _compare_member(self, user_id: str, row: MemberRow | None, each: Known) -> str:
        membership = each.event.membership or "leave"
        told = None if row is None else (row.membership, row.event_nid, row.sender_nid)
        if told != (membership, each.nid, each.sender_nid):
            stored = "none" if row is None else f"{row.membership} by {self._name(row.event_nid)}"
            expected = f"{membership} by {each.event.event_id}"
            if row is not None and row.sender_nid != each.sender_nid:
                stored += f", of sender number {row.sender_nid}"
                expected += f", of sender number {each.sender_nid}"
            self._found.differs(each.event.event_id, f"membership of {user_id!r}", expected, stored)
        return membership

    def _check_former(self, user_id: str, row: MemberRow, known: Known | None) -> None:
        """Check the row of a user of whom the state has no member event."""
        aspect = f"membership of {user_id!r}"
        # Whose member event a resolution has taken out of the state has left.
        if row.membership != "leave":
            self._found.differs(None, aspect, "none", row.membership)
        elif known is None:
            if not self._events.read_rows((row.event_nid,)) and not self._changes.gaps:
                self._found.differs(None, aspect, "none", f"{row.membership} by {self._name(row.event_nid)}")
        elif (known.event.type, known.event.state_key) != (_MEMBER, user_id):
            self._found.differs(None, aspect, "by a member event of the user", f"by {known.event.event_id}")

    def _compare_changes(self) -> None:
        expected: dict[tuple[int, int], tuple[int, str] | None] = {}
        unknown = [user_id for user_id, _ in self._changes.expected if user_id not in self._user_nids]
        if unknown:
            self._user_nids.update(find_user_nids(self._tx, dict.fromkeys(unknown)))
        for (user_id, position), change in self._changes.expected.items():
            # Without a number nothing can be stored, which is told with the memberships.
            if user_id in self._user_nids:
                expected[self._user_nids[user_id], position] = change
        names = {nid: user_id for user_id, nid in self._user_nids.items()}
        # What changed at a position of its own.
        told_later: set[tuple[int, int, str]] = set()
        for row in read_changes(self._tx, self._room.room_nid, names):
            key = (row.user_nid, row.position)
            if row.position not in self._positions:
                told_later.add((row.user_nid, row.event_nid, row.membership))
                self._check_own_position(names[row.user_nid], row)
                continue
            change = expected.pop(key, (0, ""))
            if change is None or row.position in self._changes.gaps:
                continue
            if change != (row.event_nid, row.membership):
                wanted = f"to {change[1]} by {self._name(change[0])}" if change[1] else "none"
                stored = f"to {row.membership} by {self._name(row.event_nid)}"
                self._differs(row.position, names[row.user_nid], wanted, stored)
        for (user_nid, position), change in sorted(expected.items(), key=lambda item: item[0]):
            # Of a member who came to be known when all were.
            if change is not None and not (
                self._sharing.is_top(position) and (user_nid, change[0], change[1]) in told_later
            ):
                self._differs(position, names[user_nid], f"to {change[1]} by {self._name(change[0])}", "none")

    def _check_own_position(self, user_id: str, row: ChangeRow) -> None:
        """Check a change that is not that of an event at its position."""
        each = self._events.find(row.event_nid)
        if each is None or (each.event.type, each.event.state_key) != (_MEMBER, user_id):
            wanted = "by a member event of the user"
        elif (each.event.membership or "leave") != row.membership:
            wanted = f"to {each.event.membership} by {each.event.event_id}"
        else:
            return
        self._differs(row.position, user_id, wanted, f"to {row.membership} by {self._name(row.event_nid)}")

    def _differs(self, position: int, user_id: str, expected: str, stored: str) -> None:
        sentence = f"expected {expected}, stored {stored}"
        aspect = f"change of the membership of {user_id!r} at {position}"
        self._found.tells(None, aspect, sentence, kind="changes of memberships")

    def _name(self, nid: int) -> str:
        return self._resolver.ids((nid,)).get(nid) or f"event number {nid}"
