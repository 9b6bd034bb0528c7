"""What is done about a loss follows docs/stream.md, "Closing"."""

from __future__ import annotations

import pytest

from homeserver.streamclient.loss import Loss, Remedy


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (None, Remedy.RETRY),
        (1000, Remedy.RETRY),
        (1001, Remedy.RESTARTED),
        (1002, Remedy.RETRY),
        (1011, Remedy.RETRY),
        (4400, Remedy.END),
        (4401, Remedy.END),
        (4402, Remedy.REFRESH),
        (4403, Remedy.END),
        (4408, Remedy.RETRY),
        (4429, Remedy.RETRY),
    ],
)
def test_codes(code: int | None, remedy: Remedy) -> None:
    assert remedy is Loss("", code=code).remedy(was_ever_open=True)


@pytest.mark.parametrize(
    ("status", "errcode", "was_ever_open", "remedy"),
    [
        (404, "M_UNRECOGNIZED", True, Remedy.END),
        (404, None, False, Remedy.END),
        (404, None, True, Remedy.RETRY),
        (429, "M_LIMIT_EXCEEDED", False, Remedy.RETRY),
        (502, None, False, Remedy.RETRY),
        (200, None, False, Remedy.RETRY),
    ],
)
def test_answers_of_http(status: int, errcode: str | None, was_ever_open: bool, remedy: Remedy) -> None:
    assert remedy is Loss("", status=status, errcode=errcode).remedy(was_ever_open=was_ever_open)


@pytest.mark.parametrize(
    ("reason", "errcode"),
    [
        ("M_UNKNOWN_TOKEN: Logged out", "M_UNKNOWN_TOKEN"),
        ("M_LIMIT_EXCEEDED", "M_LIMIT_EXCEEDED"),
        ("ORG.EXAMPLE.ODD: What", "ORG.EXAMPLE.ODD"),
        ("Matrix says no", None),
        ("", None),
        (None, None),
    ],
)
def test_reason_begins_with_an_errcode(reason: str | None, errcode: str | None) -> None:
    loss = Loss.of_close(4401, reason)
    assert errcode == loss.errcode
    # It is told apart from the rest, and once.
    assert (reason or "").removeprefix(errcode or "").removeprefix(": ") == loss.text
    assert ", ".join(part for part in ("code 4401", reason) if part) == str(loss)
