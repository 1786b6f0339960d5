"""What may be learned from and what is asked: the splits, and the figures an answer scores.

Leave-last-out asks for each user's newest click. The time split asks for every event at or after the 90 % quantile of
event time, in order. New items are some that training saw no event of. Training leaves out what will be asked, and the
release says so (`engine.release.Holdout`).
Of events at the same time, the one further down the file is the newer. Nobody is asked for a search: it stands in the
windows before what is asked. The whole in words: `docs/evaluation.md`.
"""

# ruff: noqa: PLR2004 - 10 and 20 are what HR@10, NDCG@10 and HR@20 mean
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

import numpy as np

from engine.columns import NO_ITEM, Bool, Float64, Int32, Int64
from engine.errors import DataError
from engine.release import Holdout
from models import intervals
from models.data.dataset import Interactions
from models.data.timelines import Timelines
from models.intervals import Estimate
from models.settings import HoldoutName

ACCURACY: Final = ("hr10", "ndcg10", "hr20", "mrr")
"""Figures of accuracy: averages over answers."""
FIGURES: Final = (*ACCURACY, "coverage", "popularity_bias")
HEADINGS: Final = {
    "hr10": "HR@10",
    "ndcg10": "NDCG@10",
    "hr20": "HR@20",
    "mrr": "MRR@20",
    "coverage": "coverage",
    "popularity_bias": "popularity bias",
}
"""What people call the figures."""
TRAINING_SHARE = 0.9
"""Share of the events that lies before the time split."""
NO_PLACE: Final = 32_767
"""Beyond every list, and fits into two bytes."""


def holdout(timelines: Timelines, name: HoldoutName, items_share: float = 0.0, items_seed: int = 0) -> Holdout:
    """The holdout called `name` for this data, with a share of the items beside it.

    Raises:
        DataError: there is no last tenth of time to hold out.
    """
    return Holdout(
        last_event=name in {"last", "both"},
        from_ms=split_ms(timelines) if name in {"time", "both"} else None,
        items_share=items_share,
        items_seed=items_seed if items_share else 0,
    )


def split_ms(timelines: Timelines) -> int:
    """Where the time split begins: the event time that stands after the first 90 % of the events.

    Raises:
        DataError: nine tenths of the events share the earliest time, so that there is no last tenth.
    """
    from_ms = timelines.quantile_ms(TRAINING_SHARE)
    if from_ms == timelines.times_ms.min():
        raise DataError(
            f"at least nine tenths of the {len(timelines)} events have the same time, {from_ms} ms, so that no last"
            " tenth of time can be held out; mend the times, or say --holdout last to go by the order of the file"
        )
    return from_ms


def newest(interactions: Interactions) -> Bool:
    """[n] marks the newest click of each user, and the searches that came after it."""
    users, clicks = interactions.users, np.flatnonzero(interactions.clicks())
    last = np.full(len(interactions.user_ids), -1)
    np.maximum.at(last, users[clicks], clicks)
    marks: Bool = np.arange(len(users)) >= last[users]
    return marks


def held_out(interactions: Interactions, left_out: Holdout) -> Bool:
    """[n] marks the events that training must not see."""
    marks = np.zeros(len(interactions), np.bool_)
    if left_out.last_event:
        marks |= newest(interactions)
    if left_out.from_ms is not None:
        marks |= interactions.times_ms >= left_out.from_ms
    if left_out.items_share > 0.0:
        clicks = interactions.clicks()
        marks[clicks] |= cold_items(interactions.item_ids, left_out)[interactions.items[clicks]]
    return marks


def cold_items(item_ids: Sequence[str], left_out: Holdout) -> Bool:
    """[V] marks the items that training must not see; who is one of them hangs on its id and the seed alone."""
    bound = int(left_out.items_share * 2**64)
    return np.array([_draw(item, left_out.items_seed) < bound for item in item_ids], np.bool_)


def _draw(item: str, seed: int) -> int:
    return int.from_bytes(blake2b(f"{seed}\0{item}".encode(), digest_size=8).digest())


def earlier(users: Int32) -> Int64:
    """[n] how many events of the same user come before each, of events in order of time."""
    order = np.argsort(users, kind="stable")
    grouped = users[order]
    counts = np.empty(len(users), np.int64)
    counts[order] = np.arange(len(users)) - np.searchsorted(grouped, grouped)
    return counts


