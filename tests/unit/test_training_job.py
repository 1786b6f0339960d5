"""A training in its folder: it goes on after a kill as if nothing had happened, and refuses to become another one."""

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
from engine.releases import bundles as release
from models.cli import train as train_command
from models.data import dataset as reading
from models.jobs import training_job as training_run
from models.jobs.training_job import TrainingInput
from models.network import loss
from models.network import two_hop as encoder
from models.network.item_vectors import Content, ItemVectors
from models.settings import EncoderSettings, TrainSettings
from models.training import devices, validation
from models.training import training_data as material
from models.training.checkpoints import RunFolder
from models.training.fit import train
from models.training.trainer import StopTraining, TrainingProgress, outlook

SMALL = ["--dimensions", "8", "--interests", "2", "--heads", "2", "--window-length", "10", "--batch-sequences", "16"]
SIZES = EncoderSettings(dimensions=8, interests=2, heads=2, hidden=16, window_length=10)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    return ["--data", str(data), "--out", str(out), "--version", "1", *SMALL, "--checkpoint-s", "0", *more]


def trained(data: Path, out: Path, *more: str) -> Path:
    done = CliRunner().invoke(train_command.train, arguments(data, out, *more), catch_exceptions=False)
    return Path(done.stdout.strip())


def wait_until(reached: Callable[[], bool]) -> None:
    for _ in range(3000):
        if reached():
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


