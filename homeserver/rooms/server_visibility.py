"""Which of a room's stored events a server may be given whole; the others it is given redacted, or not at all.

The rule is `model.visibility.may_server_see`; here is what it has to be shown: the history visibility in the state
before the event, and the memberships of the server's users there, which are read only where the former does not decide.

Two things follow from the server's being in the room now, which the guard has made sure of. Whatever became of its
users before, one has joined after the event or was there all the time: under `shared` it sees everything. And what is
part of the room's current state every server in it was given when it joined.

Events of users who were erased are for servers that had a member at the time.

Spec: client-server API, "Room history visibility", "Account deactivation"; server-server API, "Retrieving events".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from homeserver.model.content.history_visibility import HistoryVisibility, history_visibility_of
from homeserver.model.event import Event, StateKey
from homeserver.model.event_format import event_from_wire
from homeserver.model.event_json import load_event
from homeserver.model.ids import EventID
from homeserver.model.visibility import may_server_see
from storage.events import load_as_sent
from storage.pdus import StoredPDU
from storage.server_members import ServerMember, erased_among, longest_joined, members_of_server
from storage.store import Store
from storage.transaction import Transaction

from .tip import RoomTip

# LIMIT: member events read for one request; whose turn does not come counts as not joined.
MAX_MEMBERS_READ: Final = 2_000
_SLICE: Final = 100
# Of those who are in the room longest, so many are looked at before all others are.
_FEW: Final = 10
_VISIBILITY_KEY: Final[StateKey] = ("m.room.history_visibility", "")
_TO_ALL_MEMBERS: Final = frozenset({HistoryVisibility.SHARED, HistoryVisibility.WORLD_READABLE})


async def visible_whole(store: Store, tip: RoomTip, server: str, pdus: Sequence[StoredPDU]) -> set[int]:
    """Return the numbers of those of these events of a room that a server in it may be given whole.

    An outlier's place is not known, so it is judged by the room's present history visibility.
    """
    placed = {pdu.state_group for pdu in pdus if pdu.state_group is not None}
    states = await store.states.get_many(placed)
    visibility_key = (await store.interner.find_keys([_VISIBILITY_KEY])).get(_VISIBILITY_KEY)
    return await store.database.read(
        lambda tx: _Judge(tx, tip, server, states, visibility_key, pdus).visible(pdus),
    )


class _Judge:
    """Judges the events of one request, in a database thread."""

    def __init__(
        self,
        tx: Transaction,
        tip: RoomTip,
        server: str,
        states: Mapping[int, Mapping[int, int]],
        visibility_key: int | None,
        pdus: Iterable[StoredPDU],
    ) -> None:
        self._tx = tx
        self._tip = tip
        self._server = server
        self._states = states
        self._visibility_key = visibility_key
        self._erased = erased_among(tx, (pdu.sender_nid for pdu in pdus))
        self._read: dict[int, Event | None] = {}
        self._members_read = 0
        self._longest: list[ServerMember] | None = None
        self._members: list[ServerMember] | None = None

    def visible(self, pdus: Iterable[StoredPDU]) -> set[int]:
        """Return the numbers of those that may be given whole."""
        return {pdu.nid for pdu in pdus if self._is_visible(pdu)}

    def _is_visible(self, pdu: StoredPDU) -> bool:
        is_erased = pdu.sender_nid in self._erased
        if pdu.key_nid is not None and self._tip.state.get(pdu.key_nid) == pdu.nid:
            return True
        if pdu.state_group is None:
            return self._is_for_all_members_now() and not is_erased
        state = self._states[pdu.state_group]

        def before(key_nid: int | None) -> int | None:
            # The state that is stored is the one after the event.
            if key_nid is None:
                return None
            return pdu.replaces_nid if key_nid == pdu.key_nid else state.get(key_nid)

        setting = self._event(before(self._visibility_key))
        return may_server_see(
            event_from_wire(self._tip.version, load_event(self._tip.version, pdu.json), EventID(pdu.event_id)),
            self._server,
            {} if setting is None else {_VISIBILITY_KEY: setting},
            self._members_before(before),
            joined_afterwards=not is_erased,
            sender_is_erased=is_erased,
        )

    def _is_for_all_members_now(self) -> bool:
        nid = None if self._visibility_key is None else self._tip.state.get(self._visibility_key)
        setting = self._event(nid)
        # A setting that is not stored yet may be any.
        return (nid is None or setting is not None) and history_visibility_of(setting) in _TO_ALL_MEMBERS

    def _members_before(self, before: Callable[[int | None], int | None]) -> Iterator[Event]:
        """Yield the member events of the server's users before an event: first those that will likely decide."""
        if self._longest is None:
            self._longest = longest_joined(self._tx, self._tip.room_nid, self._server, _FEW)
        for member in self._longest:
            # Who is in the room by the same event as then.
            if before(member.key_nid) == member.event_nid and (event := self._event(member.event_nid)) is not None:
                yield event
        if self._members is None:
            self._members = members_of_server(self._tx, self._tip.room_nid, self._server)
        nids = [nid for member in self._members if (nid := before(member.key_nid)) is not None]
        # Those who are joined by the same event now come first.
        joined = {member.event_nid for member in self._members if member.membership == "join"}
        nids.sort(key=lambda nid: nid not in joined)
        for start in range(0, len(nids), _SLICE):
            part = nids[start : start + _SLICE]
            self._load([nid for nid in part if nid not in self._read])
            yield from (event for nid in part if (event := self._read.get(nid)) is not None)

    def _load(self, nids: Sequence[int]) -> None:
        allowed = nids[: MAX_MEMBERS_READ - self._members_read]
        self._members_read += len(allowed)
        self._read.update((nid, stored.event) for nid, stored in load_as_sent(self._tx, allowed).items())

    def _event(self, nid: int | None) -> Event | None:
        if nid is None:
            return None
        if nid not in self._read:
            stored = load_as_sent(self._tx, [nid]).get(nid)
            self._read[nid] = None if stored is None else stored.event
        return self._read[nid]
