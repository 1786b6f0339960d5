"""One comparison: every system learns from the same events in the same time and is asked the same questions.

Every result is kept as soon as it is there (`results`). A comparison that is started again with the same data
and settings takes the results it finds and goes on with what is missing.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from engine.arrays import Int32, Int64
from engine.errors import DataError, MissingExtraError
from models.data import splits
from models.evaluation import queries, ranking_metrics
from models.evaluation.baselines import Baseline
from models.evaluation.baselines.task import Task
from models.evaluation.queries import LISTED, EvalData, EvalQueries
from models.evaluation.ranking_metrics import ACCURACY, FIGURES, Tally
from models.lab.comparison.results import Results, packed, unpacked
from models.lab.comparison.systems import TWO_HOP, System

SplitName = Literal["last", "time"]
ClockName = Literal["wall", "cpu"]
Watch = Callable[[str, int], None]
"""Called with a system's name and seed when it enters."""


@dataclass(frozen=True, slots=True)
class ComparisonTerms:
    """What is the same for all systems."""

    split: SplitName
    minutes: float
    clock: ClockName
    threads: int
    min_item_events: int = 0
    """Only items with so many events to learn from are asked for."""


class Comparison:
    """The questions, and the task that systems are given."""

    def __init__(self, recording: EvalData, terms: ComparisonTerms) -> None:
        """Set the questions.

        Raises:
            DataError: nothing is left to learn from or to ask.
        """
        self.recording, self.terms = recording, terms
        data = recording.interactions
        left_out = splits.holdout(data.histories(), terms.split)
        learned = recording.wanted & ~splits.held_out(data, left_out)
        everything = _questions(recording, left_out.from_ms)
        self.queries = queries.about_frequent_items(everything, recording, learned, terms.min_item_events)
        if not learned.any() or not len(self.queries.targets):
            raise DataError(
                f"split {terms.split} leaves {learned.sum()} events to learn from and {len(self.queries.targets)} to"
                " ask for; give more data, another --split or a smaller --min-item-events"
            )
        self.users: Int32 = data.users[self.queries.targets]  # [n] whose targets they are
        self.task = replace(
            Task.of(recording, learned, self.queries),
            minutes=terms.minutes,
            clock_s=_clock(terms),
            threads=terms.threads,
        )
        self._fingerprint = data.fingerprint()

    def terms_of(self, system: System) -> dict[str, Any]:
        """All that a result depends on, but for the seed."""
        settings = self.recording.settings
        return {
            "version": version("headrace"),
            "data": self._fingerprint,
            "split": self.terms.split,
            "minutes": self.terms.minutes,
            "clock": self.terms.clock,
            "threads": self.terms.threads,
            "min_item_events": self.terms.min_item_events,
            "engine": settings.model_dump(mode="json", include={"clicks", "windows", "index", "recommendations"}),
            "settings": dict(system.settings),
            "figures": list(FIGURES),
        }

    def result(self, system: System, seed: int) -> dict[str, Any]:
        """Let the system learn, and ask it.

        Raises:
            MissingExtraError: it needs a package that is not installed.
            DataError: the data lacks what it learns from, or has too little of it.
        """
        enter = system.load()
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        fitted = enter(replace(self.task, seed=seed))
        ready_s, ready_cpu_s = time.monotonic(), time.process_time()
        tally, places = self._asked(fitted.baseline)
        return {
            "system": system.name,
            "seed": seed,
            "terms": self.terms_of(system),
            "users": len(np.unique(self.users)),
            "targets": len(self.users),
            "training_s": ready_s - began_s,
            "training_cpu_s": ready_cpu_s - began_cpu_s,
            "asking_s": time.monotonic() - ready_s,
            "notes": fitted.notes,
            "figures": tally.figures(),
            "places": packed(places),
        }

    def _asked(self, system: Baseline) -> tuple[Tally, Int64]:
        """Answers to all questions, and the places [n] of the targets in them, in the order of `users`."""
        data, events = self.recording, self.task.events
        tally = Tally(np.unique(events.items), np.bincount(events.items, minlength=self.task.item_count))
        asked = []
        for windows, targets in self.queries.ask():
            lists = system.lists(windows, data.interactions.times_ms[targets], LISTED)
            tally.add(data.interactions.users[targets], lists, data.items[targets])
            asked.append(targets)
        return tally, tally.places[np.argsort(np.concatenate(asked))]


