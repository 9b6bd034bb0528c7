"""Fixtures of the tests of accounts."""

from tests.support.accounts import make_server  # noqa: F401
from tests.support.rooms import rooms  # noqa: F401
from tests.support.user_state import world  # noqa: F401
