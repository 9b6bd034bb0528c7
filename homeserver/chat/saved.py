"""What the chat remembers from one time to the next: the session of each account on each server.

One file for each, readable by its owner alone, under `$XDG_STATE_HOME/sennit/chat` (`~/.local/state/sennit/chat`). It
holds the access token, and what was known of the rooms at the place of the stream that had been reached; no messages.
A file appears under its name only when it is complete; one that cannot be read is no session.

Spec: XDG Base Directory Specification, "XDG_STATE_HOME".
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

_FORMAT: Final = 1
_MAX_FILE_BYTES: Final = 64 * 1024 * 1024


@dataclass(slots=True)
class SavedSession:
    """A login. `snapshot` is that of the model, with the token of the stream; `room_id` is the room that was open.

    `saved_ms` is when it was written, 0 if it was not.
    """

    url: str
    user_id: str
    device_id: str
    access_token: str = field(repr=False)
    snapshot: Mapping[str, Any] = field(default_factory=dict, repr=False)
    room_id: str | None = None
    saved_ms: int = field(default=0, compare=False)

    @property
    def since(self) -> str | None:
        """The place in the stream, together with which `snapshot` was written."""
        since = self.snapshot.get("next_batch")
        return since if isinstance(since, str) else None


class SavedSessions:
    """The files of all sessions."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def default(cls, environment: Mapping[str, str]) -> SavedSessions:
        """Return those of the user whose environment this is."""
        state = environment.get("XDG_STATE_HOME", "")
        # Spec: "All paths set in these environment variables must be absolute", others are to be ignored.
        base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
        return cls(base / "sennit" / "chat")

    def find(self, url: str, user: str | None) -> list[SavedSession]:
        """Return the sessions on a server, the one used last first; of `user`, a user ID or its localpart, if given."""
        found: list[SavedSession] = []
        folder = self._server_folder(url)
        for path in folder.glob("*.json") if folder.is_dir() else ():
            session = _read(path)
            if session is not None and session.url == url and _is_meant(session.user_id, user):
                found.append(session)
        return sorted(found, key=lambda session: -session.saved_ms)

    def save(self, session: SavedSession) -> None:
        """Write a session, in place of the one before; OSError if that is not possible."""
        path = self._path(session)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = {
            "format": _FORMAT,
            "url": session.url,
            "user_id": session.user_id,
            "device_id": session.device_id,
            "access_token": session.access_token,
            "room_id": session.room_id,
            "snapshot": session.snapshot,
        }
        # Two chats of one account write each their own.
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                # ASCII: names may hold halves of surrogate pairs.
                json.dump(content, file)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def forget(self, session: SavedSession) -> None:
        """Delete what is remembered of a session."""
        self._path(session).unlink(missing_ok=True)

    def _path(self, session: SavedSession) -> Path:
        return self._server_folder(session.url) / f"{_file_name(session.user_id)}.json"

    def _server_folder(self, url: str) -> Path:
        return self._folder / _file_name(url.partition("://")[2])


def _file_name(text: str) -> str:
    """Return a name for a file that no other text has: never with a slash or a dot in front."""
    # A user ID has 255 bytes at most, a name of a file too.
    return "=" + quote(text, safe="@:+=")[:200].replace("%", "=")


def _is_meant(user_id: str, user: str | None) -> bool:
    if user is None:
        return True
    bare = user.removeprefix("@")
    return user_id == f"@{bare}" if ":" in bare else user_id.partition(":")[0] == f"@{bare}"


def _read(path: Path) -> SavedSession | None:
    try:
        with path.open("rb") as file:
            saved_ms = os.fstat(file.fileno()).st_mtime_ns // 1_000_000
            content = json.loads(file.read(_MAX_FILE_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        return None
    texts = [content.get(key) for key in ("url", "user_id", "device_id", "access_token")]
    url, user_id, device_id, access_token = texts
    if not (
        isinstance(url, str)
        and isinstance(user_id, str)
        and isinstance(device_id, str)
        and isinstance(access_token, str)
    ):
        return None
    snapshot, room_id = content.get("snapshot"), content.get("room_id")
    return SavedSession(
        url,
        user_id,
        device_id,
        access_token,
        snapshot if isinstance(snapshot, dict) else {},
        room_id if isinstance(room_id, str) else None,
        saved_ms,
    )
