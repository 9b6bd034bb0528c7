"""A whole server in the world: built by `homeserver.parts` on a file of its own; it can crash, and come back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from homeserver import parts
from homeserver.config import Config
from homeserver.embedding import LocalUser
from homeserver.model.ids import UserID
from homeserver.model.signing import generate_signing_key
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.tasks import Tasks
from homeserver.web.json_resource import JsonResource
from homeserver.web.request import WebRequest
from homeserver.web.router import Router
from tests.support.server import LIMITS

from .engine import Engine, Machine
from .network import Network

START_MS = 1_700_000_000_000
MAX_SKEW_MS = 20_000


class SimulatedServer:
    """One server of the world; `number` gives name, key and how wrong its clock goes."""

    def __init__(self, engine: Engine, network: Network, number: int, folder: Path, database_url: str) -> None:
        self.engine = engine
        self.network = network
        self.number = number
        self.name = f"s{number}.test:8448"
        self.is_up = False
        self.machine: Machine = None  # type: ignore[assignment]
        self.parts: parts.Parts = None  # type: ignore[assignment]
        self._resource: JsonResource | None = None
        self._tasks: Tasks | None = None
        self._skew_ms = engine.random.randint(-MAX_SKEW_MS, MAX_SKEW_MS)
        self._key = generate_signing_key(bytes([number + 1]) * 32, "test")
        self._config = _config(self.name, folder, database_url)
        # What crashed stays, so that nothing of it is cleaned up in the midst of something else.
        self._lost: list[object] = []
        network.hosts[self.name] = self

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start, with what is stored."""
        assert not self.is_up
        self.machine = Machine(self.engine, self.name)
        clock = ManualClock(START_MS + self._skew_ms, _Time(self.machine))  # type: ignore[arg-type]
        self._tasks = Tasks(clock, self.name)
        built = parts.build(self._config, [self._key], self.machine, clock, self._tasks)
        self.parts = self.engine.finish(built, 60.0)
        router = Router()
        for route in self.parts.routes:
            router.add(route)
        self._resource = JsonResource(
            router,
            authenticate=self.parts.authenticator.authenticate,
            limit=self.parts.base.rates.limit,
            readmit=self.parts.authenticator.readmit,
        )
        self.is_up = True

    def crash(self) -> None:
        """Stop in the midst of everything: what is on disk stays."""
        self.is_up = False
        self._lost.append((self.machine, self.parts, self._tasks, self._resource))
        self.machine.switch_off()
        self.network.is_down(self.name)
        # What the system does for a process that ends.
        self.parts.base.store.database._close()

    def stop(self) -> None:
        """Stop as an operator stops a server."""
        assert self._tasks is not None
        self.is_up = False
        self.network.is_down(self.name)
        self.parts.base.feed.stop()
        self.parts.rooms.event_stream.stop()
        self.engine.finish(self._tasks.stop(), 60.0)
        self.engine.finish(self.parts.stop(), 60.0)
        self._lost.append((self.machine, self.parts, self._tasks, self._resource))
        self.machine.switch_off()

    # -- what others, and users, do ----------------------------------------------------------------------------------

    def take(self, request: WebRequest, deliver: Callable[[Any], object]) -> None:
        """Work on a request of another server."""
        assert self._resource is not None
        refusal = self._resource.admit(request, request.body_length)
        if refusal is not None:
            deliver(refusal)
        else:
            self._resource.start(request, deliver)

    def do(self, work: Coroutine[Any, Any, Any], within_s: float = 600.0) -> Any:
        """Return what comes of some work in the server."""
        return self.engine.finish(work, within_s)

    def user(self, user_id: UserID) -> LocalUser:
        """Return a handle of a user here."""
        built = self.parts
        return LocalUser(user_id, built.users.accounts, built.rooms.creation, built.users.membership, built.base.door)

    def register(self, localpart: str) -> UserID:
        """Make an account."""
        return UserID(self.do(self.parts.users.operator.create(localpart, "correct horse")))


class _Time:
    """The part of Twisted's clock that a `ManualClock` uses, with timers that end with their machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def seconds(self) -> float:
        return self._machine.seconds()

    def callLater(self, seconds: float, fn: Callable[..., object], *args: Any) -> Any:
        return self._machine.callLater(seconds, fn, *args)


def _config(name: str, folder: Path, database_url: str) -> Config:
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "server": {"name": name, "data_dir": str(folder)},
        "listeners": [{"port": 8448, "bind": ["127.0.0.1"]}],
        "database": {"url": database_url, "pool_size": 2},
        "registration": {"enabled": True, "without_verification": True, "bcrypt_rounds": 4},
        "federation": {"trusted_key_servers": []},
        "media": {"enabled": False},
        "presence": {"enabled": False},
        "cache": {"memory_budget_bytes": 32 * 1024**2},
        "limits": {
            **{each: {"per_second": 1000.0, "burst_count": 1000} for each in LIMITS},
        },
    }
    return Config.from_mapping(settings, folder)


def copy_database(template: Path, folder: Path) -> str:
    """Return the URL of a new SQLite database with all tables."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "homeserver.db"
    shutil.copyfile(template, target)
    return f"sqlite:///{target}"
