from __future__ import annotations

import pytest

from homeserver.chat.commands import (
    USAGES,
    Command,
    Mistake,
    Say,
    alias_localpart,
    help_lines,
    parse_create,
    parse_line,
)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("", None),
        ("   ", None),
        ("hello", Say("hello")),
        (" indented", Say(" indented")),
        ("two\nlines\n", Say("two\nlines")),
        ("//etc/passwd", Say("/etc/passwd")),
        ("/me waves  twice", Say("waves  twice", is_emote=True)),
        ("/join #lobby:x", Command("join", "#lobby:x")),
        ("/JOIN  lobby ", Command("join", "lobby")),
        ("/create Tea room public", Command("create", "Tea room public")),
        ("/topic", Command("topic")),
        ("/topic a\tb", Command("topic", "a\tb")),
        ("/accept", Command("accept")),
        ("/quit now", Command("quit", "now")),
    ],
)
def test_lines_mean(line: str, meant: object) -> None:
    assert meant == parse_line(line)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/", "There is no /;"),
        ("/foo", "There is no /foo; /help"),
        ("/lea", "did you mean /leave?"),
        ("/etc/passwd", "//etc/passwd"),
        ("/join", "Say more: /join ALIAS|ID"),
        ("/join   ", "Say more"),
        ("/me", "Say more"),
    ],
)
def test_line_that_means_nothing_is_told_why(line: str, told: str) -> None:
    meant = parse_line(line)
    assert isinstance(meant, Mistake)
    assert told in meant.text


def test_help_names_every_command() -> None:
    assert [f"/{usage.name}" for usage in USAGES] == [line.split()[0] for line in help_lines()]


@pytest.mark.parametrize(
    ("argument", "created"),
    [
        ("Tea", ("Tea", False)),
        ("Tea room public", ("Tea room", True)),
        ("Tea room PRIVATE", ("Tea room", False)),
        ("public", ("public", False)),
    ],
)
def test_last_word_says_for_whom_a_room_is(argument: str, created: tuple[str, bool]) -> None:
    assert created == parse_create(argument)


@pytest.mark.parametrize(
    ("name", "localpart"),
    [("Tea room", "tea-room"), ("  C++ & Co. ", "c-co"), ("***", ""), ("x" * 100, "x" * 60), ("Käse", "käse")],
)
def test_alias_is_made_of_the_name(name: str, localpart: str) -> None:
    assert localpart == alias_localpart(name)
