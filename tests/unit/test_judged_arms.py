"""The counts of an experiment in one worker: arms of users and clicks, records in time, and what a failure leaves."""

import base64

import msgspec
import numpy as np

from engine.eventlog.base import Outgoing
from engine.messages.experiment_messages import Experiment, ExperimentArm, ExperimentSums
from engine.quality.experiment import CLUSTERS
from engine.releases.arms import NO_GROUP, Arms
from engine.settings.sections import CanarySettings
from engine.worker.experiment_arms import ExperimentArms

SHARES = (0.3, 0.3, 0.2)
EXPERIMENT = Experiment(
    model="two-hop",
    experiment="e",
    state="running",
    salt="s",
    base_version="v1",
    arms=[ExperimentArm(name=name, share=share) for name, share in zip("abc", SHARES, strict=True)],
    started_ms=5,
    announced_ms=5,
)
USERS = [f"user-{number}" for number in range(500)]
NO_TEAMS = np.empty((0, 0), np.int8)


def decoded(outgoing: Outgoing | None) -> ExperimentSums:
    assert outgoing is not None
    (value,) = outgoing.values
    assert value is not None
    record = msgspec.json.decode(value, type=ExperimentSums)
    assert outgoing.keys == [record.key]
    return record


def sampled(record: ExperimentSums) -> list[int]:
    return [len(base64.b64decode(tickets)) // 4 for tickets in record.sampled]


def test_users_count_once_and_those_of_a_refused_arm_in_none() -> None:
    arms = ExperimentArms(EXPERIMENT, {"b": "damaged"}, CanarySettings())
    groups = arms.listed(USERS)
    whole = Arms("s", SHARES, CLUSTERS).groups(USERS)
    of_arm = whole // CLUSTERS
    np.testing.assert_array_equal(groups, np.where(of_arm == 1, NO_GROUP, whole))
    arms.listed(USERS[:100])
    record = decoded(arms.record(0.0))
    assert sampled(record) == [(of_arm == 0).sum(), 0, (of_arm == 2).sum()]
    assert record.refused == {"b": "damaged"}
    assert [arms.arm_name(arm) for arm in range(3)] == record.arms == ["a", "b", "c"]


def test_clicks_count_for_the_arm_of_the_list_and_a_failure_leaves_what_was_sent() -> None:
    arms = ExperimentArms(EXPERIMENT, {}, CanarySettings(interval_s=10.0))
    assert arms.record(0.0) is None  # nothing to say
    groups = arms.listed(USERS)
    arms.judged(groups, np.where(np.arange(len(groups)) % 2, 1, 0), NO_TEAMS)
    first = decoded(arms.record(0.0))
    of_arm = np.array([(groups // CLUSTERS == arm).sum() for arm in range(3)])
    assert [sum(row) for row in first.clicks] == of_arm.tolist()
    assert sum(map(sum, first.hits)) == sum(map(sum, first.gains)) > 0
    arms.judged(groups, np.zeros(len(groups), np.int64), NO_TEAMS)
    assert arms.record(9.9) is None  # not due yet
    later = decoded(arms.record(10.0))
    assert later.key == first.key
    assert [sum(row) for row in later.clicks] == (2 * of_arm).tolist()
    arms.begin_session()
    assert arms.record(10.0) is None
    arms.judged(arms.listed(USERS[:7]), np.zeros(7, np.int64), NO_TEAMS)
    again = decoded(arms.record(10.0))
    assert again.key != first.key  # the earlier record stays, and this one begins at nothing
    assert sum(map(sum, again.clicks)) <= 7
