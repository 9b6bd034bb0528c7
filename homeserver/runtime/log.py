"""Logging for the programs that run a homeserver: standard library logging, one line a record.

An embedding application sets up logging as it likes and never calls this.  The command line calls `configure_logging`
at the start and again to reload; the second call replaces what the first one set up.  Line breaks and other control
characters in messages are written as escapes, since part of them comes from other people; so are those of tracebacks.
Twisted's own log goes to the logger `twisted`, from warnings up.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from logging.handlers import WatchedFileHandler
from typing import Final, TextIO

from twisted.logger import STDLibLogObserver, globalLogBeginner

from homeserver.errors import Misconfigured

LEVELS: Final = ("debug", "info", "warning", "error", "critical")

_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Where the log goes and how much of it: `levels` is by logger name, over `level` for all."""

    level: str = "info"
    file: str | None = None
    to_stderr: bool = True
    levels: Mapping[str, str] = field(default_factory=dict)


class LineFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO homeserver.rooms.door: text`, in UTC, always one line."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if _CONTROL.search(line) is not None:
            line = _CONTROL.sub(_escape, line)
        return line


def configure_logging(options: LogOptions, *, stderr: TextIO | None = None) -> None:
    """Send the log where `options` says, in place of where it went before.

    Raises `Misconfigured`, and changes nothing, when a level is unknown or the file cannot be written.
    """
    levels = {name: _level(text) for name, text in options.levels.items()}
    root_level = _level(options.level)
    handlers: list[logging.Handler] = []
    if options.to_stderr:
        handlers.append(_StderrHandler(sys.stderr if stderr is None else stderr))
    if options.file is not None:
        try:
            # Opens the file anew when a log rotator has moved it away.
            handlers.append(_FileHandler(options.file, encoding="utf-8"))
        except OSError as fault:
            raise Misconfigured(f"the log file {options.file!r} cannot be written: {fault.strerror}") from fault
    root = logging.getLogger()
    for old in tuple(root.handlers):
        if isinstance(old, _StderrHandler | _FileHandler):
            root.removeHandler(old)
            old.close()
    for handler in handlers:
        handler.setFormatter(LineFormatter())
        root.addHandler(handler)
    root.setLevel(root_level)
    _set_levels(levels)
    _take_over_twisted()


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Ours, so that a reload removes only what we put there."""


class _FileHandler(WatchedFileHandler):
    """Likewise."""


_levels_set: set[str] = set()
_has_taken_over_twisted: list[bool] = []


def _set_levels(levels: Mapping[str, int]) -> None:
    for name in _levels_set - levels.keys():
        logging.getLogger(name).setLevel(logging.NOTSET)
    _levels_set.clear()
    _levels_set.update(levels)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    if "twisted" not in levels:
        logging.getLogger("twisted").setLevel(logging.WARNING)


def _take_over_twisted() -> None:
    # Twisted's log can be begun only once a process; a second call would warn.
    if not _has_taken_over_twisted:
        _has_taken_over_twisted.append(True)
        globalLogBeginner.beginLoggingTo([STDLibLogObserver("twisted")], redirectStandardIO=False)


def _level(text: str) -> int:
    if text.lower() not in LEVELS:
        raise Misconfigured(f"unknown log level {text!r}: use one of {', '.join(LEVELS)}")
    return logging.getLevelNamesMapping()[text.upper()]


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
