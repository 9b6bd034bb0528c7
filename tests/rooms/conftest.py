"""Fixtures of the tests of rooms."""

from tests.support.graph_check import sound_rooms  # noqa: F401
from tests.support.rooms import rooms  # noqa: F401
