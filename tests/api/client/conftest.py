"""Fixtures of the tests of accounts."""

from tests.support.accounts import make_server  # noqa: F401
