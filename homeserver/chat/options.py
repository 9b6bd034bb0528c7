"""The arguments of `sennit chat`; apart, because the command line reads them without loading the chat."""

from __future__ import annotations

import argparse


def add_chat_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `sennit chat` takes."""
    parser.add_argument("url", nargs="?", metavar="URL", help="the server; default: that of the configuration")
    parser.add_argument("--user", metavar="NAME", help="user name or user ID; default: who was here last")
    parser.add_argument(
        "--password-from", metavar="FILE", help="read the password from the first line of a file; - is standard input"
    )
    parser.add_argument("--register", action="store_true", help="make a new account")
    parser.add_argument("--forget", action="store_true", help="log out, forget the session, and end")
    parser.add_argument("--room", metavar="ROOM", help="open this room; a part of its name will do")
    parser.add_argument("--plain", action="store_true", help="lines in, lines out: for scripts and simple terminals")
    parser.add_argument("--ca-file", metavar="FILE", help="believe the certificates in this file")
    parser.add_argument("--log", metavar="FILE", help="write down what the chat does")
