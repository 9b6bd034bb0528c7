"""Ten servers that share a room through cuts, losses and crashes have the same in the end.

A seed plays the same again with the same `PYTHONHASHSEED`. `SENNIT_SIMULATION_SEEDS=100:200` (or `1,5,9`) plays other
ones, of every room version in turn, with `SENNIT_SIMULATION_EVENTS` events each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .simulation.world import World

ROOT = Path(__file__).resolve().parents[2]


def play(seed: int, *, servers: int, version: str, events: int) -> None:
    """Play a world in a process of its own, where the seed decides everything; AssertionError tells what differs."""
    command = [sys.executable, "-m", "tests.federation.simulation.play", str(seed), str(servers), version, str(events)]
    ended = subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": "0"}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert 0 == ended.returncode, ended.stdout[-20_000:] + ended.stderr[-20_000:]


@pytest.mark.deep
@pytest.mark.slow
def test_ten_servers_have_the_same_after_a_thousand_events() -> None:
    play(1, servers=10, version="12", events=1000)


@pytest.mark.slow
def test_ten_servers_have_the_same() -> None:
    play(1, servers=10, version="12", events=40)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "servers", "version"),
    [
        (2, 2, "12"),
        (5, 3, "6"),
        *(
            pytest.param(seed, 4, version, marks=pytest.mark.deep)
            for seed in (2, 3)
            for version in ("6", "10", "11", "12")
        ),
    ],
)
def test_few_servers_have_the_same(seed: int, servers: int, version: str) -> None:
    play(seed, servers=servers, version=version, events=120)


@pytest.mark.mariadb
def test_servers_on_mariadb_have_the_same(tmp_path: Path, mariadb: Any) -> None:
    with (
        ExitStack() as stack,
        World(
            4,
            tmp_path,
            servers=3,
            version="11",
            new_database=lambda folder: stack.enter_context(mariadb.database()),
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
def test_servers_have_the_same_with_seed(seed: int) -> None:
    version = ("6", "10", "11", "12")[seed % 4]
    play(seed, servers=4 + seed % 7, version=version, events=int(os.environ.get("SENNIT_SIMULATION_EVENTS", "300")))
