"""What ends a server when the process that has started it is gone, however it went: `kill -9` included.

A shell waits until its standard input ends, which is when nobody holds the other end any more, and then kills the
server and what that has started. It costs a megabyte, and works wherever there is a shell.
"""

from __future__ import annotations

import subprocess
from typing import Final

_COMMAND: Final = 'read line; kill -9 -"$1"'


class Guard:
    """Watches over one process that was started, the first of its group."""

    def __init__(self, pid: int) -> None:
        # In a session of its own: an interrupt at the terminal is not for it.
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _COMMAND, "sh", str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """End the watch: the process has ended, and its number may soon be another's."""
        self._shell.kill()
        self._shell.wait()
        assert self._shell.stdin is not None
        self._shell.stdin.close()
