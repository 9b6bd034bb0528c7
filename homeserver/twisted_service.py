"""The homeserver as a service of `twistd`: `twistd -n homeserver -c hs.toml`.

Twisted's plugin (twistd_plugin/homeserver_dropin.py) names this module and calls `makeService` with parsed `Options`.
Like the command line this is an end of the import graph: it may import everything, nothing imports it, and it is
one of the few places that pick the global reactor, since `twistd` has installed one by then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from twisted.application.service import IService
from twisted.python import usage


class Options(usage.Options):
    """The arguments after `twistd homeserver`."""

    synopsis: ClassVar[str] = "[options]"
    longdesc: ClassVar[str] = "Runs a Matrix homeserver with the given configuration file."
    optParameters: ClassVar[list[list[str | None]]] = [
        ["config", "c", None, "Path of the configuration file (TOML)."],
    ]

    def postOptions(self) -> None:
        """Refuse a command line without a configuration file."""
        if not self["config"]:
            raise usage.UsageError("name a configuration file: twistd -n homeserver -c sennit.toml")


def makeService(options: Options) -> IService:
    """Return the homeserver that `options` describes; starting the service starts it.

    Exits with the list of mistakes when the file is not a valid configuration.
    """
    # Imported late: `twistd --help` makes Options of all plugins and should not load a homeserver for it.
    from twisted.internet import reactor

    from homeserver import Config, Homeserver
    from homeserver.errors import Misconfigured
    from homeserver.extensions import default_extensions

    try:
        config = Config.load(Path(options["config"]))
    except Misconfigured as error:
        raise SystemExit(str(error)) from None
    homeserver = Homeserver(config, reactor=reactor, extensions=default_extensions())
    # It has logged why it could not start; without it there is nothing to run for.
    homeserver.ready().addErrback(lambda failure: _stop(reactor))
    service: IService = homeserver
    return service


def _stop(reactor: Any) -> None:
    if reactor.running:
        reactor.stop()
    else:
        reactor.callWhenRunning(reactor.stop)
