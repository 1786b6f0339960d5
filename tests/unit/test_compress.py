"""Cheaper forms of a release: what rounding and pruning change, what is refused, and that the engine serves them."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from engine import contract
from engine.catalogue.ids import Catalogue
from engine.errors import DataError, UnfitReleaseError
from engine.releases import bundles as release
from engine.releases import serving as live
from engine.releases.bundles import Bundle, Holdout
from engine.retrieval.encoder import Encoder
from engine.retrieval.features import Features
from engine.settings.sections import ClickSettings, IndexSettings
from models.cli import compress as compress_commands
from models.data import dataset
from models.lab.compression import forms as compress
from models.lab.compression import rewriting as compression
from models.lab.compression import trial_windows
from models.lab.compression.forms import CompressionCheck
from models.lab.compression.trial_windows import TrialWindows
from models.network.two_hop import TwoHopEncoder
from models.publishing import export, graphs
from models.settings import EncoderSettings, Form, Precision

FORMS = [Form(precision="fp16"), Form(precision="int8"), Form(precision="fp32", pruned=0.5), Form(pruned=0.5)]
LOWERED: list[Precision] = ["fp16", "int8"]


@pytest.fixture(scope="module")
def bundle(tiny_release: Path) -> Bundle:
    return release.read(tiny_release)


@pytest.fixture(scope="module")
def trial(bundle: Bundle, tiny_interactions: Path) -> CompressionCheck:
    return CompressionCheck(bundle, dataset.read(tiny_interactions), ClickSettings())


@pytest.fixture(scope="module")
def windows(bundle: Bundle, tiny_interactions: Path) -> TrialWindows:
    return trial_windows.draw(bundle, dataset.read(tiny_interactions), ClickSettings(), 300)


def encoder_of(bundle: Bundle) -> Encoder:
    return Encoder(bundle.encoder_onnx, bundle.items_onnx, bundle.manifest.contract)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_rounding_stays_within_its_tolerance_and_quality_within_what_may_be_lost(
    form: Form, trial: CompressionCheck
) -> None:
    tried = trial.run(form)
    rounded = form.precision != "fp32"
    assert tried.bundle.manifest.contract.tolerance == compression.TOLERANCES[form.precision]
    assert (0.0 < tried.difference <= tried.bundle.manifest.contract.tolerance) if rounded else tried.difference == 0.0
    tried.refuse(0.05 if form.pruned else 0.01)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_the_engine_serves_a_cheaper_release(form: Form, trial: CompressionCheck, windows: TrialWindows) -> None:
    ready = live.warm(trial.run(form).bundle, Catalogue(), IndexSettings(), 1)
    found, shares = ready.encode(Features(windows.items, windows.items, windows.ages, windows.weights))
    assert found.dtype == shares.dtype == np.float32
    np.testing.assert_allclose(shares.sum(axis=2), 1.0, atol=1e-5)
    assert trial_windows.gains(found, ready.vectors, windows).mean() > 0.2


@pytest.mark.parametrize("precision", LOWERED)
def test_users_in_a_batch_do_not_touch_each_other(precision: Precision, bundle: Bundle, windows: TrialWindows) -> None:
    """Ranges taken from each batch would let a user's list depend on who else clicked."""
    lowered = compression.lowered(bundle, precision, windows)
    together, _ = trial_windows.interests(encoder_of(lowered), lowered, windows)
    for user in range(10):
        alone, _ = trial_windows.interests(encoder_of(lowered), lowered, windows.part(user, user + 1))
        np.testing.assert_allclose(alone[0], together[user], atol=1e-5)


def test_tables_take_half_and_a_quarter_of_the_memory(bundle: Bundle, windows: TrialWindows) -> None:
    exact = encoder_of(bundle).tables(bundle.vectors)
    sizes: dict[Precision, int] = {"fp16": 2, "int8": 1}
    for precision, size in sizes.items():
        lowered = encoder_of(compression.lowered(bundle, precision, windows)).tables(bundle.vectors)
        assert {lowered[name].itemsize for name in contract.TABLES} == {size}
        np.testing.assert_array_equal(lowered["vectors"], bundle.vectors)
        for name in contract.TABLES:
            step = np.abs(exact[name]).max() / 127.0 if precision == "int8" else 1.0
            restored = lowered[name].astype(np.float32) * step
            np.testing.assert_allclose(restored, exact[name], atol=0.5001 * step if precision == "int8" else 5e-3)


