"""Releases for simulated workers: the whole path on a small release, or a recommender that lists what it sees."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

from engine.arrays import NO_ITEM, Int32, Windows
from engine.catalogue.ids import Catalogue
from engine.pipeline import Recommender, Stage
from engine.ranking import lists
from engine.ranking.lists import Lists
from engine.releases import bundles, serving
from engine.releases.bundles import Provenance
from engine.releases.release_loader import TrialChange
from engine.releases.serving import LiveRelease
from engine.settings.sections import IndexSettings
from producers.demo.bundled import DEMO_RELEASE

COUNT = 4
"""Items of a list; no fewer than the events of a window, so that a mirror shows all of it."""


class MirrorRecommender(Recommender):
    """Lists the window itself, newest first: a list shows which window it was made of."""

    def recommend(
        self, windows: Windows, live: LiveRelease, stage: Stage = nullcontext, excluded: Int32 | None = None
    ) -> Lists:
        """See `Recommender.recommend`; no encoder runs."""
        del live, stage, excluded
        ranking = lists.no_ranking(len(windows), self.settings.count)
        newest_first = windows.items[:, ::-1]
        ranking.items[:, : newest_first.shape[1]] = np.where(newest_first >= 0, newest_first, NO_ITEM)
        return lists.assemble(ranking, ranking.items, lists.no_reasons(len(windows), 1, self.settings.reasons), {})


class _NoItems(tuple[()]):
    """An index that is never searched."""

    __slots__ = ()
    fallbacks = 0


class MirrorRelease(SimpleNamespace):
    """As much of a release as a mirror needs."""

    @property
    def name(self) -> str:
        """Model and version."""
        return f"mirror-{self.manifest.version}"

    def forget_searches(self) -> None:
        """There are none."""

    def rows(self, numbers: Int32) -> Int32:
        """It knows no item."""
        return np.full(numbers.shape, NO_ITEM, np.int32)


def mirror(version: int) -> Any:
    """A release that needs no encoder."""
    return MirrorRelease(
        manifest=SimpleNamespace(
            model="mirror", version=str(version), action_values={}, provenance=Provenance(), trained_until_ms=0
        ),
        contract=SimpleNamespace(interests=1),
        numbers=np.empty(0, np.int32),
        popularity=np.empty(0, np.float32),
        index=_NoItems(),
        recall=1.0,
        known_items=0,
    )


@cache
def _warm() -> tuple[LiveRelease, list[str]]:
    bundle = bundles.read(DEMO_RELEASE)
    return serving.warm(bundle, Catalogue(), IndexSettings(kind="exact"), threads=1), bundle.ids


def real(version: int, catalogue: Catalogue) -> LiveRelease:
    """The demo's release, warmed once, for the catalogue of a worker that has just begun or has it already."""
    live, ids = _warm()
    pin = catalogue.pin(ids)
    if not np.array_equal(pin.numbers, live.numbers):
        raise RuntimeError("the catalogue numbers items differently from the one that the release was warmed with")
    manifest = msgspec.structs.replace(live.manifest, version=str(version))
    return replace(live, manifest=manifest, _ids=catalogue.ids, _pins=(pin,))


def item_ids() -> list[str]:
    """Ids of the real release's items."""
    return _warm()[1]


@dataclass(slots=True)
class HandedReleases:
    """Releases that the simulation hands to a worker (see `engine.releases.release_loader.ReleaseSource`)."""

    make: Callable[[int], LiveRelease]
    ready: LiveRelease | None = None

    def start(self) -> None:
        """The first is there at once."""
        self.ready = self.make(0)

    def wait(self, timeout_s: float) -> bool:
        """Nothing to wait for."""
        del timeout_s
        return self.ready is not None

    def take(self) -> LiveRelease | None:
        """The one that was handed over last."""
        ready, self.ready = self.ready, None
        return ready

    def take_trial(self) -> TrialChange | None:
        """There is none."""
        return None

    def close(self) -> None:
        """Nothing to stop."""
