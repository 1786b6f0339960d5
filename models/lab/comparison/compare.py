"""A comparison: every system is fitted on the same events in the same time, and evaluated on the same queries.

A comparison that is started again with the same data and settings takes the results it has saved (`results`) and runs
what is missing. A training that was ended early is not missing.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from engine.arrays import Int32, Int64, Windows
from engine.errors import DataError, MissingExtraError
from models.data import splits
from models.evaluation import ranking_metrics
from models.evaluation.baselines import Baseline
from models.evaluation.baselines.task import Task
from models.evaluation.list_diversity import ListDiversity
from models.evaluation.list_evaluation import ListEvaluation
from models.evaluation.queries import EvalData, frequent_item_queries, holdout_queries
from models.evaluation.ranking_metrics import ACCURACY_METRICS, METRICS, MetricAccumulator
from models.lab.comparison.results import Results, packed, unpacked
from models.lab.comparison.systems import TWO_HOP, System

SplitName = Literal["last", "time"]
ClockName = Literal["wall", "cpu"]
OnStart = Callable[[str, int], None]
"""Called with a system's name and seed before its training."""
Ended = Callable[[], bool]
"""Whether the training that runs is to end now, with what it has learned."""


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class ComparisonTerms:
    """The conditions that are the same for all systems."""

    split: SplitName
    minutes: float
    clock: ClockName
    threads: int
    min_item_events: int = 0
    """Only targets whose item has at least this many training events count."""


@dataclass(frozen=True, slots=True)
class _Listening:
    """A system whose lists somebody else sees too."""

    system: Baseline
    on_lists: Callable[[Int32], None]

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """See `Baseline.lists`."""
        lists = self.system.lists(windows, times_ms, count)
        self.on_lists(lists)
        return lists


class Comparison:
    """The queries of a comparison, and the training task of its systems."""

    def __init__(self, eval_data: EvalData, terms: ComparisonTerms) -> None:
        """Split the data into training events and targets.

        Raises:
            DataError: there is no training event, or no target.
        """
        self.eval_data, self.terms = eval_data, terms
        data = eval_data.interactions
        holdout = splits.holdout(data.histories(), terms.split)
        training_mask = eval_data.target_mask & ~splits.held_out(data, holdout)
        self.queries = frequent_item_queries(
            holdout_queries(eval_data, holdout), eval_data, training_mask, terms.min_item_events
        )
        if not training_mask.any() or not len(self.queries.targets):
            raise DataError(
                f"split {terms.split} leaves {training_mask.sum()} training events and {len(self.queries.targets)}"
                " targets; give more data, another --split or a smaller --min-item-events"
            )
        self.users: Int32 = data.users[self.queries.targets]
        """[Q] user of each target."""
        self.task = replace(
            Task.of(eval_data, training_mask, self.queries),
            minutes=terms.minutes,
            clock_s=_clock(terms),
            threads=terms.threads,
        )
        self._fingerprint = data.fingerprint()

    def terms_of(self, system: System) -> dict[str, Any]:
        """Everything that a result of `system` depends on, except the seed."""
        settings = self.eval_data.settings
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
            "metrics": [*METRICS, "diversity"],
        }

    def result(self, system: System, seed: int, ended: Ended = _never) -> dict[str, Any]:
        """Fit a system and evaluate it; a training that is ended early keeps what it has learned by then.

        Raises:
            MissingExtraError: it needs a package that is not installed.
            DataError: the data lacks what it is trained on, or has too little of it.
        """
        fit = system.load()
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        fitted = fit(replace(self.task, seed=seed, ended=ended))
        is_ended_early = ended()
        ready_s, ready_cpu_s = time.monotonic(), time.process_time()
        diversity = ListDiversity(self.task.events, self.task.item_count)
        accumulator, ranks = self._evaluate(_Listening(fitted.baseline, diversity.add))
        return {
            "system": system.name,
            "seed": seed,
            "terms": self.terms_of(system),
            "users": len(np.unique(self.users)),
            "targets": len(self.users),
            "training_s": ready_s - began_s,
            "training_cpu_s": ready_cpu_s - began_cpu_s,
            "evaluation_s": time.monotonic() - ready_s,
            "ended_early": is_ended_early,
            "notes": fitted.notes,
            "figures": accumulator.figures(),
            "diversity": diversity.mean,
            "ranks": packed(ranks),
        }

    def _evaluate(self, system: Baseline) -> tuple[MetricAccumulator, Int64]:
        """Metrics of the system's lists for all queries, and the ranks [Q] of the targets, in the order of `users`."""
        events = self.task.events
        popularity = np.bincount(events.items, minlength=self.task.item_count)
        evaluation = ListEvaluation(self.eval_data, {"system": system}, np.unique(events.items), popularity)
        evaluation.run(self.queries)
        accumulator = evaluation.accumulators["system"]
        return accumulator, accumulator.ranks[np.argsort(evaluation.targets)]


