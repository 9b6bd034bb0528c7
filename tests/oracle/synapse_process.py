"""Talks to `synapse_side` in the environment that has Synapse: one JSON object a line there, one back.

The environment is `.venv-synapse` beside this checkout, made by `tools/make_synapse_venv.sh`, or that of the
interpreter that SENNIT_SYNAPSE_PYTHON names.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("synapse_side.py")


def synapse_python() -> Path:
    """Return the interpreter of the environment with Synapse, be it there or not."""
    named = os.environ.get("SENNIT_SYNAPSE_PYTHON")
    return Path(named) if named else ROOT / ".venv-synapse" / "bin" / "python"


class SynapseSide:
    """The running program; a context manager that ends it."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            # Isolated: neither this checkout nor the user's own packages are on its path.
            [python, "-I", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, question: Any) -> Any:
        """Return the answer to one question."""
        self.put(question)
        return self.take()

    def put(self, question: Any) -> None:
        """Hand over a question whose answer is taken later; at most one may be waiting, or both sides block."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()

    def take(self) -> Any:
        """Return the answer to the question that was put."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"Synapse's side has ended with {self._process.wait(10)}; its traceback is above")
        return json.loads(line)