def test_a_killed_training_goes_on_to_the_same_weights(
    tiny_interactions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of an epoch of thirteen steps, whose checkpoints come every five; with both optimisers."""
    chosen = ["--epochs", "8", "--round-steps", "5", "--patience", "1000", "--full-softmax-up-to", "0"]
    chosen += ["--negatives", "40", "--weight-averaging", "0.9", "--skip-share", "0.5", "--action-values", "learned"]
    chosen += ["--learning-rate-decay", "cosine", "--warmup-steps", "20"]
    undisturbed = trained(tiny_interactions, tmp_path / "undisturbed", *chosen)
    process = started(tiny_interactions, tmp_path / "killed", *chosen)
    checkpoints = tmp_path / "killed" / ".runs" / "two-hop-1" / "checkpoints"
    wait_until(lambda: len(list(checkpoints.glob("*.pt"))) == 2)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    monkeypatch.setattr(material, "prepare", None)  # what was made of the data is there already
    resumed = trained(tiny_interactions, tmp_path / "killed", *chosen)
    for name in ("vectors.npy", "encoder.onnx", "items.onnx", "popularity.npy"):
        assert release.checksum(resumed / name) == release.checksum(undisturbed / name)
    logs = [(tmp_path / name / ".runs/two-hop-1/progress.jsonl").read_text() for name in ("undisturbed", "killed")]
    steps = [[json.loads(line)["step"] for line in log.splitlines()] for log in logs]
    assert steps[0] == steps[1]
    assert not checkpoints.exists()


def test_ctrl_c_ends_in_order_with_the_best_weights(tiny_interactions: Path, tmp_path: Path) -> None:
    process = started(tiny_interactions, tmp_path, "--minutes", "5", "--patience", "100000")
    progress = tmp_path / ".runs" / "two-hop-1" / "progress.jsonl"
    wait_until(lambda: progress.exists() and progress.stat().st_size > 0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert Path(out.strip()) == tmp_path / "two-hop-1"
    assert "interrupted: the best weights so far become the release" in err
    report = json.loads((tmp_path / "two-hop-1" / "report.json").read_text())
    assert 1 <= len(report["rounds"]) == len(progress.read_text().splitlines())


class Cut(Exception):  # noqa: N818 - stands for a power cut
    pass


def settings(**changes: object) -> TrainSettings:
    chosen = {"encoder": SIZES, "epochs": 6, "batch_sequences": 16, "round_steps": 5, "checkpoint_s": 0.0}
    return TrainSettings.model_validate({**chosen, **changes})


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tiny_interactions: Path, tmp_path: Path) -> None:
    """Everything that a step stands on goes on: averaged weights, skips, silenced ids, content, values of actions."""
    data, keeper = reading.read(tiny_interactions), RunFolder(tmp_path)
    rings = {item: Item(id=item, bags={"ring": [str(place % 2)]}) for place, item in enumerate(data.item_ids)}
    clicks = {"actions": {"view": 1.0, "buy": 2.0}, "default_action": "view"}
    actions = (np.arange(len(data)) % 3 == 0).astype(np.int32)
    data = dataclasses.replace(data, actions=actions, action_names=["view", "buy"])
    chosen = settings(weight_averaging=0.9, skip_share=0.5, action_values="learned", clicks=clicks)
    undisturbed = train(data, chosen, items=rings)
    assert undisturbed.action_values["buy"] != pytest.approx(2.0, abs=1e-6)

    def cut(progress: TrainingProgress) -> None:
        if progress.step == 40:
            raise Cut

    with keeper.locked():
        with pytest.raises(Cut):
            train(data, chosen, cut, items=rings, keeper=keeper)
        newest, before = sorted((tmp_path / "checkpoints").glob("*.pt"), reverse=True)
        newest.write_bytes(newest.read_bytes()[:-1])
        (tmp_path / "checkpoints" / ".unfinished").write_bytes(b"cut off while it was written")
        steps: list[int] = []
        resumed = train(data, chosen, lambda progress: steps.append(progress.step), items=rings, keeper=keeper)
    assert steps[0] == int(before.name.partition("-")[0]) + 1
    for one, other in zip(undisturbed.encoder.parameters(), resumed.encoder.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [one.step for one in undisturbed.rounds] == [one.step for one in resumed.rounds]


def test_a_folder_of_another_training_is_refused_by_what_differs(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.locked():
        assert folder.begin(settings(seed=7), 1, None, "now") == "now"
        (folder.material / "left").mkdir(parents=True)
        assert (
            folder.begin(settings(), 2, None, "later") == "now"
        )  # nothing was learned yet: whatever it was, it is not
        assert not folder.material.exists()
        assert folder.begin(settings(), 1, None, "later") == "now"
        folder.add_data("here", [], {"data": "abc", "content": None})
        assert folder.begin(settings(epochs=9, minutes=9.0), 1, None, "later") == "now"
        with pytest.raises(RunFolderError, match=r"begun with encoder\.hidden 16 \(now 32\), seed 0 \(now 1\); give"):
            folder.begin(settings(seed=1, encoder=SIZES.model_copy(update={"hidden": 32})), 1, None, "later")
        with pytest.raises(RunFolderError, match=r"begun with processes 1 \(now 2\)"):
            folder.begin(settings(), 2, None, "later")
        with pytest.raises(RunFolderError, match=r"begun with data fingerprint abc \(now xyz\)"):
            folder.add_data("there", [], {"data": "xyz", "content": None})
        with pytest.raises(RunFolderError, match=r"begun with content fingerprint None \(now pqr\)"):
            folder.add_data("here", [], {"data": "abc", "content": "pqr"})
        with pytest.raises(RunFolderError, match="in use by another training"), RunFolder(tmp_path).locked():
            pass
        folder.material.mkdir()
        folder.end(tmp_path / "bundle")
        with pytest.raises(RunFolderError, match=r"has ended with .*bundle; name another --run"):
            folder.begin(settings(), 1, None, "later")
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["settings"]["epochs"] == 9
    assert record["code"]["version"]


def test_other_data_in_a_run_folder_is_refused(tiny_interactions: Path, tmp_path: Path) -> None:
    def cut(_progress: TrainingProgress) -> None:
        raise Cut

    goal = training_run.RunTarget("two-hop", None, tmp_path / "releases", tmp_path / "run")
    reports = training_run.Callbacks(say=lambda _: None, watch=cut)
    with pytest.raises(Cut):
        training_run.run(TrainingInput(Source(str(tiny_interactions)), {}), settings(), goal, 0, reports)
    lines = "".join(f"u{row % 20},i{row % 7},{row}\n" for row in range(400))
    (tmp_path / "interactions.csv").write_text("user,item,ts\n" + lines)
    with pytest.raises(RunFolderError, match=r"begun with data fingerprint [0-9a-f]{64} \(now [0-9a-f]{64}\)"):
        training_run.run(TrainingInput(Source(str(tmp_path)), {}), settings(), goal, 0, reports)
    with pytest.raises(Cut):  # the first data is read again, and goes on
        training_run.run(TrainingInput(Source(str(tiny_interactions)), {}), settings(), goal, 0, reports)


def test_a_run_that_failed_before_it_learned_goes_on_with_the_corrected_command(
    tiny_interactions: Path, tmp_path: Path
) -> None:
    """Settings that cannot be meant are noticed before any data is read, and data that cannot before any is learned."""
    config, data, run = tmp_path / "headrace.toml", tmp_path / "clicks.csv", tmp_path / "run"
    chosen = ["--run", str(run), "--epochs", "1", "--config", str(config)]
    config.write_text("[clicks.actions]\nbuy = 3.0\n")
    with pytest.raises(SettingsError, match=r"clicks\.default_action': found 'view', .* one of clicks\.actions: buy"):
        trained(tmp_path / "nowhere", tmp_path, *chosen)
    assert not run.exists()
    config.write_text('[clicks]\ndefault_action = "buy"\n[clicks.actions]\nbuy = 3.0\n')
    data.write_text("user,item,ts\na,x,1\nb,y,soon\n")
    with pytest.raises(DataError, match=r"clicks\.csv, row 2: column ts holds 'soon'"):
        trained(data, tmp_path, *chosen)
    config.write_text('[clicks]\ndefault_action = "view"\n[clicks.actions]\nview = 1.0\nbuy = 3.0\n')
    assert trained(tiny_interactions, tmp_path, *chosen, "--seed", "5").name == "two-hop-1"


def test_a_release_that_exists_is_noticed_before_training(tiny_interactions: Path, tmp_path: Path) -> None:
    (tmp_path / "two-hop-1").mkdir()
    with pytest.raises(ReleaseError, match=r"exists already.* choose another --version"):
        trained(tiny_interactions, tmp_path)


def test_who_watches_can_end_training(tiny_interactions: Path) -> None:
    def enough(progress: TrainingProgress) -> None:
        if progress.step == 3:
            raise StopTraining

    rounds = train(reading.read(tiny_interactions), settings(epochs=None), enough).rounds
    assert [one.step for one in rounds] == [4]  # the wish is heard with the next step


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
def test_the_time_left_is_that_of_the_nearer_limit(
    epochs: int | None, step: int, elapsed_s: float, share: float, left_s: float
) -> None:
    now = TrainingProgress(epoch=0, step=step, loss=1.0, ndcg=0.0, best_ndcg=0.0, elapsed_s=elapsed_s, epoch_steps=10)
    assert outlook(now, TrainSettings(minutes=5.0, epochs=epochs)) == pytest.approx((share, left_s))


def test_validation_some_users_at_a_time_is_the_same(tiny_interactions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = reading.read(tiny_interactions)
    whole = train(data, settings(epochs=1)).rounds
    monkeypatch.setattr(validation, "_SCORES", 700)  # two users: 2 interests, 120 items
    apart = train(data, settings(epochs=1)).rounds
    assert [one.ndcg for one in apart] == pytest.approx([one.ndcg for one in whole])


def test_a_sparse_gradient_is_the_dense_one() -> None:
    """That of the ids' table, of the rows of targets and candidates, beside the dense one of content."""
    generator = torch.Generator().manual_seed(0)
    interests = torch.randn(6, 2, 8, generator=generator)
    targets = torch.tensor([1, 3, 3, 5, 7, 19])
    candidates = loss.SoftmaxCandidates(
        items=torch.tensor([0, 3, 4, 9]), corrections=torch.tensor([0.1, 0.2, 0.3, 0.4])
    )
    assert candidates.columns(targets).tolist() == [-1, 1, 1, -1, -1, -1]
    sizes = ContentSizes(buckets=64, dense=0)
    known = features([Item(id=str(row), bags={"parity": [str(row % 2)]}) for row in range(20)], sizes)
    found = []
    for sparse in (False, True):
        items = ItemVectors(20, 8, Content(known, sizes, 8))
        items.ids.sparse = sparse
        with torch.no_grad():
            items.ids.weight.copy_(torch.linspace(-1.0, 1.0, 160).reshape(20, 8))
        rows, places, among = loss.narrowed(targets, candidates)
        torch.autograd.backward(loss.catalogue_loss(interests, places, items(rows), among))
        assert items.ids.weight.grad is not None
        assert items.content is not None
        assert items.content.table.grad is not None
        assert items.ids.weight.grad.is_sparse == sparse
        found.append((items.ids.weight.grad.to_dense(), items.content.table.grad))
    torch.testing.assert_close(found[0], found[1])
    assert np.flatnonzero(found[0][0].abs().sum(1)).tolist() == [0, 1, 3, 4, 5, 7, 9, 19]


def test_tensors_are_made_on_the_device_of_the_others() -> None:
    """By construction only: the meta device computes nothing, but refuses to mix with the CPU's tensors."""
    module = encoder.TwoHopEncoder(20, SIZES).to("meta")
    items = torch.zeros(3, 4, dtype=torch.long, device="meta")
    interests, _ = module(items, torch.zeros(3, 4, 4, device="meta"), torch.ones(3, 4, device="meta"))
    assert interests.device.type == "meta"
    whole = loss.whole_catalogue(20, torch.device("meta"))
    assert {whole.items.device.type, whole.corrections.device.type} == {"meta"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")
def test_a_gpu_that_is_not_there_is_named() -> None:
    assert devices.choose("auto") == torch.device("cpu")
    with pytest.raises(SettingsError, match=r"found 0 GPUs .* say --device cpu"):
        devices.choose("cuda")
