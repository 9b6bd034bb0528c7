"""Why there is no connection (any more), and what is to be done about it: docs/stream.md, "Closing"."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Any, Final

from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from twisted.python.failure import Failure

RESTARTING: Final = 1001
TOO_LARGE: Final = 1009
SOFT_LOGOUT: Final = 4402
_FATAL_CODES: Final = frozenset({4400, 4401, 4403})
_LATER: Final = frozenset({408, 425, 429})
_ERRCODE: Final = re.compile(r"(?:M|[A-Z]+(?:\.[A-Z0-9_]+)+)_?[A-Z0-9_.]*\b")


class Remedy(enum.Enum):
    """What to do after a loss."""

    RETRY = enum.auto()
    RESTARTED = enum.auto()
    """Connect again; so will all others."""
    REFRESH = enum.auto()
    """Connect again with another token."""
    END = enum.auto()


@dataclass(frozen=True, slots=True)
class Loss:
    """A connection was lost, or not made. `code` is that of the close; `status` that of an HTTP answer in its place."""

    text: str
    code: int | None = None
    status: int | None = None
    errcode: str | None = None
    retry_after_ms: int | None = None
    is_distrust: bool = False
    """Whether we do not believe the server's certificate."""

    @classmethod
    def of_failure(cls, reason: Failure) -> Loss:
        """Return the loss that the transport tells of."""
        if reason.check(VerificationError, CertificateError):
            return cls("The server's certificate is not believed: it is for another name", is_distrust=True)
        if reason.check(SSL.Error) and "certificate verify failed" in str(reason.value):
            text = "The server's certificate is not believed: no known authority has signed it, or it is out of date"
            return cls(text, is_distrust=True)
        return cls(reason.getErrorMessage())

    @classmethod
    def of_close(cls, code: int | None, reason: str | None) -> Loss:
        """Return the loss that a close frame tells of: its reason begins with an errcode, where there is one."""
        reason = reason or ""
        errcode = _ERRCODE.match(reason)
        if errcode is None:
            return cls(reason, code=code)
        return cls(reason[errcode.end() :].removeprefix(":").strip(), code=code, errcode=errcode.group())

    @classmethod
    def of_close_message(cls, told: dict[str, Any]) -> Loss:
        """Return the loss that the last of the lines tells of."""
        code, errcode, error = told.get("code"), told.get("errcode"), told.get("error")
        return cls(
            error if isinstance(error, str) else "",
            code=code if isinstance(code, int) else None,
            errcode=errcode if isinstance(errcode, str) else None,
        )

    @property
    def is_too_large(self) -> bool:
        """Whether the server found a message of ours too large."""
        return self.code == TOO_LARGE

    def remedy(self, *, was_ever_open: bool) -> Remedy:
        """Return what helps. What has worked once is given the benefit of the doubt."""
        if self.code == RESTARTING:
            return Remedy.RESTARTED
        if self.code == SOFT_LOGOUT:
            return Remedy.REFRESH
        if self.code in _FATAL_CODES:
            return Remedy.END
        if self.is_distrust:
            return Remedy.RETRY if was_ever_open else Remedy.END
        # A Matrix server that says no means it; any other HTTP server in between may just be badly awake.
        if self.status is not None and 400 <= self.status < 500 and self.status not in _LATER:
            return Remedy.RETRY if was_ever_open and self.errcode is None else Remedy.END
        return Remedy.RETRY

    def __str__(self) -> str:
        number = f"code {self.code}" if self.code is not None else f"HTTP {self.status}" if self.status else ""
        said = ": ".join(part for part in (self.errcode, self.text) if part)
        return ", ".join(part for part in (number, said) if part) or "the connection was lost"
