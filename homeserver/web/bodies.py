"""How many bytes of request bodies a listener holds at once, in memory and on disk.

A body that arrives a piece at a time must find room for each piece; one that came together with its head is counted,
but not refused, because it is here already and will be answered at once. Whoever has shown no access token may use half
of the room only, so that strangers cannot shut out users by stalling in the middle of bodies.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import BinaryIO, cast


class BodyRoom:
    """The room that is left for bodies.

    `memory_bytes` and `disk_bytes` are what is held now; requests add to them and take away from them.
    """

    __slots__ = ("_folder", "_max_disk_bytes", "_max_memory_bytes", "disk_bytes", "memory_bytes")

    def __init__(self, max_memory_bytes: int, max_disk_bytes: int, folder: Path | None = None) -> None:
        """`folder` is where larger bodies are written; None: the system's folder for temporary files."""
        self._max_memory_bytes = max_memory_bytes
        self._max_disk_bytes = max_disk_bytes
        self._folder = folder
        self.memory_bytes = 0
        self.disk_bytes = 0

    def has_memory(self, size_bytes: int, is_known: bool) -> bool:
        """Return whether that much more may be held in memory, for somebody known or a stranger."""
        most = self._max_memory_bytes if is_known else self._max_memory_bytes // 2
        return self.memory_bytes + size_bytes <= most

    def has_disk(self, size_bytes: int, is_known: bool) -> bool:
        """Return whether that much more may be held on disk, for somebody known or a stranger."""
        most = self._max_disk_bytes if is_known else self._max_disk_bytes // 2
        return self.disk_bytes + size_bytes <= most

    def new_file(self) -> BinaryIO:
        """Return a file without a name, which goes when it is closed; raises OSError."""
        return cast(BinaryIO, tempfile.TemporaryFile(dir=self._folder))
