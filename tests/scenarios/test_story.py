"""What stories are written as, and how they are chosen."""

from __future__ import annotations

from collections import Counter

import pytest

from sytest_scenarios.features import FEATURES
from sytest_scenarios.launching import SERVERS, CannotStart, Description
from sytest_scenarios.story import FEDERATION, STREAM, Needs, Story, all_stories, select, users

STORIES = all_stories()


def test_needs_are_added() -> None:
    assert Needs(users=2, servers=2, features=frozenset({"stream"})) == users(2) + FEDERATION + STREAM


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_story_says_what_it_is(story: Story) -> None:
    assert story.title and story.shows and story.area
    assert story.needs.features <= set(FEATURES)
    assert 0 < story.time_limit_s <= 300


def test_titles_and_names_are_unique() -> None:
    for of in (lambda each: each.title, lambda each: each.name):
        assert [] == [name for name, number in Counter(map(of, STORIES)).items() if number > 1]


def test_stories_are_chosen_by_words_area_and_tag() -> None:
    assert ["messages/reaching.message_reaches"] == [
        each.name for each in select(STORIES, words="ALICE'S bob", areas=["messages"], tags=[]) if "reach" in each.name
    ][:1]
    assert {"sync"} == {each.area for each in select(STORIES, areas=["sync"])}
    assert all("smoke" in each.tags for each in select(STORIES, tags=["smoke"]))
    assert [] == select(STORIES, words="no such words at all")


@pytest.mark.parametrize("path", sorted(SERVERS.glob("*.toml")), ids=lambda path: path.stem)
def test_included_start_file_can_be_read(path: object) -> None:
    assert Description.read(str(path)).command


@pytest.mark.parametrize(
    "content", ["name = ", 'name = "x"', 'name = "x"\ncommand = []\nurl = "u"\nserver_name = "s"\nodd = 1']
)
def test_wrong_start_file_is_told(content: str, tmp_path: object) -> None:
    path = f"{tmp_path}/wrong.toml"
    with open(path, "w") as file:
        file.write(content)
    with pytest.raises(CannotStart, match=r"wrong\.toml"):
        Description.read(path)
