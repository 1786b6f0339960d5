"""Simulated shoppers with known hidden interests: the truth against which lists can be judged.

    interests   each shopper has a few topics with weights; now and then one gives way to another (drift)
    sessions    a session is about one interest; its clicks follow the items' successors, with jumps within
                the interest, rare changes of interest, and impulses towards what is popular with everybody
    time        gaps within a session of some tens of seconds, hours between sessions; or, when `clicks_per_s` is
                given, both shortened so that all shoppers together click at that pace
    launches    part of the catalogue goes on sale during the run, each item with a burst of attention
    arrivals    part of the shoppers come for the first time during the run
    searches    when asked for: some of those who turn to an interest search for the category of what they click then

An impulse does not move a session on: the next click follows from the item before it, so that a model that looks at
the last click alone is misled where one that reads the window is not.

All shoppers move together, one click each per round, in slices of event time; a slice's clicks are then sorted.
`Simulation.relevance` is exact: the distribution from which the shopper's next click will be drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from engine.arrays import Bool, Float32, Float64, Int32, Int64, UInt8
from engine.errors import DataError, SettingsError
from producers.simulation.choices import Choices, after_tries, choices
from producers.simulation.simulated_catalogue import TOPICS, SimulatedCatalogue, make

ACTIONS: Final = ("view", "cart", "buy", "dislike")
INTERESTS: Final = 4
SESSION_CLICKS: Final = 8.0
"""Mean clicks of a session; lengths are geometric."""
CLICK_GAP_S: Final = 30.0
SESSION_BREAK_S: Final = 8 * 3600.0
"""Medians; both are log-normal."""
HORIZON_BREAKS: Final = 40
"""Launches and arrivals are spread over this many session breaks: about two weeks at the natural pace."""
REMEMBERED: Final = 100
"""Clicks a shopper remembers: an item among them is passed over if another comes to mind within a few tries."""

_CHANGE = 0.05
"""Probability that a click within a session turns to another interest."""
_PACED_BREAK = 10.0
"""Break over gap when `clicks_per_s` shortens both."""
_GAP_SIGMA, _BREAK_SIGMA, _IDLENESS_SIGMA = 0.6, 0.6, 0.5
_GAP_MEAN, _BREAK_MEAN = np.exp(_GAP_SIGMA**2 / 2), np.exp(_BREAK_SIGMA**2 / 2)
"""Mean over median of a log-normal."""
_BURST, _BURST_BREAKS = 8.0, 2.0
"""A launched item attracts this many times more at first; over so many breaks the surplus falls to 1/e."""
_SLICES_PER_BREAK = 4
_ACTION_STEPS = np.cumsum([[0.85, 0.10, 0.04], [0.83, 0.02, 0.01]], axis=1)
"""[interest or impulse, ACTIONS but the last] cumulative shares: regret follows impulse more often."""
_RANGES = {
    "seed": (0, 2**63),
    "catalogue_seed": (0, 2**63),
    "shoppers": (1, 10**6),
    "drift": (0, 1),
    "searches": (0, 1),
} | dict.fromkeys(("new_items", "new_shoppers"), (0, 0.9))


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """What can be chosen about a simulation."""

    seed: int = 0
    """Of the shoppers and their clicks."""
    catalogue_seed: int = 0
    items: int = 2_000
    shoppers: int = 2_000
    start_ms: int = 1_700_000_000_000
    """Event time of the beginning, Unix milliseconds."""
    clicks_per_s: float | None = None
    """Pace of all shoppers who are there from the start together; none is the natural pace."""
    new_items: float = 0.1
    """Share of the catalogue that is launched during the run."""
    new_shoppers: float = 0.2
    """Share of the shoppers who first come during the run."""
    drift: float = 0.05
    """Probability, per session, that one interest gives way to another."""
    searches: float = 0.0
    """Share of the clicks after a turn to an interest that a search comes before."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise SettingsError(f"{name}: found {getattr(self, name)}, expected {low} to {high}")
        if self.clicks_per_s is not None and not 0 < self.clicks_per_s < float("inf"):
            raise SettingsError(f"clicks_per_s: found {self.clicks_per_s}, expected a number above 0")


