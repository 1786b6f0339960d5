"""From clicks to a release that is live, refused, or gone on with after a kill; when, and by which of several."""

import copy
import csv
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="training needs torch: pip install 'headrace[train]'")

import torch

from engine.errors import DataError, ReleaseError, RunFolderError, SettingsError
from engine.eventlog.memory.log import MemoryLog
from engine.interactions.layout import Source
from engine.metrics import Metrics
from engine.releases import announcements, bundles, signing
from engine.releases.announcements import State
from engine.releases.bundles import Provenance
from engine.releases.registry import Registry
from engine.settings.sections import ReleaseSettings, RetrainSettings, Settings
from models import evaluation
from models.cli.retrain import retrain as command
from models.data import dataset
from models.evaluation import intervals, paired_bootstrap
from models.evaluation.candidate_trial import evaluate_candidate
from models.jobs import refused_bundles, release_gate, retrain_service, retraining, training_job
from models.jobs.drift_watch import UnknownItems, unknown_items
from models.jobs.election import Election
from models.jobs.live_release import FolderStage, TopicStage
from models.jobs.retrain_schedule import RetrainSchedule
from models.jobs.retrain_service import RetrainService
from models.jobs.retraining import Reports, RetrainInput, RetrainOutcome
from models.jobs.training_job import Callbacks, TrainingInput
from models.network.two_hop import TwoHopEncoder
from models.publishing import announce
from models.settings import EncoderSettings, TrainSettings
from models.training.warm_start import WarmVectors
from tests.unit.test_archive_reading import MESSAGES, archived
from tests.unit.test_bundles import rewritten
from tests.waiting import until

NOW_MS = 1_764_072_000_000
HOUR_MS = 3_600_000
SIZES = EncoderSettings(dimensions=16, interests=2, heads=2, hidden=32, window_length=10)
TRAINING = TrainSettings(
    encoder=SIZES, holdout="time", epochs=8, batch_sequences=16, learning_rate=1e-2, neighbours=False, checkpoint_s=0
)
OPTIONS = (
    "dimensions = 16\ninterests = 2\nheads = 2\nwindow_length = 10\nepochs = 8\nbatch_sequences = 16\n"
    "learning_rate = 1e-2\nneighbours = false\n"
)


LONG = os.environ.get("LONG_TESTS") == "1"


class Death(BaseException):
    """As kill -9: nothing in a retrainer catches it."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def without_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without the extra `report`, which costs more than all else of so small a retraining."""
    monkeypatch.delattr(evaluation, "report", raising=False)
    monkeypatch.setitem(sys.modules, "models.evaluation.report", None)


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `walked`."""
    return walked(tmp_path_factory.mktemp("clicks"))


def walked(folder: Path) -> Path:
    """Clicks of users who walk along one of two rings of items, an hour a click, in a folder that is made if needed."""
    folder.mkdir(exist_ok=True)
    rng, rows = np.random.default_rng(0), list[tuple[str, str, int]]()
    for user in range(40):
        places = (rng.integers(15) + np.cumsum(rng.integers(1, 3, 24))) % 15 + 15 * (user % 2)
        rows += [(f"u{user}", f"i{place}", 3600 * hour + user) for hour, place in enumerate(places.tolist())]
    with (folder / "interactions.csv").open("w") as file:
        csv.writer(file).writerows([("user", "item", "ts"), *sorted(rows, key=lambda row: row[2])])
    return folder


def inputs(clicks: Path, folder: Path, *, force: bool = False) -> RetrainInput:
    settings = Settings(retrain=RetrainSettings(releases=folder / "releases", max_slowdown=100.0))
    stage = FolderStage(settings, folder / "live")
    return RetrainInput(Source(str(clicks)), {}, settings, TRAINING, stage, force)


def reports(on_step: Callable[[Any], None] = lambda _progress: None) -> Reports:
    return Reports(Callbacks(lambda _message: None, on_step), lambda *_progress: None)


def run(given: RetrainInput, hours: float = 0.0, **options: Any) -> RetrainOutcome:
    return retraining.retrain(given, reports(**options), NOW_MS + round(hours * HOUR_MS))


def live(folder: Path) -> str:
    announcement = json.loads((folder / "live" / "two-hop.json").read_text())
    return f"{announcement['model']}-{announcement['version']}"


def began(outcome: RetrainOutcome) -> str:
    """The release's name without its content hash: model, and the time at which the attempt began."""
    return outcome.release.partition("-sha")[0]


