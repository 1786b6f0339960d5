"""The verbs of the learning side, as a user calls them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.errors import DamagedReleaseError, MissingExtraError, ReleaseError, SettingsError
from engine.eventlog.base import TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.messages.announcement import Announcement
from engine.releases import announcements, bundles
from engine.settings.sections import Settings
from models.cli import cold_start, evaluate
from models.cli import publish as publish_command
from models.cli import train as train_command
from models.cli.interruption import interruptible
from models.publishing import announce
from models.settings import EncoderSettings, TrainSettings
from tests.conftest import TINY_ITEMS

SMALL = ["--dimensions", "8", "--interests", "2", "--heads", "2", "--window-length", "10", "--epochs", "2"]


def test_train_then_evaluate_then_publish(tiny_interactions: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs torch: pip install 'headrace[train]'")
    run = CliRunner().invoke
    arguments = ["--data", str(tiny_interactions), "--out", str(tmp_path / "releases"), "--version", "7", *SMALL]
    training = run(train_command.train, arguments, catch_exceptions=False)
    folder = Path(training.stdout.strip())
    assert folder == tmp_path / "releases" / "two-hop-7"
    arguments = [str(folder), "--data", str(tiny_interactions), "--json"]
    report = json.loads(run(evaluate.evaluate, arguments, catch_exceptions=False).stdout)
    for figures in (report, report["time_split"], *report["baselines"].values()):
        assert all(0.0 <= figures[name] <= 1.0 for name in ("hr10", "ndcg10", "hr20", "coverage"))
    page = tmp_path / "report.html"
    arguments = [str(folder), "--data", str(tiny_interactions), "--html", str(page)]
    table = run(evaluate.evaluate, arguments, catch_exceptions=False)
    assert "last_item_neighbours" in table.stdout
    assert f"{report['ndcg10']:.4f}" in table.stdout
    assert f"{report['ndcg10']:.4f}" in page.read_text()
    watched = tmp_path / "watched"
    published = run(publish_command.publish, [str(folder), "--folder", str(watched)], catch_exceptions=False)
    assert published.stdout == f"two-hop-7 is announced as live: {watched / 'two-hop-7'}\n"
    (newest,) = announcements.FolderFeed(watched, "two-hop").live()
    assert newest.version == "7"


def test_cold_start_of_a_release_trained_with_items(tiny_interactions: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs torch: pip install 'headrace[train]'")
    run, data = CliRunner().invoke, Path(shutil.copytree(tiny_interactions, tmp_path / "data"))
    lines = [f"i{item},{'left' if item < TINY_ITEMS // 2 else 'right'}" for item in range(TINY_ITEMS)]
    (data / "items.csv").write_text("\n".join(["item,category", *lines]))
    arguments = ["--data", str(data), "--out", str(tmp_path), "--version", "8", "--holdout-items", "0.2", *SMALL]
    folder = run(train_command.train, arguments, catch_exceptions=False).stdout.strip()
    evaluation = run(cold_start.cold_start, [folder, "--data", str(data), "--json"], catch_exceptions=False)
    report = json.loads(evaluation.stdout)
    assert 10 <= report["new_items"]["items"] <= 40
    assert {"random", "attribute_overlap", "popular_in_top_attribute"} == set(report["new_items"]["baselines"])
    table = run(cold_start.cold_start, [folder, "--data", str(data)], catch_exceptions=False)
    assert "popular_in_top_attribute" in table.stdout
    ids_alone = [*arguments, "--no-content", "--version", "9"]
    folder = run(train_command.train, ids_alone, catch_exceptions=False).stdout.strip()
    table = run(cold_start.cold_start, [folder, "--data", str(data)], catch_exceptions=False)
    assert "New items: no figures: the release was trained without content" in table.stdout


def test_options_take_precedence_over_a_file_of_settings(tmp_path: Path) -> None:
    file = tmp_path / "best.toml"
    file.write_text("interests = 3\nwindow_length = 20\nlearning_rate = 0.01\n")
    settings = train_command.training_settings(Settings(), {"interests": 2, "learning_rate": None, "seed": 7}, file)
    encoder = EncoderSettings(interests=2, window_length=20)
    assert settings == TrainSettings(encoder=encoder, learning_rate=0.01, seed=7, clicks=Settings().clicks)


def test_an_option_out_of_range_is_named(tiny_interactions: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(tiny_interactions), "--out", str(tmp_path), "--dimensions", "7"]
    with pytest.raises(SettingsError, match=r"dimensions \(7\) must be a multiple of heads \(2\)"):
        CliRunner().invoke(train_command.train, arguments, catch_exceptions=False)


@pytest.fixture
def _default_ctrl_c() -> Iterator[None]:
    """Python's own handler, also where the tests run in the background of a shell, which ignores SIGINT."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("_default_ctrl_c")
