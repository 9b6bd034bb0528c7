"""Token buckets."""

from __future__ import annotations

import pytest

from homeserver.errors import LimitExceeded
from homeserver.runtime.clock import ManualClock
from homeserver.web.ratelimit import Bucket, RateLimits


def test_a_burst_goes_through_and_then_the_rate_holds() -> None:
    clock = ManualClock()
    limits = RateLimits(clock)
    bucket = Bucket(per_second=2, burst_count=3)
    assert [limits.check("a", bucket) for _ in range(3)] == [None] * 3
    refusal = limits.check("a", bucket)
    assert isinstance(refusal, LimitExceeded)
    assert 500 <= refusal.retry_after_ms <= 501
    clock.advance(refusal.retry_after_ms / 1000)
    assert limits.check("a", bucket) is None
    assert limits.check("a", bucket) is not None


def test_a_refusal_costs_nothing() -> None:
    clock = ManualClock()
    limits = RateLimits(clock)
    bucket = Bucket(1, 1)
    limits.check("a", bucket)
    for _ in range(100):
        assert limits.check("a", bucket) is not None
    clock.advance(1.001)
    assert limits.check("a", bucket) is None


def test_keys_and_buckets_do_not_touch_each_other() -> None:
    limits = RateLimits(ManualClock())
    one, other = Bucket(1, 1), Bucket(1, 1)
    assert limits.check("a", one) is None
    assert limits.check("b", one) is None
    assert limits.check("a", other) is None
    assert limits.check("a", one) is not None
    limits.forget("a", one)
    assert limits.check("a", one) is None


@pytest.mark.parametrize("bucket", [Bucket(0, 0), Bucket(0.003, 0.5), Bucket(-1, 0)])
def test_a_bucket_without_burst_lets_nothing_through(bucket: Bucket) -> None:
    refusal = RateLimits(ManualClock()).check("a", bucket)
    assert refusal is not None
    assert 0 < refusal.retry_after_ms < 2**53


def test_memory_is_bounded() -> None:
    limits = RateLimits(ManualClock(), max_keys=100)
    bucket = Bucket(0.001, 1)
    for key in range(10_000):
        limits.check(key, bucket)
    assert len(limits._levels[bucket]) <= 100
    assert limits.check(9_999, bucket) is not None
