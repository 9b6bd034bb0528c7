"""Telling many stories at once, each within its time limit, each with users of its own.

    world = StartedWorld(Description.read("sennit-sqlite"), folder)    or UrlWorld([url], …)
    results = await tell_all(stories, world, Settings(jobs=8, seed="7"), on_result=print)

A story ends in one of the ways of `Outcome`, and never otherwise: what it raises becomes a sentence, and what does not
end is ended. It does not hinder another one, unless it needs servers of its own, which it then gets.

Where one story after the other fails, the server may have gone bad: it is asked whether it is a homeserver still, and
if it is not, or answers nothing to any story, the others are not told.
"""

from __future__ import annotations

import enum
import linecache
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from twisted.internet import defer
from twisted.internet.defer import Deferred

from .actors import Server
from .clock import REACTOR
from .expect import Failed, Refused, Skipped
from .hiding import hide
from .host import Host
from .http import NoAnswer, TooOften
from .journal import Exchange, Journal
from .launching import CannotStart
from .scene import Scene
from .story import Needs, Story
from .world import World

JOBS: Final = 8
# LIMIT: of all courses of a run together; of what fails after that, the beginnings of bodies are kept.
KEPT_BYTES: Final = 64 * 1024**2
# Only a server that wants few accounts a second takes that long: each answer is waited for a shorter time.
PREPARING_LIMIT_S: Final = 900.0
# So often it is looked whether a story still waits because the server wants fewer requests.
WAITING_LOOK_S: Final = 0.5
# What a story does in longer time than this may be seen otherwise: who does not read is cut off, who is still is idle.
LONGEST_HARMLESS_WAIT_S: Final = 5.0
TIGHT: Final = "the server's rate limits are too tight to tell it"
# So many failures in a row are a reason to look at the server.
SUSPICIOUS: Final = 5
# So many stories in a row that got no answer are enough; but never fewer than twice those told at once.
SILENT: Final = 10


class Outcome(enum.Enum):
    """How a story ended; the value is the word of the reports."""

    PASSED = "passed"
    FAILED = "failed"
    FLAKY = "flaky"
    """It failed, and passed when it was told again."""
    SKIPPED = "skipped"
    NOT_YET = "not yet"
    """It failed as expected: the feature is not there yet."""
    UNEXPECTED = "passed unexpectedly"
    """It passed though the feature is said not to be there yet, or the implementation to differ."""
    DIFFERS = "differs"
    """It failed where this implementation is known to differ."""
    NOT_TOLD = "not told"
    """The run ended before."""


@dataclass(frozen=True, slots=True)
class Result:
    """How one story ended."""

    story: Story
    outcome: Outcome
    sentence: str = ""
    """What was expected and what came; or the reason of the skip."""
    took_s: float = 0.0
    journal: Journal | None = None
    """Of a failure."""
    where: str = ""
    """The line of the story that failed."""
    unanswered: bool = False
    """It failed for want of any answer."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to tell them."""

    jobs: int = JOBS
    seed: str = ""
    flaky: int = 0
    """How often a story that failed is told again."""
    repeat: int = 1
    scale: float = 1.0
    time_factor: float = 1.0
    """Multiplies the time limits: for slow machines."""
    shuffle: bool = True


class Kept:
    """What is kept of the courses of stories that failed: all of the first, of the others less."""

    def __init__(self) -> None:
        self._bytes = 0

    def keep(self, result: Result) -> Result:
        """Count the journal of a result, after shortening it where there is much already; return the result."""
        if result.journal is not None:
            if self._bytes + result.journal.size > KEPT_BYTES:
                result.journal.shorten()
            self._bytes += result.journal.size
        return result


@dataclass(slots=True)
class _Telling:
    stories: deque[Story]
    world: World
    settings: Settings
    on_result: Callable[[Result], None]
    doubt: Doubt
    kept: Kept = field(default_factory=Kept)
    results: list[Result] = field(default_factory=list)


class Doubt:
    """Whether the server is one still, as the ends of the stories that were told to it let suppose."""

    def __init__(self, world: World, settings: Settings) -> None:
        self.end = ""
        """Why no more stories should be told; empty as long as they should."""
        self._world = world
        self._silent = max(SILENT, 2 * settings.jobs)
        self._failed = 0
        self._unanswered = 0

    async def heed(self, result: Result) -> None:
        """Take note of how a story ended, and look at the server if that is odd."""
        needs = result.story.needs
        if result.outcome is Outcome.SKIPPED or needs.own_servers or needs.servers > 1 or needs.setting:
            return  # it says nothing of the one that all others are told to
        if not result.unanswered and result.outcome is not Outcome.FAILED:
            self._failed = self._unanswered = 0
            return
        self._failed += 1
        self._unanswered = self._unanswered + 1 if result.unanswered else 0
        if self._failed % SUSPICIOUS == 0 and not self.end:
            await self._look()
        if self._unanswered >= self._silent and not self.end:
            self.end = f"{self._unanswered} stories in a row got no answer"

    async def _look(self) -> None:
        async with self._world.hosts_for(Needs()) as hosts:
            try:
                await hosts[0].look()
            except Failed as failure:
                log = hosts[0].process.log()[-1000:] if hosts[0].process else ""
                self.end = self.end or f"{failure}{f'; the end of its log: {log}' if log else ''}"


