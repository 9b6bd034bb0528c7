"""All stories, told to Sennit on MariaDB."""

from __future__ import annotations

import pytest

from .as_tests import stories_as_tests

pytestmark = [pytest.mark.slow, pytest.mark.mariadb]


def _where(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return where the private server of the test run is."""
    return {"MARIADB_HOST": "127.0.0.1", "MARIADB_PORT": str(request.getfixturevalue("mariadb").port)}


told_stories, test_story = stories_as_tests(start="sennit-mariadb", environment=_where)
