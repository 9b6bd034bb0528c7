"""The content repository: uploads, downloads and thumbnails.

Media of other servers come from `remote`, and are shown like those of this server from there on.

A media ID is made here, gets content once, and keeps it. The content is written to the store before its row is
committed; a crash between the two leaves a file that nothing refers to, never a row without a file. Such files are
found and removed a few at a time.

What a download may be had without a login is decided when the content is uploaded, not when it is asked for, as the
freeze of the unauthenticated endpoints wants it.

Spec: client-server API, "Content repository".
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Final

from homeserver.config import Media as MediaConfig
from homeserver.errors import (
    CannotOverwriteMedia,
    LimitExceeded,
    NotAllowed,
    NotFound,
    NotYetUploaded,
    StorageUnavailable,
    TooLarge,
)
from homeserver.model.ids import is_opaque_id
from homeserver.runtime.clock import Clock
from homeserver.runtime.slots import Slots
from homeserver.runtime.threads import Worker
from homeserver.runtime.waiters import Waiters
from storage import media as rows
from storage.blobs import BlobStore, BlobTooLarge
from storage.database import Database
from storage.media import MediaRow, StoredMedia
from storage.transaction import Transaction

from .remote import Admit, RemoteRepository
from .serving import DEFAULT_TYPE, clean_content_type, clean_file_name
from .thumbnails import (
    DEFAULT_SIZES,
    SNIFF_BYTES,
    Made,
    ThumbnailPlan,
    ThumbnailSize,
    ThumbnailSizes,
    make_thumbnail,
    sniff,
)

logger = logging.getLogger(__name__)

# Spec: client-server API, GET /download, timeout_ms: 20 seconds unless told, and the server's own maximum.
DEFAULT_WAIT_MS: Final = 20_000
MAX_WAIT_MS: Final = 60_000
THUMBNAILS_AT_ONCE: Final = 2
MOST_WAITING: Final = 100
# Further sizes are made anew each time: what clients ask for must not fill the disk.
MAX_DERIVED: Final = 32
# An upload is committed seconds after its file was written; one without a row for so long is left over.
ORPHAN_AFTER_MS: Final = 60 * 60 * 1000
# LIMIT: so many files are looked at in one turn; the next turn goes on from there.
SWEPT_AT_ONCE: Final = 10_000
_ASKED_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class MediaRules:
    """What users may upload, and who may see it. None: no limit."""

    max_upload_bytes: int = 50 * 1024**2
    max_image_pixels: int = 32 * 1024**2
    # New media are served only where a login is needed.
    need_login: bool = True
    allowed_types: Sequence[str] | None = None
    denied_types: Sequence[str] = ()
    max_user_bytes: int | None = None
    max_user_files: int | None = None
    max_total_bytes: int | None = None
    max_awaited: int = 5
    # Spec: client-server API, POST /create: 24 hours are recommended.
    awaited_for_ms: int = 24 * 60 * 60 * 1000
    thumbnail_sizes: ThumbnailSizes = DEFAULT_SIZES

    @classmethod
    def of(cls, config: MediaConfig) -> MediaRules:
        """Return the rules that the section of the configuration sets."""
        sizes = tuple(ThumbnailSize(size.width, size.height, size.method) for size in config.thumbnail_sizes)
        return cls(
            max_upload_bytes=config.max_upload_bytes,
            max_image_pixels=config.max_image_pixels,
            need_login=config.need_login,
            allowed_types=config.allowed_types,
            denied_types=config.denied_types,
            max_user_bytes=config.max_user_bytes,
            max_user_files=config.max_user_files,
            max_total_bytes=config.max_total_bytes,
            thumbnail_sizes=ThumbnailSizes(sizes, config.dynamic_thumbnails),
        )


@dataclass(frozen=True, slots=True)
class Download:
    """Content to serve: a file, its size, and what its uploader said of it."""

    path: Path
    size_bytes: int
    content_type: str | None
    file_name: str | None
    # Changes if and only if the content does.
    tag: str


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A thumbnail to serve: a file, or `content`."""

    path: Path | None
    content: bytes | None
    content_type: str
    tag: str


def make_media_id() -> str:
    """Return a new media ID: nobody can guess it, and letters of one case keep it apart on every file system."""
    return secrets.token_hex(16)


