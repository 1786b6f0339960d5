"""Top candidates of a window: the list of the engine's own pipeline, as long as a re-scorer needs it.

Everything that the pipeline does happens before a re-scorer: seen items are left out, items like a disliked one are
lowered, and users with too few candidates are searched again.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.arrays import NO_ITEM, Float32, Int32, Windows
from engine.ranking.lists import FROM_INTEREST, Lists
from engine.releases.serving import LiveRelease
from engine.retrieval import features
from engine.retrieval.features import Features
from models.evaluation.queries import EvalData
from models.evaluation.release_under_test import recommender


@dataclass(frozen=True, slots=True)
class CandidateLists:
    """The C top candidates of B windows, best first."""

    inputs: Features
    """Encoder inputs of the windows; the weight is 0 where there is no known event."""
    items: Int32
    """[B, C] item numbers, popular items after those that an interest found; NO_ITEM where there are too few."""
    rows: Int32
    """[B, C] the release's rows of the items that an interest found; 0 elsewhere."""
    scores: Float32
    """[B, C] interest · item, lowered where like a disliked item; -inf for an item that no interest found."""

    def ranked(self, scores: Float32, count: int) -> Int32:
        """[B, N] item numbers of the `count` candidates with the highest `scores` [B, C]; ties keep their order."""
        order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(self.items, order, axis=1)

    def rescorer_inputs(self) -> dict[str, Any]:
        """Inputs of a re-scorer's graph by name, without its tables."""
        return {
            "items": self.inputs.rows,
            "ages": self.inputs.ages,
            "weights": self.inputs.weights,
            "candidates": self.rows,
            "scores": self.scores,
        }


class CandidateSearch:
    """Top candidates from a warm release."""

    def __init__(self, live: LiveRelease, eval_data: EvalData, count: int) -> None:
        """`count`: C."""
        settings = eval_data.settings.recommendations
        depth = max(settings.candidates_per_interest, count)
        long_lists = settings.model_copy(update={"count": count, "candidates_per_interest": depth})
        self.recommender = recommender(live, eval_data, long_lists)
        self.live = live

    def search(self, windows: Windows) -> CandidateLists:
        """The top candidates of B windows."""
        return self.candidate_lists(windows, self.recommender.recommend(windows, self.live))

    def candidate_lists(self, windows: Windows, lists: Lists) -> CandidateLists:
        """Lists that `recommender` made for B windows, with the inputs of a re-scorer."""
        from_interest = (lists.sources == FROM_INTEREST) & (lists.items != NO_ITEM)
        window_rows = self.live.rows(windows.items)
        length = self.live.contract.window_length
        return CandidateLists(
            inputs=features.make(windows, window_rows, self.recommender.action_weights, length),
            items=lists.items,
            rows=np.where(from_interest, self.live.rows(lists.items), np.int32(0)),
            scores=np.where(from_interest, lists.scores, np.float32(-np.inf)),
        )
