"""The content repository's endpoints: upload, download, thumbnail, configuration.

Downloads come from files, piece by piece, with the headers of `homeserver.media.serving` that keep them inert. The
endpoints without a login answer for media from before the freeze only; the rest is `M_NOT_FOUND` there.

Spec: client-server API, "Content repository"; RFC 9110, 13 (conditions) and 14 (ranges).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from homeserver.errors import InvalidParam, MissingParam
from homeserver.media.remote import Admit
from homeserver.media.repository import DEFAULT_WAIT_MS, MAX_WAIT_MS, MediaRepository
from homeserver.media.serving import SAFETY_HEADERS, content_disposition, download_headers
from homeserver.media.thumbnails import ThumbnailSize
from homeserver.web.request import UnsupportedEncoding, WebRequest
from homeserver.web.response import FileResponse, HandlerResult, Response
from homeserver.web.router import Route, expand_prefixes

from .auth import Access
from .ratelimit import ClientRates, Limit

MAX_SIDE: Final = 65_535
# Content never changes, but an administrator may take it away.
CACHE_SHARED: Final = "public, max-age=86400, s-maxage=86400"
CACHE_PRIVATE: Final = "private, max-age=86400"

_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)


class MediaApi:
    """Routes of the content repository."""

    def __init__(self, repository: MediaRepository, rates: ClientRates) -> None:
        self._repository = repository
        self._rates = rates

    def routes(self) -> list[Route]:
        """Return all routes, older prefixes included."""
        user, guest = Access.USERS, Access.GUESTS
        most = self._repository.rules.max_upload_bytes
        media, authed = "/_matrix/media/v3", "/_matrix/client/v1/media"
        legacy = [
            Route("POST", f"{media}/upload", self.upload, auth=user, max_body_bytes=most),
            Route("PUT", f"{media}/upload/{{serverName}}/{{mediaId}}", self.upload_to, auth=user, max_body_bytes=most),
            Route("GET", f"{media}/config", self.config, auth=guest),
            Route("GET", f"{media}/download/{{serverName}}/{{mediaId}}", self.open_download, cancel_when_gone=True),
            Route(
                "GET",
                f"{media}/download/{{serverName}}/{{mediaId}}/{{fileName}}",
                self.open_download,
                cancel_when_gone=True,
            ),
            Route("GET", f"{media}/thumbnail/{{serverName}}/{{mediaId}}", self.open_thumbnail),
        ]
        return [
            Route("POST", "/_matrix/media/v1/create", self.create, auth=user, limit=Limit.MEDIA_CREATE),
            Route("GET", f"{authed}/config", self.config, auth=guest),
            Route(
                "GET",
                f"{authed}/download/{{serverName}}/{{mediaId}}",
                self.download,
                auth=guest,
                cancel_when_gone=True,
            ),
            Route(
                "GET",
                f"{authed}/download/{{serverName}}/{{mediaId}}/{{fileName}}",
                self.download,
                auth=guest,
                cancel_when_gone=True,
            ),
            # Not cancelled when the client is gone: work in a thread goes on, and must go on being counted.
            Route("GET", f"{authed}/thumbnail/{{serverName}}/{{mediaId}}", self.thumbnail, auth=guest),
            *(alike for route in legacy for alike in expand_prefixes(route)),
        ]

    # -- uploads ------------------------------------------------------------------------------------------------------

    async def upload(self, request: WebRequest) -> HandlerResult:
        """POST /_matrix/media/v3/upload"""
        media_id = await self._repository.upload(request.requester.user_nid, *_uploaded(request))
        return {"content_uri": self._repository.uri(media_id)}

    async def create(self, request: WebRequest) -> HandlerResult:
        """POST /_matrix/media/v1/create"""
        media_id, expires_ts = await self._repository.announce(request.requester.user_nid)
        return {"content_uri": self._repository.uri(media_id), "unused_expires_at": expires_ts}

    async def upload_to(self, request: WebRequest) -> HandlerResult:
        """PUT /_matrix/media/v3/upload/{serverName}/{mediaId}"""
        args = request.args
        await self._repository.upload_announced(
            request.requester.user_nid, args["serverName"], args["mediaId"], *_uploaded(request)
        )
        return {}

    async def config(self, request: WebRequest) -> HandlerResult:
        """GET /_matrix/client/v1/media/config"""
        return {"m.upload.size": self._repository.rules.max_upload_bytes}

    # -- downloads ----------------------------------------------------------------------------------------------------

    async def download(self, request: WebRequest) -> HandlerResult:
        """GET /_matrix/client/v1/media/download/{serverName}/{mediaId}, with or without a file name behind"""
        return await self._download(request, is_logged_in=True)

    async def open_download(self, request: WebRequest) -> HandlerResult:
        """GET /_matrix/media/v3/download/{serverName}/{mediaId}, with or without a file name behind"""
        return await self._download(request, is_logged_in=False)

    async def thumbnail(self, request: WebRequest) -> HandlerResult:
        """GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}"""
        return await self._thumbnail(request, is_logged_in=True)

    async def open_thumbnail(self, request: WebRequest) -> HandlerResult:
        """GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}"""
        return await self._thumbnail(request, is_logged_in=False)

    async def _download(self, request: WebRequest, *, is_logged_in: bool) -> HandlerResult:
        args = request.args
        found = await self._repository.get_download(
            args["serverName"],
            args["mediaId"],
            is_logged_in=is_logged_in,
            timeout_ms=_timeout_ms(request),
            admit=self._admit(request, is_logged_in),
        )
        headers = download_headers(found.content_type, args.get("fileName", found.file_name))
        return await self._serve(request, found.path, None, headers, found.tag, is_logged_in)

    async def _thumbnail(self, request: WebRequest, *, is_logged_in: bool) -> HandlerResult:
        args = request.args
        method = request.query("method") or "scale"
        if method not in ("crop", "scale"):
            raise InvalidParam("the query parameter 'method' must be crop or scale")
        found = await self._repository.get_thumbnail(
            args["serverName"],
            args["mediaId"],
            ThumbnailSize(_side(request, "width"), _side(request, "height"), "crop" if method == "crop" else "scale"),
            is_animated=request.query_bool("animated"),
            is_logged_in=is_logged_in,
            timeout_ms=_timeout_ms(request),
            admit=self._admit(request, is_logged_in),
        )
        extension = found.content_type.partition("/")[2]
        headers = {
            **SAFETY_HEADERS,
            "Content-Type": found.content_type,
            "Content-Disposition": content_disposition(found.content_type, f"thumbnail.{extension}"),
        }
        return await self._serve(request, found.path, found.content, headers, found.tag, is_logged_in)

    def _admit(self, request: WebRequest, is_logged_in: bool) -> Admit | None:
        """Return what counts a file that has to be fetched from another server, or None if it is not to be."""
        # Spec: client-server API, GET /_matrix/media/v3/download, `allow_remote`.
        if not is_logged_in and request.query("allow_remote") == "false":
            return None
        if is_logged_in:
            return lambda: self._rates.check_user(Limit.REMOTE_MEDIA, request.requester)
        return lambda: self._rates.check_address(Limit.REMOTE_MEDIA, request)

    async def _serve(
        self,
        request: WebRequest,
        path: Path | None,
        content: bytes | None,
        headers: Mapping[str, str],
        tag: str,
        is_logged_in: bool,
    ) -> HandlerResult:
        etag = f'"{tag}"'
        sent = {
            **headers,
            "ETag": etag,
            "Cache-Control": CACHE_PRIVATE if is_logged_in else CACHE_SHARED,
            "Accept-Ranges": "bytes",
        }
        content_type = sent.pop("Content-Type")
        if _names_tag(request.header("If-None-Match"), etag):
            return Response(304, b"", content_type, sent)
        file: BinaryIO
        if path is not None:
            file, size = await self._repository.open_file(path)
        else:
            file, size = BytesIO(content or b""), len(content or b"")
        wanted = request.header("Range")
        if wanted is None or not _names_tag(request.header("If-Range") or etag, etag):
            return FileResponse(file, size, content_type, sent)
        part = _parse_range(wanted, size)
        if part is None:
            return FileResponse(file, size, content_type, sent)
        start, end = part
        if start >= end:
            file.close()
            return Response(416, b"", content_type, {**sent, "Content-Range": f"bytes */{size}"})
        file.seek(start)
        return FileResponse(
            file, end - start, content_type, {**sent, "Content-Range": f"bytes {start}-{end - 1}/{size}"}, 206
        )


def _uploaded(request: WebRequest) -> tuple[BinaryIO, int, str | None, str | None]:
    encoding = request.header("Content-Encoding")
    if encoding is not None and encoding.lower() != "identity":
        raise UnsupportedEncoding("compressed request bodies are not accepted")
    return request.body_file, request.body_length, request.header("Content-Type"), request.query("filename")


def _timeout_ms(request: WebRequest) -> int:
    found = request.query_int("timeout_ms", DEFAULT_WAIT_MS, maximum=MAX_WAIT_MS)
    return DEFAULT_WAIT_MS if found is None else max(0, found)


def _side(request: WebRequest, name: str) -> int:
    # Spec: client-server API, GET /thumbnail: 400 for dimensions that are no integers, or negative.
    found = request.query_int(name, minimum=1, maximum=MAX_SIDE)
    if found is None:
        raise MissingParam(f"the query parameter '{name}' is missing")
    return found


def _names_tag(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    return header.strip() == "*" or any(part.strip().removeprefix("W/") == etag for part in header.split(","))


def _parse_range(text: str, size: int) -> tuple[int, int] | None:
    """Return start and end of the one range asked for; start >= end if there is no such part; None to send all."""
    match = _RANGE.fullmatch(text.strip())
    if match is None or not (match[1] or match[2]):
        # RFC 9110, 14.2: a server may ignore a Range header; several ranges are not served.
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size
    start = int(match[1])
    if match[2] and int(match[2]) < start:
        return None
    return start, min(size, int(match[2]) + 1) if match[2] else size
