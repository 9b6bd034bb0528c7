"""What another server answers to a join: is it a room, may the user join it, and what of it has to be known at once.

The answer is a claim of one server about a room of many. Nothing of it counts but events that their senders' servers
have signed, whose auth events are there and allow them. What fails that is left out, alone; but the answer is refused
where the join itself then has nothing to stand on: without its auth events, without the one create event that fits the
room's ID and version, or if the state that was given does not allow it.

Most of what is answered for a large room are members. What matters at once is little: all other state, the member
events that it and the join rest on, the members of this server, and a few to name the room after. So the bytes are
sorted first, by what they say they are, and only what matters goes through `Inbound`; the rest stays bytes, for
`member_completion` to work on while the room is in use. A member event that hides its kind behind escapes is looked at
with the state, which does no harm.

Spec: server-server API, "Joining Rooms", `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`, "Checks performed
on receipt of a PDU"; rooms/v12, "Room IDs as hashes of the create event".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from homeserver.errors import BadIdentifier, RemoteProtocolError
from homeserver.model.content.member import authorising_user
from homeserver.model.event import Event, StateKey
from homeserver.model.event_format import event_from_wire
from homeserver.model.graph import sort_topologically
from homeserver.model.ids import EventID, ServerName, server_name_of
from homeserver.model.judgement import Verdict, judge_outlier, judge_remote
from homeserver.model.receipt_of_events import CheckedEvent, trust_own
from homeserver.model.room_summary import HERO_COUNT
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion
from homeserver.ports import PDU, SendJoinAnswer
from homeserver.runtime.threads import Worker

from .inbound import MAX_EVENTS, Inbound
from .sorted_events import MembersByUser, RawMember, SortedEvents, depth_of, sort_events

# Answers of up to so many events are looked at whole.
SMALL: Final = 300
# LIMIT: names of servers in a room that are believed.
MAX_SERVERS: Final = 20_000
# LIMIT: from one event to those that it rests on, and so on: rounds of looking for members.
MAX_ROUNDS: Final = 100

_MEMBER: Final = "m.room.member"
_CREATE: Final[StateKey] = ("m.room.create", "")


@dataclass(frozen=True, slots=True)
class Accepted:
    """An answer that holds. `state` does not have the members in `later_state`, which nobody has looked at yet.

    `later_auth` are events that those may rest on. Both come by depth. `servers` are in the room, as far as one knows.
    """

    join: CheckedEvent
    state: tuple[CheckedEvent, ...]
    auth_chain: tuple[CheckedEvent, ...]
    later_state: list[PDU]
    later_auth: list[PDU]
    servers: tuple[str, ...]
    members_omitted: bool

    @property
    def is_partial(self) -> bool:
        """Whether there are members still to come."""
        return self.members_omitted or bool(self.later_state)


class JoinAnswers:
    """Checks answers to joins of this server's users."""

    def __init__(self, inbound: Inbound, threads: Worker, server_name: str) -> None:
        self._inbound = inbound
        self._threads = threads
        self._server_name = server_name

    async def accept(
        self, server: str, version: RoomVersion, join: Event, answer: SendJoinAnswer, *, at_once: bool = False
    ) -> Accepted:
        """Return what to store of what `server` answered; raise RemoteProtocolError if it does not hold.

        `at_once`: all members are looked at, and none left for later.
        """
        signed = await self.countersigned(server, version, join, answer.event)
        if len(answer.state) + len(answer.auth_chain) > MAX_EVENTS:
            raise RemoteProtocolError(server, "the room is too large")
        if at_once or len(answer.state) + len(answer.auth_chain) <= SMALL:
            state, chain = SortedEvents(list(answer.state), []), SortedEvents(list(answer.auth_chain), [])
        else:
            state, chain = (
                await sort_events(self._threads, answer.state),
                await sort_events(self._threads, answer.auth_chain),
            )
        first = await self._check_what_matters(version, join, state, chain)
        accepted = await self._threads.run(
            _judge, server, version, signed, first.state_ids, first.events, answer.members_omitted
        )
        later_state = await self._threads.run(_rest, state, first.picked)
        later_auth = await self._threads.run(_rest, chain, first.picked)
        told = answer.servers_in_room
        if not answer.members_omitted:
            told = await self._threads.run(_servers_of, state, accepted[0])
        return Accepted(
            join=signed,
            state=accepted[0],
            auth_chain=accepted[1],
            later_state=later_state,
            later_auth=later_auth,
            servers=_server_names((server, *told)),
            members_omitted=answer.members_omitted,
        )

    async def countersigned(self, server: str, version: RoomVersion, join: Event, answered: PDU | None) -> CheckedEvent:
        """Return the join as it is to be stored: ours, with the signature of who vouches for it where one is needed.

        Raises RemoteProtocolError where that is missing, or the event that came back is another.
        """
        authoriser = authorising_user(join.content) if version.restricted_joins else None
        if authoriser is None:
            # What else the other server did to it is of no use.
            return trust_own(join)
        if answered is None:
            raise RemoteProtocolError(server, "the join came back without the signature that it needs")
        outcome = (await self._inbound.check(version, join.room_id, [answered]))[0]
        if not isinstance(outcome, CheckedEvent):
            raise RemoteProtocolError(server, f"the join that came back is broken: {outcome}")
        # Spec: rooms/v8, "Authorisation rules", 4.2.1; `send_join`: the answered event is the one with "a signature
        # from the resident server".
        if outcome.event != join or outcome.was_redacted or not outcome.is_vouched_for:
            raise RemoteProtocolError(server, "the join that came back is another, or nobody vouches for it")
        return trust_own(with_signature_of(version, join, outcome.event, server_name_of(authoriser)))

    async def _check_what_matters(
        self, version: RoomVersion, join: Event, state: SortedEvents, chain: SortedEvents
    ) -> _First:
        """Return all that is no member, and the members that it and the join rest on, through the gate."""
        first = _First(join)
        users = await self._threads.run(MembersByUser, state, chain, self._server_name)
        await self._take(version, join, first, state.others, chain.others, ())
        wanted = {str(join.sender), *_heroes(state.members, join.sender), *users.local}
        for _ in range(MAX_ROUNDS):
            wanted |= first.users_of_missing()
            picked = users.pick(wanted)
            if not picked:
                break
            wanted = set()
            state_pdus = [each.pdu for each in picked if id(each) in users.in_state]
            chain_pdus = [each.pdu for each in picked if id(each) not in users.in_state]
            await self._take(version, join, first, state_pdus, chain_pdus, picked)
        first.events.pop(join.event_id, None)
        first.state_ids.pop(join.event_id, None)
        return first

    async def _take(
        self,
        version: RoomVersion,
        join: Event,
        first: _First,
        state: Sequence[PDU],
        chain: Sequence[PDU],
        picked: Iterable[RawMember],
    ) -> None:
        first.picked.update(id(each) for each in picked)
        outcomes = await self._inbound.check(version, join.room_id, [*state, *chain])
        for number, outcome in enumerate(outcomes):
            # What is dropped is left out alone: the key of a server that is gone is no reason to stay out of a room.
            if isinstance(outcome, CheckedEvent):
                event_id = outcome.event.event_id
                if event_id not in first.events:
                    first.events[event_id] = outcome
                    first.new.append(outcome.event)
                if number < len(state):
                    first.state_ids[event_id] = None


