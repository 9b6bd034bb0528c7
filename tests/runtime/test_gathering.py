"""Works that are begun together."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from homeserver.errors import StorageUnavailable
from homeserver.runtime.gathering import gather


@pytest_twisted.ensureDeferred
async def test_results_come_in_the_order_of_the_works() -> None:
    late: Deferred[int] = Deferred()

    async def first() -> int:
        return await late

    async def second() -> int:
        late.callback(1)
        return 2

    assert [1, 2] == await gather([first(), second()])
    assert [] == await gather([])


@pytest_twisted.ensureDeferred
async def test_first_error_is_raised_as_it_is() -> None:
    """Its kind says what is to be done: a fault of the storage has the sender of a transaction come again."""

    async def fails(text: str) -> None:
        raise StorageUnavailable(text)

    with pytest.raises(StorageUnavailable, match="one"):
        await gather([fails("one"), fails("two")])
