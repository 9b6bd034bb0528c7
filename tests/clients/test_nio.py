"""matrix-nio, a client library in Python, as two users."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .conftest import TellStory

FOLDER = Path(__file__).parent

pytestmark = pytest.mark.clients


def test_two_users_of_matrix_nio_talk(tell_story: TellStory) -> None:
    steps = tell_story([sys.executable, str(FOLDER / "nio_story.py")], FOLDER)
    assert "goodbye" == steps[-1]
