"""Running a client's script, which tells the steps that it has done (`done: <step>` on standard output)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

STORY_TIMEOUT_S: Final = 120
JS_FOLDER: Final = Path(__file__).parent / "js"
NODE: Final = JS_FOLDER / "node_modules" / ".bin" / "node"

needs_node = pytest.mark.skipif(
    not NODE.exists() and not os.environ.get("SENNIT_TESTS_NEED_ALL"),
    reason="matrix-js-sdk is not installed: npm ci in tests/clients/js",
)


class StoryFailed(AssertionError):
    """A script did not come to its end; the text is what it and the servers have written."""


def run_story(
    command: Sequence[str],
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    server_log: Callable[[], str] = str,
) -> list[str]:
    """Run a script and return the steps that it has done; StoryFailed unless it ends well. Blocks."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STORY_TIMEOUT_S,
            check=False,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired as late:
        raise StoryFailed(f"the client hangs\n{_text(late.stdout)}\n{_text(late.stderr)}\n{server_log()}") from None
    if done.returncode != 0:
        raise StoryFailed(f"{done.stdout}\n{done.stderr[-8000:]}\n--- the server ---\n{server_log()}")
    return [line.removeprefix("done: ") for line in done.stdout.splitlines() if line.startswith("done: ")]


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
