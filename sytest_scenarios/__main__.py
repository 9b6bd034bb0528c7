"""`python -m sytest_scenarios`: the same as `sennit-scenarios`; or one of the processes that it starts."""

import sys

from .telling import TELLING
from .telling import main as tell

if __name__ == "__main__":
    if sys.argv[1:] == [TELLING]:
        tell()
    else:
        from .cli import main

        main()
