"""Baselines of evaluations and comparisons. They list nothing that is in the user's window, and know the past alone.

    popularity       most events in the seven days before the hour of the query
    neighbours       items that came soon after the window's last items in other users' histories
    item_knn         items with the same users as the items of the window
    factorisation    implicit's ALS and BPR, with a user vector made from the window
    sasrec           RecTools' SASRec, with the window as its sequence

The first two need nothing but numpy and are part of every evaluation; the others need the extra `compare`.
"""

from models.evaluation.baselines.baseline import Baseline, first_unseen
from models.evaluation.baselines.most_popular import PopularityBaseline
from models.evaluation.baselines.neighbours import Neighbours

__all__ = ["Baseline", "Neighbours", "PopularityBaseline", "first_unseen"]
