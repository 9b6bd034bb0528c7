"""matrix-js-sdk, what Element Web is made of, as two users."""

from __future__ import annotations

import pytest

from .conftest import TellStory
from .stories import JS_FOLDER, NODE, needs_node

pytestmark = [pytest.mark.clients, needs_node]


def test_two_users_of_matrix_js_sdk_talk(tell_story: TellStory) -> None:
    steps = tell_story([str(NODE), "story.mjs"], JS_FOLDER)
    assert "goodbye" == steps[-1]


def test_two_users_of_matrix_js_sdk_encrypt(tell_story: TellStory) -> None:
    steps = tell_story([str(NODE), "encryption.mjs"], JS_FOLDER)
    assert "goodbye" == steps[-1]
