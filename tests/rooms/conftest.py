"""Fixtures of the tests of rooms."""

from tests.support.rooms import rooms  # noqa: F401
