"""Stories as tests of pytest, told all at once by the first of them.

    # test_stories.py
    told_stories, test_story = stories_as_tests(start="sennit-sqlite")

makes a test of each story, with the story's name: `pytest -k message_reaches`. What is not selected is not told.
"""

from __future__ import annotations

import faulthandler
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_twisted

from sytest_scenarios.http import Web
from sytest_scenarios.launching import Description
from sytest_scenarios.runner import Outcome, Result, Settings, tell_all
from sytest_scenarios.story import Story, all_stories
from sytest_scenarios.world import StartedWorld, UrlWorld, World

# Other tests keep the machine busy meanwhile; what passes the second time only is told in a warning.
ORDINARY: Final = Settings(time_factor=3, flaky=1)


def stories_as_tests(
    *,
    start: str | Path = "sennit-sqlite",
    urls: Sequence[str] = (),
    admin_secret: str | None = None,
    stories: Sequence[Story] | None = None,
    settings: Settings = ORDINARY,
    environment: Callable[[pytest.FixtureRequest], Mapping[str, str]] = lambda request: {},
) -> tuple[Any, Callable[..., None]]:
    """Return a fixture, to be called `told_stories`, and a test, to be called `test_story`.

    `environment` gives variables for the start file.
    """

    @pytest_twisted.async_yield_fixture(scope="module")
    async def told_stories(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
        """How the selected stories of this module ended, by name."""
        chosen: list[Any] = [
            item.callspec.params["story"]
            for item in request.session.items
            if isinstance(item, pytest.Function) and item.module is request.module and hasattr(item, "callspec")
            if "story" in item.callspec.params
        ]
        # All at once take longer than one test may.
        faulthandler.cancel_dump_traceback_later()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment(request).items():
                patch.setenv(name, value)
            if urls:
                world: World = UrlWorld(urls, web=Web(), admin_secret=admin_secret)
            else:
                world = StartedWorld(Description.read(start), tmp_path_factory.mktemp("scenarios"))
            try:
                await world.open()
                results = await tell_all(chosen, world, settings)
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
    if result.outcome is Outcome.FLAKY:
        warnings.warn(f"{result.story.name} {result.sentence}", stacklevel=1)
    if result.outcome in (Outcome.FAILED, Outcome.UNEXPECTED, Outcome.NOT_TOLD):
        course = "\n".join(str(getattr(each, "text", each)) for each in result.journal or ())
        pytest.fail(f"{result.outcome.value}: {result.sentence}\nat {result.where}\n{course}", pytrace=False)
