"""`sennit chat`: from the command line to a session, and from there to one of the user interfaces.

The reactor is Twisted's on top of asyncio, because prompt_toolkit lives on asyncio: one loop for both. The command runs
it, so it can be called once in a process.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.main import installReactor
from twisted.logger import Logger, STDLibLogObserver, globalLogBeginner

from homeserver.config import Config
from homeserver.first_run import client_address
from homeserver.runtime.clock import RealClock

from . import text
from .http import ChatError, Http, normal_url
from .login import check_registration, check_server, log_in, log_out, register
from .saved import SavedSession, SavedSessions
from .session import Session

DEFAULT_URL: Final = "http://127.0.0.1:8008"
# After a long time it is quicker to begin anew than to hear all that was said; the screen loads what one looks at.
STALE_MS: Final = 12 * 3_600_000
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_log = Logger()


def run(options: argparse.Namespace, find_config: Callable[[], Config]) -> int:
    """Chat; return 0, or 1 after what has gone wrong was told."""
    _start_logging(options.log)
    try:
        url = normal_url(options.url or client_address(find_config()) or DEFAULT_URL)
        store = SavedSessions.default(os.environ)
        saved = store.find(url, options.user)
        if options.forget and not saved:
            raise ChatError(f"No session on {url} is remembered.")
        is_known = bool(saved) and not options.register
        if not is_known and not sys.stdin.isatty():
            _check_answers(options)
        if not options.plain and not options.forget and not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise ChatError("This is no terminal. Use --plain.")
        # A terminal that can move no cursor.
        options.plain = options.plain or os.environ.get("TERM", "dumb") == "dumb"
    except ChatError as error:
        return _tell(str(error))
    reactor = _reactor()
    outcome: list[str] = []

    async def whole() -> None:
        try:
            http = Http(url, reactor, ca_file=options.ca_file)
            if options.forget:
                await _forget(http, store, saved[0])
                return
            session = await _session(http, store, saved[0] if is_known else None, options, reactor)
            outcome.append(await _chat(session, options, reactor))
        except ChatError as error:
            outcome.append(str(error))
        except (EOFError, KeyboardInterrupt):
            outcome.append("There was no answer.")
        except Exception as error:  # the boundary of the command
            _log.failure("the chat failed")
            outcome.append(f"This is a fault of the chat itself: {text.one_line(repr(error), 200)}")
        finally:
            try:
                reactor.stop()
            except ReactorNotRunning:
                pass

    # Not `callWhenRunning`: that is before asyncio's loop runs.
    reactor.callLater(0, lambda: Deferred.fromCoroutine(whole()))
    reactor.run(installSignalHandlers=False)
    return _tell(outcome[0]) if outcome and outcome[0] else 0


async def _chat(session: Session, options: argparse.Namespace, reactor: Any) -> str:
    """Show the chat until it is left; return what went wrong, if anything."""
    view: Any
    if options.plain:
        from .plain import Plain

        view = Plain(session, reactor, sys.stdout, first_room=options.room)
    else:
        from .screen import Screen

        view = Screen(session, reactor, first_room=options.room)
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, view.quit)
    try:
        farewell: str = await view.run()
        return farewell
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def _session(
    http: Http, store: SavedSessions, saved: SavedSession | None, options: argparse.Namespace, reactor: Any
) -> Session:
    """Return the session that is remembered, else a new one."""
    if saved is None:
        await check_server(http)
        saved = await _new_session(http, options)
        try:
            store.save(saved)
        except OSError as error:
            _tell(f"The session cannot be remembered: {error.strerror} ({error.filename}).")
    elif not options.plain and RealClock(reactor).now_ms() - saved.saved_ms > STALE_MS:
        saved.snapshot = {}
    http.access_token = saved.access_token
    # Scripts come and go: nobody is there.
    presence = "offline" if options.plain and not sys.stdin.isatty() else None
    return Session(saved, store, http, reactor, presence=presence)


async def _new_session(http: Http, options: argparse.Namespace) -> SavedSession:
    """Ask for what is not on the command line, and log in. It blocks while it asks: nothing else runs yet."""
    if sys.stdin.isatty():
        print(f"{'A new account' if options.register else 'Log in'} on {http.url}")
    user = options.user or _ask("User name: ")
    if options.register:
        await check_registration(http, user)
    password = _password(user, options)
    if options.register:
        return await register(http, user, password, lambda: _ask("Registration token: "))
    return await log_in(http, user, password)


async def _forget(http: Http, store: SavedSessions, saved: SavedSession) -> None:
    http.access_token = saved.access_token
    store.forget(saved)
    try:
        await log_out(http)
    except ChatError as error:
        raise ChatError(f"The session is forgotten here, but the server was not told: {error}") from error
    print(f"{text.one_line(saved.user_id, 255)} is logged out.")


def _check_answers(options: argparse.Namespace) -> None:
    """Raise ChatError where something would have to be asked."""
    if options.user is None:
        raise ChatError("There is no terminal to ask on. Use --user NAME.")
    if options.password_from is None:
        raise ChatError("A password is asked for on a terminal only. Use --password-from FILE.")


def _password(user: str, options: argparse.Namespace) -> str:
    if options.password_from is not None:
        return _first_line(options.password_from)
    password = getpass.getpass(f"Password of {text.one_line(user, 255)}: ")
    if options.register and getpass.getpass("Once more: ") != password:
        raise ChatError("The two passwords differ; no account was made.")
    return password


def _ask(question: str) -> str:
    if not sys.stdin.isatty():
        raise ChatError(f"There is no terminal to ask on: {question.rstrip(': ')}?")
    answer = input(question).strip()
    if not answer:
        raise ChatError("There was no answer.")
    return answer


def _first_line(source: str) -> str:
    """Return the first line of a file; `-` is standard input, of which no more than that is read."""
    try:
        if source == "-":
            line = bytearray()
            while len(line) < 4096 and (character := os.read(0, 1)) not in (b"", b"\n"):
                line += character
        else:
            with open(source, "rb") as file:
                line = bytearray(file.readline(4096))
        password = bytes(line).decode().rstrip("\r\n")
    except OSError as error:
        raise ChatError(f"{source} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ChatError(f"{source} is no text.") from error
    if not password:
        raise ChatError(f"There is no password in {source}.")
    return password


def _reactor() -> Any:
    """Return a reactor on a loop of asyncio, which is the global one from now on."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    reactor = AsyncioSelectorReactor(loop)
    installReactor(reactor)
    return reactor


def _start_logging(file: str | None) -> None:
    """Write logs to a file, or nowhere: the terminal is not for them."""
    handler: logging.Handler = logging.FileHandler(file) if file is not None else logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if file is not None else logging.CRITICAL, handlers=[handler], force=True)
    globalLogBeginner.beginLoggingTo([STDLibLogObserver()], redirectStandardIO=False, discardBuffer=True)


def _tell(sentence: str) -> int:
    print(f"sennit: {sentence}", file=sys.stderr, flush=True)
    return 1
