"""A terminal for programs of the tests: a pseudo terminal whose screen is kept by pyte."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pyte

COLUMNS, ROWS = 100, 30
DEADLINE_S = 30.0


class NotShown(AssertionError):
    """What was waited for did not come; the text is the screen."""


class Terminal:
    """A program on a terminal of 100x30."""

    def __init__(self, command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> None:
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self.received = bytearray()
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            # The terminal becomes the controlling one, from which passwords are read.
            preexec_fn=_take_terminal,
            env={"TERM": "xterm-256color", "LANG": "C.UTF-8", "TZ": "UTC", **environment},
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    @property
    def rows(self) -> list[str]:
        """The screen, row by row."""
        return [row.rstrip() for row in self._screen.display]

    @property
    def text(self) -> str:
        """The screen."""
        return "\n".join(self.rows)

    def type(self, keys: str) -> None:
        """Press keys; `\\r` is Enter."""
        os.write(self._master, keys.encode())

    def enter(self, line: str) -> None:
        """Type a line."""
        self.type(line + "\r")

    def wait_for(self, wanted: str | Callable[[Terminal], bool]) -> None:
        """Wait until a text is on the screen, or something holds of it."""
        deadline = time.monotonic() + DEADLINE_S
        while not (wanted in self.text if isinstance(wanted, str) else wanted(self)):
            if not self._take(deadline - time.monotonic()):
                raise NotShown(f"{wanted!r} is not on the screen:\n{self.text}\n{bytes(self.received[-2000:])!r}")

    def end(self) -> int:
        """Wait until the program has ended, and return its exit code."""
        deadline = time.monotonic() + DEADLINE_S
        while self._take(deadline - time.monotonic()):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal."""
        self._screen.resize(rows, columns)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _take(self, seconds: float) -> bool:
        """Show what the program writes; False when it has ended, or the time."""
        ready, _, _ = select.select([self._master], [], [], max(0.0, seconds))
        if not ready:
            return False
        try:
            piece = os.read(self._master, 65_536)
        except OSError:
            # EIO: nobody has the terminal open any more.
            return False
        self.received += piece
        self._stream.feed(piece)
        return bool(piece)


def _take_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
