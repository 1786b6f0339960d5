"""A training in its run folder: resumed after a kill to the same weights, and refused with other settings or data."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="training needs torch: pip install 'headrace[train]'")

import torch

from engine.catalogue.content import Item, features
from engine.contract import ContentSizes
from engine.errors import DataError, ReleaseError, RunFolderError, SettingsError
from engine.interactions.layout import Source
from engine.releases import bundles
from models.cli import train as train_command
from models.data import dataset
from models.jobs import training_job
from models.jobs.training_job import TrainingInput
from models.network import loss
from models.network.item_vectors import Content, ItemVectors
from models.network.two_hop import TwoHopEncoder
from models.settings import EncoderSettings, TrainSettings
from models.training import devices, training_data, validation
from models.training.checkpoints import RunFolder
from models.training.fit import train
from models.training.trainer import StopReason, StopTraining, TrainingProgress, estimate_remaining

SMALL = ["--dimensions", "8", "--interests", "2", "--heads", "2", "--window-length", "10", "--batch-sequences", "16"]
SIZES = EncoderSettings(dimensions=8, interests=2, heads=2, hidden=16, window_length=10)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    return ["--data", str(data), "--out", str(out), "--version", "1", *SMALL, "--checkpoint-s", "0", *more]


def trained(data: Path, out: Path, *more: str) -> Path:
    result = CliRunner().invoke(train_command.train, arguments(data, out, *more), catch_exceptions=False)
    return Path(result.stdout.strip())


def wait_until(is_reached: Callable[[], bool]) -> None:
    for _ in range(3000):
        if is_reached():
            return
        time.sleep(0.02)
    pytest.fail("a minute was not enough")


def started(data: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    program = "import torch; torch.set_num_threads(1); from models.cli.train import train; train()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments(data, out, *more)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_a_killed_training_is_resumed_to_the_same_weights(
    tiny_interactions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed within an epoch of thirteen steps, with a checkpoint every five steps; with both optimisers."""
    options = ["--epochs", "8", "--validation-interval-steps", "5", "--patience", "1000", "--full-softmax-up-to", "0"]
    options += ["--negatives", "40", "--weight-averaging", "0.9", "--skip-share", "0.5", "--action-values", "learned"]
    options += ["--learning-rate-decay", "cosine", "--warmup-steps", "20"]
    undisturbed = trained(tiny_interactions, tmp_path / "undisturbed", *options)
    process = started(tiny_interactions, tmp_path / "killed", *options)
    checkpoints = tmp_path / "killed" / ".runs" / "two-hop-1" / "checkpoints"
    wait_until(lambda: len(list(checkpoints.glob("*.pt"))) == 2)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    monkeypatch.setattr(training_data, "prepare", None)  # the run folder has the training data already
    resumed = trained(tiny_interactions, tmp_path / "killed", *options)
    for name in ("vectors.npy", "encoder.onnx", "items.onnx", "popularity.npy"):
        assert bundles.checksum(resumed / name) == bundles.checksum(undisturbed / name)
    logs = [(tmp_path / name / ".runs/two-hop-1/progress.jsonl").read_text() for name in ("undisturbed", "killed")]
    steps = [[json.loads(line)["step"] for line in log.splitlines()] for log in logs]
    assert steps[0] == steps[1]
    assert not checkpoints.exists()


