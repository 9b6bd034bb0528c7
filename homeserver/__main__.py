"""`python -m homeserver` is the command `sennit`."""

from __future__ import annotations

import sys

from homeserver.cli import main

if __name__ == "__main__":
    sys.exit(main())