@pytest.fixture(scope="module")
def first(clicks: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RetrainOutcome]:
    """The first release of a model, in its folder."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("first")
    return folder, run(inputs(clicks, folder))


def test_the_first_release_is_compared_with_the_baselines_alone(first: tuple[Path, RetrainOutcome]) -> None:
    folder, outcome = first
    assert (outcome.outcome, outcome.reasons) == ("published", [])
    assert outcome.release == live(folder)
    assert began(outcome) == "two-hop-20251125120000"
    report = json.loads(Path(outcome.report).read_text())
    assert [check["name"] for check in report["gate"]["checks"]] == ["popularity_7d", "item_knn"]
    assert report["live_release"] is None
    assert "Gate: this release may go live" in Path(outcome.report).with_name("gate.html").read_text()
    assert not (folder / "releases" / ".retrain" / "two-hop.json").exists()


def test_the_gates_report_is_in_the_manifest_and_no_part_of_the_content(
    first: tuple[Path, RetrainOutcome], tmp_path: Path
) -> None:
    folder, outcome = first
    bundle = bundles.read(folder / "releases" / outcome.release)
    gate, report = bundle.manifest.provenance.gate, json.loads(Path(outcome.report).read_text())
    assert (gate["passed"], gate["forced"], gate["live_release"]) == (True, False, None)
    assert gate["checks"] == report["gate"]["checks"]
    assert gate["systems"]["release"]["ndcg10"] == report["time_split"]["ndcg10"]
    assert set(gate["systems"]) == {"release", *report["time_split"]["baselines"]}
    assert bundles.content_of(bundle.manifest) == bundle.manifest.content_hash
    assert bundles.read(folder / "live" / outcome.release).manifest == bundle.manifest  # as it was announced
    copy = rewritten(bundle.folder, tmp_path, version="copy")
    before = bundles.read(copy).manifest
    bundles.record_gate(copy, {"passed": False})
    after = bundles.read(copy).manifest
    assert (after.content_hash, after.provenance.gate) == (before.content_hash, {"passed": False})
    (copy / "release.sig").write_text("{}")
    bundles.record_gate(copy, {"passed": False})  # nothing to change
    with pytest.raises(ReleaseError, match=r"is signed, expected one without release\.sig until the gate has decided"):
        bundles.record_gate(copy, {"passed": True})


def test_refused_bundles_are_deleted_but_for_the_newest_and_for_those_ever_announced(
    first: tuple[Path, RetrainOutcome], tmp_path: Path
) -> None:
    bundle, releases = first[0] / "releases" / first[1].release, tmp_path / "releases"
    verdicts: dict[str, dict[str, bool]] = {
        **{f"refused-{number}": {"passed": False} for number in range(4)},
        "passed": {"passed": True},
        "forced": {"passed": False, "forced": True},
        "by-hand": {},
    }
    for created_ms, (version, gate) in enumerate(verdicts.items()):
        rewritten(bundle, releases, version=version, created_ms=created_ms, provenance=Provenance(gate=gate))
    (releases / ".deleted-two-hop-left").mkdir()
    (releases / "two-hop-no-bundle").mkdir()
    announced = announcements.announce(releases / "two-hop-refused-0", "candidate", 1)
    refused_bundles.prune(releases, Registry("two-hop", {"refused-0": announced}), 1)
    kept = {path.name.removeprefix("two-hop-") for path in releases.iterdir()}
    assert kept == {"refused-0", "refused-3", "passed", "forced", "by-hand", "no-bundle"}
    refused_bundles.prune(releases, Registry("another"), 0)
    assert len([*releases.iterdir()]) == len(kept)


def test_one_that_is_no_better_is_refused(clicks: Path, first: tuple[Path, RetrainOutcome]) -> None:
    folder, before = first
    given = inputs(clicks, folder)
    retrain = given.settings.retrain.model_copy(update={"keep_refused": 0})
    given = replace(given, settings=given.settings.model_copy(update={"retrain": retrain}))
    outcome = run(given, hours=1)
    assert [path.name for path in (folder / "releases").glob("two-hop-*")] == [before.release]
    assert outcome.outcome == "refused"
    assert "leads the live release by" in outcome.reasons[0]
    assert live(folder) == before.release
    report = json.loads(Path(outcome.report).read_text())
    assert report["live_release"] == before.release
    assert "live" in report["time_split"]["baselines"]
    assert {check["name"] for check in report["gate"]["checks"]} >= {"lead", "interests", "coverage", "latency"}
    assert "does not go live" in Path(outcome.report).with_name("gate.html").read_text()


def test_a_live_release_may_know_items_of_which_the_slice_has_no_click(
    clicks: Path, first: tuple[Path, RetrainOutcome], tmp_path: Path
) -> None:
    bundle = bundles.read(first[0] / "releases" / first[1].release)
    gone = [f"gone-{row}" if row % 2 else item for row, item in enumerate(bundle.ids)]
    live_release = bundles.read(rewritten(bundle.folder, tmp_path, version="older", ids=gone))
    settings = inputs(clicks, tmp_path).settings
    report = evaluate_candidate(bundle, live_release, dataset.read(clicks), settings, lambda *_progress: None)
    figures = report["time_split"]["baselines"]["live"]
    assert figures["hr10"] < report["time_split"]["hr10"]  # it cannot list half of what is clicked
    assert 0.0 < figures["coverage"] < 1.0


@pytest.mark.usefixtures("without_page")
def test_one_that_is_better_takes_the_place_of_a_bad_one_that_was_forced(clicks: Path, tmp_path: Path) -> None:
    bad = inputs(clicks, tmp_path, force=True)
    untrained = TRAINING.model_copy(update={"epochs": 1, "learning_rate": 1e-9})
    forced = run(replace(bad, training=untrained))
    assert forced.outcome == "forced"
    outcome = run(replace(bad, force=False), hours=1)
    assert (outcome.outcome, outcome.reasons) == ("published", [])
    assert live(tmp_path) == outcome.release
    provenance = bundles.read_manifest(tmp_path / "releases" / outcome.release).provenance
    assert provenance.parent == forced.release.removeprefix("two-hop-")


@pytest.mark.usefixtures("without_page")
def test_one_that_passes_may_be_a_canary_of_the_live_release_that_workers_are_pinned_to(
    clicks: Path, tmp_path: Path
) -> None:
    as_canary = inputs(clicks, tmp_path, force=True)
    settings = as_canary.settings
    retrain = settings.retrain.model_copy(update={"publish_as": "canary"})
    as_canary = replace(as_canary, settings=settings.model_copy(update={"retrain": retrain}))
    first = run(as_canary)
    second = run(as_canary, hours=1)
    registry = as_canary.stage.registry()
    canary = registry.canary()
    assert [f"two-hop-{announcement.version}" for announcement in registry.live()] == [first.release]
    assert canary is not None
    assert f"two-hop-{canary.version}" == second.release
    now_ms = time.time_ns() // 1_000_000  # announcements have the time of the machine
    announcements.write_changes(registry.promote("canary", now_ms), tmp_path / "live")
    rolled_back = as_canary.stage.registry().rollback(now_ms)
    announcements.write_changes(rolled_back, tmp_path / "live")
    third = run(as_canary, hours=3)  # compared with the release that serves, which is not the newest
    assert json.loads(Path(third.report).read_text())["live_release"] == first.release


class MortalStage(FolderStage):
    """A stage that kills whoever publishes, before or after."""

    def publish(self, bundle: Path, state: State) -> None:
        if not (self.folder / "died").exists():
            self.folder.mkdir(exist_ok=True)
            (self.folder / "died").touch()
            if self.settings.retrain.min_recall == 0.0:  # the sign for `after`
                super().publish(bundle, state)
            raise Death
        super().publish(bundle, state)
        with (self.folder / "announced").open("a") as file:
            file.write(bundle.name + "\n")


@pytest.mark.parametrize(
    "when", ["after publishing", *(["training", "evaluating", "before publishing"] if LONG else [])]
)
@pytest.mark.usefixtures("without_page")
def test_a_retrainer_that_is_killed_goes_on_and_publishes_once(
    clicks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    given = inputs(clicks, tmp_path)
    recall = 0.0 if when == "after publishing" else 0.95
    settings = given.settings.model_copy(
        update={"retrain": given.settings.retrain.model_copy(update={"min_recall": recall})}
    )
    given = replace(given, settings=settings)
    if "publishing" in when:
        given = replace(given, stage=MortalStage(settings, tmp_path / "live"))
    steps: list[int] = []

    def on_step(progress: Any) -> None:
        steps.append(progress.step)
        if when == "training" and progress.step >= 20 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            raise Death

    with monkeypatch.context() as patch:
        if when == "evaluating":

            def die(*_arguments: Any) -> None:
                raise Death

            patch.setattr(release_gate, "decide", die)
        with pytest.raises(Death):
            run(given, on_step=on_step)
    killed_after = len(steps)
    outcome = run(given, hours=1, on_step=on_step)
    assert outcome.outcome == "published"
    assert outcome.release == live(tmp_path)
    assert began(outcome) == "two-hop-20251125120000"  # of the first beginning
    if when == "training":
        assert steps[killed_after] > 1  # from a checkpoint
    else:
        assert len(steps) == killed_after  # trained once
    if when == "after publishing":
        assert not (tmp_path / "live" / "announced").exists()  # a second time


@pytest.mark.skipif(not LONG, reason="a training: LONG_TESTS=1")
def test_an_attempt_whose_training_cannot_be_gone_on_with_is_given_up(clicks: Path, tmp_path: Path) -> None:
    given = inputs(clicks, tmp_path)

    def die(progress: Any) -> None:
        if progress.step == 20:
            raise Death

    with pytest.raises(Death):
        run(given, on_step=die)
    other = replace(given, training=TRAINING.model_copy(update={"seed": 7}))
    assert began(run(other, hours=1)) == "two-hop-20251125130000"


def test_a_run_folder_in_use_is_left_alone(clicks: Path, tmp_path: Path) -> None:
    given = inputs(clicks, tmp_path)

    def die(_progress: Any) -> None:
        raise Death

    with pytest.raises(Death):
        run(given, on_step=die)
    from models.training.checkpoints import RunFolder  # noqa: PLC0415 - beside its use

    folder = RunFolder(tmp_path / "releases" / training_job.RUNS / "two-hop-20251125120000")
    with folder.locked(), pytest.raises(RunFolderError, match="in use by another training"):
        run(given, hours=1)


def test_a_live_release_that_is_gone_is_named_and_force_does_without_it(
    clicks: Path, first: tuple[Path, RetrainOutcome], tmp_path: Path, without_page: None
) -> None:
    del without_page
    bundle = next((first[0] / "releases").glob("two-hop-*"))
    lost = announce.to_folder(rewritten(bundle, tmp_path, version="lost"), tmp_path / "live", NOW_MS)
    shutil.rmtree(lost.bundle)
    expected = r"the live release, .*two-hop-lost.*; copy it back, .*promote`\), or .*headrace retrain --once --force"
    with pytest.raises(ReleaseError, match=expected):
        run(inputs(clicks, tmp_path))
    outcome = run(inputs(clicks, tmp_path, force=True))
    assert outcome.outcome == "published"
    assert live(tmp_path) == outcome.release


def signed_inputs(clicks: Path, folder: Path, key: Path | None, public_key: str) -> RetrainInput:
    given = inputs(clicks, folder)
    settings = given.settings.model_copy(
        update={
            "releases": ReleaseSettings(require_signature=True, public_keys=[public_key]),
            "retrain": given.settings.retrain.model_copy(update={"signing_key": key}),
        }
    )
    return replace(given, settings=settings, stage=FolderStage(settings, folder / "live"))


def test_a_release_that_passes_is_signed_after_the_gates_decision(
    clicks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_page: None
) -> None:
    """Without a key it waits for somebody to sign it; killed after it signed, the retrainer signs it again."""
    del without_page
    key = tmp_path / "release.pem"
    public_key = signing.generate(key)
    with pytest.raises(ReleaseError, match=r"found no signature, .*sign it \(`headrace releases sign`\)"):
        run(signed_inputs(clicks, tmp_path, None, public_key))
    assert not (tmp_path / "live").exists()
    given = signed_inputs(clicks, tmp_path, key, public_key)

    def die(*_arguments: Any) -> None:
        raise Death

    with monkeypatch.context() as patched:
        patched.setattr(FolderStage, "publish", die)
        with pytest.raises(Death):
            run(given)
    bundle = next((tmp_path / "releases").glob("two-hop-*"))
    assert signing.signer(bundle, [public_key]) == public_key
    path = next((tmp_path / "releases" / ".runs").glob("*/gate.json"))
    report = json.loads(path.read_text())
    report["time_split"]["targets"] += 1  # as if it had been decided once more, beside another live release
    path.write_text(json.dumps(report))
    assert run(given).outcome == "published"
    copied = next((tmp_path / "live").glob("two-hop-*"))
    assert signing.signer(copied, [public_key]) == public_key


def test_a_key_by_which_no_worker_serves_is_refused_before_a_training(clicks: Path, tmp_path: Path) -> None:
    other_key = signing.generate(tmp_path / "other.pem")
    signing.generate(tmp_path / "release.pem")
    with pytest.raises(SettingsError, match=r"retrain\.signing_key: found the private key of .*releases\.public_keys"):
        run(signed_inputs(clicks, tmp_path, tmp_path / "release.pem", other_key))
    with pytest.raises(SettingsError, match=r"retrain\.signing_key: .*nowhere\.pem cannot be read as a private key"):
        run(signed_inputs(clicks, tmp_path, tmp_path / "nowhere.pem", other_key))
    assert not (tmp_path / "releases").exists()


def test_too_few_clicks_are_named(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("user,item,ts\na,x,1\nb,y,2\n")
    with pytest.raises(DataError):
        run(inputs(tmp_path, tmp_path))


def test_an_archive_that_is_cut_short_ends_a_retraining_and_nothing_is_half_published(tmp_path: Path) -> None:
    archived(str(tmp_path / "archive"), MESSAGES)
    [path] = (tmp_path / "archive").rglob("*.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cannot be read: .*put it back as it was"):
        run(inputs(tmp_path / "archive", tmp_path))
    assert not (tmp_path / "live").exists()
    assert not [*tmp_path.glob("releases/**/*.json")]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("min_lead", "1.5", "less than or equal to 1"),
        ("min_lead", "-0.1", "greater than or equal to 0"),
        ("keep_share", "0", "greater than 0"),
        ("min_recall", "2", "less than or equal to 1"),
        ("max_slowdown", "0.9", "greater than or equal to 1"),
        ("slowdown_floor_s", "-0.001", "greater than or equal to 0"),
        ("days", "inf", "a finite number"),
        ("interval_h", "inf", "a finite number"),
        ("drift_share", "0", "greater than 0"),
        ("drift_clicks", "99", "greater than or equal to 100"),
        ("keep_refused", "-1", "greater than or equal to 0"),
    ],
)
def test_a_margin_out_of_range_is_refused_before_anything_begins(name: str, value: str, expected: str) -> None:
    said = f"'retrain.{name}': found '{value}', expected {expected} (HEADRACE_RETRAIN__{name.upper()})"
    result = CliRunner().invoke(
        command, ["--once", "--data", "nowhere"], env={f"HEADRACE_RETRAIN__{name.upper()}": value}
    )
    assert isinstance(result.exception, SettingsError)
    assert said in str(result.exception)


@pytest.mark.usefixtures("without_page")
def test_the_verb_says_what_became_of_it_and_a_refusal_is_no_failure(
    clicks: Path, first: tuple[Path, RetrainOutcome], tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text(OPTIONS)
    words = ["--once", "--data", str(clicks), "--out", str(tmp_path / "releases"), "--folder", str(first[0] / "live")]
    environ = {"HEADRACE_RETRAIN__TRAINING": str(tmp_path / "small.toml")}
    result = CliRunner().invoke(command, [*words, "--json"], env=environ)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["outcome"] == "refused"
    assert "leads the live release by" in figures["reasons"][0]
    missing = CliRunner().invoke(command, ["--once"])
    assert isinstance(missing.exception, SettingsError)
    assert "give --data" in str(missing.exception)
    service = CliRunner().invoke(command, ["--data", str(clicks), "--folder", str(tmp_path)])
    assert "a service publishes on the topic" in str(service.exception)


PASSING: dict[str, Any] = {
    "time_split": {
        "ndcg10": 0.11,
        "listed_items": 500,
        "baselines": {"live": {"ndcg10": 0.1}},
        "leads": {
            "live": {"value": 0.01, "interval": (0.002, 0.018)},
            "popularity_7d": {"value": 0.05, "interval": (0.04, 0.06)},
            "item_knn": {"value": -0.001, "interval": (-0.004, 0.002)},
        },
        "skipped": {},
        "interests_in_use": {"effective": 2.0},
        "index": {"kind": "hnsw", "recall": 0.99},
        "live": {"listed_items": 500, "interests_in_use": {"effective": 2.2}, "index": {"kind": "exact"}},
        "list_ms": {"release": 2.0, "live": 1.8},
        "slowdown": {"ratio": 1.1, "ratio_interval": (1.0, 1.2), "added_ms": 0.2, "added_ms_interval": (0.1, 0.3)},
    }
}


def test_a_release_that_meets_every_condition_passes() -> None:
    decision = release_gate.decide(PASSING, RetrainSettings())
    assert decision.passed
    assert len(decision.checks) == 7
    assert decision.reasons() == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("lead", lambda split: split["leads"]["live"].update(value=0.001)),  # exactly the margin
        ("lead", lambda split: split["leads"]["live"].update(interval=(-0.001, 0.02))),
        ("lead", lambda split: split["leads"]["live"].update(interval=None)),
        ("interests", lambda split: split["interests_in_use"].update(effective=1.7)),
        ("interests", lambda split: split["interests_in_use"].update(effective=None)),
        ("coverage", lambda split: split.update(listed_items=399)),
        ("latency", lambda split: split["slowdown"].update(ratio_interval=(1.51, 1.7), added_ms_interval=(0.9, 1.2))),
        ("popularity_7d", lambda split: split["leads"]["popularity_7d"].update(value=-0.02, interval=(-0.03, -0.01))),
        ("item_knn", lambda split: split["leads"]["item_knn"].update(interval=(-0.004, -0.001))),
        ("item_knn", lambda split: split["skipped"].update(item_knn="it needs scipy")),
        ("recall", lambda split: split["index"].update(recall=0.9)),
    ],
)
def test_one_condition_that_is_not_met_is_enough_to_refuse(name: str, change: Callable[[Any], None]) -> None:
    report = copy.deepcopy(PASSING)
    change(report["time_split"])
    decision = release_gate.decide(report, RetrainSettings())
    assert [check.name for check in decision.checks if not check.passed] == [name]
    assert len(decision.reasons()) == 1


def test_the_bootstrap_agrees_with_the_closed_form_and_pairs_by_target() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(300), rng.integers(1, 6, 300)).astype(np.int32)
    taste = rng.normal(0.0, 0.3, 300)[users]
    gains = np.clip(0.4 + taste + rng.normal(0.0, 0.1, len(users)), 0.0, 1.0)
    others = np.clip(gains - 0.02 + rng.normal(0.0, 0.02, len(users)), 0.0, 1.0)
    bootstrap, closed = paired_bootstrap.lead(gains, others, users), intervals.mean(gains - others, users)
    assert bootstrap.value == pytest.approx(closed.value)
    assert bootstrap.interval == pytest.approx(closed.interval, abs=2e-4)
    assert paired_bootstrap.lead(gains, others, users) == bootstrap
    assert paired_bootstrap.lead(gains[:1], others[:1], users[:1]).interval is None
    assert paired_bootstrap.lead(gains[:0], others[:0], users[:0]).value is None


def test_vectors_of_known_items_are_the_beginning() -> None:
    encoder = TwoHopEncoder(3, SIZES)
    before = encoder.items.table().detach().numpy().copy()
    vectors = np.arange(32, dtype=np.float16).reshape(2, 16)
    assert WarmVectors(["b", "gone"], vectors).copy_to(encoder, ["a", "b", "c"]) == 1
    after = encoder.items.table().detach().numpy()
    assert (after[1] == vectors[0]).all()
    assert (after[[0, 2]] == before[[0, 2]]).all()
    assert WarmVectors(["b"], np.ones((1, 8), np.float32)).copy_to(encoder, ["b"]) == 0


@pytest.mark.usefixtures("without_page")
@pytest.mark.parametrize("is_warm", [False, True])
def test_training_begins_with_the_vectors_of_the_live_release_where_the_settings_say_so(
    clicks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_warm: bool
) -> None:
    def stop(training_input: TrainingInput, *_others: object) -> None:
        begun.append(training_input.warm)
        raise Death

    begun = list[WarmVectors | None]()
    first = inputs(clicks, tmp_path, force=True)
    release = bundles.read(tmp_path / "releases" / run(first).release)
    retrain = first.settings.retrain.model_copy(update={"warm_start": is_warm})
    monkeypatch.setattr(training_job, "run", stop)
    with pytest.raises(Death):
        run(replace(first, settings=first.settings.model_copy(update={"retrain": retrain})), hours=1)
    if is_warm:
        assert begun[0] is not None
        assert begun[0].ids == release.ids
        np.testing.assert_array_equal(begun[0].vectors, release.vectors)
    else:
        assert begun == [None]


def test_the_schedule_by_interval_cron_and_clicks() -> None:
    noon_ms = NOW_MS  # 2025-11-25 12:00 UTC
    schedule = RetrainSchedule(RetrainSettings(interval_h=2.0, new_clicks=100), noon_ms)
    assert schedule.is_due(noon_ms, None)
    schedule.began(noon_ms, 1_000)
    assert not schedule.is_due(noon_ms + HOUR_MS, 1_099)
    assert schedule.is_due(noon_ms + HOUR_MS, 1_100)
    assert schedule.is_due(noon_ms + 2 * HOUR_MS, 1_000)
    nightly = RetrainSchedule(RetrainSettings(cron="0 3 * * *"), noon_ms)
    assert nightly.due_ms == noon_ms + 15 * HOUR_MS
    nightly.began(nightly.due_ms, None)
    assert nightly.due_ms == noon_ms + 39 * HOUR_MS
    for cron in ("0 3 * *", "at three", "0 0 30 2 *"):
        with pytest.raises(SettingsError, match=re.escape(f"retrain.cron: found {cron!r}") + ".*as in '0 3"):
            RetrainSchedule(RetrainSettings(cron=cron), noon_ms)


def test_one_of_two_is_elected_and_the_other_when_that_is_gone() -> None:
    log, settings = MemoryLog(), Settings()
    with Election(settings, log) as first:
        assert first.wait(10.0)
        with Election(settings, log) as second:
            assert not second.wait(0.5)
            assert first.is_elected()
            first.__exit__()
            until(second.is_elected)
            assert not first.is_elected()


@pytest.mark.usefixtures("without_page")
def test_the_service_retrains_when_it_is_due_and_publishes_on_the_topic(clicks: Path, tmp_path: Path) -> None:
    log, metrics = MemoryLog(), Metrics()
    given = inputs(clicks, tmp_path)
    stage = TopicStage(given.settings, log)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"headrace_{name}", labels)

    with Election(given.settings, log) as election:
        service = RetrainService(lambda: replace(given, stage=stage), reports(), election, metrics)
        until(election.is_elected)
        outcome = service.step()
        assert outcome is not None
        assert outcome.outcome == "published"
        (newest,) = stage.registry().live()
        assert f"{newest.model}-{newest.version}" == outcome.release
        assert service.step() is None  # not due for a day
    assert value("retrainings_total", outcome="published") == 1.0
    assert value("retraining_elected") == 1.0
    due_s, success_s = (
        value("retraining_next_due_timestamp_seconds"),
        value("retraining_last_success_timestamp_seconds"),
    )
    assert due_s is not None
    assert success_s is not None
    assert due_s - success_s == pytest.approx(86_400.0, abs=60.0)


@pytest.mark.usefixtures("without_page")
def test_clicks_on_items_that_the_live_release_does_not_know_begin_a_retraining(
    clicks: Path, first: tuple[Path, RetrainOutcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain_service, "_DRIFT_EVERY_S", 0.0)
    shutil.copytree(first[0] / "live", tmp_path / "live")
    rows = (clicks / "interactions.csv").read_text()
    (tmp_path / "interactions.csv").write_text(rows)
    given, metrics = inputs(tmp_path, tmp_path), Metrics()
    drift = {
        "cron": "0 0 1 1 *",
        "on_drift": True,
        "drift_share": 0.4,
        "drift_clicks": 100,
    }  # next New Year, or by drift
    retrain = given.settings.retrain.model_copy(update=drift)
    given = replace(given, settings=given.settings.model_copy(update={"retrain": retrain}))
    with Election(given.settings, MemoryLog()) as election:
        service = RetrainService(lambda: given, reports(), election, metrics)
        until(election.is_elected)
        assert service.step() is None  # less than 100 clicks since the training's end, none of them on new items
        new = [(f"u{user}", f"n{(user + turn) % 15}", 90_000 + 3600 * turn) for turn in range(4) for user in range(40)]
        with (tmp_path / "interactions.csv").open("a") as file:
            csv.writer(file).writerows(new)
        outcome = service.step()
        assert outcome is not None
        assert outcome.outcome in {"published", "refused"}
        share = metrics.registry.get_sample_value("headrace_retraining_unknown_share")
        assert share == pytest.approx(160 / (160 + 96), abs=0.02)  # of those since the held-out tenth began
        assert service.step() is None  # judged by later clicks alone


def test_unknown_items_are_counted_among_clicks_of_positive_weight(tmp_path: Path) -> None:
    rows = [
        ("a", "x", 1, "view", ""),
        ("a", "y", 2, "buy", ""),
        ("a", "z", 3, "dislike", ""),  # no wish for it
        ("b", "", 4, "", "red shoes"),  # a search has no item
        ("b", "z", 5, "unheard of", ""),  # counts like clicks.default_action
        ("b", "y", 6, "", ""),
    ]
    with (tmp_path / "interactions.csv").open("w") as file:
        csv.writer(file).writerows([("user", "item", "ts", "action", "query"), *rows])
    source, known = Source(str(tmp_path)), frozenset({"x", "y"})
    everything = unknown_items(source, known, Settings().clicks)
    assert everything == UnknownItems(clicks=4, unknown=1)
    assert everything.share == 0.25
    later = unknown_items(replace(source, since_ms=5000), known, Settings().clicks)
    assert later == UnknownItems(clicks=2, unknown=1)
    assert UnknownItems(0, 0).share == 0.0


@pytest.mark.parametrize(
    ("settings", "drift", "due"),
    [
        ({"on_drift": True}, UnknownItems(2_000, 400), True),
        ({"on_drift": True}, UnknownItems(2_000, 399), False),
        ({"on_drift": True}, UnknownItems(1_999, 1_999), False),
        ({"on_drift": True}, None, False),
        ({}, UnknownItems(2_000, 2_000), False),
        ({"on_drift": True, "drift_share": 1.0, "drift_clicks": 100}, UnknownItems(100, 100), True),
    ],
)
def test_the_schedule_by_drift(settings: dict[str, Any], drift: UnknownItems | None, due: bool) -> None:
    schedule = RetrainSchedule(RetrainSettings(interval_h=2.0, **settings), NOW_MS)
    schedule.began(NOW_MS, None)
    assert schedule.is_due(NOW_MS + HOUR_MS, None, drift) == due


def test_the_service_goes_on_after_a_failure(tmp_path: Path) -> None:
    log, metrics = MemoryLog(), Metrics()
    given = inputs(tmp_path / "missing", tmp_path)
    with Election(given.settings, log) as election:
        service = RetrainService(lambda: given, reports(), election, metrics)
        until(election.is_elected)
        assert service.step() is None
        assert service.step() is None  # after a pause alone
    assert metrics.registry.get_sample_value("headrace_retrainings_total", {"outcome": "failed"}) == 1.0