@dataclass(frozen=True, slots=True)
class ClickBatch:
    """Simulated clicks in order of event time (at equal times, of shopper), one entry each."""

    shoppers: Int32
    """[n] shopper numbers; `shopper_id` spells them."""
    items: Int32
    """[n] rows of the catalogue."""
    times_ms: Int64
    """[n]"""
    actions: UInt8
    """[n] positions in ACTIONS."""
    searched: Bool
    """[n] the shopper has just searched for the item's category."""

    def with_searches(self) -> tuple[Int64, Bool]:
        """[m] clicks, and the search before each that has one: which click it is, and whether it is the search."""
        rows = np.repeat(np.arange(len(self)), 1 + self.searched)
        searches: Bool = np.append(rows[1:] == rows[:-1], False)[: len(rows)]
        return rows, searches

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, part: slice) -> "ClickBatch":
        return ClickBatch(*(getattr(self, column.name)[part] for column in fields(ClickBatch)))


def join(batches: Sequence[ClickBatch]) -> ClickBatch:
    """One batch of several that follow each other in time."""
    columns = ([getattr(batch, column.name) for batch in batches] for column in fields(ClickBatch))
    return ClickBatch(*(np.concatenate(column) for column in columns))


def shopper_id(number: int) -> str:
    """The user id of a shopper."""
    return f"shopper-{number:05d}"


def shopper_number(user: str) -> int:
    """The inverse of `shopper_id`.

    Raises:
        DataError: no simulated shopper is called so.
    """
    number = user.removeprefix("shopper-")
    if number.isdecimal() and shopper_id(int(number)) == user:
        return int(number)
    raise DataError(f"user {user!r} is not a simulated shopper; their ids look like {shopper_id(42)!r}")


@dataclass(slots=True)
class _State:
    """Everything that changes about S shoppers."""

    next_ms: Int64
    """[S] event time of the next click."""
    leaving: Bool
    """[S] the next click opens a session."""
    topics: Int32
    """[S, INTERESTS] what each is interested in now."""
    current: Int32
    """[S] topic of the session."""
    place: Int32
    """[S] item from which the session goes on; V, which has no successors, where there is none."""
    clicks: Int64
    """[S] clicks so far."""
    memory: Int32
    """[S, REMEMBERED] items of the last clicks, as a ring; -1 where there was none yet."""

    def copy(self) -> "_State":
        return _State(*(getattr(self, column.name).copy() for column in fields(self)))


@dataclass(frozen=True, slots=True)
class _Slice:
    """The clicks of one slice of event time, and what is needed to tell the truth after any of them."""

    before: _State
    choices: Choices
    batch: ClickBatch
    topics: Int32
    """[n, INTERESTS] interests of the shopper after each click."""
    current: Int32
    """[n] topic of the session after each click."""
    place: Int32
    """[n] item from which the session goes on after each click."""


