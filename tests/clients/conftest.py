"""Fixtures of the tests with real clients: a server that runs, and running a client's script against it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.server import RunningServer, run_server

STORY_TIMEOUT_S = 120

TellStory = Callable[[Sequence[str], Path], list[str]]


@pytest.fixture
def running_server(database_url: str, tmp_path: Path) -> Iterator[RunningServer]:
    """A server on a fresh database; the test runs once on each kind."""
    with run_server(tmp_path / "server", database_url) as server:
        yield server


@pytest.fixture
def tell_story(running_server: RunningServer) -> TellStory:
    """Runs a script, the address of the server being its last argument; returns the steps that it says it has done."""

    def tell(command: Sequence[str], folder: Path) -> list[str]:
        try:
            done = subprocess.run(
                [*command, running_server.url],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=STORY_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            pytest.fail(f"the client hangs\n{_text(late.stdout)}\n{_text(late.stderr)}\n{running_server.log}")
        if done.returncode != 0:
            pytest.fail(f"{done.stdout}\n{done.stderr[-8000:]}\n--- the server ---\n{running_server.log}")
        assert "Traceback" not in running_server.log, running_server.log
        return [line.removeprefix("done: ") for line in done.stdout.splitlines() if line.startswith("done: ")]

    return tell


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
