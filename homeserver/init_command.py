"""`sennit init`: writes a configuration file, after some questions on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Answer = TypeVar("Answer")


def write_config(server_name: str, output: Path, *, asks: bool, next_command: str) -> int:
    """Write the file, with the default answers unless it `asks`; Misconfigured if that cannot be."""
    from homeserver.config import Config, render_default_toml
    from homeserver.errors import Misconfigured

    if output.exists() or output.is_symlink():
        raise Misconfigured(f"{output} exists already and is not overwritten. Move it away, or name another with -o.")
    # Checked before anything is asked.
    Config.from_mapping({"server": {"name": server_name}})
    database, bind, port, is_open = "", "127.0.0.1", 8008, False
    if asks and sys.stdin.isatty():
        database, (bind, port), is_open = _ask_database(), _ask_listen(), _ask_open()
    text = render_default_toml(
        server_name, database_url=database or None, bind=bind, port=port, open_registration=is_open
    )
    try:
        # A database URL has a password in it.
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise Misconfigured(f"{output} cannot be written: {error.strerror}.") from error
    print(f"Wrote {output}. Next:  {next_command}")
    return 0


def _ask_database() -> str:
    def check(answer: str) -> str:
        url = "" if answer in ("", "sqlite") else answer
        if url:
            _check_answer({"database": {"url": url}})
        return url

    return _ask("Database: sqlite, or mysql+pymysql://user:password@host/name [sqlite] ", check)


def _ask_listen() -> tuple[str, int]:
    def check(answer: str) -> tuple[str, int]:
        address, colon, port_text = (answer or "127.0.0.1:8008").rpartition(":")
        if not colon or not port_text.isascii() or not port_text.isdigit() or len(port_text) > 5:
            raise ValueError("expected an address and a port, such as 0.0.0.0:8008")
        bind = address.removeprefix("[").removesuffix("]") or "::"
        _check_answer({"listeners": [{"port": int(port_text), "bind": [bind]}]})
        return bind, int(port_text)

    return _ask("Listen on [127.0.0.1:8008] ", check)


def _ask_open() -> bool:
    def check(answer: str) -> bool:
        if answer.lower() not in ("", "y", "yes", "n", "no"):
            raise ValueError("expected y or n")
        return answer.lower() in ("y", "yes")

    return _ask("May anybody make an account, without a token? [y/N] ", check)


def _check_answer(sections: dict[str, Any]) -> None:
    from homeserver.config import Config
    from homeserver.config_source import ConfigError

    try:
        Config.from_mapping({"server": {"name": "localhost"}, **sections})
    except ConfigError as error:
        raise ValueError(error.problems[0].message) from None


def _ask(question: str, check: Callable[[str], Answer]) -> Answer:
    """Ask until the answer passes `check`, which raises ValueError with what is wrong."""
    from homeserver.errors import Misconfigured

    while True:
        try:
            answer = input(question).strip()
        except EOFError:
            raise Misconfigured("There was no answer; nothing was written.") from None
        try:
            return check(answer)
        except ValueError as error:
            print(f"  {error}")
