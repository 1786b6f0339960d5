"""The report of an experiment: its arms compared with the control, and the check that it may be read at all. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from engine.arrays import Float64
from engine.messages.experiment_messages import ArmLook, Experiment, ExperimentLook
from engine.quality import sample_ratio
from engine.quality.experiment import ArmSums, judged_users
from engine.quality.lifts import ArmRates, Intervals
from engine.quality.user_sample import UserSample

_SLOTS: Final = 64.0
"""Stretches of time in a doubling of the experiment's age: a stretch is a ninetieth of it."""
_SLOT_S: Final = 60.0


@dataclass(slots=True)
class ExperimentCounts:
    """The counts of all workers."""

    sums: ArmSums
    sample: UserSample
    refused: dict[str, list[str]] = field(default_factory=dict)
    """By arm that some worker could not serve, the reasons."""
    sessions: int = 0
    """Sessions of workers that have counted."""

    @classmethod
    def empty(cls, arms: int) -> "ExperimentCounts":
        """Nothing yet."""
        return cls(ArmSums.empty(arms), UserSample.empty(arms))


class Interval(msgspec.Struct, frozen=True):
    """Bounds of a lift."""

    lower: float
    upper: float | None
    """null where it is not bounded."""


class ArmReport(msgspec.Struct, frozen=True, kw_only=True):
    """One arm."""

    arm: str
    share: float
    """Of all users."""
    release: str
    settings: dict[str, bool | int | float]
    users: int
    """Number of those who were sent a list, or shown one; estimated where there are more than the sample has room
    for."""
    clicks: int
    """Of them, after their first list."""
    hit_rate: float | None
    """Share of the clicks that were on one of the first ten items of the list that the user had been sent, or shown."""
    gain: float | None
    """Mean gain of a click, 1 / log2(1 + rank) for a hit: NDCG@10 of the next click."""
    lift: float | None = None
    """Gain over that of the control, minus 1."""
    always_valid: Interval | None = None
    """Of the lift, at all looks and for all arms together."""
    fixed_horizon: Interval | None = None
    """Of the lift, for all arms together at one time that was settled before; once the experiment is over."""
    p_value: float | None = None
    """Of no difference, two-sided, adjusted for the number of arms (Dunnett); as `fixed_horizon`."""
    verdict: str
    """By the always-valid interval: `better`, `worse`, `no difference that matters`, `not certain yet`; or the reason
    for which there is none."""
    refused: list[str] = []
    """Reasons for which workers could not serve this arm."""


class SampleRatio(msgspec.Struct, frozen=True, kw_only=True):
    """The check that the arms have the users that their shares promise."""

    p_value: float | None
    """By a chi-square test on users; null while there are too few."""
    mismatch: bool
    """The p-value is below 0.001: the experiment is not to be read."""
    users: dict[str, int]
    """Users of the test by arm: all, or a uniform sample."""


class ExperimentReport(msgspec.Struct, frozen=True, kw_only=True):
    """The state, the arms and the earlier looks of an experiment."""

    experiment: str
    model: str
    state: str
    """`running`, `stopped`, or `over` where the live release changed."""
    reason: str
    started_ms: int
    until_ms: int
    """The end, or now."""
    error: float
    exposure: str
    """Condition for a user to be counted: a list was sent (`lists`) or shown (`impressions`)."""
    sample_ratio: SampleRatio
    arms: list[ArmReport]
    sessions: int
    """Sessions of workers that have counted; each restart of a worker begins another."""
    looks: list[ExperimentLook]
    """Earlier looks, in the order of time."""


