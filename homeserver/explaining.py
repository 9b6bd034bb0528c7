"""What goes wrong for an operator: a paragraph, and an exit code: 1 it failed, 2 what it was given is wrong."""

from __future__ import annotations

import sys
import traceback


class Refused(Exception):
    """What was asked for was refused; the text says for whom."""


def tell(error: Exception, *, debug: bool) -> int:
    """Print one paragraph about an error and return the exit code."""
    if debug:
        traceback.print_exception(error)
    code, text = explain(error)
    print(f"sennit: {text}", file=sys.stderr, flush=True)
    return code


def explain(error: Exception) -> tuple[int, str]:
    """Return the exit code for an error and a paragraph for the operator."""
    from homeserver.errors import InternalFault, MatrixError, Misconfigured

    if isinstance(error, Misconfigured):
        return 2, str(error)
    if isinstance(error, MatrixError):
        return 1, f"{error.message.rstrip('.')}."
    if isinstance(error, InternalFault | Refused):
        return 1, str(error)
    if "twisted.internet.error" in sys.modules:
        from twisted.internet.error import CannotListenError

        if isinstance(error, CannotListenError):
            from homeserver.first_run import cannot_listen_text

            return 1, cannot_listen_text(error.interface, error.port, error.socketError)
    if isinstance(error, OSError):
        place = f" ({error.filename})" if error.filename else ""
        return 1, f"The system refuses: {error.strerror or error}{place}."
    name = type(error).__name__
    return 1, f"This is a fault of Sennit itself: {name}: {error}. With `sennit --debug` it shows where."
