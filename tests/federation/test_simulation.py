"""Ten servers that share a room through cuts, losses and crashes have the same in the end.

A seed plays the same again with the same `PYTHONHASHSEED`. `SENNIT_SIMULATION_SEEDS=100:200` (or `1,5,9`) plays other
ones, of every room version in turn, with `SENNIT_SIMULATION_EVENTS` events each.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .simulation.world import World


# What is missing before an event that was soft-failed after a gap is not noted as a gap, so that nobody fetches it when
# an accepted event builds on that one: a server that was cut off may lack a stretch of the graph for ever.
@pytest.mark.xfail(strict=False, reason="gaps before soft-failed events are not remembered")
def test_ten_servers_have_the_same_after_a_thousand_events(tmp_path: Path) -> None:
    with World(1, tmp_path, servers=10, version="12") as world:
        world.play(1000)
        world.end()
        world.check()


@pytest.mark.parametrize("version", ["6", "10", "11", "12"])
@pytest.mark.parametrize("seed", [2, 3])
def test_few_servers_have_the_same(tmp_path: Path, seed: int, version: str) -> None:
    with World(seed, tmp_path, servers=4, version=version) as world:
        world.play(120)
        world.end()
        world.check()


@pytest.mark.mariadb
def test_servers_on_mariadb_have_the_same(tmp_path: Path, mariadb: Any) -> None:
    with (
        ExitStack() as stack,
        World(
            4,
            tmp_path,
            servers=3,
            version="11",
            new_database=lambda folder: stack.enter_context(mariadb.fresh_database()),
        ) as world,
    ):
        world.play(40)
        world.end()
        world.check()


def _seeds() -> list[int]:
    text = os.environ.get("SENNIT_SIMULATION_SEEDS", "")
    if ":" in text:
        first, last = text.split(":")
        return list(range(int(first), int(last)))
    return [int(each) for each in text.split(",") if each]


@pytest.mark.parametrize("seed", _seeds())
def test_servers_have_the_same_with_seed(tmp_path: Path, seed: int) -> None:
    version = ("6", "10", "11", "12")[seed % 4]
    with World(seed, tmp_path, servers=4 + seed % 7, version=version) as world:
        world.play(int(os.environ.get("SENNIT_SIMULATION_EVENTS", "300")))
        world.end()
        world.check()
