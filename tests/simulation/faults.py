"""Faults drawn from a seed: one draw for each opportunity, so that any one of them can be left out."""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

STEP = ("crash before", "crash after", "refused", "unknown outcome", "zombie before", "zombie after")
"""At each step of a commit."""
FLUSH = (*STEP, "torn by a crash", "torn", "arrives late")
"""Where records are on their way: a part of them arrives, or all of them, after their sender gave up."""
POLL = ("crash before", "refused", "rebalance", "fenced", "joins again unnoticed", "assignment lost", "zombie before")
READ = ("refused", "crash before")
SAVE = ("disk full",)
CLOSE = ("refused", "crash before")
COMPLETE = ("ends late",)
"""The end of a transaction is on its way, and its answer will not come."""
HANG = ("left open",)
"""Of a transaction that failed, the records on one partition stay open, and no coordinator knows of it."""
LOOK = ("cannot look",)
"""No broker says what is open."""
APART = {"complete": COMPLETE, "hang": HANG, "look": LOOK}
"""Menus that are drawn from a sequence of their own: the seeds of the others keep their faults."""
_APART_FROM = 1_000_000
"""First opportunity of that sequence."""
MENUS = {"step": STEP, "flush": FLUSH, "poll": POLL, "read": READ, "save": SAVE, "close": CLOSE}


class Crash(BaseException):
    """The process is gone: nothing of it runs any more."""


@dataclass(slots=True)
class Faults:
    """Draws faults; `muted` ones do not happen, and leave all others where they were."""

    seed: int
    rate: float
    muted: Collection[int] = ()
    without: Collection[str] = ()
    """Names of faults that never happen."""
    happens: bool = True
    fired: list[tuple[int, str]] = field(default_factory=list)
    _random: random.Random = field(init=False)
    _apart: random.Random = field(init=False)
    _opportunities: int = 0
    _apart_opportunities: int = _APART_FROM

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._apart = random.Random(f"apart {self.seed}")

    def draw(self, menu: Sequence[str]) -> str:
        """The fault that happens here, mostly none: an empty text."""
        if not self.happens:
            return ""
        index, chance, choice = self._opportunities, self._random.random(), self._random.random()
        self._opportunities += 1
        if chance >= self.rate or index in self.muted:
            return ""
        fault = menu[int(choice * len(menu))]
        if fault in self.without:
            return ""
        self.fired.append((index, fault))
        return fault

    def draw_apart(self, name: str) -> str:
        """The same from one of the menus APART."""
        if not self.happens:
            return ""
        index, chance, choice = self._apart_opportunities, self._apart.random(), self._apart.random()
        self._apart_opportunities += 1
        fault = APART[name][int(choice * len(APART[name]))]
        if chance >= self.rate or index in self.muted or fault in self.without:
            return ""
        self.fired.append((index, fault))
        return fault

    def detail(self) -> random.Random:
        """Randomness for the details of the last fault that happened."""
        return random.Random(self.seed * 1_000_003 + self.fired[-1][0])
