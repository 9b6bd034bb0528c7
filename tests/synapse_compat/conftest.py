"""Fixtures of the tests of what is compatible with Synapse."""

from tests.support.accounts import make_server  # noqa: F401
