"""The table of known differences is narrow and every entry of it is of use."""

from __future__ import annotations

import pytest

from .known_differences import KNOWN_DIFFERENCES, KnownDifference


@pytest.mark.parametrize("known", KNOWN_DIFFERENCES, ids=lambda known: known.name)
def test_each_known_difference_cites_the_spec(known: KnownDifference) -> None:
    document, comma, section = known.spec.partition(', "')
    assert (
        comma and section and document.startswith(("rooms/v", "server-server API", "client-server API", "appendices"))
    )


def test_known_differences_have_different_names() -> None:
    assert len(KNOWN_DIFFERENCES) == len({known.name for known in KNOWN_DIFFERENCES})
