"""Compressed forms of a release: changes by rounding and pruning, refusals, and serving by the engine."""

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
from models.lab.compression import forms, rewriting, window_sample
from models.lab.compression.forms import CompressionCheck
from models.lab.compression.window_sample import WindowSample
from models.network.two_hop import TwoHopEncoder
from models.publishing import export, graphs
from models.settings import EncoderSettings, Form, Precision

FORMS = [Form(precision="fp16"), Form(precision="int8"), Form(precision="fp32", pruned=0.5), Form(pruned=0.5)]
QUANTISED: list[Precision] = ["fp16", "int8"]


@pytest.fixture(scope="module")
def bundle(tiny_release: Path) -> Bundle:
    return release.read(tiny_release)


@pytest.fixture(scope="module")
def check(bundle: Bundle, tiny_interactions: Path) -> CompressionCheck:
    return CompressionCheck(bundle, dataset.read(tiny_interactions), ClickSettings())


@pytest.fixture(scope="module")
def sample(bundle: Bundle, tiny_interactions: Path) -> WindowSample:
    return window_sample.draw(bundle, dataset.read(tiny_interactions), ClickSettings(), 300)


def encoder_of(bundle: Bundle) -> Encoder:
    return Encoder(bundle.encoder_onnx, bundle.items_onnx, bundle.manifest.contract)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_rounding_stays_within_its_tolerance_and_ndcg_within_the_allowed_loss(
    form: Form, check: CompressionCheck
) -> None:
    compressed = check.run(form)
    rounded = form.precision != "fp32"
    assert compressed.bundle.manifest.contract.tolerance == rewriting.TOLERANCES[form.precision]
    difference, tolerance = compressed.output_difference, compressed.bundle.manifest.contract.tolerance
    assert 0.0 < difference <= tolerance if rounded else difference == 0.0
    compressed.raise_if_unfit(0.05 if form.pruned else 0.01)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_the_engine_serves_a_compressed_release(form: Form, check: CompressionCheck, sample: WindowSample) -> None:
    warm = live.warm(check.run(form).bundle, Catalogue(), IndexSettings(), 1)
    interests, attention = warm.encode(Features(sample.items, sample.items, sample.ages, sample.weights))
    assert interests.dtype == attention.dtype == np.float32
    np.testing.assert_allclose(attention.sum(axis=2), 1.0, atol=1e-5)
    assert window_sample.ndcg_gains(interests, warm.vectors, sample).mean() > 0.2


@pytest.mark.parametrize("precision", QUANTISED)
def test_users_in_a_batch_do_not_affect_each_other(precision: Precision, bundle: Bundle, sample: WindowSample) -> None:
    """With ranges taken from each batch, a user's list would depend on the other users in it."""
    quantised = rewriting.quantised(bundle, precision, sample)
    together, _ = window_sample.interests(encoder_of(quantised), quantised, sample)
    for user in range(10):
        alone, _ = window_sample.interests(encoder_of(quantised), quantised, sample.part(user, user + 1))
        np.testing.assert_allclose(alone[0], together[user], atol=1e-5)


def test_tables_take_half_and_a_quarter_of_the_memory(bundle: Bundle, sample: WindowSample) -> None:
    exact = encoder_of(bundle).tables(bundle.vectors)
    sizes: dict[Precision, int] = {"fp16": 2, "int8": 1}
    for precision, size in sizes.items():
        quantised = encoder_of(rewriting.quantised(bundle, precision, sample)).tables(bundle.vectors)
        assert {quantised[name].itemsize for name in contract.TABLES} == {size}
        np.testing.assert_array_equal(quantised["vectors"], bundle.vectors)
        for name in contract.TABLES:
            step = np.abs(exact[name]).max() / 127.0 if precision == "int8" else 1.0
            restored = quantised[name].astype(np.float32) * step
            np.testing.assert_allclose(restored, exact[name], atol=0.5001 * step if precision == "int8" else 5e-3)


def test_pruning_removes_the_hidden_units_of_least_weight(bundle: Bundle) -> None:
    """Ten units without four give the same as torch with the weights out of those four at zero."""
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
    pruned = rewriting.pruned(original, 0.4)
    assert export.largest_difference(encoder, encoder_of(pruned)) > 1e-3
    for layer in (encoder.feed1, encoder.feed2):
        sizes = layer.inner.weight.norm(dim=1) * layer.outer.weight.norm(dim=0)
        with torch.no_grad():
            layer.outer.weight[:, sizes.argsort()[:4]] = 0.0
    assert export.largest_difference(encoder, encoder_of(pruned)) <= settings.contract.tolerance
    saved = 2 * 4 * (8 + 8 + 1) * 4  # two layers, four units each, weights in and out and a bias, bytes of a float32
    assert len(original.encoder_onnx) - len(pruned.encoder_onnx) == pytest.approx(saved, abs=20)


def test_at_least_one_unit_is_kept(bundle: Bundle, check: CompressionCheck) -> None:
    smallest = check.run(Form(precision="fp32", pruned=0.999)).bundle
    assert len(smallest.encoder_onnx) < len(bundle.encoder_onnx)
    live.warm(smallest, Catalogue(), IndexSettings(), 1)


