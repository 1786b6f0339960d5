"""The rules by which experiments are started and stopped, and the arms that people write. Pure.

An arm is its name, and after it what is other than in the live release:

    control                                      the live release, with the settings of the workers
    wide  share=0.2  diversity=0.3  count=30     settings of lists over the live release
    new   release=candidate                      another release: a version or an alias
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from engine.errors import ReleaseError, SettingsError
from engine.messages.experiment_messages import Experiment, ExperimentArm
from engine.releases.registry import Change, Registry
from engine.settings.sections import Exposure

MIN_ARMS: Final = 2
MAX_ARMS: Final = 8
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ALL: Final = 1.0 + 1e-9


@dataclass(frozen=True, slots=True)
class ArmText:
    """An arm as people write it."""

    name: str
    share: float | None = None
    """None for an equal part of what the other arms leave."""
    release: str = ""
    """Version or alias; empty for the live one."""
    settings: dict[str, bool | int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgement:
    """By what the arms are judged: the fields of `Experiment` of the same names."""

    error: float = 0.05
    difference: float = 0.01
    min_users: int = 200
    exposure: Exposure = "lists"


def parse_arm(text: str) -> ArmText:
    """An arm: a name, and after it `share`, `release` and settings of lists as `KEY=VALUE`.

    Raises:
        SettingsError: it is none.
    """
    name, *pairs = text.split() or [""]
    fields = {}
    for pair in pairs:
        key, mark, value = pair.partition("=")
        if not (key and mark and value):
            raise SettingsError(
                f"--arm {text!r}: found {pair!r}, expected KEY=VALUE after the arm's name; quote the arm as a whole, as"
                " in --arm 'wide diversity=0.3 share=0.2'"
            )
        fields[key] = value
    _check_name(name, "--arm")
    share = _share(text, fields.pop("share")) if "share" in fields else None
    release = fields.pop("release", "")
    return ArmText(name, share, release, {key: _value(text, key, value) for key, value in fields.items()})


def start(  # noqa: PLR0913 - a name, its arms, and how they are split and judged
    registry: Registry,
    name: str,
    arms: Sequence[ArmText],
    now_ms: int,
    *,
    salt: str = "",
    judgement: Judgement | None = None,
    reason: str = "",
) -> list[Change]:
    """The records that start an experiment over the live release.

    Raises:
        ReleaseError: a canary or an experiment has the users, nothing is live, the name was used, or an arm's release
            is unknown.
        SettingsError: the arms do not make an experiment.
    """
    _check_name(name, "NAME")
    _check_arms(arms)
    _refuse_second(registry, name)
    live, judgement, time_ms = registry.live(), judgement or Judgement(), registry.next_ms(now_ms)
    if not live:
        raise ReleaseError(
            f"the experiment {name!r} cannot start: found no live release of {registry.model!r}, expected the one that"
            " the control is served by; publish it first (`headrace publish`)"
        )
    experiment = Experiment(
        model=registry.model,
        experiment=name,
        state="running",
        salt=salt or f"{name}/{time_ms}",
        base_version=live[0].version,
        arms=_with_shares(registry, arms),
        started_ms=time_ms,
        announced_ms=time_ms,
        error=judgement.error,
        difference=judgement.difference,
        min_users=judgement.min_users,
        reason=reason,
        exposure=judgement.exposure,
    )
    return [experiment]


def stop(registry: Registry, name: str, now_ms: int, reason: str = "") -> list[Change]:
    """The records that end an experiment.

    Raises:
        ReleaseError: there is none of this name, or it is stopped.
    """
    experiment = resolve(registry, name)
    if experiment.state == "stopped":
        raise ReleaseError(
            f"the experiment {name!r} cannot be stopped: found it stopped, expected one that is running; `headrace"
            f" experiment report {name}` has its outcome, and `headrace experiment list` the others"
        )
    time_ms = registry.next_ms(now_ms)
    return [msgspec.structs.replace(experiment, state="stopped", announced_ms=time_ms, reason=reason)]


def resolve(registry: Registry, name: str | None = None) -> Experiment:
    """The experiment of this name; without one that which was started last.

    Raises:
        ReleaseError: there is none.
    """
    by_start = sorted(registry.experiments.values(), key=lambda known: known.started_ms)
    experiment = registry.experiments.get(name) if name else next(reversed(by_start), None)
    if experiment is None:
        names = ", ".join(known.experiment for known in reversed(by_start)) or "none"
        raise ReleaseError(
            f"NAME: found {name or 'no experiment'!r}, expected the name of an experiment of {registry.model!r}; there"
            f" are {names}: name one of them, or start it (`headrace experiment start`)"
        )
    return experiment


def ended(registry: Registry, name: str) -> Experiment:
    """The experiment of this name, which workers count no longer.

    Raises:
        ReleaseError: there is none, or it is running.
    """
    experiment = resolve(registry, name)
    if experiment == registry.experiment():
        raise ReleaseError(
            f"the experiment {name!r} cannot be purged: found it running, expected one that is over; stop it first"
            f" (`headrace experiment stop {name}`)"
        )
    return experiment


def state_of(registry: Registry, experiment: Experiment) -> str:
    """`running`, `stopped`, or `over` for one that ended with the live release that it had begun with."""
    if experiment.state == "running" and registry.experiment() != experiment:
        return "over"
    return experiment.state


def _check_name(name: str, place: str) -> None:
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{place}: found {name!r}, expected a name of at most 64 letters, digits, dots, hyphens and underscores, as"
            " lists and metrics have it; name it otherwise"
        )


def _check_arms(arms: Sequence[ArmText]) -> None:
    names = [arm.name for arm in arms]
    if not MIN_ARMS <= len(arms) <= MAX_ARMS or len(set(names)) < len(names):
        raise SettingsError(
            f"--arm: found {len(names)} arms ({', '.join(names) or 'none'}), expected {MIN_ARMS} to {MAX_ARMS} of"
            " different names, the control first; give --arm once for each"
        )
    shares = [arm.share for arm in arms if arm.share is not None]
    if sum(shares) > _ALL or (len(shares) < len(arms) and sum(shares) >= 1.0):
        raise SettingsError(
            f"--arm: found shares that add up to {sum(shares):g}, expected at most 1, and something left for arms"
            " without a share; lower them, or leave them out for equal ones"
        )


def _refuse_second(registry: Registry, name: str) -> None:
    """Refuse an experiment while something else splits the users, or under a name that another one had."""
    if name in registry.experiments:
        raise ReleaseError(
            f"the experiment {name!r} cannot start: found another of this name"
            f" ({registry.experiments[name].state}), expected a new one, as lists and reports are known by it; choose"
            " another name"
        )
    if (canary := registry.canary()) is not None:
        raise ReleaseError(
            f"the experiment {name!r} cannot start: found the canary {canary.name}, expected none, as a user is in one"
            " arm alone; wait until it is decided, end it (`headrace releases retire canary`), or make its release an"
            f" arm (--arm 'new release={canary.version}')"
        )
    if (running := registry.experiment()) is not None:
        raise ReleaseError(
            f"the experiment {name!r} cannot start: found {running.experiment!r} running, expected none, as a user is"
            f" in one arm alone; stop it first (`headrace experiment stop {running.experiment}`)"
        )


def _with_shares(registry: Registry, arms: Sequence[ArmText]) -> list[ExperimentArm]:
    """The arms with the versions of their releases, and equal shares of what is left where none is given."""
    shares = [arm.share for arm in arms if arm.share is not None]
    equal = (1.0 - sum(shares)) / max(1, len(arms) - len(shares))
    return [
        ExperimentArm(
            name=arm.name,
            share=equal if arm.share is None else arm.share,
            version=registry.resolve(arm.release).version if arm.release else "",
            settings=arm.settings,
        )
        for arm in arms
    ]


def _share(text: str, value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = math.nan
    if not 0.0 < share < 1.0:
        raise SettingsError(
            f"--arm {text!r}: found share={value}, expected a share of the users between 0 and 1, such as share=0.2"
        )
    return share


def _value(text: str, key: str, value: str) -> bool | int | float:
    """A value of a setting as TOML has it: true, false, an integer or a number."""
    if value in {"true", "false"}:
        return value == "true"
    for kind in (int, float):
        try:
            number = kind(value)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    raise SettingsError(f"--arm {text!r}: found {key}={value}, expected true, false or a number; correct the value")
