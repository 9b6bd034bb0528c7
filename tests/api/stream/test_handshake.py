"""What is taken of the offers of compression. The rest is asked over a socket: see tests/stream_conformance."""

from __future__ import annotations

import pytest

from api.stream.handshake import acceptable_offer

GOOD = {
    "permessage-deflate": "permessage-deflate",
    "permessage-deflate; client_max_window_bits=10": "permessage-deflate; client_max_window_bits",
    'permessage-deflate; server_max_window_bits="9"': "permessage-deflate; server_max_window_bits=9",
    "Permessage-Deflate;server_no_context_takeover": "Permessage-Deflate; server_no_context_takeover",
    "permessage-bzip2, permessage-deflate": "permessage-deflate",
    "permessage-deflate; server_max_window_bits=8, permessage-deflate": "permessage-deflate",
    "permessage-deflate; x, permessage-deflate; server_max_window_bits=15": (
        "permessage-deflate; server_max_window_bits=15"
    ),
}


@pytest.mark.parametrize("header", GOOD)
def test_the_first_offer_that_can_be_taken_is_taken(header: str) -> None:
    expected = GOOD[header].lower()
    assert expected == (acceptable_offer(header.split(",")) or "").lower()


@pytest.mark.parametrize("header", ["", ";", "=", "x", "permessage-deflate;", "permessage-deflate; a=1", ";;=;"])
def test_what_is_no_offer_is_not_taken(header: str) -> None:
    assert acceptable_offer([header]) is None
