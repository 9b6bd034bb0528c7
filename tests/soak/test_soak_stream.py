"""The soak, in short: tools/soak_stream.py runs it for as long as one likes, and here in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.server import ROOT

pytestmark = pytest.mark.slow

SHORT = ["--seconds", "15", "--users", "18", "--rooms", "4", "--seed", "5", "--life", "3"]
BUSY = ["--actions", "3", "--burst-every", "3", "--end-every", "6"]


def soak(*arguments: str) -> None:
    command = [sys.executable, str(ROOT / "tools" / "soak_stream.py"), *SHORT, *BUSY, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, f"{done.stdout[-12_000:]}\n{done.stderr[-4_000:]}"


@pytest.mark.deep_on("sqlite")
def test_every_journal_equals_the_history_of_its_rooms(database_url: str) -> None:
    soak("--database", database_url)


def test_every_journal_equals_the_history_of_its_rooms_over_tls() -> None:
    soak("--tls")
