"""What a release has to beat. Every baseline leaves out what stands in the user's window and knows only the past.

    popularity       most events in the seven days before the hour of the question
    neighbours       what came soon after the last items
    item_knn         what is clicked by the users who clicked what the window holds
    factorisation    implicit's ALS and BPR, the user's vector made from the window
    sasrec           RecTools' SASRec, the window as its sequence

The first two need nothing but numpy and stand beside every evaluation; the others need the extra `compare`.
"""

from models.evaluation.baselines.baseline import Baseline, first_unseen
from models.evaluation.baselines.most_popular import HOUR_MS, PopularityBaseline
from models.evaluation.baselines.neighbours import Neighbours

__all__ = ["HOUR_MS", "Baseline", "Neighbours", "PopularityBaseline", "first_unseen"]
