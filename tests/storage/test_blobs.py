from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import BrokenInvariant, Misconfigured
from storage.blobs import STALE_AFTER_S, BlobStore, BlobTooLarge


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    store = BlobStore(tmp_path / "media")
    store.start(0)
    return store


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_content_lies_in_folders_by_the_first_letters(store: BlobStore, tmp_path: Path) -> None:
    assert 5 == store.add("abcdef", BytesIO(b"hello"), 5)
    assert ["local/ab/cd/ef"] == files(tmp_path / "media")
    assert b"hello" == store.path("abcdef").read_bytes()


def test_only_the_owner_may_read_it(store: BlobStore) -> None:
    store.add("abcdef", BytesIO(b"hello"), 5)
    assert 0o600 == store.path("abcdef").stat().st_mode & 0o777
    assert 0o700 == store.path("abcdef").parent.stat().st_mode & 0o777


def test_too_much_content_leaves_nothing_behind(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(BlobTooLarge):
        store.add("abcdef", BytesIO(b"hello!"), 5)
    assert [] == files(tmp_path / "media")


def test_a_source_that_fails_leaves_nothing_behind(store: BlobStore, tmp_path: Path) -> None:
    class Broken(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        store.add("abcdef", Broken(), 5)
    assert [] == files(tmp_path / "media")


@pytest.mark.parametrize(
    "blob_id",
    [
        "",
        "abcd",
        "../../etc/passwd",
        "ab/cd/../../x",
        "abcd\x00f",
        "ab\\cdef",
        "..%2f..%2fx",
        "a:bcdef",
        "é" * 8,
        "a" * 65,
        "abcdef\n",
        ".abcdef",
        "abcd..",
    ],
)
def test_what_is_no_blob_id_names_no_file(store: BlobStore, blob_id: str) -> None:
    for use in (store.path, store.remove, lambda name: store.add(name, BytesIO(b"x"), 5)):
        with pytest.raises(BrokenInvariant):
            use(blob_id)


@given(st.text(), st.text())
def test_no_name_leads_out_of_the_store(blob_id: str, name: str) -> None:
    root = Path("/nowhere/media")
    store = BlobStore(root)
    for make in (lambda: store.path(blob_id), lambda: store.derived_path("abcdef", name)):
        try:
            path = make()
        except BrokenInvariant:
            continue
        assert root in Path(os.path.normpath(path)).parents


def test_what_is_derived_goes_with_the_blob(store: BlobStore, tmp_path: Path) -> None:
    store.add("abcdef", BytesIO(b"hello"), 5)
    path = store.add_derived("abcdef", "crop-32-32-still", b"small")
    assert b"small" == path.read_bytes()
    assert 1 == store.count_derived("abcdef")
    store.remove("abcdef")
    assert [] == files(tmp_path / "media")
    assert 0 == store.count_derived("abcdef")


def test_removing_what_is_not_there_is_no_error(store: BlobStore) -> None:
    store.remove("abcdef")


def test_start_removes_what_an_old_run_left_half_written(store: BlobStore, tmp_path: Path) -> None:
    folder = tmp_path / "media" / "tmp"
    for name, modified_s in (("old", 1000), ("young", 1002)):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (modified_s, modified_s))
    store.start(STALE_AFTER_S + 1001)
    assert ["young"] == os.listdir(folder)


def test_a_store_that_cannot_be_made_is_told_to_the_operator(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Misconfigured, match="media store"):
        BlobStore(tmp_path / "file" / "media").start(0)
