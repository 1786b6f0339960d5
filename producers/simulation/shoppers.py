"""Simulated shoppers with hidden interests that are known exactly: a ground truth for lists.

    interests   each shopper has a few topics with weights; now and then one is replaced by another (drift)
    sessions    a session is about one topic; its clicks follow the items' successors, with jumps within the topic,
                rare changes of topic, and impulses: clicks on popular items
    time        some tens of seconds between clicks of a session, hours between sessions; or, with `clicks_per_s`, both
                shortened so that all shoppers together click at that rate
    launches    part of the catalogue goes on sale during the run, each item with a burst of attention
    arrivals    part of the shoppers click for the first time during the run
    searches    with `searches`, some clicks on a new topic come after a search for the item's category

An impulse leaves the session's current item as it was: the next click follows from the item before the impulse, so
that a model of the last click alone is misled, and one of the whole window is not.

Shoppers are simulated together, one click each per round, in slices of event time; the clicks of a slice are then
sorted. `Simulation.relevance` is exact: the distribution from which a shopper's next click is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from engine.arrays import Bool, Float32, Float64, Int32, Int64, UInt8
from engine.errors import DataError, SettingsError
from producers.simulation.choices import ChoiceModel, choice_model, with_retries
from producers.simulation.simulated_catalogue import TOPICS, SimulatedCatalogue, make_catalogue

ACTIONS: Final = ("view", "cart", "buy", "dislike")
INTERESTS: Final = 4
"""Topics of each shopper."""
SESSION_CLICKS: Final = 8.0
"""Mean clicks of a session; lengths are geometric."""
CLICK_GAP_S: Final = 30.0
SESSION_BREAK_S: Final = 8 * 3600.0
"""Medians; both are log-normal."""
HORIZON_BREAKS: Final = 40
"""Launches and arrivals are spread over this many session breaks, about two weeks without `clicks_per_s`."""
REMEMBERED: Final = 100
"""Clicks a shopper remembers; an item among them is drawn again (`producers.simulation.choices`)."""

_TOPIC_CHANGE = 0.05
"""Probability that a click within a session changes the topic."""
_SHORT_BREAK_GAPS = 10.0
"""Median break over median gap with `clicks_per_s`."""
_GAP_SIGMA, _BREAK_SIGMA, _IDLENESS_SIGMA = 0.6, 0.6, 0.5
_GAP_MEAN, _BREAK_MEAN = np.exp(_GAP_SIGMA**2 / 2), np.exp(_BREAK_SIGMA**2 / 2)
"""Mean over median of a log-normal."""
_BURST, _BURST_BREAKS = 8.0, 2.0
"""Extra attention at an item's launch, in multiples of the usual, and the breaks over which it falls to 1/e."""
_SLICES_PER_BREAK = 4
_ACTION_STEPS = np.cumsum([[0.85, 0.10, 0.04], [0.83, 0.02, 0.01]], axis=1)
"""[topic or impulse, ACTIONS but the last] cumulative shares: an impulse is disliked more often."""
_RANGES = {
    "seed": (0, 2**63),
    "catalogue_seed": (0, 2**63),
    "shoppers": (1, 10**6),
    "drift": (0, 1),
    "searches": (0, 1),
} | dict.fromkeys(("new_items", "new_shoppers"), (0, 0.9))


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """Size, seeds and behaviour of a simulation.

    Raises:
        SettingsError: a value is out of range.
    """

    seed: int = 0
    """Seed of the shoppers and their clicks."""
    catalogue_seed: int = 0
    """Seed of the catalogue."""
    items: int = 2_000
    """Items in the catalogue."""
    shoppers: int = 2_000
    """Shoppers, those who arrive during the run included."""
    start_ms: int = 1_700_000_000_000
    """Event time of the beginning, Unix milliseconds."""
    clicks_per_s: float | None = None
    """Clicks per second of all shoppers present from the start; None leaves hours between sessions."""
    new_items: float = 0.1
    """Share of the catalogue that is launched during the run."""
    new_shoppers: float = 0.2
    """Share of the shoppers who arrive during the run."""
    drift: float = 0.05
    """Probability, per session, that one of the shopper's topics is replaced by another."""
    searches: float = 0.0
    """Share of the clicks that open or change a topic which come after a search."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise SettingsError(f"{name}: found {getattr(self, name)}, expected {low} to {high}")
        if self.clicks_per_s is not None and not 0 < self.clicks_per_s < float("inf"):
            raise SettingsError(f"clicks_per_s: found {self.clicks_per_s}, expected a number above 0")


@dataclass(frozen=True, slots=True)
class ClickBatch:
    """n simulated clicks as columns, in order of event time and, at equal times, of shopper number."""

    shoppers: Int32
    """[n] shopper numbers (`shopper_id` gives their user ids)."""
    items: Int32
    """[n] item numbers in the catalogue."""
    times_ms: Int64
    """[n] event time, Unix milliseconds."""
    actions: UInt8
    """[n] indices into ACTIONS."""
    searched: Bool
    """[n] the click comes after a search for the item's category."""

    def with_searches(self) -> tuple[Int64, Bool]:
        """Events [m] in order, each search before its click: index of the click, and a mask of the searches."""
        clicks = np.repeat(np.arange(len(self)), 1 + self.searched)
        is_search: Bool = np.append(clicks[1:] == clicks[:-1], False)[: len(clicks)]
        return clicks, is_search

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, clicks: slice | Int64) -> "ClickBatch":
        return ClickBatch(*(getattr(self, column.name)[clicks] for column in fields(ClickBatch)))


