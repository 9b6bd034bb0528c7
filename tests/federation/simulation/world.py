"""The world: servers, users, one room, and what happens to them.

What users do is chosen by chance: mostly messages, and everything that can make two sides of a cut disagree. What a
server refuses is no fault; what it has told a client to be sent must be on all servers in the end.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace, TracebackType
from typing import Any, Final
from unittest import mock

from sqlalchemy import create_engine
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

import storage.database
from homeserver import parts, parts_federation
from homeserver.errors import HomeserverError, InternalFault
from homeserver.model.event import EventTemplate
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.room_versions import get_room_version
from storage.schema import migrate

from .agreement import compare, settle_history
from .engine import Engine, SteppedBatcher, SteppedThreads, Stuck
from .network import CALM, Network, Weather, Wire
from .server import SimulatedServer, copy_database

USERS: Final = 3
# How long cuts last, and how often one begins, by events.
CUT_S: Final = (20.0, 400.0)
CUT_EVERY: Final = 60
DOWN_S: Final = (1.0, 120.0)
DOWN_EVERY: Final = 120
# Between two actions, on average.
PAUSE_S: Final = 1.0
# What users wait for at the end of the world: the longest back-off of cuts as long as ours, and more.
END_S: Final = 12 * 3600.0

STATE_KINDS: Final = ("m.room.name", "m.room.topic", "org.example.one", "org.example.two")


class Collected(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(self.format(record))


class World:
    """So many servers and one room; use as a context manager."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        *,
        servers: int = 10,
        version: str = "12",
        weather: Weather | None = None,
        new_database: Callable[[Path], str] | None = None,
        crashes: bool = True,
    ) -> None:
        """`new_database` gives the URL of a fresh database for a folder; without it, all are on SQLite."""
        self.seed = seed
        self.version = version
        self.engine = Engine(seed)
        self.network = Network(self.engine, weather or Weather())
        self.random = self.engine.random
        self.crashes = crashes
        self._folder = folder
        self._new_database = new_database or (lambda place: copy_database(template(), place))
        self._count = servers
        self._stack = ExitStack()
        self.servers: list[SimulatedServer] = []
        self.users: list[list[UserID]] = []
        self.room_id = RoomID("!")
        self.sent: list[EventID] = []
        self.refused: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.errors = Collected()
        self._under_way: dict[Deferred[Any], SimulatedServer] = {}
        self._heals_at: float | None = None
        self._back_at: dict[SimulatedServer, float] = {}
        self._numbers = 0

    def __enter__(self) -> World:
        chance = SimpleNamespace(SystemRandom=lambda: self.random)
        for target, name, stand_in in (
            (parts, "Threads", SteppedThreads),
            (storage.database, "Batcher", SteppedBatcher),
            (parts, "Outgoing", self._wire),
            (parts_federation, "Outgoing", self._wire),
            (parts_federation, "secrets", chance),
        ):
            self._stack.enter_context(mock.patch.object(target, name, stand_in))
        logging.getLogger().addHandler(self.errors)
        self._stack.callback(logging.getLogger().removeHandler, self.errors)
        try:
            self._make()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for server in self.servers:
                if server.is_up:
                    server.crash()
        finally:
            self._stack.close()

    # -- what happens ------------------------------------------------------------------------------------------------

    def play(self, events: int) -> None:
        """Let users on all servers send so many events, while the network is cut and heals, and servers crash."""
        goal = len(self.sent) + events
        tries = 0
        while len(self.sent) < goal:
            tries += 1
            if tries > 20 * events:
                raise Stuck(f"only {len(self.sent)} of {goal} events could be sent: {self.refused.most_common(5)}")
            self._change_weather()
            self._act()
            self.engine.pass_time(self.random.expovariate(1.0 / PAUSE_S))

    def end(self) -> None:
        """Heal everything, have everybody back in the room, and let all be told of everything."""
        self.network.heal()
        self.network.weather = CALM
        for server in self.servers:
            if not server.is_up:
                server.start()
        self._heals_at = None
        self._back_at.clear()
        self.drain("after the network has healed")
        self._gather_all()
        for server in self.servers:
            self.must(server, self._send(server, self.users[server.number][0], "m.room.message", _text("the end")))
            self.drain(f"after the last message of {server.name}")
        for server in self.servers:
            server.do(settle_history(server, self.room_id), END_S)
        self.drain("after the history was read")

    def check(self) -> None:
        """All servers have the same, nothing waits anywhere, nothing went wrong."""
        compare(self.servers, self.room_id, self.sent)
        assert not self.errors.records, "\n".join(self.errors.records[:20])

    def drain(self, when: str) -> None:
        """Let time pass until nothing is to be sent or taken in any more."""
        until = self.engine.time.seconds() + END_S
        while True:
            self.engine.pass_time(5.0)
            waiting = [text for server in self.servers for text in self._waiting(server)]
            if not waiting and not self._under_way:
                return
            if self.engine.time.seconds() > until:
                raise AssertionError(f"{when}, there is still: {'; '.join(waiting[:20])} {len(self._under_way)}")

    def must(self, server: SimulatedServer, work: Coroutine[Any, Any, Any]) -> Any:
        """Return what comes of something that may not fail."""
        return server.do(work)

    # -- the beginning -----------------------------------------------------------------------------------------------

    def _wire(self, machine: Any, **more: Any) -> Wire:
        return Wire(self.network, machine)

    def _make(self) -> None:
        weather, self.network.weather = self.network.weather, CALM
        for number in range(self._count):
            folder = self._folder / f"s{number}"
            server = SimulatedServer(self.engine, self.network, number, folder, self._new_database(folder))
            self.servers.append(server)
            server.start()
            self.users.append([server.register(f"{letter}{number}") for letter in "abcdefgh"[:USERS]])
        self._make_room()
        for server in self.servers[1:]:
            self._bring_in(server, self.users[server.number][0])
        self.drain("at the beginning")
        self.network.weather = weather

    def _make_room(self) -> None:
        creator, server = self.users[0][0], self.servers[0]
        version = get_room_version(self.version)
        admins = [each[0] for each in self.users[1:3]]
        levels: dict[str, Any] = {
            "users": {**{str(each): 100 for each in admins}, **{str(each[1]): 50 for each in self.users[:4]}},
            "events": {"m.room.name": 0, "m.room.topic": 0, "org.example.one": 0},
        }
        content: dict[str, Any] = {"room_version": self.version}
        if not version.room_id_is_create_hash:
            # Over everybody whom others may make as powerful as themselves.
            levels["users"][str(creator)] = 1000
        if version.creator_in_content:
            content["creator"] = str(creator)

        def event(kind: str, said: dict[str, Any], key: str = "") -> EventTemplate:
            return EventTemplate(kind, said, creator, key)

        then = [
            event("m.room.member", {"membership": "join"}, str(creator)),
            event("m.room.power_levels", levels),
            event("m.room.join_rules", {"join_rule": "public"}),
            event("m.room.history_visibility", {"history_visibility": "shared"}),
        ]
        room_id = None if version.room_id_is_create_hash else RoomID(f"!room:{server.name}")
        create = event("m.room.create", content)
        self.room_id = self.must(server, server.parts.base.door.create(version, create, room_id, then))

    def _bring_in(self, server: SimulatedServer, user_id: UserID) -> None:
        others = [each.name for each in self.servers if each is not server]
        self.must(server, self._join(server, user_id, others[:3]))

    # -- the network, and power cuts ---------------------------------------------------------------------------------

    def _change_weather(self) -> None:
        now, chance = self.engine.time.seconds(), self.random
        if self._heals_at is not None and now >= self._heals_at:
            self._heals_at = None
            self.network.heal()
        if self._heals_at is None and chance.random() < 1 / CUT_EVERY:
            sides = chance.randint(2, 3)
            self.network.cut({server.name: chance.randrange(sides) for server in self.servers})
            self._heals_at = now + chance.uniform(*CUT_S)
        for server, back_at in list(self._back_at.items()):
            if now >= back_at:
                del self._back_at[server]
                server.start()
        if self.crashes and chance.random() < 1 / DOWN_EVERY:
            server = chance.choice(self.servers)
            if server.is_up:
                self._switch_off(server)
                self._back_at[server] = now + chance.uniform(*DOWN_S)

    def _switch_off(self, server: SimulatedServer) -> None:
        if self.random.random() < 0.7:
            self.done["crash"] += 1
            # What its users were doing is never answered.
            for done in [each for each, where in self._under_way.items() if where is server]:
                del self._under_way[done]
            server.crash()
        else:
            self.done["stop"] += 1
            server.stop()

    # -- what users do -----------------------------------------------------------------------------------------------

    def _act(self) -> None:
        chance = self.random
        up = [server for server in self.servers if server.is_up]
        if not up:
            return
        server = chance.choice(up)
        user_id = chance.choice(self.users[server.number])
        name, make = chance.choices(
            [(name, make) for name, make, _ in self._actions()], [weight for _, _, weight in self._actions()]
        )[0]
        self._start(name, server, make(server, user_id))

    def _actions(self) -> Sequence[tuple[str, Callable[[SimulatedServer, UserID], Any], float]]:
        return (
            ("say", self._say, 50),
            ("state", self._set_state, 14),
            ("levels", self._set_levels, 5),
            ("join rule", self._set_join_rule, 1.5),
            ("redact", self._redact, 5),
            ("join", self._come, 10),
            ("leave", self._go, 4),
            ("kick", self._kick, 4),
            ("ban", self._ban, 4),
            ("unban", self._unban, 5),
            ("invite", self._invite, 5),
        )

    def _start(self, name: str, server: SimulatedServer, work: Coroutine[Any, Any, Any]) -> None:
        done: Deferred[Any] = Deferred.fromCoroutine(work)
        self._under_way[done] = server

        def ended(result: Any) -> None:
            self._under_way.pop(done, None)
            if not isinstance(result, Failure):
                self.done[name] += 1
            elif result.check(HomeserverError) and not result.check(InternalFault):
                self.refused[f"{name}: {type(result.value).__name__}"] += 1
            elif result.check(CancelledError):
                # The server crashed, or whoever waited for the answer went away.
                self.refused[f"{name}: gone"] += 1
            else:
                self.errors.records.append(f"{name} at {server.name}: {result.getTraceback()}")

        done.addBoth(ended)

    async def _send(
        self,
        server: SimulatedServer,
        user_id: UserID,
        kind: str,
        content: dict[str, Any],
        state_key: str | None = None,
        redacts: EventID | None = None,
    ) -> EventID:
        template = EventTemplate(kind, content, user_id, state_key, redacts=redacts)
        stored = await server.parts.base.door.send(self.room_id, template)
        self.sent.append(stored.event_id)
        return stored.event_id

    async def _say(self, server: SimulatedServer, user_id: UserID) -> None:
        self._numbers += 1
        await self._send(server, user_id, "m.room.message", _text(f"message {self._numbers}"))

    async def _set_state(self, server: SimulatedServer, user_id: UserID) -> None:
        self._numbers += 1
        kind = self.random.choice(STATE_KINDS)
        key = self.random.choice(("", "x", "y")) if kind.startswith("org.") else ""
        field = {"m.room.name": "name", "m.room.topic": "topic"}.get(kind, "value")
        await self._send(server, user_id, kind, {field: f"number {self._numbers}"}, key)

    async def _set_levels(self, server: SimulatedServer, user_id: UserID) -> None:
        stored = await server.parts.base.door.state_event(self.room_id, "m.room.power_levels")
        if stored is None:
            return
        levels = dict(stored.event.content)
        chance = self.random
        if chance.random() < 0.7:
            target = self._somebody()
            levels["users"] = {**levels.get("users", {}), str(target): chance.choice((0, 10, 50, 100))}
            if target == self.users[0][0]:
                return
        else:
            levels["events"] = {**levels.get("events", {}), chance.choice(STATE_KINDS): chance.choice((0, 10, 50))}
        await self._send(server, user_id, "m.room.power_levels", levels, "")

    async def _set_join_rule(self, server: SimulatedServer, user_id: UserID) -> None:
        rule = self.random.choice(("public", "public", "invite"))
        await self._send(server, user_id, "m.room.join_rules", {"join_rule": rule}, "")

    async def _redact(self, server: SimulatedServer, user_id: UserID) -> None:
        if not self.sent:
            return
        target = self.random.choice(self.sent[-50:])
        content = {"redacts": target} if get_room_version(self.version).redacts_in_content else {}
        await self._send(server, user_id, "m.room.redaction", content, redacts=target)

    async def _join(self, server: SimulatedServer, user_id: UserID, servers: Sequence[str]) -> None:
        await server.parts.users.membership.join(self.room_id, user_id, servers=servers)

    async def _come(self, server: SimulatedServer, user_id: UserID) -> None:
        names = [each.name for each in self.servers if each is not server]
        await self._join(server, user_id, self.random.sample(names, min(3, len(names))))

    async def _go(self, server: SimulatedServer, user_id: UserID) -> None:
        if user_id != self.users[0][0]:
            await server.parts.users.membership.leave(self.room_id, user_id)

    async def _kick(self, server: SimulatedServer, user_id: UserID) -> None:
        await server.parts.users.membership.kick(self.room_id, user_id, self._somebody())

    async def _ban(self, server: SimulatedServer, user_id: UserID) -> None:
        await server.parts.users.membership.ban(self.room_id, user_id, self._somebody())

    async def _unban(self, server: SimulatedServer, user_id: UserID) -> None:
        await server.parts.users.membership.unban(self.room_id, user_id, self._somebody())

    async def _invite(self, server: SimulatedServer, user_id: UserID) -> None:
        await server.parts.users.membership.invite(self.room_id, user_id, self._somebody())

    def _somebody(self) -> UserID:
        return self.random.choice(self.random.choice(self.users))

    # -- the end -----------------------------------------------------------------------------------------------------

    def _gather_all(self) -> None:
        """Have the creator let everybody in, and one user of each server come."""
        server, creator = self.servers[0], self.users[0][0]
        membership = server.parts.users.membership
        self._end_disagreement(server, creator)
        self.must(server, self._send(server, creator, "m.room.join_rules", {"join_rule": "public"}, ""))
        for theirs in self.users:
            for user_id in theirs:
                current = self.must(server, membership.current(self.room_id, user_id))
                if current is not None and current.event.membership == "ban":
                    self.must(server, membership.unban(self.room_id, creator, user_id))
        self.drain("after everybody was let in")
        for other in self.servers[1:]:
            self.must(other, self._join(other, self.users[other.number][0], [server.name]))
            self.drain(f"after {other.name} has come back")

    def _end_disagreement(self, server: SimulatedServer, creator: UserID) -> None:
        """Put out who is in the room for some servers and not for others, so that a message can join both branches.

        Whose join others have soft-failed is in the room for their own server alone, with all that they said since: no
        event of others will ever build on it, and they send nothing to it if they see nobody of it in the room. That is
        how soft failure is meant; it needs somebody to end it.
        """
        membership = server.parts.users.membership
        for user_id in [each for theirs in self.users for each in theirs if each != creator]:
            views = {each.name: self.must(each, self._membership_at(each, user_id)) for each in self.servers}
            home = next(each for each in self.servers if each.name == user_id.server_name)
            # A server that sees nobody of its own in the room has nothing to say but that.
            views[home.name] = views[home.name] or "leave"
            if len({view == "join" for view in views.values() if view is not None}) < 2:
                continue
            self.done["disagreement ended"] += 1
            if views[home.name] == "join" and views[server.name] != "join":
                self.must(home, home.parts.users.membership.leave(self.room_id, user_id))
            else:
                self.must(server, membership.ban(self.room_id, creator, user_id))
        self.drain("after those were banned whom not all saw in the room")
        for other in self.servers:
            for user_id in self.users[other.number]:
                current = self.must(server, membership.current(self.room_id, user_id))
                if current is not None and current.event.membership == "join":
                    self.must(other, self._send(other, user_id, "m.room.message", _text("we agree")))
                    break
            self.drain(f"after {other.name} has joined its branches")

    async def _membership_at(self, server: SimulatedServer, user_id: UserID) -> str | None:
        """Return the membership of a user as a server sees it; None if the server is not in the room itself."""
        tip = await server.parts.base.door.tip(self.room_id)
        if server.name not in tip.servers:
            return None
        stored = await server.parts.base.door.state_event(self.room_id, "m.room.member", user_id)
        return "leave" if stored is None else stored.event.membership

    def _waiting(self, server: SimulatedServer) -> list[str]:
        links = server.parts.base.links
        assert links is not None
        outbox = links.outbox
        waiting = [f"{server.name} has to send to {name}" for name in (*outbox._queues, *outbox._paused)]
        held = self.must(server, _held(server))
        return [*waiting, *(f"{server.name} holds {event_id}" for event_id in held)]


async def _held(server: SimulatedServer) -> list[str]:
    from sqlalchemy import select

    from storage.tables.held_events import held_events

    rows = await server.parts.base.store.database.read(lambda tx: tx.all(select(held_events.c.event_id)))
    return [row[0] for row in rows]


def _text(body: str) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": body}


@lru_cache(maxsize=1)
def template() -> Path:
    """Return an SQLite file with all tables, made once."""
    path = Path(mkdtemp(prefix="sennit-simulation-")) / "template.db"
    engine = create_engine(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()
    return path
