"""When the next batch may follow a commit."""

import pytest

from engine.eventlog.kafka.commit_throttle import CommitThrottle


def test_after_a_few_records_the_next_are_read_at_once() -> None:
    throttle = CommitThrottle(0.1)
    throttle.read(4)
    throttle.committed(0.002, now_s=100.0)
    assert throttle.delay_s(100.0) == 0.0


def test_after_many_records_commits_take_their_share_of_the_time() -> None:
    throttle = CommitThrottle(0.1)
    throttle.read(3)
    throttle.read(2)
    throttle.committed(0.002, now_s=100.0)
    assert throttle.delay_s(100.0) == pytest.approx(0.002 / 0.1)
    assert throttle.delay_s(100.015) == pytest.approx(0.005)
    assert throttle.delay_s(100.021) == 0.0


def test_records_count_towards_one_commit_only() -> None:
    throttle = CommitThrottle(0.1)
    throttle.read(5)
    throttle.committed(0.002, now_s=100.0)
    throttle.read(1)
    throttle.committed(0.002, now_s=200.0)
    assert throttle.delay_s(200.0) == 0.0


def test_the_cost_is_a_running_mean_and_the_wait_has_an_end() -> None:
    throttle = CommitThrottle(0.5)
    for cost_s, now_s in ((0.010, 100.0), (0.020, 200.0)):
        throttle.read(5)
        throttle.committed(cost_s, now_s)
    assert throttle.delay_s(200.0) == pytest.approx((0.9 * 0.010 + 0.1 * 0.020) / 0.5)
    throttle.read(5)
    throttle.committed(60.0, now_s=300.0)
    assert throttle.delay_s(300.0) == pytest.approx(0.1)
