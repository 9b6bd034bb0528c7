"""The command ends with a status that CI can go by, and its reports never look like a success that was none."""

from __future__ import annotations

import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import pytest_twisted

from sytest_scenarios.cli import NOTHING_JUDGED, _parser, main, run
from sytest_scenarios.story import all_stories, select

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
        ('name = "v"\nrequired = ["NO_SUCH_VAR"]\ncommand = ["true"]\nurl = "u"\nserver_name = "x"\n', "NO_SUCH_VAR"),
    ],
    ids=["no program", "ends at once", "unknown placeholder", "does not answer", "variable not set"],
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
