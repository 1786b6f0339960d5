"""From candidates to a list: maximal marginal relevance, and pushing away from what was disliked. Pure.

Maximal marginal relevance: Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering
Documents and Producing Summaries", 1998.
"""

import numpy as np

from engine.arrays import NO_ITEM, Float32, Int32, Int64
from engine.retrieval.candidates import Candidates

_TINY = np.float32(1e-12)


def diversify(candidates: Candidates, vectors: Float32, count: int, diversity: float) -> Int64:
    """[B, N] columns of the candidates to recommend, in order; those without candidates come last.

    Args:
        candidates: P candidates a user, best first.
        vectors: [V, D] item vectors of the release.
        count: N, up to P.
        diversity: at 0 scores alone decide; towards 1, an item unlike those above it goes before a better one.
    """
    users = len(candidates.rows)
    relevance = _scaled(candidates.scores)  # [B, P]
    directions = _directions(vectors[np.maximum(candidates.rows, 0)])  # [B, P, D]
    nearest = np.zeros_like(relevance)  # similarity to the most similar item chosen so far
    open_ = candidates.rows != NO_ITEM
    chosen = np.empty((users, count), np.int64)
    everyone = np.arange(users)
    for place in range(count):
        gain = (1.0 - diversity) * relevance - diversity * nearest
        column = np.where(open_, gain, -np.inf).argmax(axis=1)
        # Users who ran out take what is left in order, so that each column is chosen once.
        ran_out = ~open_.any(axis=1)
        column[ran_out] = place
        chosen[:, place] = column
        open_[everyone, column] = False
        similarity = np.einsum("bpd,bd->bp", directions, directions[everyone, column])
        nearest = similarity if place == 0 else np.maximum(nearest, similarity)
    return chosen


def push_away(scores: Float32, rows: Int32, disliked: Int32, strength: Float32, vectors: Float32) -> Float32:
    """[B, P] scores, lowered for items like those the user disliked.

    A candidate with the direction of a disliked item loses `strength` times the range of the user's scores; one at
    right angles loses nothing.

    Args:
        scores: [B, P] best first, -inf where there is no candidate.
        rows: [B, P]
        disliked: [B, S] item rows with a negative action, NO_ITEM elsewhere.
        strength: [B, S] weight of the dislike, 0 and up.
        vectors: [V, D]
    """
    candidates = _directions(vectors[np.maximum(rows, 0)])  # [B, P, D]
    against = _directions(vectors[np.maximum(disliked, 0)])  # [B, S, D]
    likeness = np.maximum(candidates @ against.transpose(0, 2, 1), 0.0)  # [B, P, S]
    force = np.where(disliked == NO_ITEM, np.float32(0.0), strength)[:, None, :]
    lost: Float32 = (likeness * force).max(axis=2) * _range(scores)
    return scores - lost


def _scaled(scores: Float32) -> Float32:
    """Scores of each user on 0 to 1; -inf where there is none stays."""
    lowest = np.where(np.isfinite(scores), scores, np.inf).min(axis=1, keepdims=True)
    floor = np.where(np.isfinite(lowest), lowest, np.float32(0.0))
    return ((scores - floor) / np.maximum(_range(scores), _TINY)).astype(np.float32)


def _range(scores: Float32) -> Float32:
    """[B, 1] highest minus lowest score of each user; 0 for a user without any."""
    finite = np.isfinite(scores)
    highest = np.where(finite, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    lowest = np.where(finite, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    return np.where(highest >= lowest, highest - lowest, np.float32(0.0)).astype(np.float32)


def _directions(vectors: Float32) -> Float32:
    directions: Float32 = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _TINY)
    return directions