class Simulation:
    """The shop and its shoppers, advancing in event time.

    The same settings give the same clicks, in whatever portions they are asked for.
    """

    def __init__(self, settings: SimulationSettings) -> None:
        self.settings = settings
        self.catalogue: SimulatedCatalogue = make(settings.catalogue_seed, settings.items)
        self._rng = np.random.default_rng(settings.seed)
        self._search_rng = np.random.default_rng([settings.seed, 1])  # clicks are the same with and without searches
        self._idleness = self._rng.lognormal(0.0, _IDLENESS_SIGMA, settings.shoppers)
        self._newcomer = np.arange(settings.shoppers) >= settings.shoppers * (1 - settings.new_shoppers)
        self._gap_s, self._break_s = self._pace()
        self.launch_ms: Int64 = self._launches()
        """[V] when each item goes on sale."""
        self._weights = self._rng.dirichlet([2.0] * INTERESTS, settings.shoppers)
        self._state = self._first_state()
        self._end_ms = settings.start_ms
        self._taken = 0
        self._next_slice()

    def advance(self, count: int) -> ClickBatch:
        """The next `count` clicks."""
        parts = [self._take(count)]
        while (missing := count - sum(map(len, parts))) > 0:
            self._next_slice()
            parts.append(self._take(missing))
        return join(parts)

    def advance_to(self, time_ms: int) -> ClickBatch:
        """All further clicks before `time_ms`, event time."""
        parts = [self._take_before(time_ms)]
        while self._end_ms < time_ms:
            self._next_slice()
            parts.append(self._take_before(time_ms))
        return join(parts)

    def interests(self, shopper: int) -> tuple[Int32, Float32]:
        """Topics [INTERESTS] and their weights [INTERESTS] of a shopper, after the last click handed out."""
        _, topics, _, _ = self._mind(shopper)
        return topics, self._weights[shopper].astype(np.float32)

    def relevance(self, shopper: int) -> Float32:
        """[V] probability that the shopper's next click is on each item, after the last click handed out.

        Exact for the catalogue as it stood then; the shopper's own decisions that lie ahead (to end the session, to
        take up another interest) are averaged over.
        """
        clicked, topics, current, place = self._mind(shopper)
        remembered = np.isin(np.arange(len(self.catalogue)), clicked)
        going_on = 1.0 - 1.0 / SESSION_CLICKS if len(clicked) else 0.0
        weights = self._weights[shopper]
        kept = np.bincount(topics, weights, TOPICS)
        drifted = kept + self.settings.drift / INTERESTS * (self.catalogue.topic_popularity - kept)
        turns = (1.0 - going_on) * drifted + going_on * _CHANGE * kept
        choice = self._slice.choices
        shares = turns @ after_tries(choice.opening(slice(TOPICS)), remembered)
        shares += going_on * (1.0 - _CHANGE) * after_tries(choice.going_on(current, place), remembered)
        relevance: Float32 = shares.astype(np.float32)
        return relevance

    def _mind(self, shopper: int) -> tuple[Int32, Int32, int, int]:
        """Remembered items, topics, current topic and place of a shopper, after the last click handed out."""
        if not 0 <= shopper < self.settings.shoppers:
            raise DataError(f"shopper {shopper}: the simulation has shoppers 0 to {self.settings.shoppers - 1}")
        part, before = self._slice, self._slice.before
        mine = np.flatnonzero(part.batch.shoppers[: self._taken] == shopper)
        ring = np.roll(before.memory[shopper], -int(before.clicks[shopper] % REMEMBERED))
        clicked = np.concatenate([ring, part.batch.items[mine]])[-REMEMBERED:]
        clicked = clicked[clicked >= 0]
        if len(mine):
            return clicked, part.topics[mine[-1]], int(part.current[mine[-1]]), int(part.place[mine[-1]])
        return clicked, before.topics[shopper], int(before.current[shopper]), int(before.place[shopper])

    def _take(self, count: int) -> ClickBatch:
        batch = self._slice.batch[self._taken : self._taken + count]
        self._taken += len(batch)
        return batch

    def _take_before(self, time_ms: int) -> ClickBatch:
        return self._take(int(np.searchsorted(self._slice.batch.times_ms, time_ms)) - self._taken)

    def _pace(self) -> tuple[float, float]:
        """Median gap and median break, in seconds, at which the shoppers click `clicks_per_s`."""
        if self.settings.clicks_per_s is None:
            return CLICK_GAP_S, SESSION_BREAK_S
        there = self._idleness[~self._newcomer]
        scale = float((SESSION_CLICKS / _cycle_s(1.0, _PACED_BREAK, there)).sum()) / self.settings.clicks_per_s
        return scale, scale * _PACED_BREAK

    def _launches(self) -> Int64:
        """[V] launch times: the first of the launch order at the start, the others spread over the horizon."""
        there = 1.0 - self.settings.new_items
        late = np.maximum(self.catalogue.launch_order - there, 0.0) / max(self.settings.new_items, 1e-9)
        launch_ms: Int64 = self.settings.start_ms + (late * HORIZON_BREAKS * self._break_s * 1000).astype(np.int64)
        return launch_ms

    def _first_state(self) -> _State:
        shoppers, items = self.settings.shoppers, self.settings.items
        topics = self._rng.choice(TOPICS, (shoppers, INTERESTS), p=self._topic_odds())
        return _State(
            next_ms=self.settings.start_ms + (self._first_click_s() * 1000).astype(np.int64),
            leaving=np.ones(shoppers, np.bool_),
            topics=topics.astype(np.int32),
            current=np.zeros(shoppers, np.int32),
            place=np.full(shoppers, items, np.int32),
            clicks=np.zeros(shoppers, np.int64),
            memory=np.full((shoppers, REMEMBERED), -1, np.int32),
        )

    def _first_click_s(self) -> Float64:
        """[S] time of the first click: as if those who are there had clicked all along, newcomers over the horizon.

        Whoever looks at a random moment finds long waits more often than short ones: the wait found is log-normal
        with its logarithm's mean raised by sigma squared, and a uniform part of it is still ahead.
        """
        breaks_s = self._break_s * self._idleness
        shoppers = len(breaks_s)
        between_clicks = 1.0 - breaks_s * _BREAK_MEAN / _cycle_s(self._gap_s, self._break_s, self._idleness)
        in_session = self._rng.random(shoppers) < between_clicks
        median_s, sigma = np.where(in_session, self._gap_s, breaks_s), np.where(in_session, _GAP_SIGMA, _BREAK_SIGMA)
        wait_s = median_s * np.exp(sigma**2 + sigma * self._rng.standard_normal(shoppers)) * self._rng.random(shoppers)
        arrival_s = self._rng.random(shoppers) * HORIZON_BREAKS * self._break_s
        first_s: Float64 = np.where(self._newcomer, arrival_s, wait_s)
        return first_s

    def _topic_odds(self) -> Float64:
        shares = self.catalogue.topic_popularity.astype(np.float64)
        odds: Float64 = shares / shares.sum()  # float32 shares may miss 1 by more than the generator allows
        return odds

    def _attention(self, now_ms: int) -> Float32:
        """[V] how much more than usual each item attracts: 0 before its launch, a burst after it that fades."""
        age = (now_ms - self.launch_ms) / (self._break_s * 1000)
        burst = _BURST * np.exp(-np.maximum(age, 0.0) / _BURST_BREAKS)
        launched = self.launch_ms > self.settings.start_ms
        return (np.where(launched, 1.0 + burst, 1.0) * (age >= 0)).astype(np.float32)

    def _next_slice(self) -> None:
        """Simulate the next slice of event time; launches take effect from slice to slice."""
        before = self._state.copy()
        choice = choices(self.catalogue, self._attention(self._end_ms))
        self._end_ms += max(1, round(self._break_s * 1000 / _SLICES_PER_BREAK))
        rounds = [self._round(choice, np.empty(0, np.int64))]
        while len(who := np.flatnonzero(self._state.next_ms < self._end_ms)):
            rounds.append(self._round(choice, who))
        columns = [np.concatenate(column) for column in zip(*rounds, strict=True)]
        order = np.lexsort((columns[0], columns[2]))
        shoppers, items, times_ms, actions, searched, *mind = (column[order] for column in columns)
        self._slice = _Slice(before, choice, ClickBatch(shoppers, items, times_ms, actions, searched), *mind)
        self._taken = 0

    def _round(self, choice: Choices, who: Int64) -> tuple[np.ndarray[Any, Any], ...]:
        """One click of each shopper of `who` [n]; the columns of Batch and _Slice."""
        state = self._state
        opens = state.leaving[who]
        self._drift(who[opens])
        turns = opens | (self._rng.random(len(who)) < _CHANGE)
        current = np.where(turns, self._turn(who), state.current[who])
        stands = np.where(turns, np.int32(len(self.catalogue)), state.place[who])
        items, impulse = choice.pick(self._rng, current, stands, state.memory[who])
        actions = (self._rng.random(len(who))[:, None] >= _ACTION_STEPS[impulse.astype(np.intp)]).sum(1)
        times_ms = state.next_ms[who]
        state.current[who] = current
        state.place[who] = np.where(impulse, stands, items)
        state.memory[who, state.clicks[who] % REMEMBERED] = items
        state.clicks[who] += 1
        self._wait(who)
        searched = turns & ~impulse & (self._search_rng.random(len(who)) < self.settings.searches)
        clicks = (who.astype(np.int32), items, times_ms, actions.astype(np.uint8), searched)
        return (*clicks, state.topics[who], current, state.place[who])

    def _drift(self, who: Int64) -> None:
        """Some of those who open a session have taken up a new interest in place of an old one."""
        drifts = who[self._rng.random(len(who)) < self.settings.drift]
        slot = self._rng.integers(INTERESTS, size=len(drifts))
        self._state.topics[drifts, slot] = self._rng.choice(TOPICS, len(drifts), p=self._topic_odds())

    def _turn(self, who: Int64) -> Int32:
        """[n] the interests that the shoppers turn to, by their weights."""
        steps = np.cumsum(self._weights[who], axis=1)[:, :-1]
        slot = (self._rng.random(len(who))[:, None] >= steps).sum(1)
        topics: Int32 = self._state.topics[who, slot]
        return topics

    def _wait(self, who: Int64) -> None:
        """Draw when the next click comes, and whether it opens a session."""
        leaves = self._rng.random(len(who)) < 1.0 / SESSION_CLICKS
        median_s = np.where(leaves, self._break_s * self._idleness[who], self._gap_s)
        wait_s = median_s * np.exp(np.where(leaves, _BREAK_SIGMA, _GAP_SIGMA) * self._rng.standard_normal(len(who)))
        self._state.leaving[who] = leaves
        self._state.next_ms[who] += np.maximum(1, np.rint(wait_s * 1000)).astype(np.int64)


def _cycle_s(gap_s: float, break_s: float, idleness: Float64) -> Float64:
    """[S] mean time from the start of a session to that of the next."""
    cycle_s: Float64 = (SESSION_CLICKS - 1.0) * gap_s * _GAP_MEAN + break_s * idleness * _BREAK_MEAN
    return cycle_s
