"""All stories, told to Sennit on SQLite."""

import pytest

from .as_tests import stories_as_tests

pytestmark = pytest.mark.slow

told_stories, test_story = stories_as_tests(start="sennit-sqlite")
