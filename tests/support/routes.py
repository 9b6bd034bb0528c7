"""All routes of a server, as text: `python -m tests.support.routes FOLDER` prints them as JSON.

A process of its own starts a server in the folder, without listening, and asks its router.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOR_SERVERS = ("/_matrix/federation/", "/_matrix/key/", "/.well-known/matrix/server")


@dataclass(frozen=True, slots=True)
class RouteInfo:
    """A route of the client API."""

    method: str
    template: str
    needs_token: bool
    max_body_bytes: int

    def __str__(self) -> str:
        return f"{self.method} {self.template}"


def all_routes(folder: Path) -> list[RouteInfo]:
    """Return every route, those under older prefixes too; `folder` is written to."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.routes", str(folder)], cwd=ROOT, capture_output=True, timeout=120
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace")[-4000:])
    return [RouteInfo(*row) for row in json.loads(done.stdout.splitlines()[-1])]


def client_routes(folder: Path) -> list[RouteInfo]:
    """Return the routes that are for clients: all that a server has that talks to no others."""
    return [route for route in all_routes(folder) if not route.template.startswith(FOR_SERVERS)]


def _main(folder: str) -> None:
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react

    from api.auth import Access
    from homeserver.app import Homeserver
    from homeserver.config import Config

    async def ask(reactor: Any) -> None:
        server = Homeserver(Config.default(Path(folder), "routes.example"), reactor=reactor)
        await server.start(listen=False)
        rows = [
            (route.method, route.path_template, route.auth not in (None, Access.OPTIONAL), route.max_body_bytes)
            for route in server.client_resource().router.routes
        ]
        await server.stop()
        print(json.dumps(rows), flush=True)

    react(lambda reactor: Deferred.fromCoroutine(ask(reactor)))


if __name__ == "__main__":
    _main(sys.argv[1])
