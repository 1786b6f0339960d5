"""The best candidates of a window, as the engine finds them: its own path, asked for a list of so many.

What is seen is left out, what is like something disliked is lowered, users who come out short are searched again:
a re-scorer learns and answers behind all of it.
"""

from dataclasses import dataclass

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
    """The C best items of B windows, best first."""

    inputs: Features
    """What the encoder saw of the windows; weights are 0 where it saw nothing."""
    items: Int32
    """[B, C] item numbers, popular ones behind those that an interest found; NO_ITEM where there were not enough."""
    rows: Int32
    """[B, C] the release's rows of those that an interest found; 0 elsewhere."""
    scores: Float32
    """[B, C] interest · item, after pushing away; -inf for what no interest found."""

    def ranked(self, scores: Float32, count: int) -> Int32:
        """[B, N] item numbers of the `count` with the highest of these `scores` [B, C], ties as they stood."""
        order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(self.items, order, axis=1)


class CandidateSearch:
    """A warm release, asked for shortlists."""

    def __init__(self, live: LiveRelease, recording: EvalData, count: int) -> None:
        """`recording`: what it is asked about; `count`: C."""
        wanted = recording.settings.recommendations
        depth = max(wanted.candidates_per_interest, count)
        deep = wanted.model_copy(update={"count": count, "candidates_per_interest": depth})
        self.recommender = recommender(live, recording, deep)
        self.live = live

    def of(self, windows: Windows) -> CandidateLists:
        """The shortlists of B windows."""
        return self.candidate_lists(windows, self.recommender.recommend(windows, self.live))

    def candidate_lists(self, windows: Windows, lists: Lists) -> CandidateLists:
        """The lists of B windows by `recommender`, as a re-scorer takes them."""
        found = (lists.sources == FROM_INTEREST) & (lists.items != NO_ITEM)
        seen = self.live.rows(windows.items)
        return CandidateLists(
            inputs=features.make(windows, seen, self.recommender.action_weights, self.live.contract.window_length),
            items=lists.items,
            rows=np.where(found, self.live.rows(lists.items), np.int32(0)),
            scores=np.where(found, lists.scores, np.float32(-np.inf)),
        )