def run(
    comparison: Comparison,
    systems: Iterable[System],
    seeds: Sequence[int],
    results: Results,
    watch: Watch = lambda _name, _seed: None,
) -> dict[str, Any]:
    """What `headrace compare --json` prints: a summary of each system, ours' lead over it, and who was left out."""
    found, left_out = {}, {}
    for system in systems:
        try:
            found[system.name] = [
                _found_or_new(comparison, system, seed, results, watch)
                for seed in (seeds if system.seeded else seeds[:1])
            ]
        except (MissingExtraError, DataError) as error:
            left_out[system.name] = str(error)
    rows = {name: summary(theirs) for name, theirs in found.items()}
    if TWO_HOP in found:
        for name in rows.keys() - {TWO_HOP}:
            rows[name]["lead"] = lead(found[TWO_HOP], found[name], comparison.users)
    narrowed = {"min_item_events": comparison.terms.min_item_events}
    return {"ours": TWO_HOP, **narrowed, "systems": rows, "left_out": left_out}


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One system's figures over its seeds, mean training time (by the clock and on the processor) and results."""
    return {
        "seeds": [one["seed"] for one in found],
        "users": found[0]["users"],
        "targets": found[0]["targets"],
        "training_s": statistics.mean(one["training_s"] for one in found),
        "training_cpu_s": statistics.mean(one["training_cpu_s"] for one in found),
        "figures": {figure: _over_seeds([one["figures"] for one in found], figure) for figure in FIGURES},
        "results": [{key: value for key, value in one.items() if key != "places"} for one in found],
    }


def _over_seeds(found: Sequence[dict[str, Any]], figure: str) -> dict[str, Any]:
    """Of one seed the figure and its interval over users; of several, their mean and how far they lie apart."""
    values = [figures[figure] for figures in found]
    if len(values) == 1 or None in values:  # the targets decide whether there is a value, and all have the same ones
        return {"mean": values[0], "interval": found[0]["intervals"].get(figure)}
    return {
        "mean": statistics.mean(values),
        "deviation": statistics.stdev(values),
        "min": min(values),
        "max": max(values),
    }


def lead(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], users: Int32) -> dict[str, Any]:
    """Ours' lead and its interval over users; of several seeds of both, its standard deviation from seed to seed."""
    over_users = ranking_metrics.lead(_places(ours), _places(theirs), users)
    pairs = [(one["figures"], other["figures"]) for one, other in zip(ours, theirs, strict=False)]
    if len(pairs) == 1:
        return over_users
    apart = {name: [one[name] - other[name] for one, other in pairs] for name in ACCURACY}
    return {**over_users, "deviations": {name: statistics.stdev(values) for name, values in apart.items()}}


def _places(found: Sequence[dict[str, Any]]) -> Int64:
    """[S, n] places of the targets, seed by seed."""
    return np.stack([unpacked(one["places"]) for one in found])


def _found_or_new(comparison: Comparison, system: System, seed: int, results: Results, watch: Watch) -> dict[str, Any]:
    terms = json.loads(json.dumps(comparison.terms_of(system)))  # as a file would give them back
    found = results.find(system.name, seed, terms)
    if found is None:
        watch(system.name, seed)
        found = json.loads(json.dumps(comparison.result(system, seed)))
        results.add(found)
    return found


def _clock(terms: ComparisonTerms) -> Callable[[], float]:
    """Seconds that pass by the clock, or as this process computes: where cores are shared, time means nothing else."""
    return time.monotonic if terms.clock == "wall" else lambda: time.process_time() / terms.threads


def _questions(recording: EvalData, from_ms: int | None) -> EvalQueries:
    return queries.last_event(recording) if from_ms is None else queries.since(recording, from_ms)
