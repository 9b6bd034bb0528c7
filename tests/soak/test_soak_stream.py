"""The soak, in short: tools/soak_stream.py runs it for as long as one likes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from .client import Mishaps
from .reckoning import Report
from .server import SoakServer
from .world import Plan, soaking

pytestmark = pytest.mark.slow

PLAN = Plan(
    seconds=15,
    users=15,
    rooms=4,
    seed=5,
    actions_per_s=3,
    burst_every_s=3,
    end_every_s=5,
    mishaps=Mishaps(mean_life_s=3),
)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_every_journal_equals_the_history_of_its_rooms(database_url: str, tmp_path: Path, tls: bool) -> None:
    if tls and not database_url.startswith("sqlite"):
        pytest.skip("TLS and the database have nothing to do with each other")

    async def run() -> Report:
        async with soaking(SoakServer(tmp_path / "server", database_url, tls=tls), PLAN) as world:
            return await world.run()

    report = asyncio.run(run())
    print(report.text())
    assert [] == report.faults
