"""Fetching a file from the server that it lies on, into a file here.

First by the authenticated endpoint; where that is not known, by the old one. What is written is bounded, and removed
again if the download fails. A redirect to a web server is followed without our signature.

Spec: server-server API, "Content Repository".
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from homeserver.errors import (
    RemoteProtocolError,
    RemoteRefused,
    RemoteTooLarge,
    RemoteUnreachable,
    StorageUnavailable,
)
from homeserver.model.ids import is_opaque_id
from homeserver.ports import RemoteMedia
from homeserver.runtime.clock import Clock
from homeserver.runtime.outgoing import AnswerTooLarge, Outgoing, OutgoingFault

from .multipart import MAX_SMALL_BYTES, BadMultipart, MediaParts, boundary_of
from .transport import FederationTransport

MAX_REDIRECTS: Final = 3
# LIMIT: of a header that is passed on.
MAX_HEADER_CHARACTERS: Final = 1024
# The other side may wait for an upload for a while; our time for the transfer starts with it.
_MOST_UPLOAD_WAIT_MS: Final = 20_000


class RemoteFiles:
    """Downloads files of other servers."""

    def __init__(self, transport: FederationTransport, outgoing: Outgoing, clock: Clock) -> None:
        self._transport = transport
        self._outgoing = outgoing
        self._clock = clock

    async def download(
        self, server: str, media_id: str, *, max_bytes: int, timeout_s: float, folder: str
    ) -> RemoteMedia:
        """Fetch a file into a new file in `folder`; RemoteError, StorageUnavailable."""
        if not is_opaque_id(media_id):
            raise RemoteProtocolError(server, "there can be no such media ID")
        try:
            descriptor, path = tempfile.mkstemp(prefix="remote-", dir=folder)
        except OSError as fault:
            raise StorageUnavailable(f"no file can be made in {folder}: {fault.strerror}") from fault
        is_whole = False
        try:
            with os.fdopen(descriptor, "wb") as file:
                target = _File(file, server, max_bytes)
                headers = await self._fetch(server, media_id, target, max_bytes, timeout_s)
            is_whole = True
        except (OSError, BadMultipart) as fault:
            if isinstance(fault, OSError):
                raise StorageUnavailable(f"the file cannot be written: {fault.strerror}") from fault
            raise RemoteProtocolError(server, str(fault)) from fault
        finally:
            if not is_whole:
                _remove(path)
        return RemoteMedia(path, target.length, _shown(headers, "content-type"), _shown(headers, "content-disposition"))

    async def _fetch(
        self, server: str, media_id: str, target: _File, max_bytes: int, timeout_s: float
    ) -> Mapping[str, str]:
        deadline = self._clock.monotonic() + timeout_s
        wait_ms = min(_MOST_UPLOAD_WAIT_MS, int(timeout_s * 500))
        parts = _Parts(target)
        try:
            await self._transport.request(
                server,
                "GET",
                f"/_matrix/federation/v1/media/download/{quote(media_id, safe='')}?timeout_ms={wait_ms}",
                timeout_s=timeout_s,
                max_bytes=max_bytes + 4 * MAX_SMALL_BYTES,
                sink=parts,
            )
        except RemoteRefused as refusal:
            if not is_unknown_endpoint(refusal):
                raise
            return await self._fetch_unsigned(server, media_id, target, max_bytes, deadline, wait_ms)
        headers = parts.finish()
        location = headers.get("location")
        if location is None:
            return headers
        return await self._fetch_elsewhere(server, location, target, max_bytes, deadline)

    async def _fetch_unsigned(
        self, server: str, media_id: str, target: _File, max_bytes: int, deadline: float, wait_ms: int
    ) -> Mapping[str, str]:
        # Spec: "When falling back, servers MUST be sure to set allow_remote to false."
        answer = await self._transport.request(
            server,
            "GET",
            f"/_matrix/media/v3/download/{quote(server, safe='')}/{quote(media_id, safe='')}"
            f"?allow_remote=false&timeout_ms={wait_ms}",
            timeout_s=self._left(server, deadline),
            max_bytes=max_bytes,
            is_signed=False,
            sink=target,
        )
        return answer.headers

    async def _fetch_elsewhere(
        self, server: str, location: str, target: _File, max_bytes: int, deadline: float
    ) -> Mapping[str, str]:
        if not location.lower().startswith("https://"):
            raise RemoteProtocolError(server, "the file is not behind HTTPS")
        try:
            answer = await self._outgoing.request(
                "GET",
                location,
                timeout_s=self._left(server, deadline),
                max_bytes=max_bytes,
                redirects=MAX_REDIRECTS,
                sink=target,
            )
        except AnswerTooLarge as fault:
            raise RemoteTooLarge(server, "the file is too large") from fault
        except OutgoingFault as fault:
            raise RemoteUnreachable(server, f"the file cannot be fetched: {fault}") from fault
        if answer.status != 200:
            raise RemoteProtocolError(server, f"where the file should be is an answer with status {answer.status}")
        return answer.headers

    def _left(self, server: str, deadline: float) -> float:
        left = deadline - self._clock.monotonic()
        if left <= 0:
            raise RemoteUnreachable(server, "the file did not come in time")
        return left


def is_unknown_endpoint(refusal: RemoteRefused) -> bool:
    """Tell whether a server has refused because it has no such endpoint.

    Spec: "Unsupported endpoints". COMPAT: older servers answer 400, or 404 with a page that has no errcode.
    """
    if refusal.status == 405:
        return True
    errcodes = ("M_UNRECOGNIZED", "M_UNKNOWN") if refusal.status == 404 else ("M_UNRECOGNIZED",)
    return refusal.status in (400, 404) and refusal.errcode in errcodes


class _File:
    """Writes into a file up to a limit; begins anew with each answer."""

    def __init__(self, file: Any, server: str, max_bytes: int) -> None:
        self._file = file
        self._server = server
        self._max_bytes = max_bytes
        self.length = 0

    def begin(self, headers: Mapping[str, str]) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.length = 0

    def write(self, piece: bytes) -> None:
        self.length += len(piece)
        if self.length > self._max_bytes:
            raise AnswerTooLarge(self._server, "the file is too large")
        self._file.write(piece)


class _Parts:
    """Takes the file out of a multipart answer."""

    def __init__(self, target: _File) -> None:
        self._target = target
        self._parts: MediaParts | None = None

    def begin(self, headers: Mapping[str, str]) -> None:
        self._target.begin(headers)
        self._parts = MediaParts(boundary_of(headers.get("content-type", "")), self._target.write)

    def write(self, piece: bytes) -> None:
        if self._parts is not None:
            self._parts.feed(piece)

    def finish(self) -> Mapping[str, str]:
        """Return the headers of the file's part."""
        if self._parts is None or self._parts.headers is None:
            raise BadMultipart("the answer has no file")
        self._parts.finish()
        return self._parts.headers


def _shown(headers: Mapping[str, str], name: str) -> str | None:
    value = headers.get(name)
    return None if value is None or len(value) > MAX_HEADER_CHARACTERS else value


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return
