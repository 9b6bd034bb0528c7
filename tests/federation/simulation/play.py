"""Plays one world and tells how it ends: `python -m tests.federation.simulation.play SEED SERVERS VERSION EVENTS`.

In a process of its own, because a seed is the same again only with the same `PYTHONHASHSEED`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from .world import World


def main(seed: str, servers: str, version: str, events: str) -> int:
    """Return 0 where all servers have the same in the end."""
    with (
        tempfile.TemporaryDirectory() as folder,
        World(int(seed), Path(folder), servers=int(servers), version=version) as world,
    ):
        world.play(int(events))
        try:
            world.end()
            world.check()
        except AssertionError as difference:
            print(f"seed {seed}, {servers} servers, version {version}, {events} events: {difference}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
