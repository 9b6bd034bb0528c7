"""The global reactor, for those who are not given one. Everything else takes its reactor as an argument."""

from __future__ import annotations

from typing import Any


def global_reactor() -> Any:
    """Return the process's reactor, installing the default one if none is."""
    from twisted.internet import reactor

    return reactor
