"""The homeservers of a run: those at given URLs, or those that the suite starts as stories need them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Final, Protocol

from twisted.internet.defer import DeferredLock, DeferredSemaphore

from .actors import Server
from .authority import Authority
from .expect import Failed, Skipped
from .host import WAY_TO_AN_ACCOUNT, Host
from .http import Web
from .journal import Journal
from .launching import CannotStart, Description, Process
from .story import Needs


class World(Protocol):
    """Where stories are told."""

    @property
    def title(self) -> str:
        """What the report calls it."""
        ...

    @property
    def implementation(self) -> str:
        """The lower-case name of the software that is judged; empty if it is not known."""
        ...

    def hosts_for(self, needs: Needs) -> AbstractAsyncContextManager[list[Host]]:
        """Give the servers that a story needs, the first being the most used; Skipped if they cannot be had."""
        ...

    async def open(self) -> None:
        """Have the first server there; Failed if it cannot be judged, CannotStart if it does not start."""
        ...

    async def close(self) -> None:
        """Stop what was started."""
        ...

    def kill_all(self) -> None:
        """Kill what was started, at once."""
        ...


class UrlWorld:
    """Homeservers that run already."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        web: Web,
        admin_secret: str | None = None,
        registration_token: str | None = None,
        implementation: str = "",
    ) -> None:
        self._web = web
        self.hosts = [
            Host(
                url,
                web,
                admin_secret=admin_secret,
                registration_token=registration_token,
                implementation=implementation.casefold(),
            )
            for url in urls
        ]

    @property
    def title(self) -> str:
        """The URLs, and what is there."""
        return ", ".join(f"{each.version or 'a homeserver'} at {each.url}" for each in self.hosts)

    @property
    def implementation(self) -> str:
        """What the first server says of itself."""
        return self.hosts[0].implementation

    async def open(self) -> None:
        """Look at all of them, and make an account on each: without, there is little to tell."""
        for host in self.hosts:
            await host.look()
        for host in self.hosts:
            try:
                await host.new_user(Server(host, Journal()), "Probe")
            except Failed as failure:
                raise Failed(WAY_TO_AN_ACCOUNT, failure.came) from None

    @asynccontextmanager
    async def hosts_for(self, needs: Needs) -> AsyncIterator[list[Host]]:
        """Give the first of them."""
        if needs.own_servers:
            raise Skipped("needs a server of its own: use --start")
        if needs.setting:
            raise Skipped(f"needs a server set to {needs.setting!r}: use --start")
        if needs.servers > len(self.hosts):
            raise Skipped(
                f"needs {needs.servers} servers in federation: say --url {needs.servers} times, or use --start"
            )
        yield self.hosts[: needs.servers]

    async def close(self) -> None:
        """Close the connections."""
        await self._web.close()

    def kill_all(self) -> None:
        """Nothing was started."""


# A server that starts takes a core for itself; more at a time only make each of them late.
STARTING_AT_ONCE: Final = max(2, (os.cpu_count() or 2) // 2)
# Of the servers of settings, so many are kept though no story is at them.
IDLE_SETTINGS: Final = 3


class StartedWorld:
    """Homeservers that the suite starts and stops."""

    def __init__(self, description: Description, folder: Path, *, patience_s: float | None = None) -> None:
        self._description = description
        self._folder = folder
        self._authority = Authority(folder / "authority")
        more = {} if patience_s is None else {"patience_s": patience_s}
        self._web = Web(ca_file=str(self._authority.ca_file), **more)
        # By setting; None is the common one.
        self._shared: dict[str | None, list[Host]] = defaultdict(list)
        self._starting: dict[str | None, DeferredLock] = defaultdict(DeferredLock)
        self._refusing: dict[str | None, CannotStart] = {}
        # How many stories are at the servers of each setting; the one left last comes last.
        self._visitors: dict[str, int] = {}
        self._starts = DeferredSemaphore(STARTING_AT_ONCE)
        self._processes: list[Process] = []
        self._folders = count(1)

    @property
    def title(self) -> str:
        """The name in the description, and the version of the first server."""
        version = next((each.version for hosts in self._shared.values() for each in hosts), "")
        return f"{self._description.name}{f' ({version})' if version else ''}"

    @property
    def implementation(self) -> str:
        """What the description says."""
        return self._description.implementation

    async def open(self) -> None:
        """Start the first one."""
        async with self.hosts_for(Needs()):
            pass

    @asynccontextmanager
    async def hosts_for(self, needs: Needs) -> AsyncIterator[list[Host]]:
        """Give the shared servers, or new ones that are stopped afterwards."""
        if needs.servers > 1 and not self._description.federates:
            raise Skipped(f"{self._description.name} is started without federation")
        description = self._description.set_to(needs.setting)
        if needs.own_servers:
            own: list[Host] = []
            try:
                for number in range(1, needs.servers + 1):
                    own.append(await self._start(description, number))
                yield own
            finally:
                await self._finish(own)
        elif needs.setting is None:
            yield await self._share(description, needs)
        else:
            self._visitors[needs.setting] = self._visitors.pop(needs.setting, 0) + 1
            try:
                await self._finish_idle()
                yield await self._share(description, needs)
            finally:
                self._visitors[needs.setting] = self._visitors.pop(needs.setting) - 1

    async def _share(self, description: Description, needs: Needs) -> list[Host]:
        shared, starting = self._shared[needs.setting], self._starting[needs.setting]
        await starting.acquire()
        try:
            if needs.setting in self._refusing:
                raise self._refusing[needs.setting]
            while len(shared) < needs.servers:
                shared.append(await self._start(description, len(shared) + 1))
        except CannotStart as failure:
            self._refusing[needs.setting] = failure
            raise
        finally:
            starting.release()
        return shared[: needs.servers]

    async def _finish_idle(self) -> None:
        """Stop servers of settings at which no story is, the one left first before others, but for a few."""
        idle = [setting for setting, visitors in self._visitors.items() if not visitors and self._shared[setting]]
        for setting in idle[: max(0, len(idle) - IDLE_SETTINGS)]:
            hosts, self._shared[setting] = self._shared[setting], []
            await self._finish(hosts)

    async def _finish(self, hosts: Sequence[Host]) -> None:
        for host in hosts:
            if host.process is not None:
                self._processes.remove(host.process)
                await host.process.finish()

    async def close(self) -> None:
        """Stop them all."""
        await self._web.close()
        for process in self._processes:
            await process.finish()
        self._processes.clear()

    def kill_all(self) -> None:
        """Kill them all."""
        for process in self._processes:
            process.kill_now()

    async def _start(self, description: Description, number: int) -> Host:
        folder = self._folder / f"server{next(self._folders)}"
        process = Process(description, folder, self._authority, number, self._web)
        self._processes.append(process)
        await self._starts.acquire()
        try:
            await process.start()
        finally:
            self._starts.release()
        host = Host(
            process.url,
            self._web,
            admin_secret=process.secret,
            process=process,
            implementation=description.implementation,
            database=description.database,
        )
        host.server_name = process.server_name
        await host.look()
        return host