class MediaRepository:
    """Stores the media of this server, and serves them and those of others."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        *,
        threads: Worker,
        clock: Clock,
        server_name: str,
        rules: MediaRules,
        new_id: Callable[[], str] = make_media_id,
        remote: RemoteRepository | None = None,
    ) -> None:
        """Without `remote`, no other server has media."""
        self._database = database
        self._blobs = blobs
        self._threads = threads
        self._clock = clock
        self._server_name = server_name
        self._new_id = new_id
        self.rules = rules
        self._remote = remote
        self._awaiting: Waiters[str] = Waiters(clock)
        self._large_turn = Lock()
        self._slots = Slots(THUMBNAILS_AT_ONCE, most_waiting=MOST_WAITING)
        # The blob that was looked at last.
        self._swept_until = ""

    async def start(self) -> None:
        """Make the folders of the store. Raises Misconfigured."""
        await self._threads.run(self._blobs.start, self._clock.now_ms() / 1000)

    async def trim(self) -> None:
        """Forget media IDs whose content never came, and files that belong to none; to be called now and then."""
        now_ms = self._clock.now_ms()
        while await self._database.write(lambda tx: rows.delete_expired(tx, now_ms)):
            pass
        await self._sweep((now_ms - ORPHAN_AFTER_MS) / 1000)

    async def _sweep(self, before_s: float) -> None:
        """Remove files without a row that were written before that time."""
        found, self._swept_until = await self._threads.run(
            self._blobs.list_older, before_s, self._swept_until, SWEPT_AT_ONCE
        )
        removed = 0
        for start in range(0, len(found), _ASKED_AT_ONCE):
            asked = found[start : start + _ASKED_AT_ONCE]
            known = await self._database.read(partial(rows.known_blobs, blob_ids=asked))
            for blob_id in asked:
                if blob_id in known:
                    continue
                if self._remote is not None:
                    await self._remote.remove_unused(blob_id)
                else:
                    await self._threads.run(self._blobs.remove, blob_id)
                removed += 1
        if removed:
            logger.info("removed %d files that no media ID refers to", removed)

    def uri(self, media_id: str) -> str:
        """Return the `mxc://` URI of a media ID of this server."""
        return f"mxc://{self._server_name}/{media_id}"

    # -- uploads ------------------------------------------------------------------------------------------------------

    async def check_upload(self, user_nid: int, size_bytes: int, content_type: str | None) -> None:
        """Raise what an upload of this size and type would fail with, before its content is read.

        Raises TooLarge, or NotAllowed for a type that is not wanted or a quota that is reached.
        """
        self._check_size(size_bytes)
        self._check_type(content_type)
        if self._has_quota():
            await self._database.read(lambda tx: self._check_quota(tx, user_nid, size_bytes))

    async def upload(
        self, user_nid: int, source: BinaryIO, size_bytes: int, content_type: str | None, file_name: str | None
    ) -> str:
        """Store the content of `source` under a new media ID and return that. Raises as `check_upload` does."""
        await self.check_upload(user_nid, size_bytes, content_type)
        media_id = self._new_id()
        stored = await self._store(media_id, source, content_type, file_name)

        def insert(tx: Transaction) -> None:
            self._check_quota(tx, user_nid, stored.size_bytes)
            rows.insert_media(tx, media_id, user_nid, stored)

        try:
            await self._database.write(insert)
        except BaseException:
            await self._threads.run(self._blobs.remove, stored.blob_id)
            raise
        return media_id

    async def announce(self, user_nid: int) -> tuple[str, int]:
        """Make a media ID whose content will come; return it and the time until which it must have come.

        Raises LimitExceeded if the user has too many of them.
        """
        now_ms = self._clock.now_ms()
        media_id = self._new_id()
        expires_ts = now_ms + self.rules.awaited_for_ms

        def announce(tx: Transaction) -> None:
            awaited, first_expires_ts = rows.count_awaited(tx, user_nid, now_ms)
            if awaited >= self.rules.max_awaited:
                raise LimitExceeded(first_expires_ts - now_ms, "Upload the media that you have announced first")
            rows.announce_media(tx, media_id, user_nid, now_ms, expires_ts)

        await self._database.write(announce)
        return media_id, expires_ts

    async def check_announced(self, user_nid: int, server_name: str, media_id: str) -> None:
        """Raise unless this user may upload content to this media ID now.

        Raises NotFound for an ID that was not announced or has expired, NotAllowed for one that somebody else
        announced, CannotOverwriteMedia for one that has content.
        """
        row = await self._find(server_name, media_id)
        if row is None or row.is_void(self._clock.now_ms()):
            raise NotFound("Unknown media ID")
        if row.user_nid != user_nid:
            raise NotAllowed("Somebody else has announced this media ID")
        if row.stored is not None:
            raise CannotOverwriteMedia("Media already uploaded")

    async def upload_announced(
        self,
        user_nid: int,
        server_name: str,
        media_id: str,
        source: BinaryIO,
        size_bytes: int,
        content_type: str | None,
        file_name: str | None,
    ) -> None:
        """Store the content of `source` under an announced media ID.

        Raises as `check_upload` and `check_announced` do.
        """
        await self.check_announced(user_nid, server_name, media_id)
        await self.check_upload(user_nid, size_bytes, content_type)
        # Two uploads to one ID must not meet in one file. Named by the ID, the file is found to belong to it.
        blob_id = f"{media_id}-{self._new_id()[:8]}"
        stored = await self._store(blob_id, source, content_type, file_name)

        def fill(tx: Transaction) -> bool:
            self._check_quota(tx, user_nid, stored.size_bytes)
            return rows.fill_media(tx, media_id, user_nid, stored)

        is_filled = False
        try:
            is_filled = await self._database.write(fill)
        finally:
            if not is_filled:
                await self._threads.run(self._blobs.remove, stored.blob_id)
        if not is_filled:
            await self.check_announced(user_nid, server_name, media_id)
            raise NotFound("Unknown media ID")
        self._awaiting.wake(media_id)

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self.rules.max_upload_bytes:
            raise TooLarge(f"Cannot upload files larger than {self.rules.max_upload_bytes} bytes")

    def _check_type(self, content_type: str | None) -> None:
        rules = self.rules
        if rules.allowed_types is None and not rules.denied_types:
            return
        kind = (clean_content_type(content_type) or DEFAULT_TYPE).partition(";")[0].strip().lower()
        if rules.allowed_types is not None and not _is_among(kind, rules.allowed_types):
            raise NotAllowed("This server does not take files of this type")
        if _is_among(kind, rules.denied_types):
            raise NotAllowed("This server does not take files of this type")

    def _has_quota(self) -> bool:
        rules = self.rules
        return not (rules.max_user_bytes is None and rules.max_user_files is None and rules.max_total_bytes is None)

    def _check_quota(self, tx: Transaction, user_nid: int, size_bytes: int) -> None:
        rules = self.rules
        if rules.max_user_bytes is not None or rules.max_user_files is not None:
            used = rows.get_usage(tx, user_nid)
            # Spec: client-server API, "Content repository", "Security considerations": 403 M_FORBIDDEN.
            if rules.max_user_bytes is not None and used.size_bytes + size_bytes > rules.max_user_bytes:
                raise NotAllowed("You have reached the size of uploads that this server allows you")
            if rules.max_user_files is not None and used.files >= rules.max_user_files:
                raise NotAllowed("You have reached the number of uploads that this server allows you")
        if rules.max_total_bytes is not None:
            used = rows.get_usage(tx)
            if used.size_bytes + size_bytes > rules.max_total_bytes:
                raise NotAllowed("This server has no room for further uploads")

    async def _store(
        self, blob_id: str, source: BinaryIO, content_type: str | None, file_name: str | None
    ) -> StoredMedia:
        try:
            size_bytes = await self._threads.run(self._blobs.add, blob_id, source, self.rules.max_upload_bytes)
        except BlobTooLarge as fault:
            raise TooLarge(f"Cannot upload files larger than {self.rules.max_upload_bytes} bytes") from fault
        except OSError as fault:
            raise StorageUnavailable(f"the media store does not take files: {fault}") from fault
        return StoredMedia(
            blob_id,
            size_bytes,
            clean_content_type(content_type),
            clean_file_name(file_name),
            self._clock.now_ms(),
            self.rules.need_login,
        )

    # -- downloads ----------------------------------------------------------------------------------------------------

    async def get_download(
        self,
        server_name: str,
        media_id: str,
        *,
        is_logged_in: bool,
        timeout_ms: int = DEFAULT_WAIT_MS,
        admit: Admit | None = None,
    ) -> Download:
        """Return the content of a media ID, waiting for it for `timeout_ms` if it was only announced.

        That of another server is fetched if `admit` lets it be; without one, it is had only if it is here.
        Raises NotFound (also for media that need a login, without one), NotYetUploaded, and for media of other servers
        what `RemoteRepository.get` raises.
        """
        stored = await self._get_stored(server_name, media_id, is_logged_in, timeout_ms, admit)
        path = self._blobs.path(stored.blob_id)
        return Download(path, stored.size_bytes, stored.content_type, stored.file_name, stored.blob_id)

    async def get_thumbnail(
        self,
        server_name: str,
        media_id: str,
        wanted: ThumbnailSize,
        *,
        is_animated: bool = False,
        is_logged_in: bool,
        timeout_ms: int = DEFAULT_WAIT_MS,
        admit: Admit | None = None,
    ) -> Thumbnail:
        """Return a thumbnail of at least the wanted size, or the picture itself if that is smaller.

        Raises as `get_download` does, BadRequest for what is no picture, TooLarge for what is too large a one, and
        LimitExceeded if too many thumbnails are being made.
        """
        stored = await self._get_stored(server_name, media_id, is_logged_in, timeout_ms, admit)
        plan = self.rules.thumbnail_sizes.choose(wanted, is_animated=is_animated)
        tag = f"{stored.blob_id}-{plan.name}"
        found = await self._threads.run(self._find_thumbnail, stored.blob_id, plan)
        if found is None:
            found = await self._slots.run(lambda: self._threads.run(self._make_thumbnail, stored.blob_id, plan))
        path, made = found
        return Thumbnail(path, made.content, made.content_type, tag)

    async def open_file(self, path: Path) -> tuple[BinaryIO, int]:
        """Open content that a download or thumbnail named; return the file and its size. Raises NotFound."""
        try:
            return await self._threads.run(_open, path)
        except FileNotFoundError as fault:
            raise NotFound("Not found", detail=f"the content {path} is gone") from fault
        except OSError as fault:
            raise StorageUnavailable(f"the media store cannot be read: {fault}") from fault

    async def _get_stored(
        self, server_name: str, media_id: str, is_logged_in: bool, timeout_ms: int, admit: Admit | None
    ) -> StoredMedia:
        if server_name != self._server_name:
            # Without the login that it needs, nothing is looked for.
            if self._remote is None or not self._is_open(is_logged_in):
                raise NotFound("Not found")
            return await self._remote.get(
                server_name, media_id, admit=admit, timeout_ms=min(max(timeout_ms, DEFAULT_WAIT_MS), MAX_WAIT_MS)
            )
        row = await self._find(server_name, media_id)
        if row is not None and row.stored is None and not row.is_void(self._clock.now_ms()):
            # A login decides before the wait too: without one, announced media are as good as unknown.
            if not self._is_open(is_logged_in):
                raise NotFound("Not found")
            row = await self._wait_for(server_name, media_id, min(timeout_ms, MAX_WAIT_MS))
            if row is not None and row.stored is None:
                raise NotYetUploaded("Content has not yet been uploaded")
        if row is None or row.stored is None or (row.stored.needs_auth and not self._is_open(is_logged_in)):
            raise NotFound("Not found")
        return row.stored

    async def _wait_for(self, server_name: str, media_id: str, wait_ms: int) -> MediaRow | None:
        with self._awaiting.expect(media_id) as expected:
            row = await self._find(server_name, media_id)
            if row is None or row.stored is not None or wait_ms <= 0:
                return row
            await expected.within(wait_ms / 1000)
        return await self._find(server_name, media_id)

    def _is_open(self, is_logged_in: bool) -> bool:
        # Without the freeze, what was uploaded during an earlier one is open as well.
        return is_logged_in or not self.rules.need_login

    async def _find(self, server_name: str, media_id: str) -> MediaRow | None:
        # Spec: client-server API, "Content repository", "Security considerations": sanitise mxc:// URIs.
        if server_name != self._server_name or not is_opaque_id(media_id):
            return None
        return await self._database.read(lambda tx: rows.find_media(tx, media_id))

    def _find_thumbnail(self, blob_id: str, plan: ThumbnailPlan) -> tuple[Path | None, Made] | None:
        path = self._blobs.derived_path(blob_id, plan.name)
        try:
            with path.open("rb") as file:
                content_type = sniff(file.read(SNIFF_BYTES))
        except FileNotFoundError:
            return None
        return None if content_type is None else (path, Made(None, content_type))

    def _make_thumbnail(self, blob_id: str, plan: ThumbnailPlan) -> tuple[Path | None, Made]:
        # Somebody else may have made it while this request waited for its turn.
        found = self._find_thumbnail(blob_id, plan)
        if found is not None:
            return found
        path = self._blobs.path(blob_id)
        try:
            made = make_thumbnail(path, plan, most_pixels=self.rules.max_image_pixels, large_turn=self._large_turn)
        except FileNotFoundError as fault:
            raise NotFound("Not found", detail=f"the content {path} is gone") from fault
        if made.content is None:
            return path, made
        if self._blobs.count_derived(blob_id) >= MAX_DERIVED:
            return None, made
        try:
            return self._blobs.add_derived(blob_id, plan.name, made.content), Made(None, made.content_type)
        except OSError as fault:
            # A full disk is no reason not to answer.
            logger.warning("A thumbnail was not stored: %s", fault)
            return None, made


def _open(path: Path) -> tuple[BinaryIO, int]:
    file = path.open("rb")
    return file, os.fstat(file.fileno()).st_size


def _is_among(kind: str, patterns: Sequence[str]) -> bool:
    main = kind.partition("/")[0]
    return any(pattern.lower() in (kind, f"{main}/*", "*/*", "*") for pattern in patterns)
