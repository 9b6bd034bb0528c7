"""The log: one line a record."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from homeserver.errors import Misconfigured
from homeserver.runtime.log import LineFormatter, LogOptions, configure_logging


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Twisted's log belongs to the test runner here.
    monkeypatch.setattr("homeserver.runtime.log._take_over_twisted", lambda: None)
    root = logging.getLogger()
    level = root.level
    yield
    configure_logging(LogOptions(to_stderr=False))
    root.setLevel(level)


def test_a_record_is_one_line_whatever_is_in_it() -> None:
    out = StringIO()
    configure_logging(LogOptions(), stderr=out)
    try:
        raise ValueError("first\nsecond\x1b[31m\u2028third")
    except ValueError:
        logging.getLogger("test").exception("user %s", "a\r\nb")
    line = out.getvalue()
    assert line.count("\n") == 1
    assert "user a\\r\\nb" in line
    assert "\\x1b[31m\\u2028third" in line
    assert line.split(" ")[0].endswith("Z")


def test_a_reload_replaces_what_was_set(tmp_path: Path) -> None:
    first, second = StringIO(), StringIO()
    configure_logging(LogOptions(levels={"test.inner": "debug"}), stderr=first)
    logging.getLogger("test.inner").debug("seen")
    configure_logging(LogOptions(level="Warning", file=str(tmp_path / "log")), stderr=second)
    logging.getLogger("test.inner").info("unseen")
    logging.getLogger("test").warning("warned")
    assert "seen" in first.getvalue()
    assert "warned" not in first.getvalue()
    assert "unseen" not in second.getvalue()
    assert "warned" in (tmp_path / "log").read_text() and "warned" in second.getvalue()


@pytest.mark.parametrize(
    "options", [LogOptions(level="loud"), LogOptions(levels={"a": "x"}), LogOptions(file="/nonexistent/dir/log")]
)
def test_a_mistake_changes_nothing(options: LogOptions) -> None:
    out = StringIO()
    configure_logging(LogOptions(), stderr=out)
    with pytest.raises(Misconfigured):
        configure_logging(options)
    logging.getLogger("test").info("still here")
    assert "still here" in out.getvalue()


def test_times_are_utc() -> None:
    record = logging.LogRecord("n", logging.INFO, "", 0, "text", (), None)
    record.created, record.msecs = 0.0, 7
    assert LineFormatter().format(record) == "1970-01-01T00:00:00.007Z INFO n: text"
