"""The partition in which Kafka keeps a group's positions, beside values of Java's own `String.hashCode`."""

import pytest

from engine.eventlog.kafka.group_positions import partition_of


@pytest.mark.parametrize(
    ("group", "java_hash"),
    [
        ("", 0),
        ("a", 97),
        ("abc", 96_354),
        ("Aa", 2_112),
        ("BB", 2_112),
        ("hello", 99_162_322),
        ("hello world", 1_794_106_052),
        ("headrace", 1_114_888_015),  # -1,114,888,015
        ("headrace-rekey", 1_144_861_488),
        ("grüße-😀", 347_391_577),
    ],
)
def test_the_partition_of_a_group(group: str, java_hash: int) -> None:
    assert partition_of(group, 50) == ("__consumer_offsets", java_hash % 50)
    assert partition_of(group, 7).number == java_hash % 7


def test_the_smallest_hash_has_no_counterpart_and_counts_as_zero() -> None:
    assert partition_of("polygenelubricants", 50).number == 0  # Java: -2,147,483,648
