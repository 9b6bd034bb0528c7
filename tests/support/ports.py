"""Ports to listen on later, which nobody else gets meanwhile.

They are below those that the system gives to whoever asks for any, and to outgoing connections. Each process of a run
begins at another place and goes on from there.
"""

from __future__ import annotations

import os
import socket
from contextlib import closing
from itertools import count
from typing import Final

_FIRST: Final = 10_000
_COUNT: Final = 22_000
_numbers: Final = count(os.getpid() * 997)


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on at that address."""
    for _ in range(_COUNT):
        port = _FIRST + next(_numbers) % _COUNT
        with closing(socket.socket()) as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
        return port
    raise AssertionError(f"no port of {address} is free")
