"""`headrace backtest`: recorded clicks played in order through the engine, with a retraining after every part of them.

    part 1        trains the first release; the workers then process it, so that every user has a window
    parts 2, ...  each click is judged by what was there before it, then played; after each part the clicks so far are
                  archived and `headrace retrain` makes the next release, with its gate

Two workers get the same clicks: one takes each release that the gate lets pass, the other keeps the first. A click is
judged where both had sent its user a list, all systems on the same clicks: test, then learn (Gama et al., On evaluating
stream learning algorithms, 2013). Clicks are processed in batches in which no user comes twice and that span at most
ten minutes, so that a user's list is made after the user's own last click and before the next one.

A retraining takes no time of the stream: its release serves from the first click after the part on.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from threadpoolctl import threadpool_limits

from engine.arrays import FIRST_SEARCH, NO_ITEM, Int32, Int64, Windows
from engine.catalogue.content import Item
from engine.errors import DataError
from engine.eventlog import topic_plan
from engine.eventlog.time_source import TimeSource
from engine.interactions.layout import Source
from engine.metrics import Metrics
from engine.releases import bundles
from engine.settings.sections import Settings
from engine.worker.archiver import archive_once
from models.data.dataset import Interactions
from models.evaluation.list_evaluation import OnProgress
from models.evaluation.queries import EvalData
from models.jobs import retraining
from models.jobs.live_release import TopicStage
from models.jobs.retraining import Reports, RetrainInput, RetrainOutcome
from models.lab.backtest.replayed_engine import ReplayedEngine, encoded, replay_settings
from models.lab.backtest.stream_rivals import RIVALS, StreamRivals
from models.publishing import announce
from models.settings import TrainSettings

_BATCH_CLICKS: Final = 256
_BATCH_SPAN_MS: Final = 600_000
_LEAST_PARTS: Final = 2


@dataclass(frozen=True, slots=True)
class BacktestInput:
    """Everything that a backtest depends on."""

    interactions: Interactions
    """The n events that are played."""
    items: Mapping[str, Item]
    """Content by item id; empty to train on clicks alone."""
    settings: Settings
    training: TrainSettings
    folder: Path
    """For archive and releases."""
    parts: int = 10
    force: bool = False
    """Let each release serve in spite of the gate. The first always does."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Ranks of judged clicks, from 1, and `NOT_LISTED` for a miss."""

    events: Int64
    """[q] indices of the clicks."""
    retrained: Int64
    """[q] in the lists pushed by the worker that takes new releases."""
    first_release: Int64
    """[q] in those of the worker that keeps the first."""
    rivals: Int64
    """[q, 2, R] in lists of each of `stream_rivals.RIVALS`: pushed at the user's click before, made at the click."""
    popular_places: Int64
    """[q, 2] popular items in the first ten places of the lists of both workers."""
    seen: Int64
    """[q] 1 where the item was in the user's window, so that no list may hold it."""


@dataclass(frozen=True, slots=True)
class PlayedPart:
    """One part of the stream."""

    clicks: int
    from_ms: int
    judged: Judged | None
    """None of the first part."""
    release: str
    """Of the worker that takes new releases; empty in the first part."""
    known: frozenset[str]
    """Items of that release."""


@dataclass(frozen=True, slots=True)
class Retraining:
    """The retraining after a part."""

    after_part: int
    """From 1."""
    outcome: RetrainOutcome
    seconds: float


@dataclass(slots=True)
class Played:
    """All of a backtest."""

    parts: list[PlayedPart] = field(default_factory=list)
    retrainings: list[Retraining] = field(default_factory=list)
    first_known: frozenset[str] = frozenset()
    """Items of the first release."""


