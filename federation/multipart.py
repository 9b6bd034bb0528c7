"""Reading `multipart/mixed` answers of media downloads as they come.

There are two parts: JSON about the file, and the file or a `Location` where it lies. The file goes to a function piece
by piece, never into memory; everything else is small and bounded. Pure but for that function.

Spec: server-server API, "Content Repository"; RFC 2046, section 5.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

# LIMIT: of what stands before the first part, of the JSON part, and of the headers of a part.
MAX_SMALL_BYTES: Final = 65_536

# RFC 2046: up to 70 characters, not ending with a space.
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_PARAMETER: Final = re.compile(r";[ \t]*boundary=(?:\"([^\"\\]*)\"|([^\";, \t]+))", re.IGNORECASE)
_HEADER: Final = re.compile(r"([!-9;-~]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")


class BadMultipart(ValueError):
    """What came is not the answer of a media download."""


def boundary_of(content_type: str) -> str:
    """Return the boundary that a Content-Type names, or raise BadMultipart."""
    kind, semicolon, rest = content_type.partition(";")
    if kind.strip(" \t").lower() != "multipart/mixed":
        raise BadMultipart("the answer is not multipart/mixed")
    found = _PARAMETER.search(semicolon + rest)
    boundary = (found[1] if found[1] is not None else found[2]) if found is not None else ""
    if not _BOUNDARY.fullmatch(boundary):
        raise BadMultipart("the answer has no boundary")
    return boundary


class MediaParts:
    """Takes the body of an answer with `feed`, then `finish`; `headers` are those of the file's part."""

    def __init__(self, boundary: str, write: Callable[[bytes], object]) -> None:
        """`write` is called with the bytes of the file, in order."""
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._write = write
        # As if a line had ended: the first delimiter may be the first thing there is.
        self._buffer = b"\r\n"
        self._part = -1
        self._is_in_head = False
        self._small = 0
        self._is_ended = False
        self.headers: Mapping[str, str] | None = None

    def feed(self, piece: bytes) -> None:
        """Take a piece; BadMultipart."""
        if self._is_ended:
            return
        self._buffer += piece
        while not self._is_ended and (self._read_head() if self._is_in_head else self._read_content()):
            pass

    def finish(self) -> None:
        """Raise BadMultipart unless the file's part was there and whole."""
        if not self._is_ended or self.headers is None:
            raise BadMultipart("the answer breaks off")

    # -- private: each takes one step and returns whether there may be another ---------------------------------------

    def _read_content(self) -> bool:
        end = self._buffer.find(self._delimiter)
        # The end may be the beginning of a delimiter.
        safe = end if end >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
        content, self._buffer = self._buffer[:safe], self._buffer[safe:]
        if self._part == 1:
            if content:
                self._write(content)
        else:
            self._small += len(content)
            if self._small > MAX_SMALL_BYTES:
                raise BadMultipart("the part before the file is too large")
        if end < 0:
            return False
        self._buffer = self._buffer[len(self._delimiter) :]
        if self._part == 1:
            # Whatever follows is of no use.
            self._is_ended = True
            self._buffer = b""
        self._part += 1
        self._is_in_head = True
        return True

    def _read_head(self) -> bool:
        if self._buffer.startswith(b"--"):
            raise BadMultipart("the answer has no part with the file")
        # From the end of the delimiter's line on, so that there may be no headers at all.
        end = self._buffer.find(b"\r\n\r\n", 0, MAX_SMALL_BYTES)
        if end < 0:
            if len(self._buffer) >= MAX_SMALL_BYTES:
                raise BadMultipart("the head of a part is too large")
            return False
        head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
        padding, *lines = head.decode("latin-1").split("\r\n")
        if padding.strip(" \t"):
            raise BadMultipart("the answer has a malformed delimiter")
        headers: dict[str, str] = {}
        for line in lines:
            header = _HEADER.fullmatch(line)
            if header is None:
                raise BadMultipart("a part has a malformed header")
            headers.setdefault(header[1].lower(), header[2].rstrip(" \t"))
        if self._part == 1:
            self.headers = headers
        self._is_in_head = False
        return True
