"""Files of this server, and thumbnails of them, for other servers.

An answer has two parts: an empty object, and the file with its own headers. The file is sent from the disk, piece by
piece, between what stands before and after it.

Files of third servers are given to nobody: whoever wants one asks its server.

Spec: server-server API, "Content Repository".
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from io import BytesIO
from typing import Any, BinaryIO

from homeserver.errors import InvalidParam, MissingParam
from homeserver.media.repository import DEFAULT_WAIT_MS, MAX_WAIT_MS, MediaRepository
from homeserver.media.serving import content_disposition, download_headers
from homeserver.media.thumbnails import ThumbnailSize
from homeserver.model.canonical_json import JsonObject
from homeserver.web.request import WebRequest
from homeserver.web.response import FileResponse
from homeserver.web.router import Route

from .auth import Signed

MAX_SIDE = 65_535


class MediaAPI:
    """`/media/download/{mediaId}` and `/media/thumbnail/{mediaId}`."""

    def __init__(self, signed: Signed, repository: MediaRepository, server_name: str) -> None:
        self._signed = signed
        self._repository = repository
        self._server_name = server_name

    def routes(self) -> list[Route]:
        """Return the routes."""
        prefix = "/_matrix/federation/v1/media"
        return [
            self._signed.route("GET", f"{prefix}/download/{{mediaId}}", self.get_download, cancel_when_gone=True),
            # Not cancelled when the server is gone: work in a thread goes on, and must go on being counted.
            self._signed.route("GET", f"{prefix}/thumbnail/{{mediaId}}", self.get_thumbnail),
        ]

    async def get_download(self, request: WebRequest, origin: str, content: JsonObject | None) -> FileResponse:
        """A file."""
        found = await self._repository.get_download(
            self._server_name, request.args["mediaId"], is_logged_in=True, timeout_ms=_timeout_ms(request)
        )
        file, length = await self._repository.open_file(found.path)
        return in_parts(file, length, download_headers(found.content_type, found.file_name))

    async def get_thumbnail(self, request: WebRequest, origin: str, content: JsonObject | None) -> FileResponse:
        """A thumbnail of a file."""
        method = request.query("method") or "scale"
        if method not in ("crop", "scale"):
            raise InvalidParam("the query parameter 'method' must be crop or scale")
        found = await self._repository.get_thumbnail(
            self._server_name,
            request.args["mediaId"],
            ThumbnailSize(_side(request, "width"), _side(request, "height"), "crop" if method == "crop" else "scale"),
            is_animated=request.query_bool("animated"),
            is_logged_in=True,
            timeout_ms=_timeout_ms(request),
        )
        file: BinaryIO
        if found.path is not None:
            file, length = await self._repository.open_file(found.path)
        else:
            file, length = BytesIO(found.content or b""), len(found.content or b"")
        extension = found.content_type.partition("/")[2]
        headers = {
            "Content-Type": found.content_type,
            "Content-Disposition": content_disposition(found.content_type, f"thumbnail.{extension}"),
        }
        return in_parts(file, length, headers)


def in_parts(file: BinaryIO, length: int, headers: Mapping[str, str]) -> FileResponse:
    """Return a file of that length as the second part of an answer. RFC 2046, 5.1."""
    # Nobody who makes a file can know it before.
    boundary = secrets.token_hex(16)
    shown = "".join(f"{name}: {headers[name]}\r\n" for name in ("Content-Type", "Content-Disposition"))
    head = f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n{shown}\r\n"
    between: Any = _Between(head.encode(), file, length, f"\r\n--{boundary}--\r\n".encode())
    return FileResponse(between, between.length, f"multipart/mixed; boundary={boundary}")


class _Between:
    """A file with something before it and after it, as far as whoever sends it asks."""

    def __init__(self, head: bytes, file: BinaryIO, file_length: int, tail: bytes) -> None:
        self.length = len(head) + file_length + len(tail)
        self._head = head
        self._file = file
        self._left = file_length
        self._tail = tail

    @property
    def closed(self) -> bool:
        return self._file.closed

    def read(self, size: int) -> bytes:
        """Return some bytes, `size` at most; none at the end, or where the file is shorter than it was."""
        if self._head:
            piece, self._head = self._head[:size], self._head[size:]
        elif self._left:
            piece = self._file.read(min(size, self._left))
            self._left -= len(piece)
        else:
            piece, self._tail = self._tail[:size], self._tail[size:]
        return piece

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> _Between:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()


def _timeout_ms(request: WebRequest) -> int:
    found = request.query_int("timeout_ms", DEFAULT_WAIT_MS, maximum=MAX_WAIT_MS)
    return DEFAULT_WAIT_MS if found is None else max(0, found)


def _side(request: WebRequest, name: str) -> int:
    found = request.query_int(name, minimum=1, maximum=MAX_SIDE)
    if found is None:
        raise MissingParam(f"the query parameter '{name}' is missing")
    return found
