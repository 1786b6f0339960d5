"""How good a release is about those of whom little is known, asked through the engine's own path.

    new items   events about items that the release saw no event of (`--holdout-items`), from the window of all the
                user's events before: where among all such items does the clicked one stand? The release has them from
                their content (`LiveRelease.with_items`), to be recommended and to be encoded in windows.
    new users   the second, third, fourth and sixth event of users who came after the time split: a full ranking of the
                release's catalogue from 1, 2, 3 and 5 clicks.

What stands in the user's window is left out of every list. New items are asked for after the time split, where the
release has one, so that everything asked came after everything learned. Beside the release stand

    random             what a list in random order scores on average
    same_values        items by how much the user's window has of their values (categories, genres, ...; the words of
                       titles, where there are none), a value's share of it over the root of how many the item has
    popular_in_value   the items with the window's most frequent value, most clicked first. It counts clicks on the new
                       items up to the event asked for, which the release never saw: it is no baseline for a new item's
                       first minute, but what one would do an hour or a month later
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np

from engine import features, live
from engine.catalogue import Catalogue
from engine.columns import NO_ITEM, Bool, Float32, Float64, Int32, Int64, Windows
from engine.content import Item, words
from engine.index import best
from engine.live import LiveRelease
from engine.messages import Actions
from engine.pipeline import Recommender
from engine.popular import Popularity as EnginePopularity
from engine.release import Bundle
from engine.settings import Settings
from models import intervals, protocol
from models.data.dataset import Interactions
from models.evaluation.baselines import Neighbours, Popularity
from models.evaluation.baselines.task import UserEvents
from models.evaluation.questions import LISTED
from models.protocol import Tally

CLICKS: Final = (1, 2, 3, 5)
"""How many clicks of a new user the lists are made from."""
_BATCH_USERS: Final = 256
_OURS: Final = "release"
_FIRST: Final = 1e6
"""More clicks than an item has: puts the items of the right value before all others."""
Watch = Callable[[str, int, int], None]
"""Called with the name of what is asked, targets asked so far and targets in all."""


def cold_start(
    bundle: Bundle, interactions: Interactions, items: Mapping[str, Item], settings: Settings, watch: Watch
) -> dict[str, Any]:
    """All that `headrace cold-start --json` prints; what cannot be asked has a reason instead of figures.

    Raises:
        ReleaseError: the release cannot be warmed.
    """
    trial = _Trial(bundle, interactions, settings)
    return {
        "release": bundle.manifest.name,
        "new_items": _new_items(trial, items, watch),
        "new_users": _new_users(trial, watch),
    }


class _Trial:
    """One release, warm, and the events it is asked about, in the engine's numbers and user by user."""

    def __init__(self, bundle: Bundle, interactions: Interactions, settings: Settings) -> None:
        self.bundle, self.settings = bundle, settings
        self.catalogue, actions = Catalogue(), Actions(settings.clicks)
        self.live = live.warm(bundle, self.catalogue, settings.index, settings.worker.threads)
        self.item_ids = interactions.item_ids
        self.numbers = self.catalogue.numbers(interactions.item_ids)  # [V'] of the data's items
        order = interactions.by_user()
        codes = np.array([actions.code(name) for name in interactions.action_names], np.uint8)
        self.users = interactions.users[order]  # [n]
        self.items = interactions.items[order]  # [n] the data's own numbers
        self.times_ms = interactions.times_ms[order]  # [n]
        self.actions = codes[interactions.actions[order]]  # [n]
        self.held_out = protocol.held_out(interactions, bundle.manifest.holdout)[order]  # [n]
        numbers = self.numbers[self.items]  # [n]
        self._events = UserEvents(self.users, numbers, self.times_ms, self.actions, len(self.catalogue))
        self.turns = np.arange(len(order)) - np.searchsorted(self.users, self.users)  # [n] the user's events before
        self.weights = features.action_weights(actions.weights, actions.codes, bundle.manifest.action_values)
        self.codes = actions.codes
        self.wanted: Bool = actions.weights[self.actions] > 0.0  # [n]
        self.popularity: Int64 = np.bincount(self.numbers[self.items], minlength=len(self.catalogue))  # by item number

    def windows(self, targets: Int64) -> Windows:
        """The windows [B, L] of the events before these."""
        return self._events.windows(targets, self.settings.windows.length)

    def in_time_order(self, targets: Int64) -> Iterator[Int64]:
        """The targets a batch at a time, oldest first."""
        ordered = targets[np.argsort(self.times_ms[targets], kind="stable")]
        yield from np.split(ordered, range(_BATCH_USERS, len(ordered), _BATCH_USERS))