def join(batches: Sequence[ClickBatch]) -> ClickBatch:
    """Batches that follow each other in time, as one."""
    columns = ([getattr(batch, column.name) for batch in batches] for column in fields(ClickBatch))
    return ClickBatch(*(np.concatenate(column) for column in columns))


def shopper_id(number: int) -> str:
    """User id of a shopper: 'shopper-00042'."""
    return f"shopper-{number:05d}"


def shopper_number(user: str) -> int:
    """Number of a shopper from the user id; the inverse of `shopper_id`.

    Raises:
        DataError: the id is not that of a simulated shopper.
    """
    number = user.removeprefix("shopper-")
    if number.isdecimal() and shopper_id(int(number)) == user:
        return int(number)
    raise DataError(f"user {user!r} is not a simulated shopper; their ids look like {shopper_id(42)!r}")


@dataclass(slots=True)
class _State:
    """State of S shoppers."""

    next_ms: Int64
    """[S] event time of the next click."""
    session_over: Bool
    """[S] the next click opens a session."""
    topics: Int32
    """[S, INTERESTS] topics that each is interested in now."""
    topic: Int32
    """[S] topic of the session."""
    item: Int32
    """[S] current item of the session, whose successors come next; V, which has none, where there is no such item."""
    clicks: Int64
    """[S] number of clicks so far."""
    memory: Int32
    """[S, REMEMBERED] items of the last clicks, as a ring buffer; -1 where there is no click yet."""

    def copy(self) -> "_State":
        return _State(*(getattr(self, column.name).copy() for column in fields(self)))


@dataclass(frozen=True, slots=True)
class _Slice:
    """The clicks of one slice of event time, with the state of their shoppers after each of them."""

    before: _State
    """State of all shoppers before the slice."""
    model: ChoiceModel
    batch: ClickBatch
    topics: Int32
    """[n, INTERESTS] topics of the click's shopper after it."""
    topic: Int32
    """[n] topic of the session after the click."""
    item: Int32
    """[n] current item of the session after the click."""


@dataclass(frozen=True, slots=True)
class _ShopperState:
    """State of one shopper after a click."""

    memory: Int32
    """Items of the last clicks, at most REMEMBERED, oldest first."""
    topics: Int32
    """[INTERESTS]"""
    topic: int
    item: int
    """As in `_State`."""


