"""Fixtures of the tests with real clients: a server that runs, and running a client's script against it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.server import RunningServer, run_server

from .stories import run_story

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
        steps = run_story([*command, running_server.url], folder, server_log=lambda: running_server.log)
        assert "Traceback" not in running_server.log, running_server.log
        return steps

    return tell