def run(  # noqa: PLR0913 - two with defaults
    comparison: Comparison,
    systems: Iterable[System],
    seeds: Sequence[int],
    results: Results,
    on_start: OnStart = lambda _name, _seed: None,
    ended: Ended = _never,
) -> dict[str, Any]:
    """The report that `headrace compare --json` prints.

    It has a summary of each system with the lead of `TWO_HOP` over it, and the systems that were skipped with the
    reason.
    """
    by_system: dict[str, list[dict[str, Any]]] = {}
    skipped = {}
    for system in systems:
        try:
            by_system[system.name] = [
                _saved_or_new(comparison, system, seed, results, on_start, ended)
                for seed in (seeds if system.seeded else seeds[:1])
            ]
        except (MissingExtraError, DataError) as error:
            skipped[system.name] = str(error)
    rows = {name: summary(seed_results) for name, seed_results in by_system.items()}
    if TWO_HOP in by_system:
        for name in rows.keys() - {TWO_HOP}:
            rows[name]["lead"] = lead(by_system[TWO_HOP], by_system[name], comparison.users)
    return {
        "reference": TWO_HOP,
        "min_item_events": comparison.terms.min_item_events,
        "systems": rows,
        "skipped": skipped,
    }


def summary(seed_results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of a system over its seeds, mean training time (wall clock and processor), and each seed's result."""
    return {
        "seeds": [result["seed"] for result in seed_results],
        "users": seed_results[0]["users"],
        "targets": seed_results[0]["targets"],
        "training_s": statistics.mean(result["training_s"] for result in seed_results),
        "training_cpu_s": statistics.mean(result["training_cpu_s"] for result in seed_results),
        "diversity": _mean([result["diversity"] for result in seed_results]),
        "ended_early": [result["seed"] for result in seed_results if result.get("ended_early")],
        "figures": {metric: _over_seeds([result["figures"] for result in seed_results], metric) for metric in METRICS},
        "results": [{key: value for key, value in result.items() if key != "ranks"} for result in seed_results],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.mean(present) if present else None


def _over_seeds(seed_figures: Sequence[dict[str, Any]], metric: str) -> dict[str, Any]:
    """A metric's value and interval over users where there is one seed; mean, deviation and range where several."""
    values = [figures[metric] for figures in seed_figures]
    if len(values) == 1 or None in values:  # None depends on the targets alone, so it is None for every seed
        return {"mean": values[0], "interval": seed_figures[0]["intervals"].get(metric)}
    return {
        "mean": statistics.mean(values),
        "deviation": statistics.stdev(values),
        "min": min(values),
        "max": max(values),
    }


def lead(reference: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]], users: Int32) -> dict[str, Any]:
    """Lead of the reference over a baseline, from the results of their seeds.

    With an interval over `users` [Q]; where both have several seeds, `deviations` is its standard deviation over them.
    """
    over_users = ranking_metrics.lead(_ranks(reference), _ranks(baseline), users)
    pairs = [(left["figures"], right["figures"]) for left, right in zip(reference, baseline, strict=False)]
    if len(pairs) == 1:
        return over_users
    differences = {metric: [left[metric] - right[metric] for left, right in pairs] for metric in ACCURACY_METRICS}
    return {**over_users, "deviations": {metric: statistics.stdev(values) for metric, values in differences.items()}}


def _ranks(seed_results: Sequence[dict[str, Any]]) -> Int64:
    """[S, Q] ranks of the targets, seed by seed."""
    return np.stack([unpacked(result["ranks"]) for result in seed_results])


def _saved_or_new(  # noqa: PLR0913 - what `run` was given
    comparison: Comparison, system: System, seed: int, results: Results, on_start: OnStart, ended: Ended
) -> dict[str, Any]:
    terms = json.loads(json.dumps(comparison.terms_of(system)))  # with the types that a saved result has
    result = results.find(system.name, seed, terms)
    if result is None:
        on_start(system.name, seed)
        result = json.loads(json.dumps(comparison.result(system, seed, ended)))
        results.add(result)
    return result


def _clock(terms: ComparisonTerms) -> Callable[[], float]:
    """Wall-clock seconds, or processor seconds per thread: the fair measure where other processes share the cores."""
    return time.monotonic if terms.clock == "wall" else lambda: time.process_time() / terms.threads
