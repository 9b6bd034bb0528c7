"""matrix-nio, a client library in Python, as two users."""

from __future__ import annotations

import sys

import pytest

from tests.support.server import ROOT

from .conftest import TellStory

pytestmark = pytest.mark.clients


def test_two_users_of_matrix_nio_talk(tell_story: TellStory) -> None:
    steps = tell_story([sys.executable, "-m", "tests.clients.nio_story"], ROOT)
    assert "goodbye" == steps[-1]


def test_two_users_of_matrix_nio_encrypt(tell_story: TellStory) -> None:
    steps = tell_story([sys.executable, "-m", "tests.clients.nio_encryption_story"], ROOT)
    assert "goodbye" == steps[-1]