def with_signature_of(version: RoomVersion, ours: Event, answered: Event, server_name: str) -> Event:
    """Return our event with the signatures that another server added to it; nothing else that came back counts."""
    signatures = dict(ours.wire["signatures"])
    added = answered.wire["signatures"].get(server_name)
    if server_name not in signatures and isinstance(added, Mapping):
        signatures[str(server_name)] = dict(added)
    return event_from_wire(version, {**ours.wire, "signatures": signatures}, ours.event_id, ours.room_id)


class _First:
    """What of an answer has passed the gate so far; `state_ids` are in the state, the others in the auth chain."""

    def __init__(self, join: Event) -> None:
        self.events: dict[EventID, CheckedEvent] = {}
        self.state_ids: dict[EventID, None] = {}
        # By identity: two events may well be equal.
        self.picked: set[int] = set()
        # What nobody has asked about yet.
        self.new = [join]

    def users_of_missing(self) -> set[str]:
        """Return the users whose member events may be those that the new events cite and that are not there."""
        found: set[str] = set()
        new, self.new = self.new, []
        for event in new:
            if all(event_id in self.events for event_id in event.auth_event_ids):
                continue
            # Spec: server-server API, "Auth events selection": no other members than these.
            found.add(str(event.sender))
            if event.type == _MEMBER:
                found.add(event.state_key or "")
                authoriser = authorising_user(event.content)
                if authoriser is not None:
                    found.add(str(authoriser))
        return found


def _rest(events: SortedEvents, picked: Collection[int]) -> list[PDU]:
    """Return the members that were not picked, by depth. May run in a thread."""
    left = [each for each in events.members if id(each) not in picked]
    return [each.pdu for each in sorted(left, key=depth_of)]


def _servers_of(state: SortedEvents, accepted: Sequence[CheckedEvent]) -> list[str]:
    """Return the servers with joined users. May run in a thread."""
    joined = [each.user_id for each in state.members if each.membership == "join"]
    joined += [each.event.state_key or "" for each in accepted if each.event.membership == "join"]
    return list(dict.fromkeys(map(server_name_of, joined)))


def _heroes(members: Sequence[RawMember], user_id: str) -> list[str]:
    """Return some whom a room without a name can be named after. Spec: client-server API, `GET /sync`, `m.heroes`."""
    found: list[str] = []
    for each in members:
        if each.membership in ("join", "invite") and each.user_id != user_id:
            found.append(each.user_id)
            if len(found) == HERO_COUNT:
                break
    return found


