"""murmur2 gives every key the partition that Kafka's own clients give it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as client_murmur2  # noqa: TID251 - the oracle

from engine.eventlog.murmur2 import murmur2, partition_of


@given(st.binary(max_size=40))
def test_the_hash_is_the_clients(key: bytes) -> None:
    assert murmur2(key) == client_murmur2(key) & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("key", "signed"), [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)]
)
def test_the_hash_is_that_of_the_java_client(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed & 0xFFFFFFFF  # from its own test, UtilsTest.testMurmur2


def test_the_partition_is_without_the_sign() -> None:
    assert partition_of(b"21", 8) == (-973932308 & 0x7FFFFFFF) % 8 == 4
