"""The command ends with a status that CI can go by, and its reports never look like a success that was none."""

from __future__ import annotations

import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import pytest_twisted

from sytest_scenarios.cli import NOTHING_JUDGED, _parser, main, run
from sytest_scenarios.story import WrongChoice, all_stories, select

from .played import WRONG, wrong_server


@pytest.mark.parametrize("name", WRONG)
@pytest_twisted.ensureDeferred
async def test_what_is_no_homeserver_is_not_judged(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junit, page = tmp_path / "junit.xml", tmp_path / "page.html"
    words = ["--patience", "0.3", "--junit", str(junit), "--html", str(page), "--processes", "1"]
    with wrong_server(WRONG[name]) as url:
        began = time.monotonic()
        with pytest.raises(SystemExit) as exit:
            await run(_parser().parse_args(["--url", url, *words]), select(all_stories(), areas=["messages"]))
        assert time.monotonic() - began < 10
    assert NOTHING_JUDGED == exit.value.code
    assert "expected a Matrix homeserver at http" in capsys.readouterr().err
    (suite,) = ElementTree.parse(junit).getroot()
    assert suite.get("tests") == suite.get("failures") != "0"
    assert "expected a Matrix homeserver" in page.read_text()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('name = "none"\ncommand = ["/no/such/program"]\nurl = "http://x"\nserver_name = "x"\n', "/no/such/program"),
        ('name = "ends"\ncommand = ["false"]\nurl = "http://${address}:${port}"\nserver_name = "x"\n', "ended with 1"),
        ('name = "odd"\ncommand = ["true"]\nurl = "http://${nowhere}"\nserver_name = "x"\n', "placeholder"),
        (
            'name = "deaf"\ncommand = ["sleep", "60"]\nurl = "http://${address}:${port}"\nserver_name = "x"\n'
            "start_timeout_s = 0.3\n",
            "does not answer within 0.3 s",
        ),
        ('name = "w"\ncommand = "sleep 60"\nurl = "u"\nserver_name = "x"\n', "command must be a list of texts"),
        (
            'name = "p"\ncommand = ["true"]\nurl = "u"\nserver_name = "x"\n[variables]\nport = 1\n',
            "variables must be a table of texts",
        ),
        ('extends = "start.toml"', "recursion"),
        ('name = "v"\nrequired = ["NO_SUCH_VAR"]\ncommand = ["true"]\nurl = "u"\nserver_name = "x"\n', "NO_SUCH_VAR"),
    ],
    ids=[
        "no program",
        "ends at once",
        "unknown placeholder",
        "does not answer",
        "no list",
        "no text",
        "extends itself",
        "variable not set",
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_does_not_start_is_told(
    content: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tmp_path / "start.toml"
    start.write_text(content)
    with pytest.raises(SystemExit) as exit:
        await run(_parser().parse_args(["--start", str(start)]), all_stories())
    assert NOTHING_JUDGED == exit.value.code
    assert sentence in capsys.readouterr().err


@pytest_twisted.ensureDeferred
async def test_reports_say_what_did_not_start(tmp_path: Path) -> None:
    start, junit = tmp_path / "start.toml", tmp_path / "junit.xml"
    start.write_text('name = "ends"\ncommand = ["false"]\nurl = "http://${address}:${port}"\nserver_name = "x"\n')
    with pytest.raises(SystemExit):
        words = ["--start", str(start), "--processes", "1", "--junit", str(junit)]
        await run(_parser().parse_args(words), select(all_stories(), areas=["spaces"]))
    assert {"tests", "failures"} <= set(ElementTree.parse(junit).getroot()[0].attrib)
    assert "ended with 1 instead of starting" in junit.read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-k", "no such words as these"], "no story is called so"),
        (["--area", "sync", "--area", "snyc"], "no area snyc; there are account_data, "),
        (["--tag", "smoek"], "no tag smoek; there are "),
        (["--stories", "no/such/folder"], "is no folder of stories"),
        (["--html", "no/such/folder/page.html"], "there is no folder for"),
    ],
)
def test_what_cannot_be_meant_is_told(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(words)
    assert NOTHING_JUDGED == exit.value.code
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--jobs", "--processes", "--repeat", "--scale", "--patience", "--time-factor"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_numbers_are_such_that_something_is_told(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        _parser().parse_args([f"{option}={value}"])
    assert NOTHING_JUDGED == exit.value.code
    assert option in capsys.readouterr().err


def test_an_area_of_ones_own_is_called_otherwise_than_those_of_the_suite(tmp_path: Path) -> None:
    (tmp_path / "messages").mkdir()
    (tmp_path / "messages" / "__init__.py").touch()
    with pytest.raises(WrongChoice, match="the suite itself has the area messages"):
        all_stories(str(tmp_path))


def test_stories_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--list", "--area", "messages"])
    assert "messages/reaching.message_reaches" in capsys.readouterr().out


def test_stories_of_ones_own_are_found(tmp_path: Path) -> None:
    (tmp_path / "garden.py").write_text(
        "from sytest_scenarios.story import story\n"
        '@story("Roses bloom", shows="a promise of ours")\n'
        "async def roses(scene): ...\n"
    )
    (found,) = select(all_stories(str(tmp_path)), areas=["garden"])
    assert "garden.roses" == found.name
