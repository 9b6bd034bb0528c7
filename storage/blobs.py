"""Bytes on disk: the media store.

Content is at `<root>/local/ab/cd/rest`, named by its blob ID `abcdrest`; what was derived from it (thumbnails) is in
the folder `<root>/derived/ab/cd/rest/`. A file is written under `<root>/tmp`, flushed to the disk and then renamed:
a name is there with its whole content, or not at all.

Blob IDs and the names of derived files are made by this server. They are checked here all the same, against a grammar
without dots, slashes and NUL, so that whatever a caller passes on, no path leaves the store.

All functions block; they belong in a worker thread. Nothing here knows what the bytes mean.

Spec: client-server API, "Content repository", "Security considerations" (directory traversal).
"""

from __future__ import annotations

import os
import re
import tempfile
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from homeserver.errors import BrokenInvariant, Misconfigured

PIECE_BYTES: Final = 64 * 1024
STALE_AFTER_S: Final = 24 * 60 * 60
_BLOB_ID: Final = re.compile(r"[A-Za-z0-9_-]{5,64}")
_DERIVED_NAME: Final = re.compile(r"[a-z0-9-]{1,64}")
_FOLDERS: Final = ("local", "derived", "tmp")


class BlobTooLarge(Exception):
    """The source has more bytes than it may have."""


class BlobStore:
    """A folder of blobs; `start` makes it."""

    def __init__(self, root: Path | str) -> None:
        self._root = Path(root).absolute()

    def start(self, now_s: float) -> None:
        """Make the folders, and remove what interrupted runs have left half-written.

        Raises Misconfigured with a sentence for the operator.
        """
        try:
            for name in _FOLDERS:
                (self._root / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            for entry in os.scandir(self._root / "tmp"):
                # A younger one may be the work of another process on the same store.
                if entry.stat().st_mtime < now_s - STALE_AFTER_S:
                    _remove(entry.path)
        except OSError as fault:
            raise Misconfigured(
                f"The media store {self._root} cannot be used: {fault.strerror}. "
                "Make it a folder that this user may write to, or name another one under [media]."
            ) from fault

    def path(self, blob_id: str) -> Path:
        """Return where the content of a blob is, or would be."""
        return self._root / "local" / _shard(blob_id)

    def derived_path(self, blob_id: str, name: str) -> Path:
        """Return where a file derived from a blob is, or would be."""
        if not _DERIVED_NAME.fullmatch(name):
            raise BrokenInvariant(f"not the name of a derived file: {name!r}")
        return self._root / "derived" / _shard(blob_id) / name

    def add(self, blob_id: str, source: BinaryIO, most_bytes: int) -> int:
        """Store what is left in `source` as a new blob and return its size; `blob_id` must be new.

        Raises BlobTooLarge as soon as more than `most_bytes` were read; nothing is then left behind.
        """
        return self._write(self.path(blob_id), source, most_bytes)

    def add_derived(self, blob_id: str, name: str, content: bytes) -> Path:
        """Store a file derived from a blob and return its path; one of that name is replaced."""
        path = self.derived_path(blob_id, name)
        self._write(path, BytesIO(content), len(content))
        return path

    @property
    def scratch_folder(self) -> Path:
        """The folder for files that are being written, on the same file system as the store."""
        return self._root / "tmp"

    def take(self, blob_id: str, path: Path | str) -> None:
        """Make a file under `scratch_folder` the content of a blob; one of that name is replaced.

        The file is gone afterwards, also where that fails.
        """
        target = self.path(blob_id)
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.rename(path, target)
        except BaseException:
            _remove(path)
            raise
        _flush_folders(target.parent, self._root)

    def count_derived(self, blob_id: str) -> int:
        """Return how many files are derived from a blob."""
        try:
            return len(os.listdir(self._root / "derived" / _shard(blob_id)))
        except FileNotFoundError:
            return 0

    def remove(self, blob_id: str) -> None:
        """Delete a blob and what is derived from it; one that is not there is no error."""
        _remove(self.path(blob_id))
        folder = self._root / "derived" / _shard(blob_id)
        try:
            for entry in os.scandir(folder):
                _remove(entry.path)
            folder.rmdir()
        except FileNotFoundError:
            pass

    def list_older(self, before_s: float, after: str, most: int) -> tuple[list[str], str]:
        """Return the blobs last written before a time, and where to go on: the next `after`, "" when at the end.

        In order of their IDs, from the first one behind `after`; about `most` blobs are looked at.
        """
        local = self._root / "local"
        found: list[str] = []
        last = ""
        looked_at = 0
        for first in _names(local):
            if first < after[:2]:
                continue
            for second in _names(local / first):
                if first + second < after[:4]:
                    continue
                for rest in _names(local / first / second):
                    blob_id = first + second + rest
                    if blob_id <= after or _BLOB_ID.fullmatch(blob_id) is None:
                        continue
                    if looked_at >= most:
                        return found, last
                    looked_at += 1
                    last = blob_id
                    try:
                        if os.stat(local / first / second / rest).st_mtime < before_s:
                            found.append(blob_id)
                    except FileNotFoundError:
                        pass
        return found, ""

    def _write(self, path: Path, source: BinaryIO, most_bytes: int) -> int:
        size = 0
        descriptor, temporary = tempfile.mkstemp(dir=self._root / "tmp")
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as target:
                while piece := source.read(PIECE_BYTES):
                    size += len(piece)
                    if size > most_bytes:
                        raise BlobTooLarge
                    # An unbuffered write may take less than it was given.
                    view = memoryview(piece)
                    while view:
                        view = view[target.write(view) :]
                os.fsync(target.fileno())
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.rename(temporary, path)
        except BaseException:
            _remove(temporary)
            raise
        _flush_folders(path.parent, self._root)
        return size


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _shard(blob_id: str) -> str:
    if not _BLOB_ID.fullmatch(blob_id):
        raise BrokenInvariant(f"not a blob ID: {blob_id!r}")
    return f"{blob_id[:2]}/{blob_id[2:4]}/{blob_id[4:]}"


def _flush_folders(folder: Path, root: Path) -> None:
    """Make sure that the new name, and the folders that may be new with it, survive a power cut."""
    while True:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if folder == root:
            return
        folder = folder.parent


def _remove(path: Path | str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
