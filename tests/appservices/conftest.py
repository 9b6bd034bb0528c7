"""Fixtures of the tests of application services."""

from tests.support.appservice import bridged  # noqa: F401