def test_ctrl_c_releases_the_best_weights(tiny_interactions: Path, tmp_path: Path) -> None:
    process = started(tiny_interactions, tmp_path, "--minutes", "5", "--patience", "100000")
    progress = tmp_path / ".runs" / "two-hop-1" / "progress.jsonl"
    wait_until(lambda: progress.exists() and progress.stat().st_size > 0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert Path(out.strip()) == tmp_path / "two-hop-1"
    assert err.count("interrupted: the best weights so far become the release") == 1
    left_out = "left out, for `headrace evaluate`: each user's last event and the last tenth of time"
    assert left_out in " ".join(err.split())
    report = json.loads((tmp_path / "two-hop-1" / "report.json").read_text())
    assert 1 <= len(report["validations"]) == len(progress.read_text().splitlines())


class PowerCut(Exception):  # noqa: N818 - an event, not an error
    pass


def settings(**changes: object) -> TrainSettings:
    defaults = {"encoder": SIZES, "epochs": 6, "batch_sequences": 16, "checkpoint_s": 0.0}
    defaults |= {"validation_interval_steps": 5}
    return TrainSettings.model_validate({**defaults, **changes})


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(tiny_interactions: Path, tmp_path: Path) -> None:
    """All state of a step is resumed: averaged weights, skips, dropped ids, content, values of actions."""
    data, folder = dataset.read(tiny_interactions), RunFolder(tmp_path)
    content = {item: Item(id=item, bags={"parity": [str(row % 2)]}) for row, item in enumerate(data.item_ids)}
    clicks = {"actions": {"view": 1.0, "buy": 2.0}, "default_action": "view"}
    actions = (np.arange(len(data)) % 3 == 0).astype(np.int32)
    data = dataclasses.replace(data, actions=actions, action_names=["view", "buy"])
    changed = settings(weight_averaging=0.9, skip_share=0.5, action_values="learned", clicks=clicks)
    undisturbed = train(data, changed, items=content)
    assert undisturbed.action_values["buy"] != pytest.approx(2.0, abs=1e-6)

    def cut_power(progress: TrainingProgress) -> None:
        if progress.step == 40:
            raise PowerCut

    with folder.locked():
        with pytest.raises(PowerCut):
            train(data, changed, cut_power, items=content, checkpointer=folder)
        newest, before = sorted((tmp_path / "checkpoints").glob("*.pt"), reverse=True)
        newest.write_bytes(newest.read_bytes()[:-1])
        (tmp_path / "checkpoints" / ".unfinished").write_bytes(b"partly written")
        steps: list[int] = []
        resumed = train(data, changed, lambda now: steps.append(now.step), items=content, checkpointer=folder)
    assert steps[0] == int(before.name.partition("-")[0]) + 1
    for parameter, expected in zip(resumed.encoder.parameters(), undisturbed.encoder.parameters(), strict=True):
        assert torch.equal(parameter, expected)
    assert [now.step for now in resumed.validations] == [now.step for now in undisturbed.validations]


def test_a_folder_of_another_training_is_refused_with_the_differences(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.locked():
        assert folder.begin(settings(seed=7), 1, None, "now") == "now"
        (folder.training_data / "left").mkdir(parents=True)
        assert folder.begin(settings(), 2, None, "later") == "now"  # nothing was learned yet
        assert not folder.training_data.exists()
        assert folder.begin(settings(), 1, None, "later") == "now"
        folder.record_data("here", [], {"data": "abc", "content": None})
        assert folder.begin(settings(epochs=9, minutes=9.0), 1, None, "later") == "now"
        with pytest.raises(RunFolderError, match=r"begun with encoder\.hidden 16 \(now 32\), seed 0 \(now 1\); give"):
            folder.begin(settings(seed=1, encoder=SIZES.model_copy(update={"hidden": 32})), 1, None, "later")
        with pytest.raises(RunFolderError, match=r"begun with processes 1 \(now 2\)"):
            folder.begin(settings(), 2, None, "later")
        with pytest.raises(RunFolderError, match=r"begun with data fingerprint abc \(now xyz\)"):
            folder.record_data("there", [], {"data": "xyz", "content": None})
        with pytest.raises(RunFolderError, match=r"begun with content fingerprint None \(now pqr\)"):
            folder.record_data("here", [], {"data": "abc", "content": "pqr"})
        with pytest.raises(RunFolderError, match="in use by another training"), RunFolder(tmp_path).locked():
            pass
        folder.training_data.mkdir()
        folder.finish(tmp_path / "bundle")
        with pytest.raises(RunFolderError, match=r"has ended with .*bundle; name another --run"):
            folder.begin(settings(), 1, None, "later")
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["settings"]["epochs"] == 9
    assert record["code"]["version"]


def test_other_data_in_a_run_folder_is_refused(tiny_interactions: Path, tmp_path: Path) -> None:
    def cut_power(_progress: TrainingProgress) -> None:
        raise PowerCut

    target = training_job.RunTarget("two-hop", None, tmp_path / "releases", tmp_path / "run")
    callbacks = training_job.Callbacks(on_message=lambda _: None, on_step=cut_power)
    with pytest.raises(PowerCut):
        training_job.run(TrainingInput(Source(str(tiny_interactions)), {}), settings(), target, 0, callbacks)
    lines = "".join(f"u{row % 20},i{row % 7},{row}\n" for row in range(400))
    (tmp_path / "interactions.csv").write_text("user,item,ts\n" + lines)
    with pytest.raises(RunFolderError, match=r"begun with data fingerprint [0-9a-f]{64} \(now [0-9a-f]{64}\)"):
        training_job.run(TrainingInput(Source(str(tmp_path)), {}), settings(), target, 0, callbacks)
    with pytest.raises(PowerCut):  # the first data is prepared again, and training resumed
        training_job.run(TrainingInput(Source(str(tiny_interactions)), {}), settings(), target, 0, callbacks)


def test_a_run_that_failed_before_it_learned_takes_corrected_settings_and_data(
    tiny_interactions: Path, tmp_path: Path
) -> None:
    """Settings are checked before any data is read, and data before any is learned from."""
    config, data, run = tmp_path / "headrace.toml", tmp_path / "clicks.csv", tmp_path / "run"
    options = ["--run", str(run), "--epochs", "1", "--config", str(config)]
    config.write_text("[clicks.actions]\nbuy = 3.0\n")
    with pytest.raises(SettingsError, match=r"clicks\.default_action': found 'view', .* one of clicks\.actions: buy"):
        trained(tmp_path / "nowhere", tmp_path, *options)
    assert not run.exists()
    config.write_text('[clicks]\ndefault_action = "buy"\n[clicks.actions]\nbuy = 3.0\n')
    data.write_text("user,item,ts\na,x,1\nb,y,soon\n")
    with pytest.raises(DataError, match=r"clicks\.csv, row 2: column ts holds 'soon'"):
        trained(data, tmp_path, *options)
    config.write_text('[clicks]\ndefault_action = "view"\n[clicks.actions]\nview = 1.0\nbuy = 3.0\n')
    assert trained(tiny_interactions, tmp_path, *options, "--seed", "5").name == "two-hop-1"


def test_a_release_that_exists_is_refused_before_training(tiny_interactions: Path, tmp_path: Path) -> None:
    (tmp_path / "two-hop-1").mkdir()
    with pytest.raises(ReleaseError, match=r"exists already.* choose another --version"):
        trained(tiny_interactions, tmp_path)


def test_a_callback_can_stop_training(tiny_interactions: Path) -> None:
    def stop_at_3(progress: TrainingProgress) -> None:
        if progress.step == 3:
            raise StopTraining

    trained = train(dataset.read(tiny_interactions), settings(epochs=None), stop_at_3)
    assert [now.step for now in trained.validations] == [4]  # the request travels with the next step's gradients
    assert trained.stop_reason == "interrupted"
    sentences = training_job.outcome(trained, settings(epochs=None))
    assert sentences[0].startswith("stopped when it was interrupted, best validation NDCG 0.")
    assert "still rising" in sentences[1]


@pytest.mark.parametrize(
    ("ndcgs", "reason", "decay", "step", "expected"),
    [
        ([0.1, 0.2, 0.15], "patience", "none", 2, ["converged: no better validation in 10 in a row"]),
        ([0.1, 0.2, 0.3], "minutes", "none", 3, ["limit of 5 minutes", "still rising"]),
        ([0.3, 0.2, 0.1, 0.1], "minutes", "none", 3, ["limit of 5 minutes"]),
        ([0.3, 0.29], "epochs", "cosine", 2, ["after its 5 epochs"]),
        ([0.3, 0.29], "epochs", "cosine", 1, ["after its 5 epochs", "validate 0.2900, worse than those of step 1"]),
    ],
)
def test_the_end_of_a_training_is_told(
    ndcgs: list[float], reason: StopReason, decay: str, step: int, expected: list[str], tiny_interactions: Path
) -> None:
    plan = TrainSettings.model_validate(
        {"learning_rate_decay": decay, "epochs": 5, "neighbours": False, "popularity": False}
    )
    trained = train(dataset.read(tiny_interactions), settings(epochs=1, neighbours=False, popularity=False))
    validations = [TrainingProgress(step=at, ndcg=ndcg, best_ndcg=max(ndcgs)) for at, ndcg in enumerate(ndcgs, 1)]
    ended = dataclasses.replace(trained, validations=validations, stop_reason=reason, step=step)
    sentences = training_job.outcome(ended, plan)
    assert len(sentences) == len(expected)
    assert all(words in sentence for words, sentence in zip(expected, sentences, strict=True))


@pytest.mark.parametrize(
    ("epochs", "step", "elapsed_s", "share", "left_s"),
    [
        (None, 10, 60.0, 0.2, 240.0),  # five minutes
        (4, 10, 60.0, 0.25, 180.0),  # 40 steps of 6 s each
        (100, 10, 60.0, 0.2, 240.0),  # the time is up first
        (None, 10, 330.0, 1.0, 0.0),
        (4, 0, 0.0, 0.0, 0.0),
    ],
)
def test_remaining_time_is_that_of_the_nearer_limit(
    epochs: int | None, step: int, elapsed_s: float, share: float, left_s: float
) -> None:
    now = TrainingProgress(epoch=0, step=step, loss=1.0, ndcg=0.0, best_ndcg=0.0, elapsed_s=elapsed_s, epoch_steps=10)
    assert estimate_remaining(now, TrainSettings(minutes=5.0, epochs=epochs)) == pytest.approx((share, left_s))


def test_validation_in_parts_is_the_same(tiny_interactions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset.read(tiny_interactions)
    at_once = train(data, settings(epochs=1)).validations
    monkeypatch.setattr(validation, "_SCORES", 700)  # two users: 2 interests, 120 items
    in_parts = train(data, settings(epochs=1)).validations
    assert [now.ndcg for now in in_parts] == pytest.approx([now.ndcg for now in at_once])


def test_a_sparse_gradient_is_the_dense_one() -> None:
    """That of the id table, in the rows of targets and candidates; content has a dense gradient in both."""
    generator = torch.Generator().manual_seed(0)
    interests = torch.randn(6, 2, 8, generator=generator)
    targets = torch.tensor([1, 3, 3, 5, 7, 19])
    candidates = loss.SoftmaxCandidates(
        items=torch.tensor([0, 3, 4, 9]), corrections=torch.tensor([0.1, 0.2, 0.3, 0.4])
    )
    assert candidates.columns(targets).tolist() == [-1, 1, 1, -1, -1, -1]
    sizes = ContentSizes(buckets=64, dense=0)
    bags = features([Item(id=str(row), bags={"parity": [str(row % 2)]}) for row in range(20)], sizes)
    gradients = []
    for sparse in (False, True):
        items = ItemVectors(20, 8, Content(bags, sizes, 8))
        items.ids.sparse = sparse
        with torch.no_grad():
            items.ids.weight.copy_(torch.linspace(-1.0, 1.0, 160).reshape(20, 8))
        rows, target_indices, renumbered = loss.compacted(targets, candidates)
        torch.autograd.backward(loss.catalogue_loss(interests, target_indices, items(rows), renumbered))
        assert items.ids.weight.grad is not None
        assert items.content is not None
        assert items.content.table.grad is not None
        assert items.ids.weight.grad.is_sparse == sparse
        gradients.append((items.ids.weight.grad.to_dense(), items.content.table.grad))
    torch.testing.assert_close(gradients[0], gradients[1])
    assert np.flatnonzero(gradients[0][0].abs().sum(1)).tolist() == [0, 1, 3, 4, 5, 7, 9, 19]


def test_new_tensors_are_on_the_device_of_the_others() -> None:
    """Without values: the meta device computes nothing, but refuses operations with tensors on the CPU."""
    module = TwoHopEncoder(20, SIZES).to("meta")
    items = torch.zeros(3, 4, dtype=torch.long, device="meta")
    interests, _ = module(items, torch.zeros(3, 4, 4, device="meta"), torch.ones(3, 4, device="meta"))
    assert interests.device.type == "meta"
    whole = loss.whole_catalogue(20, torch.device("meta"))
    assert {whole.items.device.type, whole.corrections.device.type} == {"meta"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests a machine without a GPU")
def test_a_missing_gpu_is_named() -> None:
    assert devices.choose("auto") == torch.device("cpu")
    with pytest.raises(SettingsError, match=r"found 0 GPUs .* say --device cpu"):
        devices.choose("cuda")
