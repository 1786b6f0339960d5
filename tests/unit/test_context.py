"""The context of a query: its two parts, event by event."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch: pip install 'headrace[train]'")

import torch

from engine.retrieval.features import log_ages
from models.network.attention import AttentionBias
from models.network.context import COUNT_KNOTS, GAP_KNOTS, QueryContext
from models.network.two_hop import TwoHopEncoder
from models.settings import EncoderSettings

TIMES_S = [[0, 0, 1, 4, 6, 6 + 7 * (1 << 22)]]


def contexts(queries: int, weights: list[list[float]]) -> torch.Tensor:
    """[S, A, N] of a context whose vectors are one-hot by knot: those of the count, then those of the gap."""
    context, one_hot = QueryContext(COUNT_KNOTS + GAP_KNOTS), torch.eye(COUNT_KNOTS + GAP_KNOTS)
    times_ms = np.array(TIMES_S) * 1000
    ages = torch.from_numpy(log_ages(times_ms[:, None], times_ms[:, -queries:, None]))
    with torch.no_grad():
        context.count.copy_(one_hot[:COUNT_KNOTS])
        context.gap.copy_(one_hot[COUNT_KNOTS:])
        vectors: torch.Tensor = context(AttentionBias.of(ages, torch.tensor(weights)), torch.tensor(weights))
    return vectors


def knots(vector: torch.Tensor) -> dict[int, float]:
    return {knot: round(float(vector[knot]), 3) for knot in torch.nonzero(vector > 1e-3)[:, 0].tolist()}


@pytest.mark.parametrize("queries", [3, 6])
def test_counts_and_gaps_are_interpolated_between_powers_of_two(queries: int) -> None:
    """Gaps of 0, 1, 3, 2 seconds and most of a year: knots 0, 1, 2, log2(3) = 1.585, 24.807; counts up to 6."""
    vectors = contexts(queries, [[1.0] * 6])[0]
    assert knots(vectors[-3]) == {2: 1.0, COUNT_KNOTS + 2: 1.0}
    assert knots(vectors[-2]) == {2: 0.678, 3: 0.322, COUNT_KNOTS + 1: 0.415, COUNT_KNOTS + 2: 0.585}
    assert knots(vectors[-1]) == {2: 0.415, 3: 0.585, COUNT_KNOTS + 24: 0.193, COUNT_KNOTS + 25: 0.807}
    if queries == 6:
        assert knots(vectors[0]) == {0: 1.0}  # nothing before it
        assert knots(vectors[1]) == {1: 1.0, COUNT_KNOTS: 1.0}
        assert knots(vectors[2]) == {1: 0.415, 2: 0.585, COUNT_KNOTS + 1: 1.0}


def test_padding_is_no_event() -> None:
    vectors = contexts(6, [[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])[0]
    assert knots(vectors[3]) == {0: 1.0}
    assert knots(vectors[4]) == {1: 1.0, COUNT_KNOTS + 1: 0.415, COUNT_KNOTS + 2: 0.585}


def test_a_gap_beyond_the_last_knot_is_the_last_knot() -> None:
    vectors = contexts(1, [[1.0] * 6])
    far = QueryContext(1)
    with torch.no_grad():
        far.gap[-1] = 1.0
        ages = torch.log1p(torch.tensor([[[1e6, 0.0]]]))  # a century
        assert float(far(AttentionBias.of(ages, torch.ones(1, 2)), torch.ones(1, 2))) == pytest.approx(1.0)
    assert vectors.shape == (1, 1, COUNT_KNOTS + GAP_KNOTS)


@pytest.mark.parametrize("setting", ["query_context", "seconds"])
def test_parameters_that_are_switched_off_stay_at_0(setting: str) -> None:
    """With `query_context` or `seconds` off, an encoder has those parameters at 0 and no gradient reaches them."""
    sizes = EncoderSettings(dimensions=8, interests=2, heads=2, hidden=8, window_length=6)
    encoder = TwoHopEncoder(5, sizes.model_copy(update={setting: False}))
    parameters = {"query_context": [*encoder.query_context.parameters()], "seconds": [encoder.hop1.second_slope]}
    ages = torch.from_numpy(log_ages(np.array(TIMES_S)[:, None] * 1000, np.array(TIMES_S)[:, :, None] * 1000))
    encoder(torch.tensor([[0, 1, 2, 3, 4, 0]]), ages, torch.ones(1, 6))[0].square().sum().backward()
    for name, group in parameters.items():
        for parameter in group:
            assert not parameter.any()
            assert (parameter.grad is None) == (name == setting)
