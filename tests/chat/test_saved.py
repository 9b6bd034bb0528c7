from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.chat.saved import SavedSession, SavedSessions, _file_name

URL = "http://127.0.0.1:8008"


def _session(user_id: str = "@ann:x", url: str = URL, since: str = "s1") -> SavedSession:
    return SavedSession(url, user_id, "D", "secret", {"next_batch": since}, "!room:x")


def test_session_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = SavedSessions(tmp_path)
    store.save(_session())
    store.save(_session(since="s2"))
    [found] = store.find(URL, None)
    assert (_session(since="s2"), "s2") == (found, found.since)


def test_files_are_for_their_owner_alone_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        SavedSessions(tmp_path / "chat").save(_session())
    finally:
        os.umask(before)
    [path] = (tmp_path / "chat").glob("*/*")
    assert (0o600, 0o700) == (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode))


@pytest.mark.parametrize(
    ("user", "found"),
    [(None, 3), ("ann", 2), ("@ann", 2), ("@ann:x", 1), ("ann:y", 1), ("an", 0), ("@ann:z", 0)],
)
def test_sessions_are_found_by_who_is_meant(tmp_path: Path, user: str | None, found: int) -> None:
    store = SavedSessions(tmp_path)
    for user_id in ("@ann:x", "@ann:y", "@ben:x"):
        store.save(_session(user_id))
    store.save(_session("@ann:x", "http://127.0.0.1:9"))
    assert found == len(store.find(URL, user))


def test_session_that_was_used_last_comes_first(tmp_path: Path) -> None:
    store = SavedSessions(tmp_path)
    for number, user_id in enumerate(("@ann:x", "@ben:x")):
        store.save(_session(user_id))
        [path] = tmp_path.glob(f"*/*{user_id}*")
        os.utime(path, (1000 - number, 1000 - number))
    assert ["@ann:x", "@ben:x"] == [session.user_id for session in store.find(URL, None)]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"format": 2}', b'{"format": 1, "url": "http://127.0.0.1:8008"}'],
    ids=range(7),
)
def test_file_that_cannot_be_read_is_no_session(tmp_path: Path, content: bytes) -> None:
    store = SavedSessions(tmp_path)
    store.save(_session())
    [path] = tmp_path.glob("*/*")
    path.write_bytes(content)
    assert [] == store.find(URL, None)


def test_forgotten_session_is_gone(tmp_path: Path) -> None:
    store = SavedSessions(tmp_path)
    store.save(_session())
    store.forget(_session())
    store.forget(_session())
    assert [] == store.find(URL, None)


def test_names_with_halves_of_characters_can_be_written(tmp_path: Path) -> None:
    store = SavedSessions(tmp_path)
    session = _session()
    session.snapshot = {"next_batch": "s1", "name": "\ud800"}
    store.save(session)
    assert [session] == store.find(URL, None)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_file_stays_in_its_folder_whatever_the_user_id(anything: str) -> None:
    name = _file_name(anything)
    assert name[0] == "="
    assert not {"/", "\0", "\\"} & set(name)
    assert len(name.encode()) < 240


@pytest.mark.parametrize(
    ("environment", "folder"),
    [({"XDG_STATE_HOME": "/state"}, "/state/sennit/chat"), ({"XDG_STATE_HOME": "state"}, None), ({}, None)],
    ids=["set", "relative", "not set"],
)
def test_folder_is_that_of_the_user(environment: dict[str, str], folder: str | None) -> None:
    expected = Path(folder) if folder else Path.home() / ".local/state/sennit/chat"
    assert expected == SavedSessions.default(environment)._folder
