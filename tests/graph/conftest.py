"""Fixtures of the tests of stored graphs."""

from tests.support.rooms import rooms  # noqa: F401
