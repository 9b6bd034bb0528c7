"""All stories, told to Sennit on SQLite."""

import pytest

from sytest_scenarios.pytest_plugin import stories_as_tests

pytestmark = pytest.mark.slow

told_stories, test_story = stories_as_tests(start="sennit-sqlite")
