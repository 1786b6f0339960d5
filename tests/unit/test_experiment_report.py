"""Reports of experiments: verdicts, the check of the sample ratio, what was left out, the page, sums on the topic."""

import base64
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import pytest

from engine.cli import experiment_page
from engine.cli.experiment import ratio_line, table
from engine.eventlog.base import Outgoing, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.messages.experiment_messages import Experiment, ExperimentArm, ExperimentLook, ExperimentSums
from engine.quality import experiment_report
from engine.quality.experiment import CLUSTERS, ArmSums
from engine.quality.experiment_report import ExperimentCounts, ExperimentReport
from engine.quality.user_sample import EVERYBODY, UserSample
from engine.worker.sums_reader import SumsReader

START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
RUNNING = Experiment(
    model="two-hop",
    experiment="e",
    state="running",
    salt="s",
    base_version="v1",
    arms=[
        ExperimentArm(name="control", share=0.4),
        ExperimentArm(name="<b>", share=0.3, settings={"count": 5}),
        ExperimentArm(name="c", share=0.3, version="v2"),
    ],
    started_ms=START_MS,
    announced_ms=START_MS,
)
STOPPED = msgspec.structs.replace(RUNNING, state="stopped", announced_ms=START_MS + 2 * HOUR_MS, reason="seen")


def counts(gains: tuple[float, ...] = (0.3, 0.3, 0.3), users: tuple[int, ...] = (400, 300, 300)) -> ExperimentCounts:
    """Twenty clicks in each cluster, whose gains differ a little from cluster to cluster."""
    clicks = np.full((3, CLUSTERS), 20.0)
    spread = np.random.default_rng(0).normal(1.0, 0.1, (3, CLUSTERS))
    sums = np.array(gains)[:, None] * clicks * spread
    sample = UserSample([np.arange(count, dtype=np.uint32) for count in users])
    return ExperimentCounts(ArmSums(clicks, clicks / 2, sums), sample, sessions=2)


def report(
    of: ExperimentCounts, experiment: Experiment = RUNNING, looks: tuple[ExperimentLook, ...] = ()
) -> ExperimentReport:
    return experiment_report.report(experiment, experiment.state, of, looks, START_MS + HOUR_MS)


def verdicts(of: ExperimentCounts) -> list[str]:
    return [arm.verdict for arm in report(of).arms]


def test_verdicts_by_the_always_valid_intervals() -> None:
    assert verdicts(counts((0.3, 0.4, 0.2))) == ["control", "better", "worse"]
    assert verdicts(counts((0.3, 0.3, 0.301))) == ["control", *["no difference that matters"] * 2]
    noisy = counts()
    noisy.sums.gains[:, ::2] *= 4.0
    assert verdicts(noisy) == ["control", *["not certain yet"] * 2]


def test_nothing_is_said_of_an_arm_before_it_has_users() -> None:
    few = counts((0.3, 0.4, 0.2))
    few.sums.clicks[2, 100:] = few.sums.gains[2, 100:] = 0.0
    of_few = report(few)
    assert [arm.verdict for arm in of_few.arms] == ["control", "better", "too few users yet"]
    assert (of_few.arms[2].lift, of_few.arms[2].always_valid) == (None, None)
    empty = report(ExperimentCounts.empty(3))
    assert [arm.verdict for arm in empty.arms] == ["control", *["too few users yet"] * 2]
    assert empty.sample_ratio.p_value is None
    assert "No arm has enough users yet" in experiment_page.render(empty)
    assert table(empty)[1] == "users as the shares promise: p = - (control 0, <b> 0, c 0)"


def test_a_sample_ratio_mismatch_is_said_loudly_everywhere() -> None:
    mismatch = report(counts((0.3, 0.4, 0.2), users=(400, 300, 200)))
    assert mismatch.sample_ratio.mismatch
    assert [arm.verdict for arm in mismatch.arms] == ["control", *["not to be read"] * 2]
    assert ratio_line(mismatch).startswith("NOT TO BE READ: the arms do not have the users that their shares promise")
    assert table(mismatch)[1] == ratio_line(mismatch)
    assert 'class="alarm" role="alert">Not to be read' in experiment_page.render(mismatch)
    assert not report(counts(users=(410, 290, 300))).sample_ratio.mismatch


def test_an_arm_that_was_not_served_somewhere_is_left_out_of_the_sample_ratio() -> None:
    of = counts(users=(400, 300, 20))
    of.refused["c"] = ["its graph is cut short"]
    partly = report(of)
    assert not partly.sample_ratio.mismatch
    assert partly.sample_ratio.users == {"control": 400, "<b>": 300}
    assert table(partly)[-1] == "c: not served by some worker: its graph is cut short"
    assert "its graph is cut short" in experiment_page.render(partly)


