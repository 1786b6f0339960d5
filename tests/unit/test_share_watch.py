"""Partitions that a member is to read and does not: its own, after a while, and never those of others."""

import pytest

from engine.errors import EventLogError
from engine.eventlog.base import Partition
from engine.eventlog.share_watch import ShareWatch, owed

A, B, C = (Partition("clicks", number) for number in range(3))


@pytest.mark.parametrize(
    ("shares", "own", "expected"),
    [
        ({"m1": {A}, "m2": {B, C}}, {"m2"}, [B, C]),
        ({"worker-0": {A, C}, "m2": {B}}, {"m7", "worker-0"}, [A, C]),  # a lasting name, under a new id
        ({"m1": {A}, "m2": {B}}, {"m1"}, [A, C]),  # what nobody was given is the first member's concern
        ({"m1": {A}, "m2": {B}}, {"m2"}, [B]),
        ({"m1": {A, B, C}}, {"m2"}, []),
        ({}, {"m1"}, []),  # the group is not settled, or nobody answers
    ],
)
def test_what_a_member_is_to_read(shares: dict[str, set[Partition]], own: set[str], expected: list[Partition]) -> None:
    assert owed(shares, own, [A, B, C]) == expected


def test_a_partition_is_unserved_when_two_looks_say_so() -> None:
    #  time (s)    0        10         20        30
    #  unserved    -        A          B         A, B
    watch = ShareWatch(10.0)
    assert [watch.is_due(now_s) for now_s in (0.0, 9.9, 10.0)] == [False, False, True]
    watch.look(10.0, [A])
    assert not watch.is_due(19.9)
    watch.look(20.0, [B])
    with pytest.raises(EventLogError, match=r"gave this worker clicks/1, .* for 10 s \(kafka.stall_timeout_s\)"):
        watch.look(30.0, [A, B])