async def tell_all(
    stories: Sequence[Story], world: World, settings: Settings, on_result: Callable[[Result], None] = lambda _: None
) -> list[Result]:
    """Tell the stories and return how they ended, in the order of `stories`."""
    telling = _Telling(deque(in_order(stories, settings)), world, settings, on_result, Doubt(world, settings))
    workers = [Deferred.fromCoroutine(_work(telling)) for _ in range(max(1, settings.jobs))]
    await all_done(workers)
    for story in telling.stories:
        telling.results.append(Result(story, Outcome.NOT_TOLD, telling.doubt.end))
        on_result(telling.results[-1])
    return as_given(telling.results, stories)


async def all_done(doing: Sequence[Deferred[None]]) -> None:
    """Wait for all of these; what one of them raises is raised at once, as it is."""
    try:
        await defer.gatherResults(doing, consumeErrors=True)
    except defer.FirstError as error:
        error.subFailure.raiseException()


def in_order(stories: Sequence[Story], settings: Settings) -> list[Story]:
    """Return the stories in the order of telling, each as often as it is told."""
    order = list(stories) * settings.repeat
    if settings.shuffle:
        Random(settings.seed).shuffle(order)
    # Those for which servers have to be started come first, so that the run does not end with waiting for them.
    # Those of one setting come together, so that its server need not stay.
    order.sort(
        key=lambda story: (
            -(story.needs.servers + story.needs.own_servers + bool(story.needs.setting)),
            story.needs.setting or "",
        )
    )
    return order


def as_given(results: Sequence[Result], stories: Sequence[Story]) -> list[Result]:
    """Return the results in the order of their stories."""
    places = {id(story): place for place, story in enumerate(stories)}
    return sorted(results, key=lambda result: places[id(result.story)])


async def _work(telling: _Telling) -> None:
    while telling.stories and not telling.doubt.end:
        story = telling.stories.popleft()
        result = telling.kept.keep(await tell_again(story, telling.world, telling.settings))
        telling.results.append(result)
        telling.on_result(result)
        await telling.doubt.heed(result)


async def tell_again(story: Story, world: World, settings: Settings) -> Result:
    """Tell one story, and if it fails, again as often as is wanted."""
    result = await tell(story, world, settings)
    for _ in range(settings.flaky):
        if result.outcome is not Outcome.FAILED:
            break
        again = await tell(story, world, settings)
        if again.outcome is Outcome.PASSED:
            first = f"passed when told again; the first time it {result.sentence}"
            return Result(story, Outcome.FLAKY, first, result.took_s, result.journal, result.where)
    return result


async def tell(story: Story, world: World, settings: Settings) -> Result:
    """Tell one story."""
    began = time.monotonic()
    journal = Journal(time_factor=settings.time_factor)
    sentence, where, unanswered, started, waited_before_s = "", "", False, True, 0.0
    # What Sennit has not yet is no reason to judge others otherwise.
    not_yet = story.expected_to_fail if world.implementation == "sennit" else None
    try:
        async with world.hosts_for(story.needs) as hosts:
            started = hosts[0].process is not None
            for reason in [each for each in [await _missing(story, hosts)] if each]:
                raise Skipped(reason)
            scene = Scene(
                journal,
                [Server(host, journal) for host in hosts],
                Random(f"{settings.seed}:{story.name}"),
                settings.scale,
            )
            making = _make_users(story, scene)
            await _within(making, journal, PREPARING_LIMIT_S * settings.time_factor, "the accounts to be made")
            began, waited_before_s = time.monotonic(), journal.waited_s
            await _within(
                story.tell(scene),
                journal,
                story.time_limit_s * settings.time_factor * max(1.0, settings.scale),
                "the story to end",
            )
    except (Skipped, TooOften) as skip:
        if not not_yet:
            return Result(story, Outcome.SKIPPED, hide(_reason(skip)), time.monotonic() - began)
        sentence = _reason(skip)
    except Failed as failure:
        sentence, where = str(failure), _line_of(failure, story)
        unanswered = isinstance(failure, NoAnswer)
        if unanswered or (isinstance(failure, Refused) and failure.status >= 500):
            # What is not there yet is refused; it is no fault of the server.
            not_yet = None
    except CannotStart as failure:
        sentence = f"expected the server to start; got {failure}"
    except Exception as error:
        where = _line_of(error, story)
        sentence = _sentence(error, where, journal)
    took_s = time.monotonic() - began
    sentence, where = hide(sentence), hide(where)
    if not sentence:
        outdated = [f"{not_yet} is there"] if not_yet else []
        if world.implementation in story.unlike:
            outdated.append(f"said to differ ({story.unlike[world.implementation]}), and does not")
        outcome = Outcome.UNEXPECTED if outdated else Outcome.PASSED
        return Result(story, outcome, "; ".join(outdated), took_s)
    waited_s = journal.waited_s - waited_before_s
    if not started and (journal.limited or waited_s > LONGEST_HARMLESS_WAIT_S):
        how = "a request was refused for its rate" if journal.limited else f"it was held up for {waited_s:.0f} s"
        return Result(story, Outcome.SKIPPED, f"{TIGHT}: {how}, and then {sentence}", took_s)
    if not_yet:
        return Result(story, Outcome.NOT_YET, f"{not_yet}: {sentence}", took_s, journal, where, unanswered)
    if world.implementation in story.unlike:
        said = f"{story.unlike[world.implementation]}: {sentence}"
        return Result(story, Outcome.DIFFERS, said, took_s, journal, where, unanswered)
    return Result(story, Outcome.FAILED, sentence, took_s, journal, where, unanswered)


