"""The registry of a model's releases: versions, their aliases, and the rules by which verbs change them. Pure.

The words are those of MLflow's model registry: a version never changes, and an alias points to one version.

    live        by which workers serve: the pinned version, or else the newest that is announced as live
    previous    the next older live version: what `rollback` goes back to
    canary      the newest that is announced as a canary and is newer than the live one; none while a version is pinned
    candidate   the newest that is announced as a candidate

A registry is made of records, of which the last one for each key counts, so that a compacted topic gives the same
registry as a whole one. Two sources are merged by the times in their records. A verb dates its records after all that
it has read, so that a writer whose clock is slow is not outranked by the past.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import msgspec

from engine.errors import ReleaseError
from engine.messages.announcement import Announcement, ReleasePin

MAX_AHEAD_MS: Final = 3_600_000
"""An announcement from further in the future has a wrong clock: no later one is dated after it."""

Change = Announcement | ReleasePin
"""A record of the registry."""


@dataclass(frozen=True, slots=True)
class Registry:
    """The releases of one model at one moment."""

    model: str
    versions: Mapping[str, Announcement] = field(default_factory=lambda: MappingProxyType({}))
    """The last announcement of each version."""
    last_pin: ReleasePin | None = None
    """The last pin, which may be lifted."""

    @property
    def pinned(self) -> str | None:
        """The version that is pinned, if it is known."""
        pin = self.last_pin
        return pin.pinned_version if pin is not None and pin.pinned_version in self.versions else None

    def live(self) -> list[Announcement]:
        """Live releases, that to serve by first: the pinned one, then the others from newest to oldest.

        While a version is pinned, those that were announced after the pin wait until it is lifted.
        """
        live = [announcement for announcement in self.versions.values() if announcement.state == "live"]
        live.sort(key=_rank, reverse=True)
        if self.pinned is None or self.last_pin is None:
            return live
        pinned, pinned_ms = self.versions[self.pinned], self.last_pin.pinned_ms
        return [pinned, *(other for other in live if other != pinned and other.announced_ms <= pinned_ms)]

    def canary(self) -> Announcement | None:
        """The release that a share of users is served by beside the live one, if there is any."""
        live = self.live()
        newest = self._newest("canary")
        if self.pinned is not None or not live or newest is None or _rank(newest) < _rank(live[0]):
            return None
        return newest

    def waiting(self) -> Announcement | None:
        """The newest live release that a pin keeps from being served, if there is any."""
        newest = self._newest("live")
        return newest if self.pinned is not None and newest is not None and newest not in self.live() else None

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
            raise ReleaseError(
                f"VERSION: found {name!r}, expected a version of {self.model!r} or one of the aliases live, previous,"
                f" canary, candidate; announced are {', '.join(known.version for known in newest[:5]) or 'none'}:"
                " publish it first (`headrace publish`), or name another"
            )
        return self.versions[version]

    def with_changes(self, changes: Iterable[Change]) -> "Registry":
        """The registry after further records, the last one of each key counting; those of other models are ignored."""
        versions, pin = dict(self.versions), self.last_pin
        for change in changes:
            if change.model != self.model:
                continue
            if isinstance(change, ReleasePin):
                pin = change
            else:
                versions[change.version] = change
        return Registry(self.model, versions, pin)

    def merged(self, other: "Registry") -> "Registry":
        """One registry of two sources: of each version, and of pins, the newest record counts."""
        versions = dict(self.versions)
        for version, announcement in other.versions.items():
            known = versions.get(version)
            if known is None or _newer(announcement, announcement.announced_ms, known, known.announced_ms):
                versions[version] = announcement
        pins = [pin for pin in (self.last_pin, other.last_pin) if pin is not None]
        return Registry(self.model, versions, max(pins, key=lambda pin: (pin.pinned_ms, _bytes(pin)), default=None))

    def next_ms(self, now_ms: int) -> int:
        """The time to date a change with: now, or later where a record that counts is from a clock that is ahead."""
        times = [announcement.announced_ms for announcement in self.versions.values()]
        times += [self.last_pin.pinned_ms] if self.last_pin else []
        return max([now_ms, *(time_ms + 1 for time_ms in times if time_ms <= now_ms + MAX_AHEAD_MS)])

    def refuse_unfit(self, newcomer: Announcement, parent: str = "") -> None:
        """Refuse a release that the registry has under another name, or other content of the same name.

        Args:
            newcomer: about to be announced.
            parent: version that its weights were taken over from; empty for none.

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

    def promote(self, name: str, now_ms: int, reason: str = "") -> list[Change]:
        """The records that make a version the live one.

        Raises:
            ReleaseError: there is no such version, or another one is pinned.
        """
        announcement = self.resolve(name)
        if self.pinned not in {None, announcement.version}:
            raise ReleaseError(
                f"{announcement.name} cannot be promoted: found {self.model!r} pinned to {self.pinned}"
                f"{_because(self.last_pin)}, expected no pin, or one to this version; lift it first"
                " (`headrace releases unpin`), or pin this version instead"
            )
        return [_stated(announcement, "live", self.next_ms(now_ms), reason)]

    def rollback(self, now_ms: int, name: str | None = None, reason: str = "") -> list[Change]:
        """The records that go back to the previous version, or a named one, and pin it.

        All that was newer is retired, also a canary, and what waits for a pin to be lifted. Every beginning of the
        records, in their order, is a registry that workers can follow: one who dies half way has gone back, or not.

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
        ]

    def retire(self, name: str, now_ms: int, reason: str = "") -> list[Change]:
        """The records that take a version back, as a canary that is over; the live one is rolled back instead.

        Raises:
            ReleaseError: there is no such version, or it is live.
        """
        announcement = self.resolve(name)
        if announcement.version == self.aliases().get("live"):
            raise ReleaseError(
                f"{announcement.name} cannot be retired: found it live, expected a release that is not served by;"
                " go back to another first (`headrace releases rollback`), or promote one"
            )
        return [_stated(announcement, "retired", self.next_ms(now_ms), reason)]

    def pin(self, name: str, now_ms: int, reason: str = "") -> list[Change]:
        """The records that let workers keep to a version until the pin is lifted.

        Raises:
            ReleaseError: there is no such version.
        """
        version = self.resolve(name).version
        return [ReleasePin(model=self.model, pinned_version=version, pinned_ms=self.next_ms(now_ms), reason=reason)]

    def unpin(self, now_ms: int) -> list[Change]:
        """The records that lift the pin; none where there is none."""
        if self.last_pin is None or not self.last_pin.pinned_version:
            return []
        return [ReleasePin(model=self.model, pinned_version="", pinned_ms=self.next_ms(now_ms))]

    def _newest(self, state: str) -> Announcement | None:
        announcements = (announcement for announcement in self.versions.values() if announcement.state == state)
        return max(announcements, key=_rank, default=None)


def _stated(announcement: Announcement, state: str, time_ms: int, reason: str) -> Announcement:
    return msgspec.structs.replace(announcement, state=state, announced_ms=time_ms, reason=reason)


def _rank(announcement: Announcement) -> tuple[int, str]:
    """Newer announcements are higher; the version settles a tie, so that all workers take the same."""
    return announcement.announced_ms, announcement.version


def _newer(record: Change, time_ms: int, known: Change, known_ms: int) -> bool:
    return (time_ms, _bytes(record)) > (known_ms, _bytes(known))


def _bytes(record: Change) -> bytes:
    return msgspec.json.encode(record)


def _because(pin: ReleasePin | None) -> str:
    return f" ({pin.reason})" if pin is not None and pin.reason else ""
