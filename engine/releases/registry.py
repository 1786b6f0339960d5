"""The registry of a model's releases: versions, their aliases, and the rules by which verbs change them. Pure.

The words are those of MLflow's model registry: a version never changes, and an alias points to one version.

    live        by which workers serve: the pinned version, or else the newest that is announced as live
    previous    the next older live version: what `rollback` goes back to
    canary      the newest that is announced as a canary and is newer than the live one; none while a version is pinned
    candidate   the newest that is announced as a candidate

While an experiment runs, the release that was live at its start stays live, as if pinned, and there is no canary.

A registry is made of records, of which the last one for each key counts, so that a compacted topic gives the same
registry as a whole one. Two sources are merged by the times in their records. A verb dates its records after all that
it has read, so that a writer whose clock is slow is not outranked by the past.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeVar

import msgspec

from engine.errors import ReleaseError
from engine.messages.announcement import Announcement, ReleasePin
from engine.messages.experiment_messages import Experiment

MAX_AHEAD_MS: Final = 3_600_000
"""An announcement from further in the future has a wrong clock: no later one is dated after it."""

ALIASES: Final = ("live", "previous", "canary", "candidate")
"""In the order in which they are shown."""

Change = Announcement | ReleasePin | Experiment
"""A record of the registry."""
_Dated = TypeVar("_Dated", Announcement, Experiment)


@dataclass(frozen=True, slots=True)
class Registry:
    """The releases of one model at one moment."""

    model: str
    versions: Mapping[str, Announcement] = field(default_factory=lambda: MappingProxyType({}))
    """The last announcement of each version."""
    last_pin: ReleasePin | None = None
    """The last pin, which may be lifted."""
    experiments: Mapping[str, Experiment] = field(default_factory=lambda: MappingProxyType({}))
    """The last record of each experiment, by its name."""

    @property
    def pinned(self) -> str | None:
        """The version that is pinned, if it is known."""
        pin = self.last_pin
        return pin.pinned_version if pin is not None and pin.pinned_version in self.versions else None

    def live(self) -> list[Announcement]:
        """Live releases, that to serve by first: the pinned one, then the others from newest to oldest.

        While a version is pinned, those that were announced after the pin wait until it is lifted; and while an
        experiment runs, those that were announced after its start.
        """
        live = [announcement for announcement in self.versions.values() if announcement.state == "live"]
        live.sort(key=_rank, reverse=True)
        hold = self._hold()
        if hold is None:
            return live
        held, held_ms = self.versions[hold[0]], hold[1]
        return [held, *(other for other in live if other != held and other.announced_ms <= held_ms)]

    def canary(self) -> Announcement | None:
        """The release that a share of users is served by beside the live one, if there is any."""
        live = self.live()
        newest = self._newest("canary")
        if self._hold() is not None or not live or newest is None or _rank(newest) < _rank(live[0]):
            return None
        return newest

    def canary_since_ms(self, canary: Announcement) -> int:
        """Time from which a canary has users: its announcement, or the end of an experiment that it waited for."""
        ends = [known.announced_ms for known in self.experiments.values() if known.state == "stopped"]
        return max([canary.announced_ms, *ends])

    def experiment(self) -> Experiment | None:
        """The experiment that is running, if there is any: of several the one that was started last.

        It is over, whatever its record says, when another version than that of its start is pinned or live.
        """
        newest = max(self.experiments.values(), key=lambda known: (known.started_ms, known.experiment), default=None)
        if newest is None or newest.state != "running" or self.pinned not in {None, newest.base_version}:
            return None
        base = self.versions.get(newest.base_version)
        is_live = base is not None and (base.state == "live" or self.pinned == base.version)
        return newest if is_live else None

    def waiting(self) -> Announcement | None:
        """The newest live release that a pin or an experiment keeps from being served, if there is any."""
        newest = self._newest("live")
        return newest if self._hold() is not None and newest is not None and newest not in self.live() else None

    def aliases(self) -> dict[str, str]:
        """The version of each alias that there is; see the module's page."""
        live, canary, candidate = self.live(), self.canary(), self._newest("candidate")
        announcements = {
            "live": live[0] if live else None,
            "previous": live[1] if len(live) > 1 else None,
            "canary": canary,
            "candidate": candidate,
        }
        return {alias: announcement.version for alias, announcement in announcements.items() if announcement}

    def resolve(self, name: str) -> Announcement:
        """The announcement of a version, an alias, or a name of model and version in one word.

        Raises:
            ReleaseError: there is none.
        """
        version = self.aliases().get(name, name.removeprefix(f"{self.model}-") if name not in self.versions else name)
        if version not in self.versions:
            newest = sorted(self.versions.values(), key=_rank, reverse=True)
            expected = f"a version of {self.model!r} or one of the aliases {', '.join(ALIASES)}"
            if name in ALIASES:
                expected = "it to point to a version, and now it points to none"
            raise ReleaseError(
                f"VERSION: found {name!r}, expected {expected}; announced are"
                f" {', '.join(known.version for known in newest[:5]) or 'none'}: publish it first (`headrace publish`),"
                " or name another"
            )
        return self.versions[version]

    def with_changes(self, changes: Iterable[Change]) -> "Registry":
        """The registry after further records, the last one of each key counting; those of other models are ignored."""
        versions, pin, experiments = dict(self.versions), self.last_pin, dict(self.experiments)
        for change in changes:
            if change.model != self.model:
                continue
            if isinstance(change, ReleasePin):
                pin = change
            elif isinstance(change, Experiment):
                experiments[change.experiment] = change
            else:
                versions[change.version] = change
        return Registry(self.model, versions, pin, experiments)

    def merged(self, other: "Registry") -> "Registry":
        """One registry of two sources: of each version, experiment, and of pins, the newest record counts."""
        pins = [pin for pin in (self.last_pin, other.last_pin) if pin is not None]
        return Registry(
            self.model,
            _newest_of(self.versions, other.versions),
            max(pins, key=lambda pin: (pin.pinned_ms, _bytes(pin)), default=None),
            _newest_of(self.experiments, other.experiments),
        )

    def next_ms(self, now_ms: int) -> int:
        """The time to date a change with: now, or later where a record that counts is from a clock that is ahead."""
        times = [announcement.announced_ms for announcement in self.versions.values()]
        times += [experiment.announced_ms for experiment in self.experiments.values()]
        times += [self.last_pin.pinned_ms] if self.last_pin else []
        return max([now_ms, *(time_ms + 1 for time_ms in times if time_ms <= now_ms + MAX_AHEAD_MS)])

    def refuse_unfit(self, newcomer: Announcement, parent: str = "") -> None:
        """Refuse a release that the registry has under another name, or other content of the same name.

        Args:
            newcomer: about to be announced.
            parent: version that was live when it was trained; empty for none.

        Raises:
            ReleaseError: it has, or the parent was never announced.
        """
        known = self.versions.get(newcomer.version)
        if known is not None and known.content and newcomer.content not in {"", known.content}:
            raise ReleaseError(
                f"{newcomer.name}: found content {newcomer.content[:12]}…, announced under this version is"
                f" {known.content[:12]}…, expected one content for each name; publish it under another version"
            )
        twins = [
            other.version
            for other in self.versions.values()
            if newcomer.content and other.content == newcomer.content and other.version != newcomer.version
        ]
        if twins:
            raise ReleaseError(
                f"{newcomer.name}: found two names for one release, its content is announced as"
                f" {self.model}-{twins[0]}, expected one; promote that instead (`headrace releases promote"
                f" {twins[0]}`)"
            )
        if parent and parent not in self.versions:
            raise ReleaseError(
                f"{newcomer.name}: its parent {self.model}-{parent} was never announced, expected it among the"
                " versions, so that there is a way back; publish the parent first (`headrace publish PARENT --as"
                " candidate`), or say --without-parent"
            )

    def refuse_canary(self, newcomer: Announcement) -> None:
        """Refuse a canary while an experiment has the users.

        Raises:
            ReleaseError: one is running.
        """
        experiment = self.experiment()
        if experiment is not None:
            raise ReleaseError(
                f"{newcomer.name} cannot be a canary: found the experiment {experiment.experiment!r} running, expected"
                " none, as a user is in one arm alone; stop it first (`headrace experiment stop"
                f" {experiment.experiment}`), or publish it with `--as candidate` and make it an arm of the next"
            )

    def promote(self, name: str, now_ms: int, reason: str = "") -> list[Change]:
        """The records that make a version the live one.

        Raises:
            ReleaseError: there is no such version, another one is pinned, or an experiment runs.
        """
        announcement = self.resolve(name)
        self._refuse_during_experiment(announcement, "promoted")
        if self.pinned not in {None, announcement.version}:
            raise ReleaseError(
                f"{announcement.name} cannot be promoted: found {self.model!r} pinned to {self.pinned}"
                f"{_because(self.last_pin)}, expected no pin, or one to this version; lift it first"
                " (`headrace releases unpin`), or pin this version instead"
            )
        return [_stated(announcement, "live", self.next_ms(now_ms), reason)]

    def rollback(self, now_ms: int, name: str | None = None, reason: str = "") -> list[Change]:
        """The records that go back to the previous version, or a named one, and pin it.

        All that was newer is retired, also a canary, and what waits for a pin to be lifted; an experiment is stopped.
        Every beginning of the records, in their order, is a registry that workers can follow: one who dies half way has
        gone back, or not.

        Raises:
            ReleaseError: there is no such version, or nothing to go back to.
        """
        live = self.live()
        if name is None and len(live) < 2:  # noqa: PLR2004 - the live one and the previous one
            raise ReleaseError(
                f"nothing to roll back to: found {len(live)} live versions of {self.model!r}, expected the live one and"
                " an earlier one; publish an earlier release, or name a version (`headrace releases list`)"
            )
        target = live[1] if name is None else self.resolve(name)
        time_ms = self.next_ms(now_ms)
        kept = live[live.index(target) :] if target in live else [target, *live[1:]]
        retired = [
            announcement
            for announcement in self.versions.values()
            if announcement.state in {"live", "canary"} and announcement not in kept
        ]
        return [
            ReleasePin(model=self.model, pinned_version=target.version, pinned_ms=time_ms, reason=reason),
            _stated(target, "live", time_ms, reason),
            *(_stated(announcement, "retired", time_ms, reason) for announcement in retired),
            *self.ended_experiment(time_ms, f"rollback to {target.name}{f': {reason}' if reason else ''}"),
        ]

    def retire(self, name: str, now_ms: int, reason: str = "") -> list[Change]:
        """The records that take a version back, as a canary that is over; the live one is rolled back instead.

        Raises:
            ReleaseError: there is no such version, it is live, or an experiment runs that has it in an arm.
        """
        announcement = self.resolve(name)
        experiment = self.experiment()
        if experiment is not None and announcement.version in {arm.version for arm in experiment.arms}:
            self._refuse_during_experiment(announcement, "retired")
        if announcement.version == self.aliases().get("live"):
            raise ReleaseError(
                f"{announcement.name} cannot be retired: found it live, expected a release that is not served by;"
                " go back to another first (`headrace releases rollback`), or promote one"
            )
        return [_stated(announcement, "retired", self.next_ms(now_ms), reason)]

    def pin(self, name: str, now_ms: int, reason: str = "") -> list[Change]:
        """The records that let workers keep to a version until the pin is lifted; an experiment over another ends.

        Raises:
            ReleaseError: there is no such version.
        """
        version, time_ms = self.resolve(name).version, self.next_ms(now_ms)
        experiment = self.experiment()
        ended = experiment is not None and experiment.base_version != version
        return [
            ReleasePin(model=self.model, pinned_version=version, pinned_ms=time_ms, reason=reason),
            *(self.ended_experiment(time_ms, f"{version} is pinned{f': {reason}' if reason else ''}") if ended else []),
        ]

    def unpin(self, now_ms: int) -> list[Change]:
        """The records that lift the pin; none where there is none."""
        if self.last_pin is None or not self.last_pin.pinned_version:
            return []
        return [ReleasePin(model=self.model, pinned_version="", pinned_ms=self.next_ms(now_ms))]

    def ended_experiment(self, time_ms: int, reason: str) -> list[Change]:
        """The record that ends the experiment that is running, if there is one."""
        experiment = self.experiment()
        if experiment is None:
            return []
        return [msgspec.structs.replace(experiment, state="stopped", announced_ms=time_ms, reason=reason)]

    def _hold(self) -> tuple[str, int] | None:
        """The version that stays live whatever is announced, and the time since which it does."""
        if self.pinned is not None and self.last_pin is not None:
            return self.pinned, self.last_pin.pinned_ms
        experiment = self.experiment()
        return (experiment.base_version, experiment.started_ms) if experiment else None

    def _refuse_during_experiment(self, announcement: Announcement, verb: str) -> None:
        """Refuse to change by which releases users are served while an experiment compares them."""
        experiment = self.experiment()
        if experiment is not None and announcement.version != experiment.base_version:
            raise ReleaseError(
                f"{announcement.name} cannot be {verb}: found the experiment {experiment.experiment!r} running over"
                f" {self.model}-{experiment.base_version}, expected none; stop it first (`headrace experiment stop"
                f" {experiment.experiment}`), or roll back (`headrace releases rollback`), which stops it too"
            )

    def _newest(self, state: str) -> Announcement | None:
        announcements = (announcement for announcement in self.versions.values() if announcement.state == state)
        return max(announcements, key=_rank, default=None)


def _stated(announcement: Announcement, state: str, time_ms: int, reason: str) -> Announcement:
    return msgspec.structs.replace(announcement, state=state, announced_ms=time_ms, reason=reason)


def _rank(announcement: Announcement) -> tuple[int, str]:
    """Newer announcements are higher; the version settles a tie, so that all workers take the same."""
    return announcement.announced_ms, announcement.version


def _newest_of(first: Mapping[str, _Dated], second: Mapping[str, _Dated]) -> dict[str, _Dated]:
    """Of each key the record that was announced last."""
    records = dict(first)
    for key, record in second.items():
        known = records.get(key)
        if known is None or (record.announced_ms, _bytes(record)) > (known.announced_ms, _bytes(known)):
            records[key] = record
    return records


def _bytes(record: Change) -> bytes:
    return msgspec.json.encode(record)


def _because(pin: ReleasePin | None) -> str:
    return f" ({pin.reason})" if pin is not None and pin.reason else ""
