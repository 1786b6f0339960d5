"""CPU of lists in batches that are split by the arms of an experiment, and in whole ones."""

import time

import numpy as np
import pytest

from engine.arrays import Windows
from engine.catalogue.ids import Catalogue
from engine.pipeline import Recommender
from engine.releases import bundles, serving
from engine.settings.sections import IndexSettings, RecommendationSettings
from producers.demo.bundled import DEMO_RELEASE
from tests.conftest import Report, only_long

USERS = 6000
ARMS = (1, 2, 4, 8)


@only_long
@pytest.mark.parametrize("batch", [32, 256])
def test_what_arms_cost(batch: int, report: Report) -> None:
    live = serving.warm(bundles.read(DEMO_RELEASE), Catalogue(), IndexSettings(), 1)
    rng, length = np.random.default_rng(0), live.contract.window_length
    windows = Windows(
        rng.choice(live.numbers, (batch, length)).astype(np.int32),
        np.sort(rng.integers(1_700_000_000_000, 1_700_000_900_000, (batch, length)), axis=1),
        np.ones((batch, length), np.uint8),
    )
    weights = np.ones(256, np.float32)
    recommenders = [Recommender.starting(RecommendationSettings(), weights, live) for _ in range(max(ARMS))]
    costs: dict[int, list[float]] = {arms: [] for arms in ARMS}
    for _ in range(5):
        for arms in ARMS:
            parts = np.array_split(np.arange(batch), arms)
            begun_s = time.process_time()
            for _ in range(USERS // batch // 5):
                for recommender, part in zip(recommenders, parts, strict=False):
                    recommender.recommend(windows.take(part), live)
            costs[arms].append(time.process_time() - begun_s)
    ratios = {arms: float(np.median(costs[arms]) / np.median(costs[1])) for arms in ARMS[1:]}
    report(f"batch of {batch}: CPU of {', '.join(f'{arms} arms {ratio:.2f}' for arms, ratio in ratios.items())}", {})
    assert ratios[2] < ratios[8] < 8.0
