"""Cutting lines out of bytes, in whatever pieces those arrive.

Each byte is looked at and copied a bounded number of times, however small the pieces are. What has not been asked for
stays uncut, so that it takes no more memory than its bytes.
"""

from __future__ import annotations

from typing import Final

_BLANKS: Final = b" \t\r"


class LineTooLong(Exception):
    """A line is longer than it may be."""


class LineSplitter:
    """Cuts lines out of bytes that come in any pieces; lazily, one at a time.

    A line ends with LF or CR LF, which are not part of it, nor are blanks at its beginning. Empty lines are left out.
    """

    __slots__ = ("_begun", "_max_bytes", "_position", "_unread")

    def __init__(self, max_bytes: int) -> None:
        """A line may have `max_bytes`, without its end."""
        self._max_bytes = max_bytes
        # The line that is not complete, as far as it has been looked at; and what has not been looked at.
        self._begun: bytearray | None = None
        self._unread = b""
        self._position = 0

    @property
    def begun_bytes(self) -> int:
        """The length of the incomplete line, as far as it has been looked at."""
        return 0 if self._begun is None else len(self._begun)

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept in all."""
        return self.begun_bytes + len(self._unread)

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        self._unread = self._unread[self._position :] + data if self._unread else data
        self._position = 0

    def take(self) -> bytes | None:
        """Return the next line; None: it is not complete. Raises LineTooLong, and is of no more use then."""
        while True:
            unread, start = self._unread, self._position
            end = unread.find(b"\n", start)
            if end < 0:
                self._keep(unread[start:] if start else unread)
                return None
            line = unread[start:end]
            self._position = end + 1
            if self._begun is None:
                line = line.lstrip(_BLANKS)
            else:
                self._begun += line
                line, self._begun = bytes(self._begun), None
            if line.endswith(b"\r"):
                line = line[:-1]
            if len(line) > self._max_bytes:
                raise LineTooLong
            if line:
                return line

    def _keep(self, rest: bytes) -> None:
        self._unread = b""
        self._position = 0
        if self._begun is not None:
            self._begun += rest
        elif rest := rest.lstrip(_BLANKS):
            self._begun = bytearray(rest)
        else:
            # Blanks begin no message: somebody may send them as a sign of life.
            return
        # One more: the CR of its end may have come, and the LF not.
        if len(self._begun) > self._max_bytes + 1:
            raise LineTooLong
