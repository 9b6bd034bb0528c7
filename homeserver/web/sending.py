"""Sending a file through a Twisted request, a piece at a time, as fast as the client reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IPullProducer
from twisted.web.http import Request as TwistedRequest
from zope.interface import implementer

from homeserver.web.request import WebRequest
from homeserver.web.response import FileResponse

_PIECE_BYTES: Final = 1 << 16


@implementer(IPullProducer)
class FileSender:
    """Writes the file of `answer` to `request`, closes it, and calls `finished()`.

    A file that turns out shorter than announced ends the connection, so that the client notices.
    """

    def __init__(self, request: TwistedRequest, answer: FileResponse, finished: Callable[[], object]) -> None:
        self._request = request
        self._file = answer.file
        self._left = answer.length
        self._finished = finished

    def start(self) -> None:
        """Begin; the head has been set or written."""
        if self._left == 0:
            self._file.close()
            self._finished()
            return
        self._request.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Write the next piece."""
        if self._file.closed:
            return
        piece = self._file.read(min(_PIECE_BYTES, self._left))
        if not piece:
            self._file.close()
            self._request.unregisterProducer()
            self._request.loseConnection()
            return
        self._left -= len(piece)
        self._request.write(piece)
        if self._left == 0:
            self._file.close()
            self._request.unregisterProducer()
            self._finished()

    def stopProducing(self) -> None:
        """Close the file: the client is gone."""
        self._file.close()


def finish_quietly(request: TwistedRequest, web: WebRequest) -> None:
    """Finish `request` unless its client is gone."""
    web.finished = True
    if not web.disconnected:
        request.finish()
