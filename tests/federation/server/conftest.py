"""Fixtures of the tests of what other servers ask."""

from tests.support.rooms import rooms  # noqa: F401

from .answering import answering  # noqa: F401
