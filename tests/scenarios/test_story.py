"""What stories are written as, and how they are chosen."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from sytest_scenarios.authority import Authority
from sytest_scenarios.expect import Skipped
from sytest_scenarios.features import FEATURES
from sytest_scenarios.http import Web
from sytest_scenarios.launching import SERVERS, CannotStart, Description, Process
from sytest_scenarios.story import FEDERATION, STREAM, Needs, Story, all_stories, select, setting, users

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


def test_a_file_that_extends_another_has_its_keys_and_joins_its_tables(tmp_path: Path) -> None:
    (tmp_path / "below.toml").write_text(
        'name = "Below"\ncommand = ["run"]\nurl = "u"\nserver_name = "s"\n[variables]\none = "1"\ntwo = "2"\n'
    )
    above = tmp_path / "above.toml"
    above.write_text('extends = "below.toml"\nname = "Above"\n[variables]\ntwo = "two"\n')
    found = Description.read(above)
    assert (found.name, found.command, found.variables) == ("Above", ["run"], {"one": "1", "two": "two"})


def test_a_setting_replaces_variables_and_an_unknown_one_is_a_reason_to_skip() -> None:
    found = Description(
        "Mine", ["run"], "u", "s", variables={"rate": "100", "scheme": "http"}, settings={"slow": {"rate": "1"}}
    )
    assert found.set_to(None) is found
    assert found.set_to("slow").variables == {"rate": "1", "scheme": "http"}
    with pytest.raises(Skipped, match="Mine cannot be set to 'quick'"):
        found.set_to("quick")


def test_only_variables_in_capitals_come_from_the_environment_and_are_no_templates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD", "a$b{c}")
    monkeypatch.setenv("rate", "7")
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "M"\ncommand = ["run"]\nurl = "http://${address}"\nserver_name = "${login}"\n'
        '[variables]\nPASSWORD = ""\nrate = "1"\nlogin = "${PASSWORD}/${rate}"\n'
    )
    process = Process(Description.read(path), tmp_path, Authority(tmp_path / "authority"), 1, Web())
    assert process.server_name == "a$b{c}/1"


def test_no_server_satisfies_needs_that_contradict_each_other() -> None:
    assert (setting("slow") + users(2)).setting == "slow"
    with pytest.raises(ValueError, match="either 'slow' or 'quick'"):
        setting("slow") + setting("quick")