def test_the_fixed_horizon_is_said_only_at_the_end() -> None:
    running, stopped = report(counts((0.3, 0.4, 0.2))), report(counts((0.3, 0.4, 0.2)), STOPPED)
    assert [arm.fixed_horizon for arm in running.arms] == [None, None, None]
    assert [arm.p_value for arm in running.arms] == [None, None, None]
    for arm in stopped.arms[1:]:
        assert arm.fixed_horizon is not None
        assert arm.always_valid is not None
        assert arm.fixed_horizon.lower > arm.always_valid.lower
        assert arm.p_value == pytest.approx(0.0, abs=1e-6)
    assert (stopped.until_ms, stopped.reason) == (STOPPED.announced_ms, "seen")
    assert "fixed horizon" not in table(running)[2]
    assert "fixed horizon" in table(stopped)[2]
    decoded = msgspec.json.decode(msgspec.json.encode(stopped), type=ExperimentReport)
    assert decoded == stopped


def test_looks_are_kept_fewer_as_an_experiment_grows_old() -> None:
    def slots(begin_s: float, end_s: float) -> int:
        ages = np.arange(begin_s, end_s, 10.0)
        return len({experiment_report._slot(age_s) for age_s in ages.tolist()})

    assert slots(0, 600) > 50
    assert slots(0, 30 * 86400) < 1000
    assert slots(29 * 86400, 30 * 86400) < 6


def test_the_page_draws_every_look_and_needs_nothing_else() -> None:
    looks = tuple(
        experiment_report.look_of(experiment_report.report(RUNNING, "running", counts(gains), [], START_MS + age_ms))
        for age_ms, gains in ((60_000, (0.3, 0.5, 0.1)), (HOUR_MS // 2, (0.3, 0.4, 0.2)))
    )
    page = experiment_page.render(report(counts((0.3, 0.38, 0.24)), looks=looks))
    (svg,) = [line for line in page.split("\n") if line.startswith("<svg")]
    drawn = ET.fromstring(svg[: svg.index("</svg>") + len("</svg>")])  # noqa: S314 - our own
    assert [len(line.attrib["points"].split()) for line in drawn.iter("polyline")] == [3, 3]
    assert [len(band.attrib["points"].split()) for band in drawn.iter("polygon")] == [6, 6]
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert [mark for mark in ("http:", "https:", "<script", "url(", "src=") if mark in page] == []


def sums(writer: str, count: int = 1, **changes: object) -> ExperimentSums:
    rows = [[count] * CLUSTERS for _ in range(3)]
    tickets = [base64.b64encode(np.array([arm, 10 * count + arm], "<u4").tobytes()).decode() for arm in range(3)]
    fields: dict[str, object] = {
        "experiment": "e",
        "started_ms": START_MS,
        "model": "two-hop",
        "writer": writer,
        "arms": ["control", "<b>", "c"],
        "clicks": rows,
        "hits": rows,
        "gains": [[0.5 * count] * CLUSTERS for _ in range(3)],
        "sampled": tickets,
        "threshold": EVERYBODY,
    }
    return ExperimentSums(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_sums_of_all_sessions_add_up_and_rubbish_counts_nothing() -> None:
    """A session's later record replaces its earlier one, and a user whom two sessions have seen counts once."""
    log = MemoryLog()
    log.ensure_topics([TopicSpec("canary-sums", compacted=True)])
    look = experiment_report.look_of(report(counts()))
    messages: list[ExperimentSums | ExperimentLook] = [
        sums("first", 2),
        sums("second", 10, refused={"c": "damaged"}),
        sums("first", 3),
        sums("third", refused={"c": "damaged"}),
        sums("another start", 100, started_ms=START_MS + 1),
        sums("another name", 100, experiment="ee"),
        sums("other arms", 100, arms=["control", "b", "d"]),
        sums("misshapen", 100, clicks=[[1]]),
        sums("no base64", 100, sampled=["!", "", ""]),
        sums("cut short", 100, sampled=["AAA=", "", ""]),
        sums("no threshold", 100, threshold=-1),
        sums("gone", 100),
        look,
    ]
    with log.producer() as producer:
        keys: list[bytes | None] = [message.key for message in messages]
        producer.send(Outgoing("canary-sums", keys, [*map(msgspec.json.encode, messages)]))
        producer.send(Outgoing("canary-sums", [keys[-2], b"experiment/x"], [None, b"rubbish"]))
    reader = SumsReader(log.reader(["canary-sums"]))
    total = reader.counts(RUNNING)
    assert total.sums.clicks.tolist() == [[14.0] * CLUSTERS] * 3
    assert total.sums.gains.tolist() == [[7.0] * CLUSTERS] * 3
    assert total.sample.users.tolist() == [4.0, 4.0, 4.0]  # 0, 10, 30 and 100 in the control
    assert (total.sessions, total.refused) == (3, {"c": ["damaged"]})
    assert reader.looks(RUNNING) == [look]
    assert len(reader.experiment_keys(RUNNING)) == 5
