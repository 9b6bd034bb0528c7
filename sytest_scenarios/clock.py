"""The reactor of the run: the one that Twisted installs, or that pytest-twisted has installed."""

from typing import Any, Final

from twisted.internet import reactor as _reactor

# Twisted's annotations take it for a module.
REACTOR: Final[Any] = _reactor
