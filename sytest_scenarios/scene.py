"""What a story is given: the people, the servers, a source of chance, and a way to say that it cannot be told here."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from random import Random
from typing import Final, NoReturn

from .actors import Server, User
from .expect import Skipped
from .journal import Journal, Step

NAMES: Final = ("Alice", "Bob", "Carol", "Dan", "Eve", "Frank", "Grace", "Heidi")


@dataclass(slots=True)
class Scene:
    """One telling of one story."""

    journal: Journal
    servers: list[Server]
    random: Random
    """Seeded by the run and the name of the story."""
    scale: float = 1.0
    """What `--scale` says: a story of many users or messages multiplies its figures by it."""
    users: list[User] = field(default_factory=list)

    @property
    def server(self) -> Server:
        """The first server, mostly the only one."""
        return self.servers[0]

    async def new_user(self, name: str | None = None, *, on: Server | None = None, admin: bool = False) -> User:
        """Make one more user; on the next server in turn, unless it is said where. An admin needs ADMIN_SECRET."""
        number = len(self.users)
        name = name or (NAMES[number] if number < len(NAMES) else f"User{number + 1}")
        server = on or self.servers[number % len(self.servers)]
        self.step(f"{name} makes an account on {server.url}")
        user = await server.host.new_user(server, name, admin=admin)
        self.users.append(user)
        return user

    async def new_users(self, *names: str) -> list[User]:
        """Make users of these names, for a story of others than Alice and Bob."""
        return [await self.new_user(name) for name in names]

    def step(self, text: str) -> None:
        """Put a line into the report: what happens now."""
        self.journal.add(Step(text, time.time()))

    def skip(self, reason: str) -> NoReturn:
        """End the story here: it cannot be told on this server, for this reason."""
        raise Skipped(reason)
