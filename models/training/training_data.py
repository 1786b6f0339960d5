"""What one training learns from: histories without what is held out, and what there is to know about their items.

Searches are a part of it only where the encoder will know items by their content, as it knows searches by nothing else.

It is made from recorded histories in a few passes, some million events at a time, and lies in memory or, for data that
is larger, in a folder whose files are mapped: 13 bytes an event. What has to fit in memory: 16 bytes a user and some 50
an item, and the items' ids.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from engine.arrays import FIRST_SEARCH, Bool, Float32, Int32, Int64
from engine.catalogue.actions import Actions
from engine.errors import DataError
from engine.releases.bundles import Holdout
from models.data import histories as sorted_events
from models.data import splits
from models.data.action_names import ActionCodes
from models.data.histories import Histories, RecordedHistories, column
from models.settings import TrainSettings

POPULARITY_DAYS: Final = 7
_DAY_MS: Final = 86_400_000
_FACTS: Final = "material.json"


@dataclass(frozen=True, slots=True)
class TrainingData:
    """U histories of n events with V items and Q searches."""

    histories: Histories
    counts: Int64
    """[V] training events of each item, by row."""
    popularity: Float32
    """[V] those of the last seven days of the training data."""
    ids: list[str]
    """[V] ids of the items with a training event, by row."""
    holdout: Holdout
    newest_ms: int
    """Newest event to learn from."""
    fingerprint: str
    """Of the data, what was left out included."""
    searches: list[str] = field(default_factory=list)
    """[Q] ids of the searches, by row less FIRST_SEARCH."""
    search_counts: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """[Q] how often each was made."""


def prepare(
    recorded: RecordedHistories, settings: TrainSettings, folder: Path | None = None, *, searches: bool = False
) -> TrainingData:
    """What is left of the histories without what the settings hold out, in `folder` or else in memory.

    Args:
        recorded: all there is.
        settings: how it will be trained on.
        folder: where it is put down.
        searches: whether searches are a part of it. They never are in a private training, where the words that users
            typed would decide which features are learned about.

    Raises:
        DataError: nothing is left.
    """
    left_out = splits.holdout(recorded, settings.holdout, settings.holdout_items, settings.seed)
    columns = _Columns(folder, len(recorded))
    with_searches = searches and settings.private_epsilon is None
    lengths, newest_ms = _fill(columns, recorded, left_out, settings, with_searches=with_searches)
    histories = columns.histories(np.append(0, np.cumsum(lengths[lengths > 0])))
    known, counts, popularity = _items(histories, len(recorded.item_ids), newest_ms)
    searched, search_counts = _searches(histories, len(recorded.search_ids))
    if not len(known):
        raise DataError(
            f"{len(lengths)} users with {len(recorded)} events leave nothing to train on when"
            f" --holdout {settings.holdout} is left out, too few; give more data or a smaller --holdout"
        )
    return TrainingData(
        histories=histories,
        counts=counts,
        popularity=popularity,
        ids=[recorded.item_ids[number] for number in known],
        holdout=left_out,
        newest_ms=newest_ms,
        fingerprint=recorded.fingerprint(),
        searches=[recorded.search_ids[number] for number in searched],
        search_counts=search_counts,
    )


def save(material: TrainingData, folder: Path, stamp: Any) -> None:
    """Complete a folder that `prepare` was given; `stamp` says which files it was made from."""
    for name in ("counts", "popularity", "search_counts"):
        np.save(folder / f"{name}.npy", getattr(material, name))
    np.save(folder / "starts.npy", material.histories.starts)
    facts = {
        "ids": material.ids,
        "searches": material.searches,
        "holdout": msgspec.to_builtins(material.holdout),
        "newest_ms": material.newest_ms,
        "fingerprint": material.fingerprint,
        "stamp": stamp,
    }
    unfinished = folder / f".{_FACTS}"
    unfinished.write_text(json.dumps(facts))
    unfinished.rename(folder / _FACTS)


def saved_for(folder: Path, stamp: Any) -> bool:
    """Whether the folder is complete, and was made from files with this stamp."""
    path = folder / _FACTS
    return path.exists() and json.loads(path.read_text())["stamp"] == stamp


def load(folder: Path) -> TrainingData:
    """What `save` left there."""
    facts = json.loads((folder / _FACTS).read_text())
    kept = {name: np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in _Columns.KINDS}
    starts = np.load(folder / "starts.npy")
    return TrainingData(
        histories=Histories(**{name: kept[name][: starts[-1]] for name in kept}, starts=starts),
        counts=np.load(folder / "counts.npy"),
        popularity=np.load(folder / "popularity.npy"),
        ids=facts["ids"],
        holdout=msgspec.convert(facts["holdout"], Holdout),
        newest_ms=facts["newest_ms"],
        fingerprint=facts["fingerprint"],
        searches=facts["searches"],
        search_counts=np.load(folder / "search_counts.npy"),
    )


class _Columns:
    """The events of the histories, room for all of them."""

    KINDS: Final[Mapping[str, npt.DTypeLike]] = {"items": np.int32, "times_ms": np.int64, "actions": np.uint8}

    def __init__(self, folder: Path | None, events: int) -> None:
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _FACTS).unlink(missing_ok=True)
        self._columns: dict[str, npt.NDArray[Any]] = {
            name: column(folder / f"{name}.npy", kind, events) if folder else np.empty(events, kind)
            for name, kind in self.KINDS.items()
        }
        self._filled = 0

    def add(self, **found: npt.NDArray[Any]) -> None:
        end = self._filled + len(found["items"])
        for name, values in found.items():
            self._columns[name][self._filled : end] = values
        self._filled = end

    def histories(self, starts: Int64) -> Histories:
        return Histories(**{name: values[: self._filled] for name, values in self._columns.items()}, starts=starts)


def _fill(
    columns: _Columns, recorded: RecordedHistories, left_out: Holdout, settings: TrainSettings, *, with_searches: bool
) -> tuple[Int64, int]:
    """Copy what is to be learned from; events a user [U], and the newest of all."""
    lengths, newest_ms = np.zeros(len(recorded.starts) - 1, np.int64), 0
    actions = Actions(settings.clicks)
    action_codes = ActionCodes(recorded.action_names, actions)
    cold = splits.cold_items(recorded.item_ids, left_out) if left_out.items_share else None  # [V]
    for users, events in recorded.parts():
        times_ms, items = recorded.times_ms[events], recorded.items[events]
        clicks: Bool = items < FIRST_SEARCH
        codes = action_codes.of(recorded.actions[events], items)
        kept: Bool = (actions.weights[codes] > 0.0) & (clicks | with_searches)
        if left_out.from_ms is not None:
            kept &= times_ms < left_out.from_ms
        if cold is not None:
            kept[clicks] &= ~cold[items[clicks]]
        starts = recorded.starts[users.start : users.stop + 1] - events.start
        if left_out.last_event:
            kept &= ~_newest(clicks, starts)
        if with_searches:  # one that led to no click teaches nothing
            kept &= clicks | ~_newest(clicks & kept, starts)
        upto = np.append(0, np.cumsum(kept))
        lengths[users] = np.diff(upto[starts])
        columns.add(items=items[kept], times_ms=times_ms[kept], actions=codes[kept])
        newest_ms = max(newest_ms, int(times_ms[kept].max(initial=0)))
    return lengths, newest_ms


def _newest(clicks: Bool, starts: Int64) -> Bool:
    """[n] marks each user's newest click, and all that came after it; the events of users begin at `starts` [U + 1]."""
    places = np.arange(len(clicks))
    begins, lengths = starts[:-1][np.diff(starts) > 0], np.diff(starts)[np.diff(starts) > 0]
    last = np.maximum.reduceat(np.where(clicks, places, -1), begins) if len(begins) else begins
    marks: Bool = places >= np.repeat(last, lengths)
    return marks


