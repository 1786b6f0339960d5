"""torch and onnxruntime agree: the training pass at a window's newest event equals the graphs that a release serves."""

from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch

from engine import contract
from engine.arrays import NO_ITEM, Windows
from engine.errors import UnfitReleaseError
from engine.releases import bundles
from engine.retrieval.encoder import Encoder
from engine.retrieval.features import log_ages, make
from models.network.two_hop import TwoHopEncoder
from models.publishing import export, graphs
from models.settings import EncoderSettings, Scoring

HOUR_MS = 3_600_000
ITEMS = 50


def encoder_with(settings: EncoderSettings, scale: float = 0.3) -> TwoHopEncoder:
    """An encoder whose parameters all differ from their initial values, so that a graph cannot leave one out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        encoder = TwoHopEncoder(ITEMS, settings).eval()
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(scale * torch.randn_like(parameter))
    return encoder


def exported(encoder: TwoHopEncoder) -> Encoder:
    return Encoder(graphs.encoder_graph(encoder), graphs.items_graph(encoder), encoder.settings.contract)


@pytest.mark.parametrize(
    "settings",
    [
        EncoderSettings(),
        EncoderSettings(dimensions=8, interests=1, heads=1, hidden=4, window_length=5),
        EncoderSettings(dimensions=24, interests=3, heads=4, window_length=40),
        EncoderSettings(dimensions=6, interests=2, heads=2, window_length=1),
    ],
    ids=["default", "one interest, one head", "more heads than interests", "window of one"],
)
@pytest.mark.parametrize("scoring", get_args(Scoring))
def test_training_pass_and_graph_agree(settings: EncoderSettings, scoring: Scoring) -> None:
    encoder = encoder_with(settings.model_copy(update={"scoring": scoring}))
    assert export.largest_difference(encoder, exported(encoder)) <= settings.contract.tolerance


def test_a_trained_release_has_its_difference_and_shapes_in_the_manifest(tiny_release: Path) -> None:
    bundle = bundles.read(tiny_release)
    assert bundle.manifest.figures["parity_difference"] <= bundle.manifest.contract.tolerance
    assert bundle.vectors.shape == (len(bundle.ids), bundle.manifest.contract.dimensions)


def test_every_position_of_one_training_pass_is_a_window_of_its_own() -> None:
    """Timeline of one user: events 0 .. 5. Position i of the causal pass = the graph on the window of events 0 .. i."""
    encoder = encoder_with(EncoderSettings(dimensions=8, interests=2, heads=2, window_length=6))
    served = exported(encoder)
    items = np.array([[4, 7, 4, 1, 9, 30]], np.int32)
    times_ms = np.array([[0, 1, 30, 31, 200, 900]], np.int64) * HOUR_MS
    weights = np.array([[1, 2, 1, 0.5, 3, 1]], np.float32)
    ages = log_ages(times_ms[:, None], times_ms[:, :, None])
    with torch.no_grad():
        interests, attention = encoder(*map(torch.from_numpy, (items, ages, weights)))
    tables = served.tables(export.vectors(encoder))
    for end in range(1, 7):
        window_ages = log_ages(times_ms[:, :end], times_ms[:, end - 1 : end])
        served_interests, served_attention = served.encode(tables, items[:, :end], window_ages, weights[:, :end])
        np.testing.assert_allclose(served_interests, interests[:, end - 1].numpy(), atol=1e-5)
        np.testing.assert_allclose(served_attention, attention[:, :, end - 1, :end].numpy(), atol=1e-5)


def test_training_ages_are_those_of_serving() -> None:
    """`engine.retrieval.features.make` on a padded window gives the ages that the newest event has in training."""
    times_ms = np.array([[0, 5, 29]], np.int64) * HOUR_MS + 1_700_000_000_000
    windows = Windows(
        items=np.array([[NO_ITEM, 3, 1, 2]], np.int32),
        times_ms=np.concatenate([np.zeros((1, 1), np.int64), times_ms], axis=1),
        actions=np.array([[0, 1, 1, 1]], np.uint8),
    )
    served = make(windows, windows.items, np.array([0.0, 1.0], np.float32), 4)
    training_ages = log_ages(times_ms[:, None], times_ms[:, :, None])[:, -1]
    np.testing.assert_array_equal(served.ages[:, -3:], training_ages)
    np.testing.assert_allclose(training_ages, [[np.log(30), np.log(25), 0.0]], rtol=1e-6)


def test_hidden_events_change_nothing() -> None:
    """Events of weight 0 on the left are padding: with any item and age, the interests are the same."""
    encoder = encoder_with(EncoderSettings(dimensions=8, interests=2, heads=2, window_length=10))
    served = exported(encoder)
    tables = served.tables(export.vectors(encoder))
    items, ages, weights = np.array([[3, 8]], np.int32), np.array([[2.0, 0.0]], np.float32), np.ones((1, 2), np.float32)
    interests, attention = served.encode(tables, items, ages, weights)
    padding = np.array([[11, 49, 0]], np.int32), np.array([[0.0, 9.0, 1.0]], np.float32), np.zeros((1, 3), np.float32)
    padded = [np.concatenate(pair, axis=1) for pair in zip(padding, (items, ages, weights), strict=True)]
    padded_interests, padded_attention = served.encode(tables, *padded)
    np.testing.assert_allclose(padded_interests, interests, atol=1e-6)
    np.testing.assert_allclose(padded_attention[:, :, 3:], attention, atol=1e-6)
    assert padded_attention[:, :, :3].max() < 1e-30


def test_weight_counts_like_that_many_events() -> None:
    """One event of weight 2 = the same event twice, if rank, age and number of events have no effect (all 0)."""
    encoder = encoder_with(EncoderSettings(dimensions=8, interests=2, heads=2, window_length=10))
    with torch.no_grad():
        encoder.query_context.count.zero_()
        for hop in (encoder.hop1, encoder.hop2):
            hop.rank_slope.zero_()
            hop.hour_slope.zero_()
            hop.second_slope.zero_()
    served = exported(encoder)
    tables = served.tables(export.vectors(encoder))
    weighted = np.array([[5, 6, 7]], np.int32), np.zeros((1, 3), np.float32), np.array([[2, 1, 1]], np.float32)
    twice = np.array([[5, 5, 6, 7]], np.int32), np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    np.testing.assert_allclose(served.encode(tables, *weighted)[0], served.encode(tables, *twice)[0], atol=1e-5)


def test_seconds_within_a_visit_count() -> None:
    """With the slope of seconds alone, the same item 0, 1, 9 and 3599 seconds ago weighs 1, 1/2, 1/10 and 1/3600."""
    encoder = encoder_with(EncoderSettings(dimensions=8, interests=1, heads=1, window_length=4))
    with torch.no_grad():
        encoder.hop2.rank_slope.zero_()
        encoder.hop2.hour_slope.zero_()
        encoder.hop2.second_slope.fill_(1.0)
    served = exported(encoder)
    times_ms = np.array([[0, 3590, 3598, 3599]], np.int64) * 1000
    ages, weights = log_ages(times_ms, times_ms[:, -1:]), np.ones((1, 4), np.float32)
    attention = served.encode(served.tables(export.vectors(encoder)), np.full((1, 4), 5, np.int32), ages, weights)[1]
    np.testing.assert_allclose(attention[0, 0] / attention[0, 0, -1], [1 / 3600, 1 / 10, 1 / 2, 1.0], rtol=1e-4)


def test_users_in_a_batch_do_not_affect_each_other() -> None:
    encoder = encoder_with(EncoderSettings(dimensions=8, interests=2, heads=2, window_length=10))
    served = exported(encoder)
    tables = served.tables(export.vectors(encoder))
    rng = np.random.default_rng(0)
    items, ages = rng.integers(0, ITEMS, (7, 10), dtype=np.int32), rng.random((7, 10), np.float32)
    weights = np.ones((7, 10), np.float32)
    together = served.encode(tables, items, ages, weights)[0]
    for user in range(7):
        row = slice(user, user + 1)
        alone = served.encode(tables, items[row], ages[row], weights[row])[0]
        np.testing.assert_allclose(together[row], alone, atol=1e-5)


def test_graphs_serve_a_catalogue_that_has_grown() -> None:
    """Nothing in the graphs depends on V: with ten items more, a window has the same interests as before."""
    encoder = encoder_with(EncoderSettings(dimensions=8, interests=2, heads=2, window_length=4))
    served = exported(encoder)
    vectors = export.vectors(encoder)
    grown = np.concatenate([vectors, np.ones((10, 8), np.float32)])
    window = np.array([[1, 2]], np.int32), np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    before = served.encode(served.tables(vectors), *window)[0]
    np.testing.assert_allclose(served.encode(served.tables(grown), *window)[0], before, atol=1e-6)


def test_inputs_outputs_and_opset_are_those_of_the_contract() -> None:
    encoder = encoder_with(EncoderSettings())
    model = onnx.load_model_from_string(graphs.encoder_graph(encoder))
    assert [node.name for node in model.graph.input] == list(contract.ENCODER_INPUTS)
    assert [node.name for node in model.graph.output] == list(contract.ENCODER_OUTPUTS)
    assert [opset.version for opset in model.opset_import] == [encoder.settings.contract.opset]


def test_a_graph_that_differs_from_the_encoder_is_refused() -> None:
    """An encoder and the graph of a slightly different one: the check before every export refuses the pair."""
    settings = EncoderSettings(dimensions=8, interests=2, heads=2, window_length=4)
    difference = export.largest_difference(encoder_with(settings), exported(encoder_with(settings, scale=0.31)))
    assert difference > settings.contract.tolerance
    with pytest.raises(UnfitReleaseError, match="differ by"):
        export.refuse_difference(difference, settings.contract)
    with pytest.raises(UnfitReleaseError, match="nan"):
        export.refuse_difference(float("nan"), settings.contract)
