"""Training data: histories without the holdout, and ids and counts of their items.

Searches are included only where the encoder has item content, as a search has no other input.

It is prepared from recorded histories in a few passes, some million events at a time, in memory or, for data that is
larger, in a folder whose files are mapped: 13 bytes per event. What must fit in memory: 16 bytes per user, some 50 per
item, and the items' ids.
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
_METADATA: Final = "training_data.json"


@dataclass(frozen=True, slots=True)
class TrainingData:
    """U histories of n events with V items and Q searches."""

    histories: Histories
    counts: Int64
    """[V] training events of each item, by row."""
    popularity: Float32
    """[V] training events of each item in the last seven days of the training data."""
    ids: list[str]
    """[V] ids of the items with a training event, by row."""
    holdout: Holdout
    newest_ms: int
    """Time of the newest training event."""
    fingerprint: str
    """Of all the data, the holdout included."""
    searches: list[str] = field(default_factory=list)
    """[Q] ids of the searches, by row less FIRST_SEARCH."""
    search_counts: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """[Q] how often each was made."""


def prepare(
    recorded: RecordedHistories, settings: TrainSettings, folder: Path | None = None, *, searches: bool = False
) -> TrainingData:
    """The recorded histories without the settings' holdout, in `folder` or else in memory.

    Args:
        recorded: all events.
        settings: of the training.
        folder: for the files; `save` completes it.
        searches: whether to include searches. A private training never does, as there the words that users typed would
            decide which features are trained.

    Raises:
        DataError: nothing is left to train on.
    """
    holdout = splits.holdout(recorded, settings.holdout, settings.holdout_items, settings.seed)
    columns = _Columns(folder, len(recorded))
    with_searches = searches and settings.private_epsilon is None
    lengths, newest_ms = _fill(columns, recorded, holdout, settings, with_searches=with_searches)
    histories = columns.histories(np.append(0, np.cumsum(lengths[lengths > 0])))
    item_numbers, counts, popularity = _number_items(histories, len(recorded.item_ids), newest_ms)
    search_numbers, search_counts = _number_searches(histories, len(recorded.search_ids))
    if not len(item_numbers):
        raise DataError(
            f"{len(lengths)} users with {len(recorded)} events leave nothing to train on without --holdout"
            f" {settings.holdout}, too few; give more data or a smaller --holdout"
        )
    return TrainingData(
        histories=histories,
        counts=counts,
        popularity=popularity,
        ids=[recorded.item_ids[number] for number in item_numbers],
        holdout=holdout,
        newest_ms=newest_ms,
        fingerprint=recorded.fingerprint(),
        searches=[recorded.search_ids[number] for number in search_numbers],
        search_counts=search_counts,
    )


def save(data: TrainingData, folder: Path, stamp: Any) -> None:
    """Complete the folder that `prepare` was given; `stamp` identifies the files that it was prepared from."""
    for name in ("counts", "popularity", "search_counts"):
        np.save(folder / f"{name}.npy", getattr(data, name))
    np.save(folder / "starts.npy", data.histories.starts)
    metadata = {
        "ids": data.ids,
        "searches": data.searches,
        "holdout": msgspec.to_builtins(data.holdout),
        "newest_ms": data.newest_ms,
        "fingerprint": data.fingerprint,
        "stamp": stamp,
    }
    unfinished = folder / f".{_METADATA}"
    unfinished.write_text(json.dumps(metadata))
    unfinished.rename(folder / _METADATA)


def is_saved_for(folder: Path, stamp: Any) -> bool:
    """Whether the folder is complete, and was prepared from files with this stamp."""
    path = folder / _METADATA
    return path.exists() and json.loads(path.read_text())["stamp"] == stamp


def load(folder: Path) -> TrainingData:
    """The training data that `save` completed there, its histories mapped."""
    metadata = json.loads((folder / _METADATA).read_text())
    columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in _Columns.DTYPES}
    starts = np.load(folder / "starts.npy")
    return TrainingData(
        histories=Histories(**{name: columns[name][: starts[-1]] for name in columns}, starts=starts),
        counts=np.load(folder / "counts.npy"),
        popularity=np.load(folder / "popularity.npy"),
        ids=metadata["ids"],
        holdout=msgspec.convert(metadata["holdout"], Holdout),
        newest_ms=metadata["newest_ms"],
        fingerprint=metadata["fingerprint"],
        searches=metadata["searches"],
        search_counts=np.load(folder / "search_counts.npy"),
    )


class _Columns:
    """Event columns of the histories, filled part by part, in memory or in files."""

    DTYPES: Final[Mapping[str, npt.DTypeLike]] = {"items": np.int32, "times_ms": np.int64, "actions": np.uint8}

    def __init__(self, folder: Path | None, events: int) -> None:
        """Room for so many events, which `folder` no longer counts as saved."""
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _METADATA).unlink(missing_ok=True)
        self._columns: dict[str, npt.NDArray[Any]] = {
            name: column(folder / f"{name}.npy", dtype, events) if folder else np.empty(events, dtype)
            for name, dtype in self.DTYPES.items()
        }
        self._filled = 0

    def append(self, **columns: npt.NDArray[Any]) -> None:
        end = self._filled + len(columns["items"])
        for name, values in columns.items():
            self._columns[name][self._filled : end] = values
        self._filled = end

    def histories(self, starts: Int64) -> Histories:
        return Histories(**{name: values[: self._filled] for name, values in self._columns.items()}, starts=starts)


def _fill(
    columns: _Columns, recorded: RecordedHistories, holdout: Holdout, settings: TrainSettings, *, with_searches: bool
) -> tuple[Int64, int]:
    """Copy the training events; returns the number per user [U], and the time of the newest."""
    lengths, newest_ms = np.zeros(len(recorded.starts) - 1, np.int64), 0
    actions = Actions(settings.clicks)
    action_codes = ActionCodes(recorded.action_names, actions)
    is_cold = splits.cold_items(recorded.item_ids, holdout) if holdout.items_share else None  # [V]
    for users, events in recorded.parts():
        times_ms, items = recorded.times_ms[events], recorded.items[events]
        is_click: Bool = items < FIRST_SEARCH
        codes = action_codes.of(recorded.actions[events], items)
        mask: Bool = (actions.weights[codes] > 0.0) & (is_click | with_searches)
        if holdout.from_ms is not None:
            mask &= times_ms < holdout.from_ms
        if is_cold is not None:
            mask[is_click] &= ~is_cold[items[is_click]]
        starts = recorded.starts[users.start : users.stop + 1] - events.start
        if holdout.last_event:
            mask &= ~_from_newest_click(is_click, starts)
        if with_searches:  # a search that led to no click has no target
            mask &= is_click | ~_from_newest_click(is_click & mask, starts)
        cumulative = np.append(0, np.cumsum(mask))
        lengths[users] = np.diff(cumulative[starts])
        columns.append(items=items[mask], times_ms=times_ms[mask], actions=codes[mask])
        newest_ms = max(newest_ms, int(times_ms[mask].max(initial=0)))
    return lengths, newest_ms


def _from_newest_click(is_click: Bool, starts: Int64) -> Bool:
    """Mask [n] of each user's newest click and all events after it; the events of users begin at `starts` [U + 1]."""
    indices = np.arange(len(is_click))
    begins, lengths = starts[:-1][np.diff(starts) > 0], np.diff(starts)[np.diff(starts) > 0]
    newest = np.maximum.reduceat(np.where(is_click, indices, -1), begins) if len(begins) else begins
    mask: Bool = indices >= np.repeat(newest, lengths)
    return mask


