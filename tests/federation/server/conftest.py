"""Fixtures of the tests of what other servers ask."""

from .answering import answering  # noqa: F401
