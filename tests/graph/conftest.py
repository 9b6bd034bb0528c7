"""Fixtures of the tests of stored graphs."""

from tests.storage.core import database  # noqa: F401
from tests.support.rooms import rooms  # noqa: F401
