from __future__ import annotations

import os
from collections.abc import Coroutine
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from homeserver.config import Media
from homeserver.errors import (
    BadRequest,
    CannotOverwriteMedia,
    LimitExceeded,
    MatrixError,
    NotAllowed,
    NotFound,
    NotYetUploaded,
    TooLarge,
)
from homeserver.media.repository import MediaRepository, MediaRules
from homeserver.media.thumbnails import ThumbnailSize, ThumbnailSizes
from homeserver.runtime.clock import ManualClock

from .conftest import SERVER, START_MS, MakeRepository
from .pictures import picture, png_header

DAY_MS = 24 * 60 * 60 * 1000
ALICE, BOB = 1, 2


async def upload(repository: MediaRepository, content: bytes = b"hello", user_nid: int = ALICE, **options: Any) -> str:
    return await repository.upload(
        user_nid, BytesIO(content), len(content), options.get("content_type", "text/plain"), options.get("file_name")
    )


async def fill(repository: MediaRepository, media_id: str, content: bytes = b"hello", user_nid: int = ALICE) -> None:
    await repository.upload_announced(user_nid, SERVER, media_id, BytesIO(content), len(content), "text/plain", None)


async def content_of(repository: MediaRepository, media_id: str, **options: Any) -> bytes:
    found = await repository.get_download(SERVER, media_id, **{"is_logged_in": True, "timeout_ms": 0} | options)
    file, size = await repository.open_file(found.path)
    with file:
        content = file.read()
    assert size == len(content) == found.size_bytes
    return content


def blobs(folder: Path) -> list[Path]:
    return [path for path in (folder / "store" / "local").rglob("*") if path.is_file()]


def started(work: Coroutine[Deferred[Any], Any, Any]) -> Deferred[Any]:
    return Deferred.fromCoroutine(work)


@pytest_twisted.ensureDeferred
async def test_what_was_uploaded_is_downloaded(repository: MediaRepository) -> None:
    media_id = await upload(repository, b"hello", content_type="text/plain; charset=utf-8", file_name="ä.txt")
    found = await repository.get_download(SERVER, media_id, is_logged_in=True)
    assert ("text/plain; charset=utf-8", "ä.txt", 5) == (found.content_type, found.file_name, found.size_bytes)
    assert b"hello" == await content_of(repository, media_id)
    assert f"mxc://{SERVER}/{media_id}" == repository.uri(media_id)


