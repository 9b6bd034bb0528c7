"""Tokens that are none, and a moment of the fuzzer, so that it works on the day when it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from homeserver.errors import InvalidParam
from homeserver.model.tokens import PaginationToken, StreamToken

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("parse", [StreamToken.parse, PaginationToken.parse])
@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "s",
            "p",
            "x1",
            "s-1",
            "s 1",
            "s+1",
            "s01",
            "s1 ",
            "s1.0",
            "s1e3",
            "s٣",
            "S1",
            "ss1",
            "s0x1",
            "p-0",
            "p--1",
        ),
        *("s" + "9" * 19, "s" + "9" * 100_000, "p-" + "9" * 100_000, "\x00", "s1\x00", "\ud800", "s1_2", "1"),
        *(None, 1, 1.5, True, [], {}, b"s1"),
    ],
    ids=lambda text: ascii(text)[:12],
)
def test_hostile_44_what_is_no_token_is_refused(parse: Any, text: Any) -> None:
    with pytest.raises(InvalidParam):
        parse(text)


def test_a_moment_of_fuzzing_finds_nothing() -> None:
    command = [sys.executable, str(ROOT / "tools" / "fuzz.py"), "--minutes", "0.04", "--seed", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert " 0 faults" in done.stdout
