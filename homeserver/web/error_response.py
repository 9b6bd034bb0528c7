"""The only place where an error becomes an HTTP answer.

| error | status | errcode | log |
|---|---|---|---|
| `MatrixError` | its own | its own | info, one line |
| `RemoteError` | 502 | `M_UNKNOWN` | info, one line; its text stays here |
| `InternalFault` that is temporary | 503 with `Retry-After` | `M_UNKNOWN` | error, with traceback |
| any other | 500 | `M_UNKNOWN` | error, with traceback |

A temporary fault is 503 and not 500 because clients may then try again by themselves, and proxies know what it means.

Spec: client-server API, "Standard error response".
"""

from __future__ import annotations

import logging
from typing import Final

from homeserver.errors import InternalFault, MatrixError, RemoteError
from homeserver.web.response import Response, json_response

logger = logging.getLogger(__name__)

_TEMPORARY_RETRY_S: Final = "2"


def error_response(error: BaseException, what: str = "") -> Response:
    """Return the answer for `error` and log it; `what` says in the log which request it was."""
    if isinstance(error, MatrixError):
        if logger.isEnabledFor(logging.INFO):
            logger.info(
                "%s: %d %s: %s%s",
                what,
                error.status,
                error.errcode,
                error.message,
                f" ({error.detail})" if error.detail else "",
            )
        return json_response(error.body(), error.status, error.headers())
    if isinstance(error, RemoteError):
        logger.info("%s: 502: %s", what, error)
        return json_response({"errcode": "M_UNKNOWN", "error": "Another server could not be reached"}, 502)
    logger.error("%s failed", what, exc_info=error)
    if isinstance(error, InternalFault) and error.temporary:
        return json_response(
            {"errcode": "M_UNKNOWN", "error": "The server is not available at the moment"},
            503,
            {"Retry-After": _TEMPORARY_RETRY_S},
        )
    return json_response({"errcode": "M_UNKNOWN", "error": "Internal server error"}, 500)