class Simulation:
    """The shop and its shoppers, simulated in event time.

    The same settings give the same clicks, however they are divided into batches.
    """

    def __init__(self, settings: SimulationSettings) -> None:
        self.settings = settings
        self.catalogue: SimulatedCatalogue = make_catalogue(settings.catalogue_seed, settings.items)
        self._rng = np.random.default_rng(settings.seed)
        self._search_rng = np.random.default_rng([settings.seed, 1])  # clicks are the same with and without searches
        self._idleness = self._rng.lognormal(0.0, _IDLENESS_SIGMA, settings.shoppers)
        self._newcomer = np.arange(settings.shoppers) >= settings.shoppers * (1 - settings.new_shoppers)
        self._gap_s, self._break_s = self._median_waits_s()
        self.launch_ms: Int64 = self._launch_times_ms()
        """[V] event time at which each item goes on sale."""
        self._weights = self._rng.dirichlet([2.0] * INTERESTS, settings.shoppers)
        self._state = self._initial_state()
        self._end_ms = settings.start_ms
        self._returned = 0  # clicks of the slice that callers have
        self._next_slice()

    def advance(self, count: int) -> ClickBatch:
        """The next `count` clicks."""
        parts = [self._pop(count)]
        while (missing := count - sum(map(len, parts))) > 0:
            self._next_slice()
            parts.append(self._pop(missing))
        return join(parts)

    def advance_to(self, time_ms: int) -> ClickBatch:
        """The next clicks whose event time is before `time_ms`."""
        parts = [self._pop_before(time_ms)]
        while self._end_ms < time_ms:
            self._next_slice()
            parts.append(self._pop_before(time_ms))
        return join(parts)

    def interests(self, shopper: int) -> tuple[Int32, Float32]:
        """Topics [INTERESTS] and their weights [INTERESTS] of a shopper, after the last click returned."""
        return self._after_returned(shopper).topics, self._weights[shopper].astype(np.float32)

    def relevance(self, shopper: int) -> Float32:
        """[V] probability that the shopper's next click is on each item, after the last click returned.

        Exact for the items on sale at that time; the shopper's own decisions before the click (to end the session, to
        replace a topic) are averaged over.
        """
        state = self._after_returned(shopper)
        remembered = np.isin(np.arange(len(self.catalogue)), state.memory)
        in_session = 1.0 - 1.0 / SESSION_CLICKS if len(state.memory) else 0.0
        weights = self._weights[shopper]
        kept = np.bincount(state.topics, weights, TOPICS)
        drifted = kept + self.settings.drift / INTERESTS * (self.catalogue.topic_popularity - kept)
        new_topic = (1.0 - in_session) * drifted + in_session * _TOPIC_CHANGE * kept
        model = self._slice.model
        shares = new_topic @ with_retries(model.without_current_item(slice(TOPICS)), remembered)
        same_topic = with_retries(model.with_current_item(state.topic, state.item), remembered)
        shares += in_session * (1.0 - _TOPIC_CHANGE) * same_topic
        relevance: Float32 = shares.astype(np.float32)
        return relevance

    def _after_returned(self, shopper: int) -> _ShopperState:
        """The state of a shopper after the last click returned.

        Raises:
            DataError: the simulation has no such shopper.
        """
        if not 0 <= shopper < self.settings.shoppers:
            raise DataError(f"shopper {shopper}: the simulation has shoppers 0 to {self.settings.shoppers - 1}")
        part, before = self._slice, self._slice.before
        clicks = np.flatnonzero(part.batch.shoppers[: self._returned] == shopper)
        ring = np.roll(before.memory[shopper], -int(before.clicks[shopper] % REMEMBERED))
        memory = np.concatenate([ring, part.batch.items[clicks]])[-REMEMBERED:]
        source, row = (part, clicks[-1]) if len(clicks) else (before, shopper)
        return _ShopperState(memory[memory >= 0], source.topics[row], int(source.topic[row]), int(source.item[row]))

    def _pop(self, count: int) -> ClickBatch:
        """The next clicks of the slice, at most `count`."""
        batch = self._slice.batch[self._returned : self._returned + count]
        self._returned += len(batch)
        return batch

    def _pop_before(self, time_ms: int) -> ClickBatch:
        return self._pop(int(np.searchsorted(self._slice.batch.times_ms, time_ms)) - self._returned)

    def _median_waits_s(self) -> tuple[float, float]:
        """Median gap and median break, in seconds, at which the shoppers click `clicks_per_s`."""
        if self.settings.clicks_per_s is None:
            return CLICK_GAP_S, SESSION_BREAK_S
        idleness = self._idleness[~self._newcomer]
        unit_rate = float((SESSION_CLICKS / _cycle_s(1.0, _SHORT_BREAK_GAPS, idleness)).sum())  # with a gap of a second
        gap_s = unit_rate / self.settings.clicks_per_s
        return gap_s, gap_s * _SHORT_BREAK_GAPS

    def _launch_times_ms(self) -> Int64:
        """[V] launch times: the first of the launch order at the start, the others spread over the horizon."""
        at_start = 1.0 - self.settings.new_items
        delay = np.maximum(self.catalogue.launch_order - at_start, 0.0) / max(self.settings.new_items, 1e-9)
        launch_ms: Int64 = self.settings.start_ms + (delay * HORIZON_BREAKS * self._break_s * 1000).astype(np.int64)
        return launch_ms

    def _initial_state(self) -> _State:
        shoppers, items = self.settings.shoppers, self.settings.items
        topics = self._rng.choice(TOPICS, (shoppers, INTERESTS), p=self._topic_odds())
        return _State(
            next_ms=self.settings.start_ms + (self._first_click_s() * 1000).astype(np.int64),
            session_over=np.ones(shoppers, np.bool_),
            topics=topics.astype(np.int32),
            topic=np.zeros(shoppers, np.int32),
            item=np.full(shoppers, items, np.int32),
            clicks=np.zeros(shoppers, np.int64),
            memory=np.full((shoppers, REMEMBERED), -1, np.int32),
        )

    def _first_click_s(self) -> Float64:
        """[S] seconds to the first click: newcomers over the horizon, the others as if they had clicked before.

        At a random moment a long wait is under way more often than a short one: the wait under way is log-normal with
        the mean of its logarithm raised by sigma squared, and a uniform part of it remains.
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
        """[V] attention to each item, as a multiple of the usual: 0 before its launch, then a burst that fades."""
        age = (now_ms - self.launch_ms) / (self._break_s * 1000)
        burst = _BURST * np.exp(-np.maximum(age, 0.0) / _BURST_BREAKS)
        launched = self.launch_ms > self.settings.start_ms
        return (np.where(launched, 1.0 + burst, 1.0) * (age >= 0)).astype(np.float32)

    def _next_slice(self) -> None:
        """Simulate the next slice of event time; launches take effect from slice to slice."""
        before = self._state.copy()
        model = choice_model(self.catalogue, self._attention(self._end_ms))
        self._end_ms += max(1, round(self._break_s * 1000 / _SLICES_PER_BREAK))
        rounds = [self._round(model, np.empty(0, np.int64))]
        while len(shoppers := np.flatnonzero(self._state.next_ms < self._end_ms)):
            rounds.append(self._round(model, shoppers))
        clicks, states = zip(*rounds, strict=True)
        batch = join(clicks)
        order = np.lexsort((batch.shoppers, batch.times_ms))
        topics, topic, item = (np.concatenate(column)[order] for column in zip(*states, strict=True))
        self._slice = _Slice(before, model, batch[order], topics, topic, item)
        self._returned = 0

    def _round(self, model: ChoiceModel, shoppers: Int64) -> tuple[ClickBatch, tuple[Int32, Int32, Int32]]:
        """One click of each of these shoppers [n], and the columns topics, topic and item of `_Slice`."""
        state = self._state
        opens = state.session_over[shoppers]
        self._drift(shoppers[opens])
        new_topic = opens | (self._rng.random(len(shoppers)) < _TOPIC_CHANGE)
        topic = np.where(new_topic, self._draw_topics(shoppers), state.topic[shoppers])
        current = np.where(new_topic, np.int32(len(self.catalogue)), state.item[shoppers])
        items, impulse = model.draw(self._rng, topic, current, state.memory[shoppers])
        actions = (self._rng.random(len(shoppers))[:, None] >= _ACTION_STEPS[impulse.astype(np.intp)]).sum(1)
        times_ms = state.next_ms[shoppers]
        state.topic[shoppers] = topic
        state.item[shoppers] = np.where(impulse, current, items)
        state.memory[shoppers, state.clicks[shoppers] % REMEMBERED] = items
        state.clicks[shoppers] += 1
        self._schedule(shoppers)
        searched = new_topic & ~impulse & (self._search_rng.random(len(shoppers)) < self.settings.searches)
        clicks = ClickBatch(shoppers.astype(np.int32), items, times_ms, actions.astype(np.uint8), searched)
        return clicks, (state.topics[shoppers], topic, state.item[shoppers])

    def _drift(self, shoppers: Int64) -> None:
        """Replace a topic of some of these shoppers, who open a session."""
        drifting = shoppers[self._rng.random(len(shoppers)) < self.settings.drift]
        column = self._rng.integers(INTERESTS, size=len(drifting))
        self._state.topics[drifting, column] = self._rng.choice(TOPICS, len(drifting), p=self._topic_odds())

    def _draw_topics(self, shoppers: Int64) -> Int32:
        """[n] one of each shopper's topics, drawn by their weights."""
        steps = np.cumsum(self._weights[shoppers], axis=1)[:, :-1]
        column = (self._rng.random(len(shoppers))[:, None] >= steps).sum(1)
        topics: Int32 = self._state.topics[shoppers, column]
        return topics

    def _schedule(self, shoppers: Int64) -> None:
        """Draw the time of each shopper's next click, and whether it opens a session."""
        ends = self._rng.random(len(shoppers)) < 1.0 / SESSION_CLICKS
        median_s = np.where(ends, self._break_s * self._idleness[shoppers], self._gap_s)
        sigma = np.where(ends, _BREAK_SIGMA, _GAP_SIGMA)
        wait_s = median_s * np.exp(sigma * self._rng.standard_normal(len(shoppers)))
        self._state.session_over[shoppers] = ends
        self._state.next_ms[shoppers] += np.maximum(1, np.rint(wait_s * 1000)).astype(np.int64)


def _cycle_s(gap_s: float, break_s: float, idleness: Float64) -> Float64:
    """[S] mean seconds from the start of a session to the start of the next."""
    cycle_s: Float64 = (SESSION_CLICKS - 1.0) * gap_s * _GAP_MEAN + break_s * idleness * _BREAK_MEAN
    return cycle_s
