"""The partition of a key by Kafka's own partitioner: murmur2, as Java clients and kafka-python have it by default.

Clients on librdkafka (Python's confluent-kafka, Go, .NET, Node) take CRC32 unless `partitioner` is
`murmur2_random`, so that the same key goes to another partition.

Source: org.apache.kafka.common.utils.Utils.murmur2 and BuiltInPartitioner.partitionForKey; Austin Appleby, MurmurHash2.
"""

import struct
from typing import Final

_SEED: Final = 0x9747B28C
_FACTOR: Final = 0x5BD1E995
_SHIFT: Final = 24
_WORD: Final = 0xFFFFFFFF
_POSITIVE: Final = 0x7FFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """Number of the partition, of so many, that a record with this key goes to."""
    return (murmur2(key) & _POSITIVE) % partitions


def murmur2(data: bytes) -> int:
    """The hash, 32 bits without a sign."""
    whole = len(data) & ~3
    digest = _SEED ^ len(data)
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        mixed = word * _FACTOR & _WORD
        mixed = (mixed ^ mixed >> _SHIFT) * _FACTOR & _WORD
        digest = digest * _FACTOR & _WORD ^ mixed
    if rest := data[whole:]:
        digest = (digest ^ int.from_bytes(rest, "little")) * _FACTOR & _WORD
    digest = (digest ^ digest >> 13) * _FACTOR & _WORD
    return digest ^ digest >> 15