def report(
    experiment: Experiment, state: str, counts: ExperimentCounts, looks: Sequence[ExperimentLook], now_ms: int
) -> ExperimentReport:
    """The report of an experiment in this state, by what all workers have counted until now."""
    ratio = _sample_ratio(experiment, counts)
    rates, is_over = ArmRates.of(counts.sums), state != "running"
    enough = _enough(experiment, counts.sums)
    always = rates.always_valid(experiment.error, experiment.difference)
    fixed, p_values = rates.fixed_horizon(experiment.error) if is_over else (None, None)
    lifts = rates.lifts
    arms = []
    for index, arm in enumerate(experiment.arms):
        clicks, gain = counts.sums.clicks[index].sum(), _finite(rates.rates[index])
        known = index > 0 and enough[index]
        arms.append(
            ArmReport(
                arm=arm.name,
                share=arm.share,
                release=f"{experiment.model}-{arm.version or experiment.base_version}",
                settings=arm.settings,
                users=round(float(counts.sample.users[index])),
                clicks=int(clicks),
                hit_rate=float(counts.sums.hits[index].sum() / clicks) if clicks else None,
                gain=gain,
                lift=_finite(lifts[index - 1]) if known else None,
                always_valid=_interval(always, index - 1) if known else None,
                fixed_horizon=_interval(fixed, index - 1) if known and fixed is not None else None,
                p_value=_finite(p_values[index - 1]) if known and p_values is not None else None,
                verdict=_verdict(experiment, ratio, always, index, gain_of_control=rates.rates[0])
                if known
                else _without_verdict(index, counts.refused.get(arm.name, [])),
                refused=counts.refused.get(arm.name, []),
            )
        )
    return ExperimentReport(
        experiment=experiment.experiment,
        model=experiment.model,
        state=state,
        reason=experiment.reason,
        started_ms=experiment.started_ms,
        until_ms=experiment.announced_ms if experiment.state == "stopped" else now_ms,
        error=experiment.error,
        exposure=experiment.exposure,
        sample_ratio=ratio,
        arms=arms,
        sessions=counts.sessions,
        looks=sorted(looks, key=lambda look: look.looked_ms),
    )


def look_of(current: ExperimentReport) -> ExperimentLook:
    """A report as one point of the curves over time."""
    return ExperimentLook(
        experiment=current.experiment,
        started_ms=current.started_ms,
        model=current.model,
        slot=_slot((current.until_ms - current.started_ms) / 1000.0),
        looked_ms=current.until_ms,
        arms=[
            ArmLook(
                arm=arm.arm,
                users=arm.users,
                gain=arm.gain or 0.0,
                lift=arm.lift,
                lower=arm.always_valid.lower if arm.always_valid else None,
                upper=arm.always_valid.upper if arm.always_valid else None,
            )
            for arm in current.arms
        ],
    )


def _slot(age_s: float) -> int:
    return math.floor(_SLOTS * math.log2(1.0 + max(0.0, age_s) / _SLOT_S))


def _sample_ratio(experiment: Experiment, counts: ExperimentCounts) -> SampleRatio:
    """The check of the arms that every worker could serve."""
    served = [index for index, arm in enumerate(experiment.arms) if arm.name not in counts.refused]
    users = counts.sample.counts[served]
    p_value = sample_ratio.p_value(users, np.array([experiment.arms[index].share for index in served]))
    names = [experiment.arms[index].name for index in served]
    return SampleRatio(
        p_value=_finite(p_value),
        mismatch=p_value < sample_ratio.MISMATCH,
        users=dict(zip(names, users.tolist(), strict=True)),
    )


def _enough(experiment: Experiment, sums: ArmSums) -> list[bool]:
    """[A] whether each arm, and the control, have clicks of enough users."""
    users = judged_users(sums.clicks)
    return [bool(min(users[0], count) >= experiment.min_users) for count in users.tolist()]


def _verdict(
    experiment: Experiment, ratio: SampleRatio, intervals: Intervals, index: int, *, gain_of_control: Float64
) -> str:
    lower, upper = float(intervals.lower[index - 1]), float(intervals.upper[index - 1])
    matters = experiment.difference / float(gain_of_control) if gain_of_control else math.inf
    if ratio.mismatch:
        return "not to be read"
    if lower > 0.0:
        return "better"
    if upper < 0.0:
        return "worse"
    return "no difference that matters" if max(-lower, upper) < matters else "not certain yet"


def _without_verdict(index: int, refused: Sequence[str]) -> str:
    if refused:
        return "not served everywhere"
    return "too few users yet" if index else "control"


def _interval(intervals: Intervals, arm: int) -> Interval | None:
    lower, upper = float(intervals.lower[arm]), float(intervals.upper[arm])
    return None if math.isnan(lower) else Interval(lower, upper if math.isfinite(upper) else None)


def _finite(value: float | Float64) -> float | None:
    return float(value) if math.isfinite(float(value)) else None
