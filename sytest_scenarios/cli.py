"""The command `sennit-scenarios`.

Exit status: 0 if no story failed; 1 if one did (with `--strict`, also if one passed unexpectedly); 2 if there was
nothing to judge: wrong arguments, a server that does not start or is no homeserver; 130 if it was interrupted.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import secrets
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from .clock import REACTOR
from .expect import Failed
from .hiding import hide
from .http import PATIENCE_S
from .launching import SERVERS, CannotStart
from .processes import ManyProcesses, OneProcess, Teller
from .reports import Report, plain
from .reports.html import write_html
from .reports.junit import write_junit
from .reports.tap import write_tap
from .reports.terminal import Terminal
from .runner import JOBS, Outcome, Result, Settings
from .story import Story, WrongChoice, all_stories, select
from .telling import WorldOrder

NOTHING_JUDGED: Final = 2
INTERRUPTED: Final = 130
SECRET_VARIABLE: Final = "SCENARIOS_ADMIN_SECRET"
DEFAULT_START: Final = "sennit-sqlite"
# Unless it is said otherwise: each takes some 60 MiB, and servers of its own.
MOST_PROCESSES: Final = 3
FEWEST_STORIES: Final = 10


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    for out in (sys.stdout, sys.stderr):
        if isinstance(out, io.TextIOWrapper):
            out.reconfigure(errors="replace")
    try:
        stories = _chosen(arguments)
    except WrongChoice as error:
        _complain(error)
        sys.exit(NOTHING_JUDGED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    if arguments.list:
        _list(stories)
        return
    ended: list[int] = []

    async def until_its_end() -> None:
        try:
            await run(arguments, stories)
        except BaseException:
            ended.append(1)
            raise

    try:
        react(lambda _: Deferred.fromCoroutine(until_its_end()), ())
    finally:
        if not ended:
            # Twisted takes an interrupt for a good end.
            sys.exit(INTERRUPTED)


def _chosen(arguments: argparse.Namespace) -> list[Story]:
    """Return the stories that are wanted; WrongChoice if the arguments cannot be meant so."""
    for path in (arguments.tap, arguments.junit, arguments.html):
        if path and not Path(path).absolute().parent.is_dir():
            raise WrongChoice(f"there is no folder for {path}")
    stories = all_stories(*map(os.path.abspath, arguments.stories))
    known = {"area": {each.area for each in stories}, "tag": {tag for each in stories for tag in each.tags}}
    for kind, names in known.items():
        unknown = set(getattr(arguments, kind)) - names
        if unknown:
            raise WrongChoice(f"no {kind} {', '.join(sorted(unknown))}; there are {', '.join(sorted(names))}")
    found = select(stories, words=arguments.k or "", areas=arguments.area, tags=arguments.tag)
    if not found:
        raise WrongChoice("no story is called so; --list tells them all")
    return found


async def run(arguments: argparse.Namespace, stories: list[Story]) -> None:
    """Tell the stories as the arguments say, write the reports, and exit."""
    folder = Path(tempfile.mkdtemp(prefix="scenarios-"))
    teller: Teller | None = None
    status = NOTHING_JUDGED
    try:
        seed = arguments.seed or secrets.token_hex(4)
        teller = _teller(arguments, folder, seed, len(stories))
        giving_up = _give_up(teller, None if arguments.keep else folder)
        trigger = REACTOR.addSystemEventTrigger("before", "shutdown", Deferred.fromCoroutine, giving_up)
        status = await _judge(arguments, stories, teller, seed)
        REACTOR.removeSystemEventTrigger(trigger)
        giving_up.close()
    except (CannotStart, OSError) as error:
        _complain(error)
    finally:
        if teller is not None:
            try:
                await teller.close()
            except CannotStart as error:
                _complain(error)
        if arguments.keep:
            print(f"The folders of the servers: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    raise SystemExit(status)


async def _give_up(teller: Teller, folder: Path | None) -> None:
    """Leave nothing behind when the run is interrupted."""
    with suppress(CannotStart):
        await teller.give_up()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


async def _judge(arguments: argparse.Namespace, stories: list[Story], teller: Teller, seed: str) -> int:
    began, began_at = time.monotonic(), time.time()

    def report_of(results: Sequence[Result]) -> Report:
        return Report(teller.title, seed, results, time.monotonic() - began, began_at, _command(arguments))

    try:
        await teller.open()
    except (Failed, CannotStart) as failure:
        # The reports say so too: whoever reads them alone must not take it for a success.
        results = [Result(story, Outcome.FAILED, hide(str(failure))) for story in stories]
        _complain(failure)
        _write(arguments, report_of(results))
        return NOTHING_JUDGED
    # A report on the standard output has it for itself.
    out = sys.stderr if "-" in (arguments.tap, arguments.junit, arguments.html) else sys.stdout
    terminal = Terminal(out, len(stories) * arguments.repeat, verbose=arguments.verbose)
    terminal.begin(teller.title, seed)
    trigger = REACTOR.addSystemEventTrigger("before", "shutdown", terminal.interrupted)
    results = await teller.tell_all(stories, terminal.result)
    REACTOR.removeSystemEventTrigger(trigger)
    report = report_of(results)
    terminal.end(report)
    _write(arguments, report)
    bad = {Outcome.FAILED, Outcome.NOT_TOLD} | ({Outcome.UNEXPECTED} if arguments.strict else set())
    return int(any(each.outcome in bad for each in results))


def _complain(fault: Exception) -> None:
    print(f"sennit-scenarios: {plain(hide(str(fault)))}", file=sys.stderr)


def _teller(arguments: argparse.Namespace, folder: Path, seed: str, count: int) -> Teller:
    settings = Settings(
        jobs=arguments.jobs,
        seed=seed,
        flaky=arguments.flaky,
        repeat=arguments.repeat,
        scale=arguments.scale,
        time_factor=arguments.time_factor,
    )
    order = WorldOrder(
        folder,
        start=arguments.start,
        urls=arguments.url or (),
        patience_s=arguments.patience,
        ca_file=arguments.ca_file,
        admin_secret=arguments.admin_secret,
        registration_token=arguments.registration_token,
        implementation=arguments.implementation,
        stories=[os.path.abspath(each) for each in arguments.stories],
    )
    processes = arguments.processes or _processes(arguments, count * arguments.repeat)
    return ManyProcesses(processes, order, settings) if processes > 1 else OneProcess(order.make(), settings)


def _command(arguments: argparse.Namespace) -> str:
    """Return the command with what decides how a story is told; secrets are for the reader to fill in."""
    said = [f"--url {shlex.quote(each)}" for each in arguments.url or ()]
    if not arguments.url and arguments.start != DEFAULT_START:
        said.append(f"--start {shlex.quote(arguments.start)}")
    for name in ("admin_secret", "registration_token"):
        if getattr(arguments, name):
            said.append(f"--{name.replace('_', '-')} …")
    for name in ("ca_file", "implementation"):
        if getattr(arguments, name):
            said.append(f"--{name.replace('_', '-')} {shlex.quote(getattr(arguments, name))}")
    said += [f"--stories {shlex.quote(each)}" for each in arguments.stories]
    said += [f"--scale {arguments.scale:g}"] if arguments.scale != 1 else []
    return " ".join(["sennit-scenarios", *said])


def _processes(arguments: argparse.Namespace, count: int) -> int:
    """Return how many processes do best: a server that is started takes a core beside them."""
    # Where there is no affinity, all cores are ours.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    best = cores if arguments.url else cores // 2
    return max(1, min(best, MOST_PROCESSES, count // FEWEST_STORIES))


def _write(arguments: argparse.Namespace, report: Report) -> None:
    for path, write in ((arguments.tap, write_tap), (arguments.junit, write_junit), (arguments.html, write_html)):
        if path == "-":
            write(report, sys.stdout)
        elif path:
            with open(path, "w", encoding="utf-8", errors="replace") as file:
                write(report, file)


def _list(stories: Sequence[Story]) -> None:
    for each in stories:
        tags = f" [{', '.join(sorted(each.tags))}]" if each.tags else ""
        later = f" (expected to fail: {each.expected_to_fail})" if each.expected_to_fail else ""
        print(f"{each.name}{tags}\n    {each.title}{later}\n    shows {each.shows}")
    print(f"{len(stories)} stories")


def _above(kind: type[int] | type[float], least: int) -> Callable[[str], float]:
    """Return what reads a finite number above another one."""

    def number(text: str) -> float:
        value = kind(text)
        if not least < value < math.inf:
            raise ValueError
        return value

    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sennit-scenarios",
        description="Tell stories to a Matrix homeserver and judge what it makes of them. "
        "Without --url, a homeserver is started for it: Sennit on SQLite.",
    )
    add: Any = parser.add_argument
    included = ", ".join(sorted(each.stem for each in SERVERS.glob("*.toml")))
    add("--url", action="append", help="a homeserver that runs; several times: servers in federation with each other")
    add(
        "--admin-secret",
        default=os.environ.get(SECRET_VARIABLE),
        help=f"its shared secret for making accounts (else registration must be open); or in ${SECRET_VARIABLE}",
    )
    add("--registration-token", help="a token that it wants for making accounts")
    add("--implementation", default="", help="which one it is, if it does not say so itself")
    add("--ca-file", help="a PEM file of the authority that signed its certificate")
    add("--start", default=DEFAULT_START, help=f"how to start one: a TOML file, or one of {included}")
    add("--stories", action="append", default=[], metavar="FOLDER", help="a folder with more stories, of your own")
    add("-k", metavar="WORDS", help="only stories with all these words in name or title")
    add("--area", action="append", default=[], help="only stories of this area; may be said several times")
    add("--tag", action="append", default=[], help="only stories with this tag; may be said several times")
    add("--list", action="store_true", help="tell which stories there are, and end")
    add("--jobs", type=_above(int, 0), default=JOBS, help="stories told at once by each process (%(default)s)")
    add("--processes", type=_above(int, 0), help="processes that tell stories (as many as do best on this machine)")
    add("--seed", help="repeats the order and the choices of another run")
    add("--flaky", type=_above(int, -1), default=0, metavar="N", help="tell a story that failed up to N times more")
    add("--repeat", type=_above(int, 0), default=1, metavar="N", help="tell every story N times")
    add(
        "--scale",
        type=_above(float, 0),
        default=1.0,
        help="multiplies the numbers of users and messages where there are many",
    )
    add("--patience", type=_above(float, 0), default=PATIENCE_S, help="seconds to wait for one answer (%(default)s)")
    add(
        "--time-factor",
        type=_above(float, 0),
        default=1.0,
        help="multiplies the time limits of the stories, for slow machines",
    )
    add("--strict", action="store_true", help="passing unexpectedly is a failure, too")
    add("--tap", metavar="FILE", help="write TAP; - is the standard output")
    add("--junit", metavar="FILE", help="write JUnit XML")
    add("--html", metavar="FILE", help="write a page with steps, requests and answers of what failed")
    add("--keep", action="store_true", help="keep the folders of the servers that were started")
    add("-v", "--verbose", action="store_true", help="tell steps and requests of failures on the terminal too")
    return parser
