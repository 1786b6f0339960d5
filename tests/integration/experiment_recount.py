"""Sums of an experiment computed once more, from the lists and the clicks on the topics alone.

A list is named after its user's newest click in its batch, and every click of a batch is judged by the list that its
user had been sent before the batch. So a click is judged by its user's last list with an earlier offset, and it is
processed with the first list of its own or a later one.
"""

import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from engine.arrays import Int32, Int64, UInt32
from engine.eventlog.base import EventLog, Records
from engine.messages.experiment_messages import Experiment
from engine.messages.recommendation import Recommendation, decode_recommendation
from engine.quality.experiment import CLUSTERS, ArmSums
from engine.quality.next_click import PLACES
from engine.releases.arms import Arms, tickets
from engine.settings.sections import Settings


class JudgedClick(NamedTuple):
    """A click of a user who had been sent a list of the experiment."""

    user: str
    partition: int
    offset: int
    list_offset: int
    """Of the click that the list is named after."""
    list_ms: int
    """Time at which it was made."""
    group: int
    rank: int
    processed_ms: int
    """Time at which the list of the click's own batch was made."""


@dataclass(frozen=True, slots=True)
class Recount:
    """All judged clicks, and the users of all arms, as if no session had ever ended."""

    clicks: list[JudgedClick]
    users: list[set[str]]
    """By arm."""
    user_tickets: list[UInt32]
    """[A] of the users of each arm, ascending."""

    def sums(self, counts: Callable[[JudgedClick], bool] = lambda _click: True) -> ArmSums:
        """The sums of the clicks that count."""
        sums, counted = ArmSums.empty(len(self.users)), [click for click in self.clicks if counts(click)]
        groups: Int32 = np.array([click.group for click in counted], np.int32)
        ranks: Int64 = np.array([click.rank for click in counted], np.int64)
        sums.add(groups, ranks)
        return sums


def all_records(log: EventLog, topic: str) -> Iterator[Records]:
    """Everything on a topic as it is now."""
    with closing(log.reader([topic])) as reader:
        while (polled := reader.poll(0.2, 10_000)) or not reader.at_end():
            yield from polled


def lists_by_user(log: EventLog, topic: str) -> dict[str, dict[int, Recommendation]]:
    """The lists of each user by the offset of the click that they are named after, in its order."""
    lists: dict[str, dict[int, Recommendation]] = {}
    for records in all_records(log, topic):
        for value in filter(None, records.values):
            message = decode_recommendation(value)
            of_user = lists.setdefault(message.user, {})
            offset = int(message.id.split("-")[1])
            assert offset not in of_user, f"{message.id} was sent twice"
            of_user[offset] = message
    return {user: dict(sorted(of_user.items())) for user, of_user in lists.items()}


def recount(log: EventLog, settings: Settings, experiment: Experiment) -> Recount:
    """Judge all clicks, each of a user whose partition never changes."""
    names = [arm.name for arm in experiment.arms]
    arms = Arms(experiment.salt, tuple(arm.share for arm in experiment.arms), CLUSTERS)
    lists, judged = lists_by_user(log, settings.recommendations.topic), list[JudgedClick]()
    users: list[set[str]] = [
        {user for user, of_user in lists.items() if any(_is_of(one, experiment, name) for one in of_user.values())}
        for name in names
    ]
    groups = dict(zip(lists, arms.groups([*lists]).tolist(), strict=True))
    for records in all_records(log, settings.clicks.topic):
        for offset, value in zip(records.offsets, records.values, strict=True):
            fields = json.loads(value or b"")
            click = _judged(fields, records.partition.number, offset, lists, groups[fields["user"]])
            if click is not None and lists[click.user][click.list_offset].experiment == experiment.experiment:
                assert lists[click.user][click.list_offset].arm == names[click.group // CLUSTERS]
                judged.append(click)
    of_arms = [np.sort(tickets(arms.hashes(sorted(of_arm)))) for of_arm in users]
    return Recount(judged, users, of_arms)


def _is_of(message: Recommendation, experiment: Experiment, arm: str) -> bool:
    return message.experiment == experiment.experiment and message.arm == arm


def _judged(
    fields: Mapping[str, str], partition: int, offset: int, lists: Mapping[str, dict[int, Recommendation]], group: int
) -> JudgedClick | None:
    """The click with its rank in the list before it; None where there was none."""
    of_user = lists[fields["user"]]
    offsets = [*of_user]
    place = bisect_left(offsets, offset)
    if not place:
        return None
    before = of_user[offsets[place - 1]]
    items = [item.item for item in before.items[:PLACES]]
    rank = items.index(fields["item"]) + 1 if fields["item"] in items else 0
    processed_ms = of_user[offsets[place]].computed_ms
    return JudgedClick(
        fields["user"], partition, offset, offsets[place - 1], before.computed_ms, group, rank, processed_ms
    )


def begin_of(begins: Sequence[Mapping[int, int]], partition: int, offset: int) -> int:
    """Offset at which the session began that processed a record: the last of those that are not after it."""
    return max(begin for begin in (of_session.get(partition, 0) for of_session in begins) if begin <= offset)