def _new_items(trial: _Trial, items: Mapping[str, Item], watch: Watch) -> dict[str, Any]:
    left_out, sizes = trial.bundle.manifest.holdout, trial.bundle.manifest.contract
    if left_out.items_share == 0.0:
        return {"reason": "the release was trained on all items; train with --holdout-items 0.1"}
    if sizes.content is None:
        return {"reason": "the release was trained without content; give DATA an items file and train anew"}
    if not items:
        return {"reason": "the data has no items file with content, so nothing is known of new items"}
    cold = np.flatnonzero(protocol.cold_items(trial.item_ids, left_out))  # [C] the data's numbers
    cold = np.random.default_rng(left_out.items_seed).permutation(cold)  # so that ties fall at random
    grown = trial.live.with_items(
        [items[item] for item in (trial.item_ids[number] for number in cold) if item in items], trial.catalogue
    )
    asked = np.isin(trial.items, cold) & trial.wanted & (trial.turns > 0)
    if left_out.from_ms is not None:
        asked &= trial.times_ms >= left_out.from_ms
    targets = np.flatnonzero(asked)
    if not len(targets):
        return {"reason": f"nobody clicked one of the {len(cold)} items held out; train with a larger --holdout-items"}
    contest, done = _NewItems(trial, grown, cold, items), 0
    for part in trial.in_time_order(targets):
        contest.ask(part)
        done += len(part)
        watch("new items", done, len(targets))
    return contest.figures()


class _NewItems:
    """The release and those beside it, asked for the same new items."""

    def __init__(self, trial: _Trial, grown: LiveRelease, cold: Int64, items: Mapping[str, Item]) -> None:
        self._trial, self._live, self._cold = trial, grown, cold
        self._numbers = trial.numbers[cold]  # [C]
        self._rows = grown.rows(self._numbers)  # [C] NO_ITEM where its content says nothing
        self._columns = np.full(len(trial.catalogue) + 1, NO_ITEM, np.int64)  # by item number; the last is NO_ITEM's
        self._columns[self._numbers] = np.arange(len(cold))
        self._values = _Values(trial, cold, items)
        self._clicks = _ClicksSoFar(trial, self._columns)
        names = (_OURS, "same_values", "popular_in_value")
        self._tallies = {name: Tally(self._numbers, trial.popularity) for name in names}
        self._unseen, self._unknown = [np.zeros(0, np.int64)], 0

    def ask(self, targets: Int64) -> None:
        """Ask everyone for lists [B] and score them; targets that stand in their window are not asked."""
        trial = self._trial
        windows = trial.windows(targets)
        inputs = features.make(
            windows, self._live.rows(windows.items), trial.weights, self._live.contract.window_length
        )
        numbers = trial.numbers[trial.items[targets]]
        fair = np.flatnonzero(inputs.known & (windows.items != numbers[:, None]).all(axis=1))
        if not len(fair):
            return
        windows, targets, numbers = windows.take(fair), targets[fair], numbers[fair]
        seen = np.zeros((len(windows), len(self._cold)), np.bool_)  # [B, C]
        users, places = np.nonzero(self._columns[windows.items] != NO_ITEM)
        seen[users, self._columns[windows.items[users, places]]] = True
        shares = self._values.shares(windows)  # [B, G]
        scores = {
            _OURS: self._scores(inputs.take(fair)),
            "same_values": shares @ self._values.members.T,
            "popular_in_value": self._clicks.until(targets) + _FIRST * self._values.holders(shares),
        }
        self._unknown += int((self._live.rows(numbers) == NO_ITEM).sum())
        for name, found in scores.items():
            lists = self._lists(np.where(seen, np.float32(-np.inf), found))
            self._tallies[name].add(trial.users[targets], lists, numbers)
        self._unseen.append((~seen).sum(axis=1))

    def figures(self) -> dict[str, Any]:
        """Everyone's figures, and the sizes behind them."""
        users = self._tallies[_OURS].users
        return {
            "items": len(self._cold),
            "users": len(np.unique(users)),
            "targets": len(users),
            "unknown_targets": self._unknown,
            **_beside(self._tallies, {"random": self._random()}),
        }

    def _random(self) -> dict[str, Any]:
        """What lists in random order score on average, where each of the unseen new items is as likely as the next."""
        ours, unseen = self._tallies[_OURS], np.concatenate(self._unseen)
        chances, leads = {}, {}
        for name, gain in protocol.gains(np.arange(1, LISTED + 1)).items():
            expected: Float64 = gain.cumsum()[np.minimum(unseen, LISTED) - 1] / unseen  # [n]
            chances[name] = intervals.mean(expected, ours.users)
            leads[name] = intervals.mean(protocol.gains(ours.places)[name] - expected, ours.users)
        nothing = dict.fromkeys(("coverage", "popularity_bias"), intervals.Estimate(None, None))
        return {**protocol.named({**chances, **nothing}), "lead": protocol.named(leads)}

    def _scores(self, inputs: features.Features) -> Float32:
        """[B, C] best score of each new item over the interests."""
        interests, _ = self._live.encode(inputs)  # [B, K, D]
        scores = (interests @ self._live.vectors[np.maximum(self._rows, 0)].T).max(axis=1)
        return np.where(self._rows == NO_ITEM, np.float32(-np.inf), scores)

    def _lists(self, scores: Float32) -> Int32:
        """[B, N] numbers of the best new items, ties in the items' random order; NO_ITEM behind the last."""
        columns, values = best(scores.astype(np.float32), min(LISTED, scores.shape[1]))
        lists = np.full((len(scores), LISTED), NO_ITEM, np.int32)
        lists[:, : columns.shape[1]] = np.where(values > -np.inf, self._numbers[columns], np.int32(NO_ITEM))
        return lists