@pytest_twisted.ensureDeferred
async def test_an_empty_upload_is_one(repository: MediaRepository) -> None:
    assert b"" == await content_of(repository, await upload(repository, b""))


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("server_name", "media_id"),
    [
        (SERVER, "unknown"),
        ("other.example", "unknown"),
        (SERVER, "../../../etc/passwd"),
        (SERVER, "..%2f..%2fetc"),
        (SERVER, "a\x00b"),
        (SERVER, "a\\b"),
        (SERVER, "CON:a"),
        (SERVER, "a" * 1000),
        (SERVER, ""),
        ("..", "abcdef"),
        ("\x00", "abcdef"),
        ("a" * 1000, "abcdef"),
        (SERVER, "\ud800"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_was_never_uploaded_is_not_found(
    repository: MediaRepository, server_name: str, media_id: str
) -> None:
    with pytest.raises(NotFound):
        await repository.get_download(server_name, media_id, is_logged_in=True)
    with pytest.raises(NotFound):
        await repository.get_thumbnail(server_name, media_id, ThumbnailSize(1, 1, "crop"), is_logged_in=True)
    with pytest.raises(NotFound):
        await repository.check_announced(ALICE, server_name, media_id)


@pytest.mark.parametrize("claimed", [5, 10_001])
@pytest_twisted.ensureDeferred
async def test_too_large_an_upload_is_refused_whatever_its_length_was_said_to_be(
    repository: MediaRepository, tmp_path: Path, claimed: int
) -> None:
    with pytest.raises(TooLarge):
        await repository.upload(ALICE, BytesIO(bytes(10_001)), claimed, None, None)
    assert [] == blobs(tmp_path)


def test_the_rules_are_those_of_the_configuration() -> None:
    assert MediaRules() == replace(MediaRules.of(Media()), thumbnail_sizes=MediaRules().thumbnail_sizes)
    rules = MediaRules.of(Media(max_upload_bytes=7, need_login=False, denied_types=("text/html",)))
    assert (7, False, ("text/html",)) == (rules.max_upload_bytes, rules.need_login, rules.denied_types)


def test_the_quotas_are_those_of_the_configuration() -> None:
    rules = MediaRules.of(Media(max_user_bytes="1M", max_user_files=3, max_total_bytes=7))
    assert (1024**2, 3, 7) == (rules.max_user_bytes, rules.max_user_files, rules.max_total_bytes)


# -- files that nothing refers to -------------------------------------------------------------------------------------


def age(files: list[Path], hours: float) -> None:
    written_s = START_MS / 1000 - hours * 3600
    for file in files:
        os.utime(file, (written_s, written_s))


@pytest_twisted.ensureDeferred
async def test_a_file_without_a_media_id_is_removed_after_an_hour(repository: MediaRepository, tmp_path: Path) -> None:
    media_id = await upload(repository)
    announced_id, _ = await repository.announce(ALICE)
    await fill(repository, announced_id, b"announced")
    kept = blobs(tmp_path)
    orphan = tmp_path / "store" / "local" / "zz" / "zz" / "left-over"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"x")
    age(blobs(tmp_path), 0.9)
    await repository.trim()
    assert orphan.exists()
    age(blobs(tmp_path), 1.1)
    await repository.trim()
    assert sorted(kept) == sorted(blobs(tmp_path))
    assert (b"hello", b"announced") == (
        await content_of(repository, media_id),
        await content_of(repository, announced_id),
    )


@pytest_twisted.ensureDeferred
async def test_files_are_looked_at_a_few_at_a_time(
    repository: MediaRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.media.repository.SWEPT_AT_ONCE", 2)
    for number in range(5):
        orphan = tmp_path / "store" / "local" / "zz" / f"z{number // 2}" / f"left-over-{number}"
        orphan.parent.mkdir(parents=True, exist_ok=True)
        orphan.write_bytes(b"x")
    age(blobs(tmp_path), 2)
    left = []
    for _ in range(4):
        await repository.trim()
        left.append(len(blobs(tmp_path)))
    assert [3, 1, 0, 0] == left


# -- quotas and types -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rules",
    [MediaRules(max_user_bytes=8), MediaRules(max_user_files=1), MediaRules(max_total_bytes=8)],
    ids=["bytes of a user", "files of a user", "bytes of all"],
)
@pytest_twisted.ensureDeferred
async def test_over_a_quota_nothing_is_stored(
    make_repository: MakeRepository, tmp_path: Path, rules: MediaRules
) -> None:
    repository = make_repository(rules)
    await upload(repository, b"hello")
    with pytest.raises(NotAllowed):
        await upload(repository, b"world")
    media_id, _ = await repository.announce(ALICE)
    with pytest.raises(NotAllowed):
        await fill(repository, media_id)
    assert 1 == len(blobs(tmp_path))


@pytest_twisted.ensureDeferred
async def test_the_quota_of_one_user_is_not_anothers(make_repository: MakeRepository) -> None:
    repository = make_repository(MediaRules(max_user_bytes=8))
    await upload(repository, b"hello", ALICE)
    await upload(repository, b"hello", BOB)


@pytest_twisted.ensureDeferred
async def test_uploads_at_once_do_not_get_past_a_quota(make_repository: MakeRepository, tmp_path: Path) -> None:
    repository = make_repository(MediaRules(max_user_bytes=12))
    uploads = [started(upload(repository, b"hello")) for _ in range(8)]
    for each in uploads:
        each.addErrback(lambda failure: failure.trap(NotAllowed) and None)
    results = await gatherResults(uploads)
    assert 2 == len([result for result in results if isinstance(result, str)])
    assert 2 == len(blobs(tmp_path))


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("rules", "content_type", "is_taken"),
    [
        (MediaRules(allowed_types=["image/*"]), "IMAGE/png; x=y", True),
        (MediaRules(allowed_types=["image/*"]), "text/plain", False),
        (MediaRules(allowed_types=["image/*"]), None, False),
        (MediaRules(allowed_types=["application/octet-stream"]), "not a type", True),
        (MediaRules(denied_types=["text/html"]), "Text/HTML;charset=utf-8", False),
        (MediaRules(denied_types=["text/html"]), "text/plain", True),
    ],
)
@pytest_twisted.ensureDeferred
async def test_types_are_taken_as_the_operator_says(
    make_repository: MakeRepository, rules: MediaRules, content_type: str | None, is_taken: bool
) -> None:
    repository = make_repository(rules)
    if is_taken:
        await upload(repository, content_type=content_type)
    else:
        with pytest.raises(NotAllowed):
            await upload(repository, content_type=content_type)


