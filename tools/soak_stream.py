"""Soak the live streams: users who stay connected, stumble and come back, on a server that is stopped and killed.

    .venv/bin/python tools/soak_stream.py --seconds 600 --users 40 --rooms 8 --seed 1
    .venv/bin/python tools/soak_stream.py --database mariadb --tls

At the end each client's journal must equal the history of its rooms: nothing lost, nothing twice, in the same order
(see tests/soak).  Prints the figures and the first differences; the exit status is 1 if there are any.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import asyncioreactor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# Before anything asks for a reactor: some users are asyncio's, others Twisted's.
LOOP = asyncio.new_event_loop()
asyncioreactor.install(LOOP)

from tests.soak.client import Mishaps  # noqa: E402
from tests.soak.reckoning import Report  # noqa: E402
from tests.soak.server import SoakServer  # noqa: E402
from tests.soak.storm import Storm, storm  # noqa: E402
from tests.soak.world import Plan, soaking  # noqa: E402
from tests.support.databases import shared_mariadb  # noqa: E402

T = TypeVar("T")


@contextlib.contextmanager
def _database(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'soak.db'}"
    elif kind == "mariadb":
        with shared_mariadb(folder / "mariadb", os.getpid()).fresh_database() as url:
            yield url
    else:
        yield kind


async def _soak(folder: Path, url: str, plan: Plan, *, tls: bool) -> Report:
    async with soaking(SoakServer(folder / "server", url, tls=tls), plan) as world:
        return await world.run()


async def _storm(folder: Path, url: str, clients: int, *, tls: bool) -> Storm:
    server = SoakServer(folder / "server", url, tls=tls)
    try:
        return await storm(server, clients, timeout_s=300)
    finally:
        server.end()


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run on the loop that is Twisted's reactor, too."""
    from twisted.internet import reactor

    task = LOOP.create_task(work)
    task.add_done_callback(lambda _: reactor.stop())
    reactor.run()
    return task.result()


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--rooms", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", default="sqlite", help="sqlite, mariadb, or the URL of an empty database")
    parser.add_argument("--tls", action="store_true", help="clients connect by TLS")
    parser.add_argument("--end-every", type=float, default=40, help="seconds between two ends of the server")
    parser.add_argument("--actions", type=float, default=Plan().actions_per_s, help="of each user, in a second")
    parser.add_argument("--burst-every", type=float, default=Plan().burst_every_s, help="seconds between two bursts")
    parser.add_argument("--life", type=float, default=Mishaps().mean_life_s, help="seconds of a connection, on average")
    parser.add_argument("--kinds", default=",".join(Plan().kinds), help="ws, lines, library, poll: of users, in turn")
    parser.add_argument("--storm", type=int, metavar="CLIENTS", help="instead: so many come back at once after a kill")
    parser.add_argument("--keep", action="store_true", help="keep the server's files, and say where")
    arguments = parser.parse_args()
    plan = Plan(
        seconds=arguments.seconds,
        users=arguments.users,
        rooms=arguments.rooms,
        seed=arguments.seed,
        end_every_s=arguments.end_every,
        actions_per_s=arguments.actions,
        burst_every_s=arguments.burst_every,
        mishaps=Mishaps(mean_life_s=arguments.life),
        kinds=tuple(arguments.kinds.split(",")),
    )
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        with _database(arguments.database, folder) as url:
            if arguments.storm:
                outcome = _run(_storm(folder, url, arguments.storm, tls=arguments.tls))
                print(outcome.text())
                return 1 if outcome.faults else 0
            report = _run(_soak(folder, url, plan, tls=arguments.tls))
        print(report.text())
        return 1 if report.faults else 0
    finally:
        if arguments.keep:
            print(f"the server's files are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