class _Values:
    """Values (G of them) that new items have: what category lists are made of."""

    def __init__(self, trial: _Trial, cold: Int64, items: Mapping[str, Item]) -> None:
        plain = not any(item.bags for item in items.values())
        by_item = [_values_of(items[item], plain) if item in items else [] for item in trial.item_ids]
        names = sorted({value for number in cold for value in by_item[number]}) or ["none"]
        places = {value: place for place, value in enumerate(names)}
        self.members = np.zeros((len(cold), len(names)), np.float32)  # [C, G]
        for row, number in enumerate(cold):
            mine = [places[value] for value in by_item[number]]
            self.members[row, mine] = 1.0 / np.sqrt(max(1, len(mine)))
        known = [[places[value] for value in values if value in places] for values in by_item]
        self._lengths = np.zeros(len(trial.catalogue) + 1, np.int64)  # by item number; the last is NO_ITEM's
        self._lengths[trial.numbers] = [len(values) for values in known]
        self._starts = np.cumsum(self._lengths) - self._lengths
        by_number = np.argsort(trial.numbers)
        self._flat = np.array([value for number in by_number for value in known[number]], np.int64)

    def shares(self, windows: Windows) -> Float32:
        """[B, G] each value's share of the events in a window."""
        items = windows.items.ravel()
        lengths = self._lengths[items]
        shifts = np.repeat(self._starts[items] - (np.cumsum(lengths) - lengths), lengths)
        values = self._flat[shifts + np.arange(len(shifts))]
        users = np.repeat(np.arange(items.size) // windows.items.shape[1], lengths)
        count = self.members.shape[1]
        counts = np.bincount(users * count + values, minlength=len(windows) * count).reshape(len(windows), count)
        shares: Float32 = (counts / (windows.items != NO_ITEM).sum(axis=1, keepdims=True)).astype(np.float32)
        return shares

    def holders(self, shares: Float32) -> Bool:
        """[B, C] the items that have the value with the largest share."""
        holders: Bool = self.members.T[shares.argmax(axis=1)] > 0.0
        return holders


def _values_of(item: Item, plain: bool) -> list[str]:
    """An item's values by field; of items without any field but the title, its words."""
    if plain:
        return sorted(set(words(item.title)))
    return sorted({f"{name}\0{value}" for name, values in item.bags.items() for value in values})


class _ClicksSoFar:
    """Clicks on each new item up to the events asked for, which are asked in order of time."""

    def __init__(self, trial: _Trial, columns: Int64) -> None:
        places = np.flatnonzero(columns[trial.numbers[trial.items]] != NO_ITEM)
        places = places[np.argsort(trial.times_ms[places], kind="stable")]
        self._trial, self._times_ms = trial, trial.times_ms[places]
        self._clicked = columns[trial.numbers[trial.items[places]]]
        self._counts = np.zeros(int(columns.max()) + 1, np.float32)
        self._past = 0

    def until(self, targets: Int64) -> Float32:
        """[C] before the oldest of these events."""
        until = int(np.searchsorted(self._times_ms, self._trial.times_ms[targets].min()))
        np.add.at(self._counts, self._clicked[self._past : until], 1.0)
        self._past = max(until, self._past)
        return self._counts


def _new_users(trial: _Trial, watch: Watch) -> dict[str, Any]:
    """Figures of everyone by how many clicks the lists are made from."""
    from_ms = trial.bundle.manifest.holdout.from_ms
    if from_ms is None:
        return {"reason": "the release was trained on all of time; train with --holdout time or both"}
    starts = np.arange(len(trial.turns)) - trial.turns  # [n] place of the user's first event
    new = (trial.times_ms[starts] >= from_ms) & trial.wanted  # [n] events of users who came after training
    steps = {clicks: np.flatnonzero(new & (trial.turns == clicks)) for clicks in CLICKS}
    asked = np.sort(np.concatenate(list(steps.values())))
    if not len(asked):
        return {"reason": "nobody came after the time that the release was trained on"}
    contestants = _for_users(trial, asked)
    rows, done = {}, 0
    for clicks, targets in steps.items():
        tallies = {name: Tally(trial.live.numbers, trial.popularity) for name in contestants}
        for part in trial.in_time_order(targets):
            windows = trial.windows(part)
            for name, lists in contestants.items():
                found = lists(windows, trial.times_ms[part], LISTED)
                tallies[name].add(trial.users[part], found, trial.numbers[trial.items[part]])
            done += len(part)
            watch("new users", done, len(asked))
        unknown = int((trial.live.rows(trial.numbers[trial.items[targets]]) == NO_ITEM).sum())
        sizes = {"users": len(targets), "targets": len(targets), "unknown_targets": unknown}
        rows[str(clicks)] = {**sizes, **_beside(tallies, {})}
    return {"from_ms": from_ms, "clicks": rows}


def _beside(tallies: Mapping[str, Tally], others: Mapping[str, Any]) -> dict[str, Any]:
    """The release's figures, and those of the others with its lead over each."""
    ours = tallies[_OURS]
    scored = {name: {**tally.figures(), "lead": ours.lead(tally)} for name, tally in tallies.items() if name != _OURS}
    return {**ours.figures(), "baselines": {**others, **scored}}


def _for_users(trial: _Trial, asked: Int64) -> dict[str, Callable[[Windows, Int64, int], Int32]]:
    """The release and the baselines by name: lists from windows at a time."""
    chosen = trial.settings.recommendations.model_copy(update={"count": LISTED})
    seeded = EnginePopularity()
    seeded.seed(trial.live.numbers, trial.live.popularity)
    recommender = Recommender(chosen, trial.weights, trial.codes, seeded)
    ordered = np.argsort(trial.times_ms, kind="stable")
    ordered = ordered[trial.wanted[ordered]]
    numbers = trial.numbers[trial.items]
    depth = LISTED + trial.settings.windows.length
    popularity = Popularity(numbers[ordered], trial.times_ms[ordered], trial.times_ms[asked], depth)
    learned = trial.wanted & ~trial.held_out
    return {
        _OURS: lambda windows, _times_ms, _count: recommender.recommend(windows, trial.live).items,
        "popularity_7d": popularity.lists,
        "last_item_neighbours": Neighbours(trial.users[learned], numbers[learned], popularity).lists,
    }