def test_the_first_ctrl_c_is_reported_and_the_second_ends_the_program() -> None:
    sentences: list[str] = []
    with interruptible(sentences.append, "please wait") as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert not sentences
        assert [interrupted() for _ in range(3)] == [True, True, True]
        assert sentences == ["please wait"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_train_without_torch_says_how_to_get_it(
    tiny_interactions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("models.training.trainer", "models.jobs.training_job"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'headrace\[train\]'"):
        CliRunner().invoke(
            train_command.train, ["--data", str(tiny_interactions), "--out", str(tmp_path)], catch_exceptions=False
        )


def test_the_page_without_matplotlib_says_how_to_get_it_before_the_evaluation(
    tiny_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("models.evaluation.report", "models.evaluation.plots"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    arguments = [str(tiny_release), "--data", str(tmp_path / "nowhere"), "--html", str(tmp_path / "page.html")]
    with pytest.raises(MissingExtraError, match=r"needs matplotlib.* pip install 'headrace\[report\]'"):
        CliRunner().invoke(evaluate.evaluate, arguments, catch_exceptions=False)


def test_a_page_without_a_folder_is_refused_before_the_evaluation(tiny_release: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_release), "--data", str(tmp_path), "--html", str(tmp_path / "nowhere" / "page.html")]
    result = CliRunner().invoke(evaluate.evaluate, arguments)
    assert result.exit_code == 2
    assert "nowhere does not exist" in result.stderr


def test_evaluate_and_publish_need_neither_torch_nor_matplotlib(
    tiny_release: Path, tiny_interactions: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; sys.modules.update(torch=None, onnx=None, matplotlib=None, jinja2=None)\n"
        "from models.cli import evaluate, publish as publish_command\n"
        f"evaluate.evaluate(['{tiny_release}', '--data', '{tiny_interactions}', '--json'], standalone_mode=False)\n"
        f"publish_command.publish(['{tiny_release}', '--folder', '{tmp_path}'], standalone_mode=False)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "two-hop-tiny is announced as live" in done.stdout


def test_a_release_is_announced_on_the_topic(tiny_release: Path) -> None:
    log = MemoryLog()
    sent = announce.to_topic(tiny_release, log, TopicSpec("releases", compacted=True), 123)
    feed = announcements.TopicFeed(log.reader(["releases"]), "two-hop")
    assert feed.live() == [sent]
    assert isinstance(sent, Announcement)
    assert (sent.version, sent.state, sent.announced_ms, sent.bundle) == ("tiny", "live", 123, str(tiny_release))


def test_a_damaged_release_is_not_announced(tiny_release: Path, tmp_path: Path) -> None:
    broken = announcements.copy_bundle(tiny_release, tmp_path / "broken")
    (broken / "vectors.npy").write_bytes(b"")
    with pytest.raises(DamagedReleaseError, match=r"vectors\.npy"):
        announce.to_folder(broken, tmp_path / "watched", 0)
    assert not (tmp_path / "watched").exists()


def test_another_bundle_of_the_same_name_is_not_replaced(tiny_release: Path, tmp_path: Path) -> None:
    announce.to_folder(tiny_release, tmp_path / "watched", 0)
    other = announcements.copy_bundle(tiny_release, tmp_path / "other")
    manifest = other / "release.json"
    manifest.write_text(manifest.read_text().replace('"created_ms": 0', '"created_ms": 1'))
    assert bundles.read(other).manifest.created_ms == 1
    with pytest.raises(ReleaseError, match="another bundle of the same name"):
        announce.to_folder(other, tmp_path / "watched", 0)