def gains(places: Int64) -> dict[str, Float64]:
    """[n] what each answer adds to each figure of accuracy, by the place of its target, from 1."""
    return {
        "hr10": (places <= 10).astype(np.float64),
        "ndcg10": np.where(places <= 10, 1.0 / np.log2(1.0 + places), 0.0),
        "hr20": (places <= 20).astype(np.float64),
        "mrr": np.where(places <= 20, 1.0 / places, 0.0),
    }


def places_of(targets: Int32, lists: Int32) -> Int64:
    """[B] place of each target [B] in its list [B, N], from 1; beyond every list where it is not there."""
    found = lists == targets[:, None]
    return np.where(found.any(axis=1), found.argmax(axis=1) + 1, NO_PLACE)


class Tally:
    """Scores lists as they come, full ranking, one target each.

    HR@N is the share of targets in the first N places; NDCG@10 the mean of 1 / log2(1 + place), 0 beyond the tenth;
    MRR the mean of 1 / place, 0 beyond the twentieth; coverage the share of the catalogue that stands in the first ten
    places of any list. Popularity bias says how much more popular the first ten places are than the targets: GAP of the
    lists over GAP of the targets, less 1 (delta GAP of Abdollahpouri et al., "The Unfairness of Popularity Bias in
    Recommendation", 2019, with what users went on to choose in the place of their profiles). At 0 there is none.
    """

    def __init__(self, catalogue: Int32, popularity: Int64) -> None:
        """`catalogue` [V]: item numbers that coverage is a share of; `popularity`: events of every item number."""
        self._catalogue, self._popularity = catalogue, popularity
        self._listed = np.zeros(len(popularity), np.bool_)
        self._users, self._places = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        self._list_popularity, self._target_popularity = [np.zeros(0)], [np.zeros(0)]

    def add(self, users: Int32, lists: Int32, targets: Int32) -> None:
        """Lists [B, N] of item numbers for `users` [B], best first, N at least 20; `targets` [B] they should hold."""
        self._users.append(users)
        self._places.append(places_of(targets, lists))
        top = lists[:, :10]
        there = top != NO_ITEM
        self._listed[top[there]] = True
        popularity = np.where(there, self._popularity[top], 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        self._list_popularity.append(popularity)
        self._target_popularity.append(self._popularity[targets].astype(np.float64))

    @property
    def users(self) -> Int32:
        """[n] whose answers were added."""
        return np.concatenate(self._users)

    @property
    def places(self) -> Int64:
        """[n] place of each target in its list, from 1; beyond every list where it is not there."""
        return np.concatenate(self._places)

    def figures(self) -> dict[str, Any]:
        """The figures by name, and the intervals of those that are averages."""
        below = np.concatenate(self._target_popularity)
        bias = intervals.ratio(np.concatenate(self._list_popularity) - below, below, self.users)
        coverage = Estimate(float(self._listed[self._catalogue].mean()), None)
        return named({**accuracy(self.places, self.users), "coverage": coverage, "popularity_bias": bias})

    def lead(self, other: "Tally") -> dict[str, Any]:
        """How much more accurate these answers are than another's for the same targets, pair by pair."""
        return lead(self.places[None], other.places[None], self.users)


def lead(ours: Int64, theirs: Int64, users: Int32) -> dict[str, Any]:
    """How much more accurate ours are than theirs for the same targets, pair by pair; targets are those of `users` [n].

    Args:
        ours: [S, n] places of the targets, in answers of S models that differ by their seed alone: a target gains what
            it gains on average over them.
        theirs: [T, n] the same of another's T models.
        users: [n] whose targets they are.
    """
    gained = {name: gain.mean(axis=0) for name, gain in gains(theirs).items()}
    pairs = {name: gain.mean(axis=0) - gained[name] for name, gain in gains(ours).items()}
    return named({name: intervals.mean(pair, users) for name, pair in pairs.items()})


def accuracy(places: Int64, users: Int32) -> dict[str, Estimate]:
    """The figures of accuracy of n answers, given to `users` [n]."""
    return {name: intervals.mean(gain, users).within(0.0, 1.0) for name, gain in gains(places).items()}


def named(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    """As a report has them: values by name, and beside them the `intervals` by name."""
    return {
        **{name: estimate.value for name, estimate in estimates.items()},
        "intervals": {name: estimate.interval for name, estimate in estimates.items() if estimate.interval},
    }
