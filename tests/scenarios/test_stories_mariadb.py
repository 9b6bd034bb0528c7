"""Stories, told to Sennit on MariaDB: those of restarts, and one in four of the others; the rest is deep."""

from __future__ import annotations

import pytest

from sytest_scenarios.story import all_stories

from .as_tests import one_in, stories_as_tests

pytestmark = [pytest.mark.slow, pytest.mark.mariadb]


def _where(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return where the private server of the test run is."""
    return {"MARIADB_HOST": "127.0.0.1", "MARIADB_PORT": str(request.getfixturevalue("mariadb").port)}


told_stories, test_story = stories_as_tests(
    start="sennit-mariadb",
    stories=one_in(4, all_stories(), always=lambda story: story.area == "restarts"),
    environment=_where,
)
