"""How many files and sockets the process may have open.

Systems start a process with a soft limit of 1024 or so, for the sake of programs that use select(2), and let it raise
that up to the hard limit. Each connection takes one, so a server has to.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

if sys.platform != "win32":
    import resource

logger = logging.getLogger(__name__)

# For databases, logs, media that are being served, other servers, and clients that open no stream.
OTHER_FILES: Final = 1024


def raise_open_files(max_connections: int) -> int | None:
    """Raise the limit as far as it goes and return it, or None where it is not known; says so if that is too little.

    `max_connections` is how many streams the configuration allows.
    """
    if sys.platform == "win32":
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            # macOS says that there is no hard limit, and has one.
            pass
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    needed = max_connections + OTHER_FILES
    if soft < needed:
        # No warning: few servers ever have as many connections as they allow.
        logger.info(
            "This process may have %d files and sockets open, but max_sessions under [stream] allows %d connections:"
            " let it have %d (LimitNOFILE= in a systemd unit, `ulimit -Hn` in a shell), or set max_sessions to %d",
            soft,
            max_connections,
            needed,
            max(1, soft - OTHER_FILES),
        )
    return soft
