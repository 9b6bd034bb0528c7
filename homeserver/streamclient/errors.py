"""What goes wrong, as the program sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class StreamError(Exception):
    """The server refused a request. `body` is all that it said, as the endpoint over HTTP would."""

    def __init__(self, errcode: str, message: str, body: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{errcode}: {message}" if message else errcode)
        self.errcode = errcode
        self.message = message
        self.body: Mapping[str, Any] = {} if body is None else body

    @classmethod
    def from_body(cls, body: Any, fallback: str = "") -> StreamError:
        """Return the error that the body of an answer tells of, whatever it is."""
        if not isinstance(body, dict):
            body = {}
        errcode, message = body.get("errcode"), body.get("error")
        return cls(
            errcode if isinstance(errcode, str) else "M_UNKNOWN",
            message if isinstance(message, str) else fallback,
            body,
        )

    @property
    def retry_after_ms(self) -> int | None:
        """How long to wait before the same is tried again, where the server said so."""
        value = self.body.get("retry_after_ms")
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


class StreamEnded(StreamError):
    """The stream is over for good: the client will not connect again. `code` is that of the close, if there was one.

    Codes: docs/stream.md, "Closing".
    """

    def __init__(self, errcode: str, message: str, *, code: int | None = None) -> None:
        super().__init__(errcode, message)
        self.code = code