def _judge(
    server: str,
    version: RoomVersion,
    join: CheckedEvent,
    state_ids: Mapping[EventID, None],
    events: Mapping[EventID, CheckedEvent],
    members_omitted: bool,
) -> tuple[tuple[CheckedEvent, ...], tuple[CheckedEvent, ...]]:
    """Return the state that holds, and what it and the join rest on; raise RemoteProtocolError. May run in a thread."""
    create = _create_event(server, version, join.event, state_ids, events)
    good = _allowed(version, events, create)
    state: dict[StateKey, CheckedEvent] = {}
    for event_id in state_ids:
        checked = good.get(event_id)
        if checked is None or checked.event.state_key is None:
            continue
        key = (checked.event.type, checked.event.state_key)
        if state.setdefault(key, checked) is not checked:
            raise RemoteProtocolError(server, f"the state has two events of the type {key[0][:100]!r}")
    if state.get(_CREATE) is None:
        raise RemoteProtocolError(server, "the create event is refused")
    missing = [event_id for event_id in join.event.auth_event_ids if event_id not in good]
    if missing:
        raise RemoteProtocolError(server, f"{len(missing)} auth events of the join are missing or refused")
    if members_omitted:
        # The members that matter most are left out of the state as well: an invite of the user, and who vouches.
        for event_id in join.event.auth_event_ids:
            cited = good[event_id].event
            if cited.type == _MEMBER:
                state.setdefault((cited.type, cited.state_key or ""), good[event_id])
    judged = judge_remote(
        version,
        join,
        auth_events=[good[event_id].event for event_id in join.event.auth_event_ids],
        rejected_ids=(),
        state_before={key: checked.event for key, checked in state.items()},
        current_state=None,
        create=create.event,
    )
    if judged.verdict is not Verdict.ACCEPTED:
        raise RemoteProtocolError(server, f"the state that it tells does not allow the join: {judged.reason}")
    chain = _chain_of((join, *state.values()), good)
    in_state = {checked.event.event_id for checked in state.values()}
    return tuple(state.values()), tuple(checked for event_id, checked in chain.items() if event_id not in in_state)


def _create_event(
    server: str,
    version: RoomVersion,
    join: Event,
    state_ids: Mapping[EventID, None],
    events: Mapping[EventID, CheckedEvent],
) -> CheckedEvent:
    found = [
        events[event_id]
        for event_id in state_ids
        if event_id in events and (events[event_id].event.type, events[event_id].event.state_key) == _CREATE
    ]
    if len(found) != 1:
        raise RemoteProtocolError(server, "the state has not one create event")
    create = found[0].event
    # Spec: `m.room.create`, `room_version`: "Defaults to "1" if the key does not exist."
    claimed = create.content.get("room_version", "1")
    if not isinstance(claimed, str) or KNOWN_ROOM_VERSIONS.get(claimed) is not version:
        raise RemoteProtocolError(server, "the room has another version than the template was for")
    if create.room_id != join.room_id:
        raise RemoteProtocolError(server, "the create event is that of another room")
    return found[0]


def _allowed(
    version: RoomVersion, events: Mapping[EventID, CheckedEvent], create: CheckedEvent
) -> dict[EventID, CheckedEvent]:
    """Return the events whose auth events are all there and allow them, parents first."""
    good: dict[EventID, CheckedEvent] = {}
    rejected: set[EventID] = set()
    for event_id in sort_topologically({each: checked.event.auth_event_ids for each, checked in events.items()}):
        checked = events[event_id]
        cited = checked.event.auth_event_ids
        if any(each not in good for each in cited):
            rejected.add(event_id)
            continue
        judged = judge_outlier(
            version,
            checked,
            auth_events=[good[each].event for each in cited],
            rejected_ids=rejected,
            create=create.event,
        )
        if judged.verdict is Verdict.ACCEPTED:
            good[event_id] = checked
        else:
            rejected.add(event_id)
    return good


def _chain_of(start: Iterable[CheckedEvent], events: Mapping[EventID, CheckedEvent]) -> dict[EventID, CheckedEvent]:
    chain: dict[EventID, CheckedEvent] = {}
    waiting = [event_id for checked in start for event_id in checked.event.auth_event_ids]
    while waiting:
        event_id = waiting.pop()
        if event_id not in chain and event_id in events:
            chain[event_id] = events[event_id]
            waiting.extend(events[event_id].event.auth_event_ids)
    return chain


def _server_names(names: Iterable[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for name in names:
        if name in found:
            continue
        try:
            found[ServerName.parse(name)] = None
        except BadIdentifier:
            continue
        if len(found) >= MAX_SERVERS:
            break
    return tuple(found)
