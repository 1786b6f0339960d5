"""The event word: an event's time and action in 48 bits, as windows hold them and the changelog writes them.

    word = time in ms << ACTION_BITS | action        orders events by time
    low  = its lower 32 bits, high = its upper 16

A window store keeps the halves in two columns, so that an event takes six bytes and not eight.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from engine.arrays import ACTION_BITS, MAX_ACTIONS, Int64, UInt8, UInt32

UInt16 = npt.NDArray[np.uint16]
_HALF_BITS: Final = 32
_LOW_HALF: Final = (1 << _HALF_BITS) - 1


def pack(times_ms: Int64, actions: UInt8) -> Int64:
    """Words of events with these times and action codes; shapes broadcast."""
    return times_ms << ACTION_BITS | actions


def times_ms(words: Int64) -> Int64:
    """Event times of words of any shape, Unix milliseconds."""
    return words >> ACTION_BITS


def actions(words: Int64) -> UInt8:
    """Action codes of words of any shape."""
    return (words & MAX_ACTIONS).astype(np.uint8)


def halves(words: Int64) -> tuple[UInt32, UInt16]:
    """Low and high halves of words of any shape."""
    return (words & _LOW_HALF).astype(np.uint32), (words >> _HALF_BITS).astype(np.uint16)


def join(low: UInt32, high: UInt16) -> Int64:
    """Words from their halves."""
    words: Int64 = high.astype(np.int64) << _HALF_BITS | low
    return words
