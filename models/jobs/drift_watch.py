"""Drift as a retrainer sees it: clicks in the archive on items that the live release does not know.

The archive has clicks and no lists, so that the next-click rate cannot be computed from it, and interests only by an
encoder that runs over all windows. What it shows is the reason why releases age fastest: items that came after the
training, which a release cannot list at all. That takes files alone and no Prometheus, so that a retrainer decides by
itself.
"""

from dataclasses import dataclass, replace

import numpy as np

from engine.arrays import Bool
from engine.catalogue import searches
from engine.interactions.columns import Names
from engine.interactions.interaction_reader import InteractionBatch, InteractionReader
from engine.interactions.layout import Source
from engine.messages.announcement import Announcement
from engine.settings.sections import ClickSettings
from models.jobs.live_release import Stage, fetched


@dataclass(frozen=True, slots=True)
class UnknownItems:
    """Clicks of positive weight on items, and those among them on items that a release does not know."""

    clicks: int
    unknown: int

    @property
    def share(self) -> float:
        """Share of the clicks that is on unknown items; 0 without clicks."""
        return self.unknown / max(self.clicks, 1)


@dataclass(frozen=True, slots=True)
class _Known:
    """Items of a live release, and the end of its training data."""

    announcement: Announcement
    items: frozenset[str]
    until_ms: int
    """Time of the newest click that it was trained with, Unix milliseconds."""


class DriftWatch:
    """Looks at the clicks since the live release of a model; its item ids are fetched once for each release."""

    def __init__(self, stage: Stage, source: Source, clicks: ClickSettings) -> None:
        self._stage, self._source, self._clicks = stage, source, clicks
        self._known: _Known | None = None

    def look(self, since_ms: int) -> UnknownItems | None:
        """Clicks after the newest one that the live release was trained with, and not before `since_ms`.

        None without a live release.

        Raises:
            DataError: the clicks cannot be read.
            ReleaseError: the live release cannot be fetched.
            EventLogError: the topic of releases cannot be read.
        """
        live = next(iter(self._stage.registry().live()), None)
        if live is None:
            return None
        if self._known is None or self._known.announcement != live:
            self._known = _fetched_items(live)
        source = replace(self._source, since_ms=max(since_ms, self._known.until_ms + 1))
        return unknown_items(source, self._known.items, self._clicks)


def unknown_items(source: Source, known: frozenset[str], clicks: ClickSettings) -> UnknownItems:
    """The clicks of a source, and those on items other than the known ones; a part in memory at a time.

    Raises:
        DataError: they cannot be read.
    """
    counted = unknown = 0
    for batch in InteractionReader(source, clicks).batches():
        names = batch.items.names
        is_click = np.array([not searches.is_search(name) for name in names], np.bool_)
        is_known = np.array([name in known for name in names], np.bool_)
        counts = is_click[batch.items.codes] & _is_positive(batch, clicks)  # [n]
        counted += int(counts.sum())
        unknown += int((counts & ~is_known[batch.items.codes]).sum())
    return UnknownItems(counted, unknown)


def _is_positive(batch: InteractionBatch, clicks: ClickSettings) -> Bool:
    """[n] whether the action of each event has a weight above 0."""
    actions = Names.empty(len(batch)) if batch.actions is None else batch.actions
    default = clicks.actions[clicks.default_action]
    return np.array([clicks.actions.get(name, default) > 0.0 for name in actions.names], np.bool_)[actions.codes]


def _fetched_items(live: Announcement) -> _Known:
    with fetched(live) as bundle:
        if bundle is None:
            raise RuntimeError("an announcement was fetched as none")
        manifest = bundle.manifest
        return _Known(live, frozenset(bundle.ids), manifest.trained_until_ms)