def _number_items(histories: Histories, count: int, newest_ms: int) -> tuple[Int64, Int64, Float32]:
    """Replace the `count` item numbers by rows 0 .. V - 1; returns the numbers, events and recent events, all [V]."""
    counts, recent = np.zeros((2, count), np.int64)
    for events in _parts(histories):
        items, is_click = histories.items[events], histories.items[events] < FIRST_SEARCH
        counts += np.bincount(items[is_click], minlength=count)
        is_recent = histories.times_ms[events] > newest_ms - POPULARITY_DAYS * _DAY_MS
        recent += np.bincount(items[is_click & is_recent], minlength=count)
    has_event: Bool = counts > 0
    rows: Int32 = (np.cumsum(has_event) - 1).astype(np.int32)
    for events in _parts(histories):
        items = histories.items[events]
        is_click = items < FIRST_SEARCH
        items[is_click] = rows[items[is_click]]
    return np.flatnonzero(has_event), counts[has_event], recent[has_event].astype(np.float32)


def _number_searches(histories: Histories, count: int) -> tuple[Int64, Int64]:
    """Replace the `count` numbers of searches by rows from FIRST_SEARCH on; returns numbers and events, both [Q]."""
    counts = np.zeros(count, np.int64)
    if not count:
        return counts, counts
    for events in _parts(histories):
        items = histories.items[events]
        counts += np.bincount(items[items >= FIRST_SEARCH] - FIRST_SEARCH, minlength=count)
    has_event: Bool = counts > 0
    rows = (FIRST_SEARCH + np.cumsum(has_event) - 1).astype(np.int32)
    for events in _parts(histories):
        items = histories.items[events]
        is_search = items >= FIRST_SEARCH
        items[is_search] = rows[items[is_search] - FIRST_SEARCH]
    return np.flatnonzero(has_event), counts[has_event]


def _parts(histories: Histories) -> list[slice]:
    """Slices of the events, small enough to work on in memory."""
    size = sorted_events.REGION_EVENTS
    return [slice(start, start + size) for start in range(0, len(histories.items), size)]