def _items(histories: Histories, numbers: int, newest_ms: int) -> tuple[Int64, Int64, Float32]:
    """Turn item numbers into rows of the items that were met: their numbers, events and recent events, all [V]."""
    counts, recent = np.zeros((2, numbers), np.int64)
    for events in _pieces(histories):
        items, clicks = histories.items[events], histories.items[events] < FIRST_SEARCH
        counts += np.bincount(items[clicks], minlength=numbers)
        late = histories.times_ms[events] > newest_ms - POPULARITY_DAYS * _DAY_MS
        recent += np.bincount(items[clicks & late], minlength=numbers)
    met: Bool = counts > 0
    rows: Int32 = (np.cumsum(met) - 1).astype(np.int32)
    for events in _pieces(histories):
        items = histories.items[events]
        clicks = items < FIRST_SEARCH
        items[clicks] = rows[items[clicks]]
    return np.flatnonzero(met), counts[met], recent[met].astype(np.float32)


def _searches(histories: Histories, numbers: int) -> tuple[Int64, Int64]:
    """Turn numbers of searches into rows of those that were met: their numbers less FIRST_SEARCH, and counts, [Q]."""
    counts = np.zeros(numbers, np.int64)
    if not numbers:
        return counts, counts
    for events in _pieces(histories):
        items = histories.items[events]
        counts += np.bincount(items[items >= FIRST_SEARCH] - FIRST_SEARCH, minlength=numbers)
    met: Bool = counts > 0
    rows = (FIRST_SEARCH + np.cumsum(met) - 1).astype(np.int32)
    for events in _pieces(histories):
        items = histories.items[events]
        searched = items >= FIRST_SEARCH
        items[searched] = rows[items[searched] - FIRST_SEARCH]
    return np.flatnonzero(met), counts[met]


def _pieces(histories: Histories) -> list[slice]:
    size = sorted_events.REGION_EVENTS
    return [slice(start, start + size) for start in range(0, len(histories.items), size)]