def test_pruning_leaves_out_the_hidden_units_that_weigh_least(bundle: Bundle) -> None:
    """A graph of half the units = torch with the weights out of the other half at zero; ten units, four gone."""
    settings = EncoderSettings(dimensions=8, interests=2, heads=2, hidden=10, window_length=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        encoder = TwoHopEncoder(20, settings).eval()
    original = replace(
        bundle,
        manifest=msgspec.structs.replace(bundle.manifest, contract=settings.contract),
        encoder_onnx=graphs.encoder_graph(encoder),
        items_onnx=graphs.items_graph(encoder),
    )
    pruned = compression.pruned(original, 0.4)
    assert export.largest_difference(encoder, encoder_of(pruned)) > 1e-3
    for layer in (encoder.feed1, encoder.feed2):
        sizes = layer.inner.weight.norm(dim=1) * layer.outer.weight.norm(dim=0)
        with torch.no_grad():
            layer.outer.weight[:, sizes.argsort()[:4]] = 0.0
    assert export.largest_difference(encoder, encoder_of(pruned)) <= settings.contract.tolerance
    saved = 2 * 4 * (8 + 8 + 1) * 4  # two layers, four units each, weights in and out and a bias, bytes of a float32
    assert len(original.encoder_onnx) - len(pruned.encoder_onnx) == pytest.approx(saved, abs=20)


def test_a_unit_is_always_left(bundle: Bundle, trial: CompressionCheck) -> None:
    nearly = trial.run(Form(precision="fp32", pruned=0.999)).bundle
    assert len(nearly.encoder_onnx) < len(bundle.encoder_onnx)
    live.warm(nearly, Catalogue(), IndexSettings(), 1)


def test_what_is_not_fp32_is_not_rounded_again(bundle: Bundle, windows: TrialWindows) -> None:
    lowered = compression.lowered(bundle, "fp16", windows)
    with pytest.raises(UnfitReleaseError, match="has float16 tables already"):
        compression.lowered(lowered, "int8", windows)


def test_a_manifest_that_names_other_tables_is_refused(bundle: Bundle, windows: TrialWindows) -> None:
    lowered = compression.lowered(bundle, "int8", windows)
    with pytest.raises(UnfitReleaseError, match=r"'keys1' is tensor\(int8\), the contract says tensor\(float\)"):
        Encoder(lowered.encoder_onnx, lowered.items_onnx, bundle.manifest.contract)


def test_written_as_a_release_of_its_own(tiny_release: Path, tiny_interactions: Path, tmp_path: Path) -> None:
    arguments = ["write", str(tiny_release), "--data", str(tiny_interactions), "--out", str(tmp_path)]
    done = CliRunner().invoke(compress_commands.compress, arguments, catch_exceptions=False)
    folder = Path(done.stdout.strip())
    assert folder == tmp_path / "two-hop-tiny-int8"
    original, written = release.read(tiny_release), release.read(folder)
    assert written.manifest.contract.tables == "int8"
    assert written.manifest.figures["ndcg_loss"] <= 0.01
    assert written.manifest.holdout == original.manifest.holdout
    report = json.loads((folder / contract.REPORT_FILE).read_bytes())
    assert report["compressed"]["release"] == "two-hop-tiny"
    assert report["data_fingerprint"] == dataset.read(tiny_interactions).fingerprint()


def test_too_large_a_loss_is_refused_unless_it_is_allowed(
    tiny_release: Path, tiny_interactions: Path, tmp_path: Path
) -> None:
    arguments = ["write", str(tiny_release), "--data", str(tiny_interactions), "--out", str(tmp_path)]
    arguments += ["--precision", "fp32", "--prune", "0.999"]
    with pytest.raises(UnfitReleaseError, match=r"fp32-pruned99.9 loses .* at most 1.00% is allowed.*--allow-loss"):
        CliRunner().invoke(compress_commands.compress, arguments, catch_exceptions=False)
    assert not list(tmp_path.iterdir())
    CliRunner().invoke(compress_commands.compress, [*arguments, "--allow-loss", "1"], catch_exceptions=False)
    assert [path.name for path in tmp_path.iterdir()] == ["two-hop-tiny-fp32-pruned99.9"]


def test_nothing_to_do_is_said(tiny_release: Path, tiny_interactions: Path, tmp_path: Path) -> None:
    arguments = ["write", str(tiny_release), "--data", str(tiny_interactions), "--out", str(tmp_path)]
    done = CliRunner().invoke(compress_commands.compress, [*arguments, "--precision", "fp32"])
    assert done.exit_code == 2
    assert "fp32 without --prune is the release as it is" in done.output


def test_forms_are_measured_side_by_side(tiny_release: Path, tiny_interactions: Path) -> None:
    arguments = ["measure", str(tiny_release), "--data", str(tiny_interactions), "--items", "500", "--json"]
    done = CliRunner().invoke(compress_commands.compress, arguments, catch_exceptions=False)
    rows = {row["form"]: row for row in json.loads(done.stdout)}
    assert list(rows) == ["fp32", "fp16", "int8", "fp32-pruned50", "int8-pruned50"]
    assert rows["fp32"]["ratio_16"] == rows["fp32"]["ratio_256"] == 1.0
    assert rows["fp32"]["table_bytes"] == 4 * 500 * 16 * 4  # four tables of 500 items, 16 dimensions, float32
    assert rows["int8"]["table_bytes"] == 4 * 500 * 16
    on_disk = sum(path.stat().st_size for path in tiny_release.iterdir())
    assert rows["fp32"]["bundle_bytes"] == on_disk > rows["int8-pruned50"]["bundle_bytes"]
    assert all(row["time_split_ndcg10"] is None and row["ndcg10"] > 0.0 for row in rows.values())


def test_trial_windows_are_what_stood_before_each_training_event(bundle: Bundle, tmp_path: Path) -> None:
    """Timeline of ann: i1, i2, an item nobody knows, i3, i1 again, i4; her last is held out. bob has one event only."""
    events = ["ann,i1,0", "ann,i2,3600", "ann,x,3601", "ann,i3,7200", "ann,i1,7300", "ann,i4,9000", "bob,i1,5"]
    with gzip.open(tmp_path / "interactions.csv.gz", "wt") as file:
        file.write("user,item,ts\n" + "\n".join(events))
    known = replace(bundle, ids=["i1", "i2", "i3", "i4"])
    assert known.manifest.holdout == Holdout(last_event=True)
    drawn = trial_windows.draw(known, dataset.read(tmp_path), ClickSettings(), 10)
    order = np.argsort(drawn.targets)
    assert drawn.targets[order].tolist() == [1, 2]  # i1 came again, but was in the window already
    assert drawn.items[order][:, -2:].tolist() == [[0, 0], [0, 1]]
    assert drawn.weights[order][:, -3:].tolist() == [[0, 0, 1], [0, 1, 1]]
    np.testing.assert_allclose(drawn.ages[order][:, -2:], [[0, 0], [np.log(2), 0]], rtol=1e-6)
    with pytest.raises(DataError, match="0 training events have another of the same user before"):
        trial_windows.draw(replace(bundle, ids=["i9"]), dataset.read(tmp_path), ClickSettings(), 10)


def test_ndcg_is_that_of_a_full_ranking_without_the_window() -> None:
    """One dimension, two interests, five items at -2 .. 2, the window holds the item at 2.

    User 0, interests 1 and 0: the target at 0 stands behind the item at 1, second of the four that are left.
    User 1, interests -1 and 0: the target at -2 comes first.
    """
    vectors = np.array([[-2], [-1], [0], [1], [2]], np.float32)
    items, ones = np.array([[4], [4]], np.int32), np.ones((2, 1), np.float32)
    asked = TrialWindows(items, 0 * ones, ones, np.array([2, 0], np.int32))
    interests = np.array([[[1], [1]], [[-1], [0]]], np.float32)
    assert trial_windows.gains(interests, vectors, asked).tolist() == [1.0 / np.log2(3), 1.0]


def test_values_that_were_learned_weigh_the_trial_and_travel_with_the_cheaper_release(
    bundle: Bundle, tiny_interactions: Path, tmp_path: Path
) -> None:
    manifest = msgspec.structs.replace(bundle.manifest, action_values={"view": 2.5})
    learned = replace(bundle, manifest=manifest)
    trial = CompressionCheck(learned, dataset.read(tiny_interactions), ClickSettings())
    windows = trial_windows.draw(learned, dataset.read(tiny_interactions), ClickSettings(), 20)
    assert np.unique(windows.weights).tolist() == [0.0, 2.5]
    written = compress.write(trial.run(Form(precision="fp16")), None, 0, tmp_path)
    assert release.read(written).manifest.action_values == {"view": 2.5}
