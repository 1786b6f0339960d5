"""Reranking of candidates: maximal marginal relevance, and pushing away from disliked items. Pure.

Maximal marginal relevance: Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering
Documents and Producing Summaries", 1998.
"""

import numpy as np

from engine.arrays import NO_ITEM, Float32, Int32, Int64
from engine.retrieval.candidates import Candidates

_TINY = np.float32(1e-12)


def diversify(candidates: Candidates, vectors: Float32, count: int, diversity: float) -> Int64:
    """[B, N] columns of the candidates to recommend, best first; columns without a candidate come last.

    Args:
        candidates: P candidates a user, best first.
        vectors: [V, D] item vectors of the release.
        count: N, up to P.
        diversity: at 0 scores alone decide; towards 1, an item unlike those above it precedes one with a better score.
    """
    users = len(candidates.rows)
    relevance = _scaled(candidates.scores)  # [B, P]
    directions = _directions(_at(candidates.rows, vectors))  # [B, P, D]
    nearest = np.zeros_like(relevance)  # [B, P] similarity to the most similar item above
    available = candidates.rows != NO_ITEM
    order = np.empty((users, count), np.int64)
    all_users = np.arange(users)
    for position in range(count):
        gain = (1.0 - diversity) * relevance - diversity * nearest
        column = np.where(available, gain, -np.inf).argmax(axis=1)
        # Users without a further candidate get the columns without one in order, so that each column occurs once.
        exhausted = ~available.any(axis=1)
        column[exhausted] = position
        order[:, position] = column
        available[all_users, column] = False
        similarity = np.einsum("bpd,bd->bp", directions, directions[all_users, column])
        nearest = similarity if position == 0 else np.maximum(nearest, similarity)
    return order


def push_away(scores: Float32, rows: Int32, disliked: Int32, strength: Float32, vectors: Float32) -> Float32:
    """[B, P] scores, lowered for items like those the user disliked.

    A candidate with the direction of a disliked item loses `strength` times the range of the user's scores; a candidate
    at right angles to it loses nothing.

    Args:
        scores: [B, P] best first, -inf where there is no candidate.
        rows: [B, P] item rows of the candidates.
        disliked: [B, S] item rows with a negative action, NO_ITEM elsewhere.
        strength: [B, S] weight of the dislike, 0 and up.
        vectors: [V, D] item vectors of the release.
    """
    candidates = _directions(_at(rows, vectors))  # [B, P, D]
    dislikes = _directions(_at(disliked, vectors))  # [B, S, D]
    similarity = np.maximum(candidates @ dislikes.transpose(0, 2, 1), 0.0)  # [B, P, S]
    force = np.where(disliked == NO_ITEM, np.float32(0.0), strength)[:, None, :]  # [B, 1, S]
    loss: Float32 = (similarity * force).max(axis=2) * _range(scores)
    return scores - loss


def _scaled(scores: Float32) -> Float32:
    """[B, P] scores of each user scaled to 0..1; -inf, where there is no candidate, stays -inf."""
    lowest = np.where(np.isfinite(scores), scores, np.inf).min(axis=1, keepdims=True)
    floor = np.where(np.isfinite(lowest), lowest, np.float32(0.0))
    return ((scores - floor) / np.maximum(_range(scores), _TINY)).astype(np.float32)


def _range(scores: Float32) -> Float32:
    """[B, 1] highest minus lowest score of each user; 0 for a user without any."""
    finite = np.isfinite(scores)
    highest = np.where(finite, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    lowest = np.where(finite, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    return np.where(highest >= lowest, highest - lowest, np.float32(0.0)).astype(np.float32)


def _at(rows: Int32, vectors: Float32) -> Float32:
    """The vectors [V, D] at rows of any shape; 0 for rows beyond V, which are like nothing else."""
    at_rows = vectors[np.clip(rows, 0, len(vectors) - 1)]
    beyond = rows >= len(vectors)
    if beyond.any():
        at_rows[beyond] = 0.0
    return at_rows


def _directions(vectors: Float32) -> Float32:
    """Vectors of any shape [..., D] at length 1."""
    directions: Float32 = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _TINY)
    return directions
