"""A process that tells stories for another one (`python -m sytest_scenarios --telling`, as `processes` starts it).

What is said on its standard input and output are pickled tuples, each behind its length:

    it hears                              it says
    open, WorldOrder, Settings            opened, title of the world
                                          failed, expected, came          if there is no homeserver
                                          cannot start, text              if it does not start
    tell, number, name of the story       told, number, the fields of the Result but the story
                                          ends, reason                    when it tells no more

When its input ends it stops its servers, at once if stories are being told, and ends: thus it does not outlive the one
that has started it.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from .expect import Failed
from .http import Web
from .launching import CannotStart, Description
from .runner import Doubt, Result, Settings, tell_again
from .story import Story, all_stories
from .world import StartedWorld, UrlWorld, World

TELLING: Final = "--telling"
LARGEST_MESSAGE_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class WorldOrder:
    """Which world a process is to make, and which stories it is to know."""

    folder: Path
    start: str = "sennit-sqlite"
    urls: Sequence[str] = ()
    patience_s: float | None = None
    ca_file: str | None = None
    admin_secret: str | None = None
    registration_token: str | None = None
    implementation: str = ""
    stories: Sequence[str] = ()
    """Folders."""

    def make(self) -> World:
        """Make the world; CannotStart if the start file is wrong, OSError if a file is not there."""
        if not self.urls:
            return StartedWorld(Description.read(self.start), self.folder, patience_s=self.patience_s)
        more = {} if self.patience_s is None else {"patience_s": self.patience_s}
        return UrlWorld(
            self.urls,
            web=Web(ca_file=self.ca_file, **more),
            admin_secret=self.admin_secret,
            registration_token=self.registration_token,
            implementation=self.implementation,
        )


# Neither is annotated.
_Messages: Any = Int32StringReceiver
_StandardIO: Any = StandardIO


class _Teller(_Messages):  # type: ignore[misc]
    """This process, as the other one sees it."""

    MAX_LENGTH = LARGEST_MESSAGE_BYTES

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()
        self._world: World | None = None
        self._doubt: Doubt | None = None
        self._settings = Settings()
        self._stories: dict[str, Story] = {}
        self._under_way = 0

    def stringReceived(self, string: bytes) -> None:
        """Do what is asked."""
        kind, *said = pickle.loads(string)
        doing = self._open(*said) if kind == "open" else self._tell(*said)
        Deferred.fromCoroutine(doing).addErrback(self._break_off)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Leave nothing behind, and end."""
        Deferred.fromCoroutine(self._close()).addErrback(self._break_off)

    async def _open(self, order: WorldOrder, settings: Settings) -> None:
        self._settings = settings
        self._stories = {each.name: each for each in all_stories(*order.stories)}
        try:
            order.folder.mkdir(parents=True, exist_ok=True)
            self._world = order.make()
            await self._world.open()
            self._doubt = Doubt(self._world, settings)
        except Failed as failure:
            self._say("failed", failure.expected, failure.came)
        except (CannotStart, OSError) as error:
            self._say("cannot start", str(error))
        else:
            self._say("opened", self._world.title)

    async def _tell(self, number: int, name: str) -> None:
        assert self._world is not None
        self._under_way += 1
        result = await tell_again(self._stories[name], self._world, self._settings)
        self._under_way -= 1
        told = {each.name: getattr(result, each.name) for each in fields(Result) if each.name != "story"}
        self._say("told", number, told)
        assert self._doubt is not None
        await self._doubt.heed(result)
        if self._doubt.end:
            self._say("ends", self._doubt.end)

    async def _close(self) -> None:
        if self._world is not None:
            if self._under_way:
                self._world.kill_all()
            try:
                await self._world.close()
            except CannotStart as error:
                print(f"sennit-scenarios: {error}", file=sys.stderr)
        if not self.ended.called:
            self.ended.callback(None)

    def _say(self, *message: object) -> None:
        if self.connected:
            self.sendString(pickle.dumps(message))

    def _break_off(self, failure: Failure) -> None:
        """End after a fault of the suite itself: the other process tells it of the stories."""
        failure.printTraceback(sys.stderr)
        if not self.ended.called:
            self.ended.errback(SystemExit(70))


def main() -> None:
    """Tell stories until the input ends."""
    # An interrupt is for the process that has started this one, which then tells it.
    os.setsid()
    output = os.dup(1)
    # What a story prints is no message.
    os.dup2(2, 1)
    teller = _Teller()
    _StandardIO(teller, stdin=0, stdout=output)
    react(lambda _: teller.ended, ())
