"""The stories of the client-server API, told to Synapse.

What Sennit passes and Synapse does not is either the word of the specification, which the story then cites (`unlike`),
or a fault of the story. A mark that has become untrue fails, too. Federation with Synapse is in `tests/interop`.
"""

from __future__ import annotations

import os

import pytest

from sytest_scenarios.story import Story, all_stories
from tests.oracle.synapse_process import synapse_python

from .as_tests import stories_as_tests

pytestmark = pytest.mark.slow


def _needs_one_server(story: Story) -> bool:
    return story.needs.servers == 1 and not story.needs.own_servers and story.needs.setting is None


def _where(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return where Synapse is; skip if there is none."""
    python = synapse_python()
    if not python.exists():
        reason = f"no Synapse to tell stories to: {python} is missing (tools/make_synapse_venv.sh)"
        if os.environ.get("SENNIT_TESTS_NEED_ALL"):
            raise RuntimeError(reason)
        pytest.skip(reason)
    return {"SYNAPSE_PYTHON": str(python)}


told_stories, test_story = stories_as_tests(
    start="synapse",
    stories=list(filter(_needs_one_server, all_stories())),
    environment=_where,
)
