"""Everybody comes back at once after a kill, and the server lives through it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from .server import SoakServer
from .storm import Storm, storm

pytestmark = pytest.mark.slow

CLIENTS = 300
WITHIN_S = 15.0


def test_three_hundred_come_back_at_once_and_others_are_answered_meanwhile(sqlite_url: str, tmp_path: Path) -> None:
    async def run() -> Storm:
        server = SoakServer(tmp_path / "server", sqlite_url)
        try:
            return await storm(server, CLIENTS, timeout_s=60)
        finally:
            server.end()

    found = asyncio.run(run())
    print(found.text())
    assert [] == found.faults
    assert found.told_s < WITHIN_S
    # Of a machine that has other work, too.
    assert max(found.versions_s) < 5.0
