"""Several processes tell stories as one does; one that dies takes only its own with it, and nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import pytest_twisted
from twisted.internet.error import ProcessTerminated
from twisted.python.failure import Failure

from sytest_scenarios.processes import _Process
from sytest_scenarios.story import all_stories

TOLD = """
@story("Number {number} is told", shows="a promise of ours", tags=["quick"])
async def told{number}(scene):
    print("said by a story")
    await sleep(0.02)
"""
STORIES = f"""
import os, signal, sys
from sytest_scenarios.asking import sleep
from sytest_scenarios.expect import check_equal
from sytest_scenarios.story import story
{"".join(TOLD.format(number=number) for number in range(10))}
@story("Alice fails", shows="a promise of ours", tags=["bad"])
async def fails(scene):
    scene.step("Alice does something")
    check_equal(1, 2, "the number")

@story("Bob kills who tells of him", shows="a promise of ours", tags=["deadly"])
async def deadly(scene):
    os.kill(os.getpid(), signal.SIGKILL)

@story("Carol goes on and on", shows="a promise of ours", tags=["endless"])
async def endless(scene):
    print("Carol has begun", file=sys.stderr, flush=True)
    await sleep(1000)
"""
SERVER = """
import http.server, os, sys

class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"versions": ["v1.11"], "server": {}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

open(sys.argv[3], "a").write(f"{os.getpid()}\\n")
http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Answers).serve_forever()
"""
START = """
name = "A server that knows its versions"
command = ["${python}", "-S", "${folder}/server.py", "${address}", "${port}", "PIDS"]
url = "http://${address}:${port}"
server_name = "x"

[files]
"server.py" = '''SERVER'''
"""


BEHIND_A_SCRIPT = START.replace("command = [", """command = ["sh", "-c", '"$$@" & wait', "sh", """)


class Run:
    """The command, in a folder with stories and a start file."""

    def __init__(self, folder: Path) -> None:
        self.pids = folder / "pids"
        (folder / "stories" / "play").mkdir(parents=True)
        (folder / "stories" / "play" / "__init__.py").touch()
        (folder / "stories" / "play" / "acts.py").write_text(STORIES)
        self.start = folder / "start.toml"
        self.start.write_text(self.start_file(START))
        self.stories = folder / "stories"

    def start_file(self, form: str) -> str:
        return form.replace("PIDS", str(self.pids)).replace("SERVER", SERVER)

    def begin(self, *words: str, stderr: int = subprocess.STDOUT) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "sytest_scenarios", "--start", str(self.start), "--stories", str(self.stories)]
        return subprocess.Popen(
            [*command, "--area", "play", *words],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    def finish(self, *words: str) -> tuple[int, str]:
        with self.begin(*words) as running:
            said, _ = running.communicate(timeout=60)
            return running.returncode, said

    def left(self) -> list[int]:
        """Return which of the servers run still."""
        return [int(each) for each in self.pids.read_text().split() if _runs(int(each))]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.mark.parametrize("processes", [1, 3])
def test_several_tell_what_one_tells(run: Run, processes: int) -> None:
    status, said = run.finish("--processes", str(processes), "--tag", "quick", "--tap", "-", "--repeat", "2")
    assert 0 == status, said
    assert "20 stories: 20 passed" in said
    assert 20 == sum(line.startswith("ok ") for line in said.splitlines())
    assert processes == len(run.pids.read_text().split())
    assert [] == run.left()


def test_a_failure_is_told_with_its_course(run: Run) -> None:
    status, said = run.finish("--processes", "2", "-v", "--tag", "bad", "--repeat", "2")
    assert 1 == status
    assert 2 == said.count("expected the number to be 1; got 2\n  at play/acts.py, line")
    assert 2 == said.count("    Alice does something\n")


def test_a_process_that_dies_takes_only_its_stories_with_it(run: Run) -> None:
    status, said = run.finish("--processes", "2", "--jobs", "1", "--tag", "quick", "--tag", "deadly")
    assert 1 == status
    assert "expected the process that tells the story to go on; got its end by signal 9" in said
    assert "11 stories: 10 passed, 1 failed" in said


def test_what_nobody_is_left_for_is_not_told(run: Run) -> None:
    status, said = run.finish("--processes", "2", "--jobs", "1", "--tag", "deadly", "--repeat", "5")
    assert 1 == status
    assert "5 stories: 2 failed, 3 not told" in said
    assert "Ended early: a process that told stories ended by signal 9" in said


def test_servers_of_a_process_that_was_killed_end(run: Run) -> None:
    run.finish("--processes", "2", "--tag", "deadly", "--repeat", "4")
    assert _soon(lambda: not run.left())


def test_a_report_on_the_standard_output_has_it_for_itself(run: Run) -> None:
    with run.begin(
        "--processes", "2", "--tag", "quick", "--repeat", "2", "--junit", "-", stderr=subprocess.PIPE
    ) as running:
        report, said = running.communicate(timeout=60)
    assert "20" == ElementTree.fromstring(report.encode())[0].get("tests")
    assert "20 stories: 20 passed" in said


def test_a_server_behind_a_script_is_stopped_with_it(run: Run) -> None:
    run.start.write_text(run.start_file(BEHIND_A_SCRIPT))
    status, said = run.finish("--tag", "quick")
    assert 0 == status, said
    assert run.pids.read_text() and _soon(lambda: not run.left())


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_server_behind_a_script_does_not_outlive_a_run_that_is_killed(run: Run, processes: str) -> None:
    run.start.write_text(run.start_file(BEHIND_A_SCRIPT))
    with run.begin("--processes", processes, "--tag", "endless", "--repeat", "4") as running:
        assert running.stdout is not None
        while "Carol has begun" not in (line := running.stdout.readline()):
            assert line
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate(timeout=20)
    assert _soon(lambda: not run.left())


@pytest_twisted.ensureDeferred
async def test_a_story_for_a_process_whose_input_is_closed_fails_with_its_end() -> None:
    class Closed:
        def writeToChild(self, number: int, data: bytes) -> None:
            raise KeyError(number)

    process = _Process(1)
    process.transport = Closed()  # type: ignore[assignment]
    told = process.tell(all_stories()[0])
    process.processEnded(Failure(ProcessTerminated(None, signal.SIGKILL)))
    assert "got its end by signal 9" in (await told).sentence


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)], ids=["interrupted", "killed"]
)
def test_nothing_is_left_of_a_run(run: Run, sent: int, status: int, processes: str) -> None:
    with run.begin("--processes", processes, "--tag", "endless", "--repeat", "4") as running:
        assert running.stdout is not None
        said = ""
        while "Carol has begun" not in said:
            line = running.stdout.readline()
            assert line, said
            said += line
        began = time.monotonic()
        os.killpg(running.pid, sent)
        running.communicate(timeout=20)
        assert time.monotonic() - began < 10
    assert status == running.returncode
    assert _soon(lambda: not run.left())