def _reason(skip: Skipped | TooOften) -> str:
    if isinstance(skip, TooOften):
        return f"{TIGHT}: {skip}"
    return str(skip)


async def _missing(story: Story, hosts: Sequence[Host]) -> str | None:
    """Return why the servers cannot tell the story."""
    needs = story.needs
    for host in hosts:
        if needs.admin_secret and not host.admin_secret:
            return "needs the shared secret of the server (--admin-secret)"
        if needs.database and needs.database != host.database:
            return f"needs a server on {needs.database} that the suite starts"
        for name in sorted(needs.features):
            reason = await host.missing(name)
            if reason:
                return reason
    return None


async def _within(doing: Awaitable[None], journal: Journal, limit_s: float, expected: str) -> None:
    telling = Deferred.fromCoroutine(_awaited(doing))
    waiting: Deferred[None] = Deferred()

    def end(result: object) -> None:
        if not waiting.called:
            waiting.callback(result)  # type: ignore[arg-type]

    telling.addBoth(end)
    stands: list[str] = []
    asked: list[Exchange] = []

    counted_s = journal.waited_s
    timer: Any = None

    def late() -> None:
        nonlocal counted_s, timer
        if journal.waiting:
            timer = REACTOR.callLater(WAITING_LOOK_S, late)
            return
        waited_s, counted_s = journal.waited_s - counted_s, journal.waited_s
        if waited_s > 0:
            # For other things than the server's own wish.
            timer = REACTOR.callLater(waited_s, late)
            return
        stands.append(journal.where())
        asked.extend(journal.under_way)
        telling.cancel()
        # A story that does not mind being cancelled is left behind.
        end(None)

    timer = REACTOR.callLater(limit_s, late)
    try:
        await waiting
    except Exception:
        if not stands:
            raise
    finally:
        if timer.active():
            timer.cancel()
    if stands:
        raise (NoAnswer if asked else Failed)(f"{expected} within {limit_s:g} s", stands[0])


async def _awaited(doing: Awaitable[None]) -> None:
    await doing


async def _make_users(story: Story, scene: Scene) -> None:
    for number in range(story.needs.users):
        await scene.new_user(story.needs.names[number] if story.needs.names else None)


def _line_of(error: BaseException, story: Story) -> str:
    """Return where in the story it happened: file, number and line."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.endswith(f"{story.tell.__module__.rpartition('.')[2]}.py"):
            line = linecache.getline(frame.filename, frame.lineno or 0).strip()
            return f"{story.name.rpartition('.')[0]}.py, line {frame.lineno}: {line}"
    return ""


def _sentence(error: Exception, where: str, journal: Journal) -> str:
    """Return a sentence for what is no `Failed`: mostly an answer that has not the form that the story reads."""
    what = f"{type(error).__name__}: {str(error)[:400]}"
    if isinstance(error, AttributeError) and type(error.obj).__module__.startswith(__package__ or ""):
        return f"expected the story to be written well; got {what}"
    if isinstance(error, LookupError | TypeError | AttributeError | ValueError):
        last = next((each for each in reversed(list(journal)) if isinstance(each, Exchange)), None)
        came = f"{what}; the last answer: {last} {last.answered[:400]}" if last else what
        return f"expected an answer of the form that the story reads; got {came}"
    if isinstance(error, AssertionError):
        return f"expected {where.partition(': ')[2] or 'what the story asserts'}; got {what}"
    return f"expected the story to go on; got {what}"
