"""Settings of the Python interpreter by which no thread of a server waits long for another one.

A thread that wants the interpreter gets it when the other thread waits for something, or once the switch interval has
passed: 5 ms by default, as often as the event loop and the compute thread need it in turn.
"""

import gc
import sys
from typing import Final

_SWITCH_S: Final = 0.0005
"""A hundred times what a switch costs."""


def take_short_turns() -> None:
    """Let threads switch ten times as often as they do by default."""
    sys.setswitchinterval(min(_SWITCH_S, sys.getswitchinterval()))


def spare_what_is_here() -> None:
    """Collect garbage once, and never look again at what is left: release, windows and lists stay for hours.

    A full collection stops every thread, for tens of milliseconds where there are a million objects. What is no longer
    needed is still freed, but for what refers to itself.
    """
    gc.collect()
    gc.freeze()
