"""Requests to forget a user: records without a value on the topic of clicks, under a key that names the user.

A producer's own request is in the partition of the user's clicks, and is meant for the user wherever the window is.
`headrace forget` does not know that partition, nor whether all clicks are in one: it puts a request into each, with a
header that says so. Such a request concerns its own partition alone, so that clicks after it, in that partition, begin
a window that the requests of other partitions leave as it is.

A key that is JSON text (`"ann"` in quotes) names the user inside the quotes: producers with a JSON serialiser for keys
write it so. A user whose id itself has such quotes is named by the id as JSON text, as `key_of` writes it.
"""

import json
from typing import Final

from engine.eventlog.base import Headers, Outgoing

EVERYWHERE_HEADER: Final = "headrace.forget"
_EVERYWHERE: Final = b"every-partition"


def in_every_partition(topic: str, partitions: int, user: str) -> Outgoing:
    """A request for a user in each partition of the topic of clicks."""
    return Outgoing(
        topic,
        keys=[key_of(user)] * partitions,
        values=[None] * partitions,
        headers=[[(EVERYWHERE_HEADER, _EVERYWHERE)]] * partitions,
        partitions=[*range(partitions)],
    )


def is_in_every_partition(headers: Headers) -> bool:
    """Whether there is a request like this one in every other partition, too."""
    return (EVERYWHERE_HEADER, _EVERYWHERE) in headers


def key_of(user: str) -> bytes:
    """The key that names a user."""
    is_quoted = _inside_quotes(user) is not None
    return (json.dumps(user, ensure_ascii=False) if is_quoted else user).encode()


def user_of(key: bytes | None) -> str | None:
    """The user whom a key names; None where it names none."""
    try:
        text = key.decode() if key else None
    except UnicodeDecodeError:
        return None
    inside = _inside_quotes(text) if text else None
    return text if inside is None else inside or None


def _inside_quotes(text: str) -> str | None:
    """What a JSON text says; None for what is none."""
    if not (len(text) > 1 and text[0] == text[-1] == '"'):
        return None
    try:
        inside = json.loads(text)
        inside.encode()
    except ValueError:  # no JSON, or half a surrogate pair
        return None
    return str(inside)
