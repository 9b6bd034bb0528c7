"""Random rooms of one room version, as signed events in a topological order, with forks and malformed events.

A room is made by `SERVERS`, each with its own key, from a seed alone.  An event is put on one of some branches; it
counts in the branch's state if Sennit's rules accept it, so that rooms stay alive, and is marked as rejected if not.
Branches are joined by taking each piece of state from any of them: what both sides are asked must be the same, not
probable.  The auth events are those that the branch's state gives, save for some that are missing, wrong or repeated.

Every event passes `check_event_format`: what is behind it is never asked about others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from homeserver.errors import AuthRuleBroken, HomeserverError
from homeserver.model.auth.needed import needed_state
from homeserver.model.auth.rules import check_state_dependent, check_state_independent
from homeserver.model.event import Event, StateKey
from homeserver.model.event_format import check_event_format, event_from_wire, is_room_naming
from homeserver.model.hashing import reference_hash, with_content_hash
from homeserver.model.ids import EventID, server_name_of
from homeserver.model.room_versions import EventIDScheme, RoomVersion
from homeserver.model.signing import sign_event

from . import content as contents
from .content import CREATOR, KEYS, SERVERS, TOKENS, USERS

State = dict[StateKey, int]
"""(event type, state key) -> number of the event in its room."""

_MAX_BRANCHES = 3


@dataclass
class Branch:
    """An end of the graph, and the state after it."""

    tips: tuple[int, ...]
    state: State


@dataclass
class RandomRoom:
    """The events by number; `create` is number 0; `befores` are the states before them, as the maker had them."""

    version: RoomVersion
    seed: int
    events: list[Event] = field(default_factory=list)
    befores: list[State] = field(default_factory=list)
    rejected: set[int] = field(default_factory=set)
    branches: list[Branch] = field(default_factory=list)
    # States of the branches when they were joined, and at the end.
    forks: list[list[State]] = field(default_factory=list)
    numbers: dict[EventID, int] = field(default_factory=dict)

    @property
    def create(self) -> Event:
        return self.events[0]

    @property
    def rejected_ids(self) -> frozenset[EventID]:
        return frozenset(self.events[number].event_id for number in self.rejected)

    def view(self, state: State) -> dict[StateKey, Event]:
        """Return the state with its events."""
        return {key: self.events[number] for key, number in state.items()}


def random_room(seed: int, version: RoomVersion, size: int) -> RandomRoom:
    """Return the room of `size` events that this seed makes."""
    return _Maker(seed, version).make(size)


def independent_verdict(room: RandomRoom, event: Event) -> AuthRuleBroken | None:
    """Return what Sennit has against the event by itself and by the auth events that it cites."""
    cited = [room.events[room.numbers[event_id]] for event_id in event.auth_event_ids]
    try:
        check_state_independent(room.version, event, cited, room.rejected_ids, room.create)
    except AuthRuleBroken as broken:
        return broken
    return None


def dependent_verdict(room: RandomRoom, event: Event, state: State) -> AuthRuleBroken | None:
    """Return what Sennit has against the event at this state."""
    try:
        check_state_dependent(room.version, event, room.view(state), room.create)
    except AuthRuleBroken as broken:
        return broken
    return None


class _Maker:
    def __init__(self, seed: int, version: RoomVersion) -> None:
        self.random = Random(f"{seed} {version.identifier}")
        self.version = version
        self.room = RandomRoom(version, seed)
        # Some rooms are tidy, so that deep states come about; some are mostly nonsense.
        self.oddness = self.random.choice((0.0, 0.03, 0.1, 0.1, 0.4))
        # In some, several moderators fight each other on branches that are seldom joined: work for state resolution.
        self.is_contested = self.random.random() < 0.4
        if self.is_contested:
            self.oddness = min(self.oddness, 0.03)
        self.clock = 1_000

    def make(self, size: int) -> RandomRoom:
        self._create()
        if independent_verdict(self.room, self.room.create) is not None:
            # Nothing in it will be accepted.
            self.room.rejected.add(0)
            size = min(size, 6)
        self._found()
        while len(self.room.events) < size:
            self._reshape()
            branch = self.random.choice(self.room.branches)
            self._append(branch, *self._wish(branch))
        if len(self.room.branches) > 1:
            self.room.forks.append([dict(branch.state) for branch in self.room.branches])
        return self.room

    def _create(self) -> None:
        content = contents.creation(self.random, self.version, self.oddness)
        room_id = None if self.version.room_id_is_create_hash else f"!room{self.room.seed}:{SERVERS[0]}"
        self.room_id = room_id
        wire = self._wire("m.room.create", CREATOR, "", content, (), ())
        event = self._event(wire)
        if event is None:
            raise RuntimeError("the create event of a random room has no valid format")
        self._keep(event, {})
        self.room_id = event.room_id
        self.room.branches = [Branch((0,), {("m.room.create", ""): 0})]

    def _found(self) -> None:
        """Make the first few events as a client would, mostly."""
        branch = self.room.branches[0]
        self._append(branch, "m.room.member", CREATOR, CREATOR, {"membership": "join"}, tidy=True)
        if self.is_contested:
            self._appoint_moderators(branch)
            return
        if self.random.random() < 0.85:
            levels = contents.power_levels(self.random, self.version, None, self.oddness / 2)
            if self.random.random() < 0.5 and isinstance(levels.get("users"), dict):
                levels["users"][self.random.choice(USERS[1:])] = 50
            self._append(branch, "m.room.power_levels", CREATOR, "", levels, tidy=True)
        if self.random.random() < 0.9:
            rules = {"join_rule": self.random.choice(("public", "public", "public", "invite", "restricted", "knock"))}
            self._append(branch, "m.room.join_rules", CREATOR, "", rules, tidy=True)
        for user in self.random.sample(USERS[1:], self.random.randint(0, 4)):
            content = {"membership": "join"}
            if rules_of(self.room, branch) == "restricted":
                content["join_authorised_via_users_server"] = CREATOR
            self._append(branch, "m.room.member", user, user, content, tidy=True)

    def _appoint_moderators(self, branch: Branch) -> None:
        users = {user: self.random.choice((50, 50, 75, 100)) for user in self.random.sample(USERS[1:], 3)}
        if not self.version.privileged_creators:
            users[CREATOR] = 100
        self._append(branch, "m.room.power_levels", CREATOR, "", {"users": users, "state_default": 50}, tidy=True)
        self._append(branch, "m.room.join_rules", CREATOR, "", {"join_rule": "public"}, tidy=True)
        for user in USERS[1:]:
            self._append(branch, "m.room.member", user, user, {"membership": "join"}, tidy=True)

    def _reshape(self) -> None:
        """Now and then fork a branch, or join two."""
        branches = self.room.branches
        chance = self.random.random()
        if chance < 0.15 and len(branches) < _MAX_BRANCHES:
            origin = self.random.choice(branches)
            branches.append(Branch(origin.tips, dict(origin.state)))
        elif chance < (0.16 if self.is_contested else 0.2) and len(branches) > 1:
            one, other = self.random.sample(branches, 2)
            self.room.forks.append([dict(branch.state) for branch in (one, other)])
            keys = dict.fromkeys((*one.state, *other.state))
            state = {}
            for key in keys:
                found = [branch.state.get(key) for branch in (one, other)]
                chosen = self.random.choice(found)
                if chosen is None and key == ("m.room.create", ""):
                    chosen = 0
                if chosen is not None:
                    state[key] = chosen
            branches[:] = [branch for branch in branches if branch is not one and branch is not other]
            branches.append(Branch(tuple(dict.fromkeys((*one.tips, *other.tips)))[:10], state))

    def _sender(self, branch: Branch) -> str:
        """Return the creator, a member, or anybody."""
        chance = self.random.random()
        if chance < (0.15 if self.is_contested else 0.35):
            return CREATOR
        members = [user for user in USERS if membership_at(self.room, branch, user) == "join"]
        return self.random.choice(members if members and chance < 0.75 else USERS)

    def _wish(self, branch: Branch) -> tuple[str, str, str | None, Any]:
        """Return type, sender, state key and content of a random event."""
        random, version, oddness = self.random, self.version, self.oddness
        sender = self._sender(branch)
        kind = random.choices(
            ("member", "power", "rules", "message", "state", "invite3", "aliases", "redaction", "create", "odd"),
            (40, 25, 12, 0, 20, 0, 0, 0, 0, 0) if self.is_contested else (42, 16, 8, 6, 8, 6, 3, 5, 1, 3),
        )[0]
        if kind == "member":
            target = sender if random.random() < 0.55 else random.choice(USERS)
            content = contents.membership(random, version, target, oddness)
            if content.get("membership") in ("invite", "ban") and target == sender:
                target = random.choice(USERS)
            elif content.get("membership") in ("join", "knock") and random.random() < 0.8:
                sender = target
            key = None if random.random() < oddness * 0.1 else target
            return "m.room.member", sender, key, content
        if kind == "power":
            number = branch.state.get(("m.room.power_levels", ""))
            old = None if number is None else dict(self.room.events[number].content)
            key = "" if random.random() > oddness * 0.1 else random.choice((sender, "other", None))
            return "m.room.power_levels", sender, key, contents.power_levels(random, version, old, oddness)
        if kind == "rules":
            return "m.room.join_rules", sender, "", contents.join_rules(random, oddness)
        if kind == "message":
            return "m.room.message", sender, None, {"body": "text"}
        if kind == "invite3":
            return (
                "m.room.third_party_invite",
                sender,
                random.choice(TOKENS),
                contents.third_party_invite(random, oddness),
            )
        if kind == "aliases":
            key = random.choice((*SERVERS, "", None, sender))
            return "m.room.aliases", sender, key, {"aliases": [f"#alias:{SERVERS[0]}"]}
        if kind == "redaction":
            target = contents.redaction_target(random, version, [event.event_id for event in self.room.events])
            return "m.room.redaction", sender, None, {"redacts": target, "reason": "none"}
        if kind == "create":
            # Where the event makes the room ID, Synapse parses none with another state key.
            key = "" if version.room_id_is_create_hash else random.choice(("", "", "other", None))
            return "m.room.create", sender, key, contents.creation(random, version, 0.3)
        state_key = random.choice(
            ("", "", sender, random.choice(USERS), f"{sender}_suffix", f"{USERS[1]}_more", "@", "@x")
        )
        event_type = random.choice(("m.room.topic", "m.room.name", "m.room.history_visibility", "org.example.state"))
        return event_type, sender, state_key, {"topic": "text", "n": random.randint(0, 9)}

    def _append(
        self, branch: Branch, event_type: str, sender: str, state_key: str | None, content: Any, *, tidy: bool = False
    ) -> None:
        before = dict(branch.state)
        auth = self._auth_events(event_type, sender, state_key, content, before, tidy)
        prev = branch.tips
        if event_type == "m.room.create" and self.random.random() < 0.5:
            prev, auth = (), []
        elif not tidy and self.random.random() < self.oddness * 0.1:
            prev = (0,)
        event = self._event(self._wire(event_type, sender, state_key, content, prev, auth))
        if event is None:
            return
        number = self._keep(event, before)
        broken = independent_verdict(self.room, event)
        if broken is None:
            cited = {
                (one.type, one.state_key or ""): self.room.numbers[event_id]
                for event_id in event.auth_event_ids
                if (one := self.room.events[self.room.numbers[event_id]]).state_key is not None
            }
            broken = dependent_verdict(self.room, event, cited) or dependent_verdict(self.room, event, before)
        if broken is not None:
            self.room.rejected.add(number)
        elif event_type == "m.room.create":
            # The first of another room, or of this one once more: it hangs on no branch.
            return
        elif state_key is not None:
            branch.state[event_type, state_key] = number
        branch.tips = (number,)

    def _auth_events(
        self, event_type: str, sender: str, state_key: str | None, content: Any, state: State, tidy: bool
    ) -> list[int]:
        keys = needed_state(self.version, type=event_type, sender=sender, state_key=state_key, content=content)
        found = [state[key] for key in keys if key in state]
        if tidy or self.random.random() >= self.oddness * 0.3:
            return found
        kind = self.random.randrange(4)
        if kind == 0 and found:
            found.remove(self.random.choice(found))
        elif kind == 1 and found:
            found.append(self.random.choice(found))
        elif kind == 2:
            found.append(self.random.randrange(len(self.room.events)))
        elif self.room.rejected:
            found.append(self.random.choice(sorted(self.room.rejected)))
        return found

    def _wire(
        self, event_type: str, sender: str, state_key: str | None, content: Any, prev: Any, auth: Any
    ) -> dict[str, Any]:
        self.clock += self.random.choice((0, 0, 1, 1, 5, -3))
        events = self.room.events
        wire: dict[str, Any] = {
            "type": event_type,
            "sender": sender,
            "content": content,
            "depth": 1 + max((events[number].depth for number in prev), default=0),
            "origin_server_ts": self.clock,
            "prev_events": [self._reference(number) for number in prev],
            "auth_events": [self._reference(number) for number in auth],
        }
        if self.random.random() < self.oddness * 0.3:
            wire["depth"] = self.random.randint(1, 12)
        # Synapse parses no event that has a room ID where it makes one.
        if not is_room_naming(self.version, event_type):
            elsewhere = (f"!elsewhere:{SERVERS[0]}", f"!elsewhere:{SERVERS[1]}")
            wire["room_id"] = self.room_id if self.random.random() < 0.99 else self.random.choice(elsewhere)
        if state_key is not None:
            wire["state_key"] = state_key
        if self.version.redaction_keeps_legacy_keys:
            wire["origin"] = server_name_of(sender)
        if event_type == "m.room.redaction" and not self.version.redacts_in_content:
            wire["redacts"] = content["redacts"]
        if self.version.event_id_scheme is EventIDScheme.CHOSEN:
            server = (
                server_name_of(sender) if self.random.random() > self.oddness * 0.3 else self.random.choice(SERVERS)
            )
            wire["event_id"] = f"${len(events)}_{self.random.randrange(10**6)}:{server}"
        return wire

    def _reference(self, number: int) -> Any:
        event = self.room.events[number]
        if self.version.references_carry_hashes:
            return [event.event_id, {"sha256": reference_hash(self.version, event.wire)}]
        return event.event_id

    def _event(self, wire: dict[str, Any]) -> Event | None:
        """Return the signed event, or None if it has no valid format or is there already."""
        signed = with_content_hash(wire)
        signed.setdefault("signatures", {})
        servers: set[str] = set()
        # Who accepts a third-party invite may do so through another server than the sender's.
        unsigned = 0.4 if "third_party_invite" in wire["content"] else self.oddness * 0.1
        if wire["type"] == "m.room.create" or self.random.random() >= unsigned:
            servers.add(server_name_of(wire["sender"]))
        authoriser = wire["content"].get("join_authorised_via_users_server")
        if isinstance(authoriser, str) and self.random.random() < 0.95:
            servers.add(server_name_of(authoriser))
        if "event_id" in wire and self.random.random() < (0.95 if servers else 0.5):
            servers.add(server_name_of(wire["event_id"]))
        for server in sorted(servers & KEYS.keys()):
            signed = sign_event(self.version, signed, server, KEYS[server])
        if wire["type"] != "m.room.create" and self.random.random() < self.oddness * 0.1:
            self._spoil(signed)
        try:
            check_event_format(self.version, signed)
        except HomeserverError:
            return None
        event = event_from_wire(self.version, signed)
        return None if event.event_id in self.room.numbers else event

    def _spoil(self, signed: dict[str, Any]) -> None:
        """Make the content hash or a signature wrong."""
        if self.random.random() < 0.5:
            signed["content"] = {**signed["content"], "added": "later"}
        else:
            for by_key in signed["signatures"].values():
                by_key.update({key_id: "A" + text[1:] for key_id, text in by_key.items()})

    def _keep(self, event: Event, before: State) -> int:
        number = len(self.room.events)
        self.room.events.append(event)
        self.room.befores.append(before)
        self.room.numbers[event.event_id] = number
        return number


def membership_at(room: RandomRoom, branch: Branch, user: str) -> Any:
    """Return the membership of a user on a branch as it stands there."""
    number = branch.state.get(("m.room.member", user))
    return None if number is None else room.events[number].content.get("membership")


def rules_of(room: RandomRoom, branch: Branch) -> Any:
    """Return the join rule of a branch as it stands there."""
    number = branch.state.get(("m.room.join_rules", ""))
    return None if number is None else room.events[number].content.get("join_rule")
