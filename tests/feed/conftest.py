"""Fixtures of the tests of the feed."""

from tests.support.rooms import rooms  # noqa: F401
from tests.support.user_state import world  # noqa: F401