def test_a_release_that_is_not_fp32_is_not_quantised_again(bundle: Bundle, sample: WindowSample) -> None:
    quantised = rewriting.quantised(bundle, "fp16", sample)
    with pytest.raises(UnfitReleaseError, match="has float16 tables already"):
        rewriting.quantised(quantised, "int8", sample)


def test_a_manifest_that_names_other_tables_is_refused(bundle: Bundle, sample: WindowSample) -> None:
    quantised = rewriting.quantised(bundle, "int8", sample)
    with pytest.raises(UnfitReleaseError, match=r"'keys1' is tensor\(int8\), the contract says tensor\(float\)"):
        Encoder(quantised.encoder_onnx, quantised.items_onnx, bundle.manifest.contract)


def test_write_makes_a_release_of_its_own(tiny_release: Path, tiny_interactions: Path, tmp_path: Path) -> None:
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


def test_too_large_a_loss_is_refused_unless_allowed(
    tiny_release: Path, tiny_interactions: Path, tmp_path: Path
) -> None:
    arguments = ["write", str(tiny_release), "--data", str(tiny_interactions), "--out", str(tmp_path)]
    arguments += ["--precision", "fp32", "--prune", "0.999"]
    with pytest.raises(UnfitReleaseError, match=r"fp32-pruned99.9 loses .* at most 1.00% is allowed.*--allow-loss"):
        CliRunner().invoke(compress_commands.compress, arguments, catch_exceptions=False)
    assert not list(tmp_path.iterdir())
    CliRunner().invoke(compress_commands.compress, [*arguments, "--allow-loss", "1"], catch_exceptions=False)
    assert [path.name for path in tmp_path.iterdir()] == ["two-hop-tiny-fp32-pruned99.9"]


def test_fp32_without_pruning_is_refused(tiny_release: Path, tiny_interactions: Path, tmp_path: Path) -> None:
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


def test_sampled_windows_hold_the_events_before_each_training_event(bundle: Bundle, tmp_path: Path) -> None:
    """Events of ann: i1, i2, an unknown item, i3, i1 again, i4, of which the last is held out. bob has one event."""
    events = ["ann,i1,0", "ann,i2,3600", "ann,x,3601", "ann,i3,7200", "ann,i1,7300", "ann,i4,9000", "bob,i1,5"]
    with gzip.open(tmp_path / "interactions.csv.gz", "wt") as file:
        file.write("user,item,ts\n" + "\n".join(events))
    release_of_four = replace(bundle, ids=["i1", "i2", "i3", "i4"])
    assert release_of_four.manifest.holdout == Holdout(last_event=True)
    drawn = window_sample.draw(release_of_four, dataset.read(tmp_path), ClickSettings(), 10)
    order = np.argsort(drawn.targets)
    assert drawn.targets[order].tolist() == [1, 2]  # the second i1 is in its window already
    assert drawn.items[order][:, -2:].tolist() == [[0, 0], [0, 1]]
    assert drawn.weights[order][:, -3:].tolist() == [[0, 0, 1], [0, 1, 1]]
    np.testing.assert_allclose(drawn.ages[order][:, -2:], [[0, 0], [np.log(2), 0]], rtol=1e-6)
    with pytest.raises(DataError, match="0 training events have another of the same user before"):
        window_sample.draw(replace(bundle, ids=["i9"]), dataset.read(tmp_path), ClickSettings(), 10)


def test_ndcg_is_that_of_a_full_ranking_without_the_window() -> None:
    """One dimension, two interests, five items at -2 .. 2, the window holds the item at 2.

    User 0, interests 1 and 1: the target at 0 is second of the four other items, after the item at 1.
    User 1, interests -1 and 0: the target at -2 is first.
    """
    vectors = np.array([[-2], [-1], [0], [1], [2]], np.float32)
    items, ones = np.array([[4], [4]], np.int32), np.ones((2, 1), np.float32)
    sample = WindowSample(items, 0 * ones, ones, np.array([2, 0], np.int32))
    interests = np.array([[[1], [1]], [[-1], [0]]], np.float32)
    assert window_sample.ndcg_gains(interests, vectors, sample).tolist() == [1.0 / np.log2(3), 1.0]


def test_learned_action_values_weigh_the_sample_and_are_kept_in_the_compressed_release(
    bundle: Bundle, tiny_interactions: Path, tmp_path: Path
) -> None:
    manifest = msgspec.structs.replace(bundle.manifest, action_values={"view": 2.5})
    with_values = replace(bundle, manifest=manifest)
    check = CompressionCheck(with_values, dataset.read(tiny_interactions), ClickSettings())
    sample = window_sample.draw(with_values, dataset.read(tiny_interactions), ClickSettings(), 20)
    assert np.unique(sample.weights).tolist() == [0.0, 2.5]
    written = forms.write(check.run(Form(precision="fp16")), None, 0, tmp_path)
    assert release.read(written).manifest.action_values == {"view": 2.5}
