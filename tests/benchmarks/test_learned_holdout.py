"""Whether a release should learn the slice that it was judged on before it goes live, where items turn over.

Two releases of the clicks before the last tenth of time, one of which has not seen their own last tenth, are asked
about the tenth that comes then. With LONG_TESTS=1 and recorded interactions:

    LONG_TESTS=1 pytest -s tests/benchmarks/test_learned_holdout.py
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch: pip install 'headrace[train]'")

import torch

from engine.interactions.layout import Source
from engine.releases import bundles, serving
from engine.settings.sections import Settings
from models.data import dataset
from models.data.dataset import Interactions
from models.evaluation import paired_bootstrap
from models.evaluation.baselines import Baseline, PopularityBaseline
from models.evaluation.list_evaluation import LIVE, RELEASE
from models.evaluation.queries import queries_since
from models.evaluation.ranking_metrics import gains
from models.evaluation.release_under_test import BaselineComparison, ReleaseRecommender, ReleaseUnderTest
from models.publishing import export
from models.settings import HoldoutName, TrainSettings
from models.training.fit import train
from tests.conftest import Report

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(os.environ.get("LONG_TESTS") != "1", reason="two trainings of minutes: LONG_TESTS=1"),
]
MINUTES = 1.5
"""Of processor time, each training."""


def released(past: Interactions, holdout: HoldoutName, folder: Path) -> bundles.Bundle:
    settings = TrainSettings(holdout=holdout, minutes=MINUTES, neighbours=False)
    return bundles.read(
        export.write(train(past, settings, clock_s=time.process_time), settings, ("two-hop", holdout), 0, folder)
    )


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["deskdrop", "taobao-84k"])
def test_the_slice_that_was_held_out_is_worth_learning(
    name: str, data_folder: Path, tmp_path: Path, report: Report
) -> None:
    torch.set_num_threads(1)
    settings = Settings()
    interactions = dataset.read(Source(str(data_folder / name)))
    split_ms = int(np.quantile(interactions.times_ms, 0.9))
    past = interactions.select(interactions.times_ms < split_ms)
    judged, whole = released(past, "time", tmp_path), released(past, "none", tmp_path)
    under_test = ReleaseUnderTest(whole, interactions, settings)
    older = serving.warm(judged, under_test.catalogue, settings.index, settings.worker.threads)
    queries = queries_since(under_test, split_ms)
    systems: dict[str, Baseline] = {
        RELEASE: ReleaseRecommender(under_test.live, under_test),
        LIVE: ReleaseRecommender(older, under_test),
        "popularity": PopularityBaseline.of(under_test, queries),
    }
    comparison = BaselineComparison(under_test, systems)
    comparison.run(queries)
    ndcgs = {system: gains(accumulator.ranks)["ndcg10"] for system, accumulator in comparison.accumulators.items()}
    lead = paired_bootstrap.lead(ndcgs[RELEASE], ndcgs[LIVE], comparison.accumulators[RELEASE].users)
    assert lead.interval is not None
    means = {system: float(values.mean()) for system, values in ndcgs.items()}
    report(
        f"{name}: NDCG@10 on the next tenth {means[RELEASE]:.4f} with the slice that was held out, {means[LIVE]:.4f}"
        f" without; lead {lead.value:.4f} ({lead.interval[0]:.4f} to {lead.interval[1]:.4f}); popularity of seven days"
        f" {means['popularity']:.4f}; {len(queries.targets)} clicks",
        {"set": name, "with": means[RELEASE], "without": means[LIVE], "popularity": means["popularity"]},
    )
    assert lead.interval[1] > 0.0
