"""Run by the interpreter of the environment with Synapse: Synapse's homeserver, which ends when its input does.

So that it never outlives the tests, however they end.
"""

import os
import sys
import threading

from synapse.app.homeserver import main


def _follow() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_follow, daemon=True).start()
    sys.exit(main())