def backtest(
    inputs: BacktestInput,
    reports: Reports,
    on_progress: OnProgress,
    on_part: Callable[[Played], None] = lambda _played: None,
) -> Played:
    """Play all parts; the last is not followed by a retraining. `on_part` gets what is played after each.

    Raises:
        DataError: there are too few events for so many parts, or for a release.
        ReleaseError: a worker does not serve by a release that went live.
    """
    count, parts = len(inputs.interactions), inputs.parts
    if parts < _LEAST_PARTS or count < parts:
        raise DataError(f"found {count} events and {parts} parts, expected 2 parts or more, each with an event")
    with ExitStack() as stack:
        stack.enter_context(threadpool_limits(inputs.settings.worker.threads, user_api="blas"))
        stream = _Stream(inputs, reports, stack)
        cuts = [count * part // parts for part in range(parts + 1)]
        stream.play_first(np.arange(cuts[0], cuts[1]))
        for part in range(1, parts):
            stream.play(np.arange(cuts[part], cuts[part + 1]), f"part {part + 1} of {parts}", on_progress)
            on_part(stream.played)
            if part + 1 < parts:
                stream.retrain(force=inputs.force)
        return stream.played


class _Stream:
    """Both workers, the rivals and the windows, at one moment of the stream."""

    def __init__(self, inputs: BacktestInput, reports: Reports, stack: ExitStack) -> None:
        self._inputs, self._reports = inputs, reports
        self._data = EvalData(inputs.interactions, inputs.settings)
        self._settings = replay_settings(self._data.settings, inputs.folder)
        self._retrained, self._kept = (stack.enter_context(ReplayedEngine(self._settings)) for _ in range(2))
        self._stage = TopicStage(self._settings, self._retrained.log)
        self._rivals = StreamRivals(len(inputs.interactions.item_ids))
        self._store = self._data.window_store(np.empty(0, np.int64))
        self._known: frozenset[str] = frozenset()
        self.played = Played()

    def play_first(self, events: Int64) -> None:
        """Play the part that the first release is trained on, and begin to serve by it."""
        for batch in batches(self._inputs.interactions, events):
            self._send(batch)
            self._learn(batch, self._liked(self._windows(batch)))
            self._push(batch)
        self.played.parts.append(self._part(events, None))
        outcome = self.retrain(force=True)
        bundle = self._settings.retrain.releases / outcome.release
        topic = topic_plan.releases(self._settings)
        announce.to_topic(bundle, self._kept.log, topic, time.time_ns() // 1_000_000)
        self.played.first_known = self._known
        for engine in (self._retrained, self._kept):
            engine.begin(outcome.release)

    def play(self, events: Int64, title: str, on_progress: OnProgress) -> None:
        """Judge and play the events of a part."""
        judged, played = list[Judged](), 0
        for batch in batches(self._inputs.interactions, events):
            windows = self._windows(batch)
            liked = self._liked(windows)
            judged.append(self._judge(batch, windows, liked))
            self._send(batch)
            self._learn(batch, liked)
            self._push(batch)
            for engine in (self._retrained, self._kept):
                engine.process()
            played += len(batch)
            on_progress(title, played, len(events))
        self.played.parts.append(self._part(events, together(judged)))

    def retrain(self, *, force: bool) -> RetrainOutcome:
        """Archive the clicks so far, retrain on them, and let the worker take what went live."""
        settings, started_s = self._settings, time.monotonic()
        archive_once(settings, self._retrained.log, Metrics(), TimeSource())
        source = Source(str(settings.archive.folder))
        retrain_input = RetrainInput(source, self._inputs.items, settings, self._inputs.training, self._stage, force)
        now_ms = int(self._inputs.interactions.times_ms[sum(part.clicks for part in self.played.parts) - 1])
        outcome = retraining.retrain(retrain_input, self._reports, now_ms)
        self.played.retrainings.append(Retraining(len(self.played.parts), outcome, time.monotonic() - started_s))
        self._reports.training.on_message(
            f"after part {len(self.played.parts)}: {outcome.release} {outcome.outcome}"
            + "".join(f"; {reason}" for reason in outcome.reasons)
        )
        if outcome.outcome != "refused":
            self._known = frozenset(bundles.read(settings.retrain.releases / outcome.release).ids)
            if self._retrained.release is not None:
                self._retrained.wait_for(outcome.release)
        return outcome

    def _part(self, events: Int64, judged: Judged | None) -> PlayedPart:
        from_ms = int(self._inputs.interactions.times_ms[events[0]])
        return PlayedPart(len(events), from_ms, judged, self._retrained.release or "", self._known)

    def _send(self, batch: Int64) -> None:
        messages = encoded(self._inputs.interactions, batch, self._settings.clicks.topic)
        for engine in (self._retrained, self._kept):
            engine.send(messages)

    def _windows(self, batch: Int64) -> Windows:
        """The windows [B, L] of the users of a batch before it, each user once."""
        return self._store.read(self._inputs.interactions.users[batch])

    def _liked(self, windows: Windows) -> list[Int32]:
        """[B] distinct items of each window whose action has a positive weight, newest first."""
        is_liked = (self._data.action_weights[windows.actions] > 0.0) & (windows.items != NO_ITEM)
        is_liked &= windows.items < FIRST_SEARCH
        newest_first = zip(windows.items[:, ::-1], is_liked[:, ::-1], strict=True)
        return [_distinct(items[mask]) for items, mask in newest_first]

    def _judge(self, batch: Int64, windows: Windows, liked: list[Int32]) -> Judged:
        """Ranks of the clicks of a batch [B] that can be judged, before anyone learns from them."""
        data = self._inputs.interactions
        users = [data.user_ids[user] for user in data.users[batch].tolist()]
        is_target = self._data.target_mask[batch]
        items = [data.item_ids[data.items[event]] if self._data.target_mask[event] else "" for event in batch.tolist()]
        has_list, retrained = self._retrained.ranks(users, items)
        has_both, kept = self._kept.ranks(users, items)
        rows = np.flatnonzero(is_target & has_list & has_both)
        rivals = [self._rival_ranks(int(batch[row]), windows.items[row], liked[row]) for row in rows.tolist()]
        popular_places = [engine.popular_places(users) for engine in (self._retrained, self._kept)]
        return Judged(
            events=batch[rows],
            retrained=retrained[rows],
            first_release=kept[rows],
            rivals=np.array(rivals, np.int64).reshape(len(rows), 2, RIVALS),
            popular_places=np.stack(popular_places, axis=1)[rows],
            seen=(windows.items[rows] == data.items[batch[rows]][:, None]).any(axis=1).astype(np.int64),
        )

    def _rival_ranks(self, event: int, window: Int32, liked: Int32) -> tuple[list[int], list[int]]:
        data = self._inputs.interactions
        user, item, time_ms = (int(column[event]) for column in (data.users, data.items, data.times_ms))
        return self._rivals.pushed_ranks(user, item), self._rivals.ranks(user, item, time_ms, window, liked)

    def _push(self, batch: Int64) -> None:
        """Give the users of a batch, which all have learned from, the rivals' lists."""
        data, windows = self._inputs.interactions, self._windows(batch)
        time_ms = int(data.times_ms[batch[-1]])
        users = data.users[batch].tolist()
        for user, window, liked in zip(users, windows.items, self._liked(windows), strict=True):
            self._rivals.push(user, time_ms, window, liked)

    def _learn(self, batch: Int64, liked: list[Int32]) -> None:
        """Let the rivals learn from a batch, and move the windows on."""
        data, is_target = self._inputs.interactions, self._data.target_mask[batch]
        for row in np.flatnonzero(is_target).tolist():
            event = int(batch[row])
            user, item, time_ms = (int(column[event]) for column in (data.users, data.items, data.times_ms))
            self._rivals.add(user, item, time_ms, liked[row])
        self._store.append(self._data.store_events(batch))


def batches(interactions: Interactions, events: Int64) -> Iterator[Int64]:
    """The events at these indices (ascending) in batches, each with at most one event of a user, and of ten minutes."""
    users, times_ms = interactions.users, interactions.times_ms
    start, in_batch = 0, set[int]()
    for index, event in enumerate(events.tolist()):
        user, span_ms = int(users[event]), int(times_ms[event] - times_ms[events[start]])
        if user in in_batch or span_ms > _BATCH_SPAN_MS or index - start == _BATCH_CLICKS:
            yield events[start:index]
            start, in_batch = index, set()
        in_batch.add(user)
    if start < len(events):
        yield events[start:]


def together(judged: list[Judged]) -> Judged:
    """Judged clicks of several batches as those of one."""

    def column(of: Callable[[Judged], Int64]) -> Int64:
        return np.concatenate([of(batch) for batch in judged])

    return Judged(
        events=column(lambda batch: batch.events),
        retrained=column(lambda batch: batch.retrained),
        first_release=column(lambda batch: batch.first_release),
        rivals=column(lambda batch: batch.rivals),
        popular_places=column(lambda batch: batch.popular_places),
        seen=column(lambda batch: batch.seen),
    )


def _distinct(items: Int32) -> Int32:
    """The items in their order, each once."""
    return np.array(list(dict.fromkeys(items.tolist())), np.int32)