# -- announced uploads ------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_an_announced_upload_is_downloaded_when_it_has_come(repository: MediaRepository) -> None:
    media_id, expires_ts = await repository.announce(ALICE)
    assert START_MS + DAY_MS == expires_ts
    with pytest.raises(NotYetUploaded):
        await content_of(repository, media_id)
    await fill(repository, media_id)
    assert b"hello" == await content_of(repository, media_id)


@pytest_twisted.ensureDeferred
async def test_a_download_waits_for_the_upload(repository: MediaRepository) -> None:
    media_id, _ = await repository.announce(ALICE)
    waiting = started(content_of(repository, media_id, timeout_ms=5000))
    while not repository._awaiting:
        await repository._database.read(lambda tx: None)
    await fill(repository, media_id)
    assert b"hello" == await waiting


@pytest_twisted.ensureDeferred
async def test_a_download_does_not_wait_for_ever(repository: MediaRepository, clock: ManualClock) -> None:
    media_id, _ = await repository.announce(ALICE)
    waiting = started(content_of(repository, media_id, timeout_ms=10**9))
    while not clock.twisted.getDelayedCalls():
        await repository._database.read(lambda tx: None)
    clock.advance(60)
    with pytest.raises(NotYetUploaded):
        await waiting
    assert 0 == len(repository._awaiting)


@pytest_twisted.ensureDeferred
async def test_an_announced_upload_comes_once(repository: MediaRepository, tmp_path: Path) -> None:
    media_id, _ = await repository.announce(ALICE)
    await fill(repository, media_id, b"first")
    with pytest.raises(CannotOverwriteMedia):
        await fill(repository, media_id, b"second")
    assert b"first" == await content_of(repository, media_id)
    assert 1 == len(blobs(tmp_path))


@pytest_twisted.ensureDeferred
async def test_of_two_uploads_at_once_one_wins(repository: MediaRepository, tmp_path: Path) -> None:
    media_id, _ = await repository.announce(ALICE)
    uploads = [started(fill(repository, media_id, content)) for content in (b"first", b"other")]
    for each in uploads:
        each.addCallbacks(lambda _: "won", lambda failure: failure.trap(CannotOverwriteMedia) and "lost")
    results = await gatherResults(uploads)
    assert ["lost", "won"] == sorted(results)
    assert (b"first", b"other")[results.index("won")] == await content_of(repository, media_id)
    assert 1 == len(blobs(tmp_path))


@pytest_twisted.ensureDeferred
async def test_only_who_announced_it_may_upload_it(repository: MediaRepository) -> None:
    media_id, _ = await repository.announce(ALICE)
    with pytest.raises(NotAllowed):
        await fill(repository, media_id, user_nid=BOB)


