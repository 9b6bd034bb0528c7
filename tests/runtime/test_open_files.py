"""The limit of open files is raised, and a limit that is too low is told; in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource")

ROOT = Path(__file__).parents[2]


def _raised(*, soft: int, hard: int, max_connections: int) -> tuple[int, str]:
    """Return the limit afterwards in a process that starts with these, and what it has logged."""
    code = (
        "import resource, logging; logging.basicConfig(level=logging.INFO)\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "from homeserver.runtime.open_files import raise_open_files\n"
        f"returned = raise_open_files({max_connections})\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (returned, returned)\n"
        "print(returned)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return int(done.stdout), done.stderr


def test_the_soft_limit_becomes_the_hard_limit() -> None:
    assert (2048, "") == _raised(soft=256, hard=2048, max_connections=1000)


def test_a_hard_limit_that_is_too_low_is_told_with_what_to_do() -> None:
    limit, log = _raised(soft=256, hard=2048, max_connections=20_000)
    assert 2048 == limit
    assert "max_sessions under [stream] allows 20000 connections: let it have 21024" in log
    assert "or set max_sessions to 1024" in log


def test_a_limit_that_is_high_enough_is_left_alone() -> None:
    assert (2048, "") == _raised(soft=2048, hard=2048, max_connections=1024)
