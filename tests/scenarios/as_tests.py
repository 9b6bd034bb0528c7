"""Stories as tests of pytest, told all at once by the first of them.

    # test_stories.py
    told_stories, test_story = stories_as_tests(start="sennit-sqlite")

makes a test of each story, with the story's name: `pytest -k message_reaches`. What is not selected is not told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from sytest_scenarios.http import Web
from sytest_scenarios.launching import Description
from sytest_scenarios.runner import Outcome, Result, Settings, tell_all
from sytest_scenarios.story import Story, all_stories
from sytest_scenarios.world import StartedWorld, UrlWorld, World


def stories_as_tests(
    *,
    start: str | Path = "sennit-sqlite",
    urls: Sequence[str] = (),
    admin_secret: str | None = None,
    stories: Sequence[Story] | None = None,
    settings: Settings | None = None,
) -> tuple[Any, Callable[..., None]]:
    """Return a fixture, to be called `told_stories`, and a test, to be called `test_story`."""

    @pytest_twisted.async_yield_fixture(scope="module")
    async def told_stories(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
        """How the selected stories of this module ended, by name."""
        chosen: list[Any] = [
            item.callspec.params["story"]
            for item in request.session.items
            if isinstance(item, pytest.Function) and item.module is request.module and hasattr(item, "callspec")
            if "story" in item.callspec.params
        ]
        if urls:
            world: World = UrlWorld(urls, web=Web(), admin_secret=admin_secret)
        else:
            world = StartedWorld(Description.read(start), tmp_path_factory.mktemp("scenarios"))
        try:
            await world.open()
            results = await tell_all(chosen, world, settings or Settings())
            yield {each.story.name: each for each in results}
        finally:
            await world.close()

    @pytest.mark.parametrize("story", all_stories() if stories is None else stories, ids=lambda story: story.name)
    def test_story(story: Story, told_stories: dict[str, Result]) -> None:
        """The story passes."""
        judge(told_stories[story.name])

    return told_stories, test_story


def judge(result: Result) -> None:
    """Pass, fail, skip or be expected to fail, as the story did."""
    if result.outcome in (Outcome.NOT_YET, Outcome.DIFFERS):
        pytest.xfail(f"{result.outcome.value}: {result.sentence}")
    if result.outcome is Outcome.SKIPPED:
        pytest.skip(result.sentence)
    if result.outcome in (Outcome.FAILED, Outcome.UNEXPECTED):
        course = "\n".join(str(getattr(each, "text", each)) for each in result.journal or ())
        pytest.fail(f"{result.sentence}\nat {result.where}\n{course}", pytrace=False)