@pytest_twisted.ensureDeferred
async def test_what_was_not_announced_cannot_be_filled(repository: MediaRepository, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await fill(repository, "somethingelse")
    with pytest.raises(CannotOverwriteMedia):
        await fill(repository, await upload(repository))


@pytest_twisted.ensureDeferred
async def test_an_expired_announcement_is_void(repository: MediaRepository, clock: ManualClock) -> None:
    media_id, _ = await repository.announce(ALICE)
    clock.advance(DAY_MS / 1000)
    for _ in range(2):
        with pytest.raises(NotFound):
            await fill(repository, media_id)
        with pytest.raises(NotFound):
            await content_of(repository, media_id)
        await repository.trim()


@pytest_twisted.ensureDeferred
async def test_a_user_may_announce_so_many_and_no_more(repository: MediaRepository, clock: ManualClock) -> None:
    first, _ = await repository.announce(ALICE)
    clock.advance(1)
    await repository.announce(ALICE)
    with pytest.raises(LimitExceeded) as refused:
        await repository.announce(ALICE)
    assert DAY_MS - 1000 == refused.value.retry_after_ms
    await repository.announce(BOB)
    await fill(repository, first)
    await repository.announce(ALICE)


# -- without a login --------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_only_media_from_before_the_freeze_need_no_login(make_repository: MakeRepository) -> None:
    """Spec: "Content repository", "Client behaviour": freeze of the unauthenticated endpoints."""
    thawed = make_repository(MediaRules(need_login=False))
    before = await upload(thawed)
    assert b"hello" == await content_of(thawed, before, is_logged_in=False)
    frozen = make_repository(MediaRules(need_login=True))
    after = await upload(frozen)
    announced, _ = await frozen.announce(ALICE)
    assert b"hello" == await content_of(frozen, before, is_logged_in=False)
    for media_id in (after, announced):
        with pytest.raises(NotFound):
            await content_of(frozen, media_id, is_logged_in=False)
    assert b"hello" == await content_of(thawed, after, is_logged_in=False)


# -- thumbnails -------------------------------------------------------------------------------------------------------

SMALL = ThumbnailSize(30, 30, "crop")


async def thumbnail(repository: MediaRepository, media_id: str, size: ThumbnailSize = SMALL) -> tuple[bytes, str]:
    found = await repository.get_thumbnail(SERVER, media_id, size, is_logged_in=True, timeout_ms=0)
    if found.path is None:
        return found.content or b"", found.content_type
    file, _ = await repository.open_file(found.path)
    with file:
        return file.read(), found.content_type


@pytest_twisted.ensureDeferred
async def test_a_thumbnail_is_made_once(repository: MediaRepository, tmp_path: Path) -> None:
    media_id = await upload(repository, picture("PNG", 400, 400), content_type="text/html")
    first = await thumbnail(repository, media_id)
    for blob in blobs(tmp_path):
        blob.unlink()
    assert first == await thumbnail(repository, media_id)
    assert "image/jpeg" == first[1]


@pytest_twisted.ensureDeferred
async def test_a_small_picture_is_its_thumbnail_with_the_type_that_it_has(repository: MediaRepository) -> None:
    content = picture("PNG", 20, 20)
    media_id = await upload(repository, content, content_type="text/html")
    assert (content, "image/png") == await thumbnail(repository, media_id)


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"<svg/>", BadRequest), (b"", BadRequest), (png_header(60_000, 60_000), TooLarge)],
    ids=["no picture", "empty", "too large"],
)
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_thumbnailed_is_refused(
    repository: MediaRepository, content: bytes, fault: type[MatrixError]
) -> None:
    media_id = await upload(repository, content, content_type="image/png")
    with pytest.raises(fault):
        await thumbnail(repository, media_id)


@pytest_twisted.ensureDeferred
async def test_thumbnails_of_any_size_do_not_fill_the_disk(make_repository: MakeRepository, tmp_path: Path) -> None:
    repository = make_repository(MediaRules(thumbnail_sizes=ThumbnailSizes((), is_dynamic=True)))
    media_id = await upload(repository, picture("PNG", 200, 200))
    for side in range(1, 41):
        content, _ = await thumbnail(repository, media_id, replace(SMALL, width=side))
        assert content
    assert 32 == len([path for path in (tmp_path / "store" / "derived").rglob("*") if path.is_file()])


@pytest_twisted.ensureDeferred
async def test_content_that_is_gone_from_the_disk_is_not_found(repository: MediaRepository, tmp_path: Path) -> None:
    media_id = await upload(repository, picture("PNG", 400, 400))
    for blob in blobs(tmp_path):
        blob.unlink()
    with pytest.raises(NotFound):
        await content_of(repository, media_id)
    with pytest.raises(NotFound):
        await thumbnail(repository, media_id)
