"""matrix-js-sdk, what Element Web is made of, as two users."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .conftest import TellStory

FOLDER = Path(__file__).parent / "js"
NODE = FOLDER / "node_modules" / ".bin" / "node"

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(
        not NODE.exists() and not os.environ.get("SENNIT_TESTS_NEED_ALL"),
        reason="matrix-js-sdk is not installed: npm ci in tests/clients/js",
    ),
]


def test_two_users_of_matrix_js_sdk_talk(tell_story: TellStory) -> None:
    steps = tell_story([str(NODE), "story.mjs"], FOLDER)
    assert "goodbye" == steps[-1]


def test_two_users_of_matrix_js_sdk_encrypt(tell_story: TellStory) -> None:
    steps = tell_story([str(NODE), "encryption.mjs"], FOLDER)
    assert "goodbye" == steps[-1]
