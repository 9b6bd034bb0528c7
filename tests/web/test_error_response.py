"""Errors as answers."""

from __future__ import annotations

import logging

import orjson
import pytest

from homeserver.errors import (
    BrokenInvariant,
    HomeserverError,
    LimitExceeded,
    NotAllowed,
    RemoteError,
    StorageUnavailable,
    UnknownToken,
)
from homeserver.web.error_response import error_response


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (NotAllowed("no", detail="secret"), 403, {"errcode": "M_FORBIDDEN", "error": "no"}),
        (
            UnknownToken("old", soft_logout=True),
            401,
            {"errcode": "M_UNKNOWN_TOKEN", "error": "old", "soft_logout": True},
        ),
        (
            RemoteError("secret.example", "no", temporary=True),
            502,
            {"errcode": "M_UNKNOWN", "error": "Another server could not be reached"},
        ),
        (
            StorageUnavailable("secret"),
            503,
            {"errcode": "M_UNKNOWN", "error": "The server is not available at the moment"},
        ),
        (BrokenInvariant("secret"), 500, {"errcode": "M_UNKNOWN", "error": "Internal server error"}),
        (HomeserverError("secret"), 500, {"errcode": "M_UNKNOWN", "error": "Internal server error"}),
        (KeyError("secret"), 500, {"errcode": "M_UNKNOWN", "error": "Internal server error"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_tells_what_may_be_told_and_logs_the_rest(
    error: Exception, status: int, body: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        answer = error_response(error, "GET /x")
    assert (status, body) == (answer.status, orjson.loads(answer.body))
    assert "GET /x" in caplog.text
    assert ("secret" in str(error) + str(getattr(error, "detail", ""))) == ("secret" in caplog.text)


def test_only_our_own_faults_are_logged_with_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        error_response(NotAllowed("no"))
        error_response(KeyError("x"))
    assert [False, True] == [record.exc_info is not None for record in caplog.records]


def test_a_limit_says_when_to_come_back() -> None:
    answer = error_response(LimitExceeded(1500))
    assert (429, "2") == (answer.status, answer.headers["Retry-After"])
    assert orjson.loads(answer.body)["retry_after_ms"] == 1500
