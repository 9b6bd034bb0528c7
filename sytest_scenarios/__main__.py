"""`python -m sytest_scenarios`: the same as `sennit-scenarios`."""

from .cli import main

if __name__ == "__main__":
    main()
