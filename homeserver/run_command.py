"""Running a server from the command line: `sennit run`, and a short-lived one for work on accounts.

This is the one module that picks the global reactor, besides the service for `twistd` and the chat.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from homeserver.explaining import tell

if TYPE_CHECKING:
    from homeserver.admin_socket import AccountCommands
    from homeserver.app import Homeserver
    from homeserver.config import Config

FIRST_ADMIN = "admin"

# A stop waits for open writes; a server that hangs in it is ended all the same.
STOP_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)

Work = Callable[["AccountCommands"], Coroutine[Any, Any, int]]


def run(load: Callable[[], Config], *, program: str, debug: bool) -> int:
    """Run the server until it is told to stop; `load` reads its configuration, `program` is what to type for ours."""
    from twisted.internet.defer import Deferred, TimeoutError

    from homeserver.app import Homeserver
    from homeserver.extensions import default_extensions
    from homeserver.runtime.clock import RealClock
    from homeserver.runtime.garbage import GarbageCollection
    from homeserver.runtime.open_files import raise_open_files

    config = load()
    _start_logging(config)
    reactor = global_reactor()
    homeserver = Homeserver(config, reactor=reactor, extensions=default_extensions())
    garbage = GarbageCollection(RealClock(reactor))
    outcome = _Outcome(debug)
    is_started: list[bool] = []
    is_stopping: list[bool] = []

    async def start() -> None:
        try:
            await homeserver.start()
            if is_stopping:
                return
            is_started.append(True)
            raise_open_files(config.stream.max_sessions)
            garbage.start()
            _write_pid(config)
            await _first_account(homeserver, config, program)
            print(_ready_text(config), flush=True)
        except Exception as error:
            # A start that is broken off by a signal has not failed.
            if not is_stopping:
                outcome.failed(error)
                _stop_reactor(reactor)

    async def stop() -> None:
        is_stopping.append(True)
        garbage.stop()
        try:
            await Deferred.fromCoroutine(homeserver.stop()).addTimeout(STOP_TIMEOUT_S, reactor)
        except TimeoutError:
            print(f"sennit: was not done after {STOP_TIMEOUT_S:g} s and is ended", file=sys.stderr)
            outcome.code = outcome.code or 1
        except Exception as error:
            if is_started:
                outcome.failed(error)
        finally:
            _remove_pid(config)

    def reload(*_: object) -> None:
        reactor.callFromThread(lambda: _reload(homeserver, config, load, debug=debug))

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(start()))
    # The reactor's own handlers of SIGINT and SIGTERM stop it, and it waits for this.
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(stop()))
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, reload)
    reactor.run()
    if outcome.code and any(not thread.daemon for thread in threading.enumerate()[1:]):
        # Threads that a failed start or stop has left behind would keep the process for ever.
        sys.stdout.flush()
        os._exit(outcome.code)
    return outcome.code


def with_accounts(config: Config, work: Work, *, debug: bool) -> int:
    """Run `work` with the accounts of the running server, else of one that is started for it and listens nowhere."""
    from homeserver.admin_socket import RemoteAccounts

    remote = RemoteAccounts(config.server.data_dir)
    if not remote.is_there():
        outcome = _with_homeserver(config, work, debug=debug)
        # It may have started a moment ago.
        if not outcome.is_in_use or not remote.is_there():
            return outcome.tell()
    # The methods of `remote` block, so the coroutine ends at its first step.
    try:
        work(remote).send(None)
    except StopIteration as end:
        return int(end.value)
    raise AssertionError("unreachable")


def _with_homeserver(config: Config, work: Work, *, debug: bool) -> _Outcome:
    from twisted.internet.defer import Deferred

    from homeserver.app import Homeserver

    reactor = global_reactor()
    outcome = _Outcome(debug)
    # Stays so when a signal ends the work halfway.
    outcome.code = 1

    async def whole() -> None:
        homeserver = Homeserver(config, reactor=reactor)
        try:
            try:
                await homeserver.start(listen=False)
                outcome.code = await work(homeserver.accounts)
            finally:
                await homeserver.stop()
        except Exception as error:
            outcome.error = error
        finally:
            _stop_reactor(reactor)

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(whole()))
    reactor.run()
    return outcome


def global_reactor() -> Any:
    """Return the global reactor; `Any`, because Twisted types it as a module."""
    from twisted.internet import reactor

    return reactor


class _Outcome:
    """The exit code of what runs inside the reactor."""

    def __init__(self, debug: bool) -> None:
        self.code = 0
        self.error: Exception | None = None
        self._debug = debug

    def failed(self, error: Exception) -> None:
        self.code = tell(error, debug=self._debug)

    @property
    def is_in_use(self) -> bool:
        """Whether another server has the database."""
        from homeserver.errors import DatabaseInUse

        return isinstance(self.error, DatabaseInUse)

    def tell(self) -> int:
        """Print what went wrong, if anything, and return the exit code."""
        if self.error is not None:
            self.failed(self.error)
        return self.code


def _stop_reactor(reactor: Any) -> None:
    from twisted.internet.error import ReactorNotRunning

    try:
        reactor.stop()
    except ReactorNotRunning:
        # A signal has stopped it already.
        pass


def _start_logging(config: Config) -> None:
    from homeserver.runtime.log import LogOptions, configure_logging

    if config.log.dict_config is not None:
        import logging.config

        from homeserver.errors import Misconfigured

        try:
            logging.config.dictConfig(config.log.dict_config)
        except (ValueError, TypeError, AttributeError, ImportError) as error:
            raise Misconfigured(f"The settings for logging cannot be used: {error.__cause__ or error}.") from error
        return
    file = config.log.file
    configure_logging(
        LogOptions(config.log.level, str(file) if file is not None else None, file is None, config.log.levels)
    )


def _reload(homeserver: Homeserver, started_with: Config, load: Callable[[], Config], *, debug: bool) -> None:
    """Read certificates and logging again; the server keeps running, whatever is wrong with the new ones."""
    from homeserver.config import changed_keys

    try:
        config = load()
        _start_logging(config)
        homeserver.reload()
        waiting = changed_keys(started_with, config)
        logger.info("Certificates and logging were read again")
        if waiting:
            logger.warning("These settings have changed and need a restart: %s", ", ".join(waiting))
    except Exception as error:
        tell(error, debug=debug)
        print("sennit: the server goes on with the certificates that it has", file=sys.stderr, flush=True)


async def _first_account(homeserver: Homeserver, config: Config, program: str) -> None:
    """Make an administrator when there is no account at all, and say how to log in."""
    from homeserver.first_run import readable_secret, welcome_text

    accounts = homeserver.accounts
    if await accounts.has_any():
        return
    password = readable_secret()
    user_id = await accounts.create(FIRST_ADMIN, password, admin=True)
    print(welcome_text(config, user_id=user_id, password=password, program=program), flush=True)


def _ready_text(config: Config) -> str:
    from homeserver.first_run import client_address

    return f"sennit: {config.server.name} is ready at {client_address(config) or 'no address for clients'}"


def _write_pid(config: Config) -> None:
    if config.server.pid_file is not None:
        config.server.pid_file.write_text(f"{os.getpid()}\n", encoding="ascii")


def _remove_pid(config: Config) -> None:
    if config.server.pid_file is not None:
        config.server.pid_file.unlink(missing_ok=True)
