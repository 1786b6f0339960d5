"""The gate between a trained release and the workers: every reason why it may not go live, from one evaluation.

With a live release, the new one must lead it by a margin and beyond chance, and keep its interests in use, its coverage
and its speed. With or without one, it must not be behind popularity of seven days or item-kNN, and its index must find
what is nearest. A gate that says no is an ordinary outcome.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from engine.settings.sections import RetrainSettings
from models.evaluation.list_evaluation import LIVE, RELEASE

_RIVALS: Final = ("popularity_7d", "item_knn")


class Check(msgspec.Struct, frozen=True):
    """One condition."""

    name: str
    passed: bool
    sentence: str
    """The figure, and what it must be."""


class GateDecision(msgspec.Struct, frozen=True):
    """The gate's answer."""

    checks: list[Check]

    @property
    def passed(self) -> bool:
        """Whether the release may go live."""
        return all(check.passed for check in self.checks)

    def reasons(self) -> list[str]:
        """Sentences on the conditions that are not met."""
        return [check.sentence for check in self.checks if not check.passed]


def decide(evaluation: Mapping[str, Any], settings: RetrainSettings) -> GateDecision:
    """The decision on a release by its report (`models.evaluation.candidate_trial.evaluate_candidate`)."""
    split = evaluation["time_split"]
    return GateDecision([*_against_live(split, settings), *_against_rivals(split), *_index(split, settings)])


def _against_live(split: Mapping[str, Any], settings: RetrainSettings) -> Iterator[Check]:
    live = split["baselines"].get(LIVE)
    if live is None:
        return
    lead, interval = split["leads"][LIVE]["value"], split["leads"][LIVE]["interval"]
    least = settings.min_lead * live["ndcg10"]
    yield Check(
        "lead",
        lead > least and interval is not None and interval[0] > 0.0,
        f"leads the live release by {lead:.4f} NDCG@10 ({_shown(interval)}), expected more than {least:.4f}"
        f" (retrain.min_lead {settings.min_lead:g} of {live['ndcg10']:.4f}) and an interval above 0",
    )
    effective, live_effective = (part["interests_in_use"]["effective"] for part in (split, split["live"]))
    yield _kept("interests", "interests in use", effective, live_effective, settings.keep_share)
    listed, live_listed = (part["listed_items"] for part in (split, split["live"]))
    yield _kept("coverage", "items in lists", listed, live_listed, settings.keep_share)
    yield latency(split, settings)


def latency(split: Mapping[str, Any], settings: RetrainSettings) -> Check:
    """The condition on the time of a list: not met where it is certain that lists take too much longer."""
    list_ms, live_ms, measured = split["list_ms"][RELEASE], split["list_ms"][LIVE], split["slowdown"]
    (low, high), (added_ms, _) = measured["ratio_interval"], measured["added_ms_interval"]
    floor_ms = 1000.0 * settings.slowdown_floor_s
    return Check(
        "latency",
        low <= settings.max_slowdown or added_ms <= floor_ms,
        f"a list takes {list_ms:.3f} ms of processor time, of the live release {live_ms:.3f} ms:"
        f" {measured['ratio']:.2f} times as long ({low:.2f} to {high:.2f}), at least {added_ms:.3f} ms more; expected"
        f" not to be certainly more than {settings.max_slowdown:g} times (retrain.max_slowdown) and {floor_ms:g} ms"
        " more (retrain.slowdown_floor_s)",
    )


def _kept(name: str, subject: str, value: float | None, live_value: float | None, share: float) -> Check:
    value, live_value = value or 0.0, live_value or 0.0
    return Check(
        name,
        value >= share * live_value,
        f"{subject}: {value:.4g}, of the live release {live_value:.4g}, expected at least {share:g} of that"
        " (retrain.keep_share)",
    )


def _against_rivals(split: Mapping[str, Any]) -> Iterator[Check]:
    for rival in _RIVALS:
        if rival in split["skipped"]:
            yield Check(rival, False, f"was not compared with {rival}: {split['skipped'][rival]}")
            continue
        lead, interval = split["leads"][rival]["value"], split["leads"][rival]["interval"]
        yield Check(
            rival,
            lead >= 0.0 or (interval is not None and interval[1] >= 0.0),
            f"leads {rival} by {lead:.4f} NDCG@10 ({_shown(interval)}), expected not to be behind it beyond chance",
        )


def _index(split: Mapping[str, Any], settings: RetrainSettings) -> Iterator[Check]:
    recall = split["index"].get("recall")
    if recall is not None:
        yield Check(
            "recall",
            recall >= settings.min_recall,
            f"recall of the index: {recall:.4f}, expected at least {settings.min_recall:g} (retrain.min_recall)",
        )


def _shown(interval: tuple[float, float] | None) -> str:
    return "one user alone" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
