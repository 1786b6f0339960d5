"""implicit's matrix factorisations, with a user vector made from the window at the time of the query.

    als    Hu, Koren and Volinsky, Collaborative filtering for implicit feedback datasets, 2008
    bpr    Rendle et al., BPR: Bayesian personalized ranking from implicit feedback, 2009

A user vector from training knows nothing of later clicks, and a new user has none. ALS makes one from a window by the
same least squares as in training. implicit has nothing of the kind for BPR, so the window's vector is found by gradient
ascent on the training objective, with the items held fixed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking
from threadpoolctl import threadpool_limits

from engine.arrays import NO_ITEM, Float32, Int32, Int64, Windows
from models.data.histories import Histories
from models.evaluation.baselines import matrices
from models.evaluation.baselines.baseline import scored_then_popular
from models.evaluation.baselines.task import Fitted, Hyperparameters, Task, grid_search

ALS_GRID: Final[tuple[Hyperparameters, ...]] = (
    {"factors": 100, "regularization": 0.01, "alpha": 1.0, "iterations": 15},  # implicit's defaults
    *(
        {"factors": factors, "regularization": regularization, "alpha": alpha, "iterations": 15}
        for factors in (64, 32, 128)
        for regularization in (0.1, 1.0, 10.0)
        for alpha in (1.0, 10.0, 40.0)  # 40 is what Hu et al. use
    ),
)
BPR_GRID: Final[tuple[Hyperparameters, ...]] = (
    {"factors": 100, "learning_rate": 0.01, "regularization": 0.01, "iterations": 100},  # implicit's defaults
    *(
        {"factors": factors, "learning_rate": learning_rate, "regularization": regularization, "iterations": 100}
        for learning_rate in (0.01, 0.05)
        for regularization in (0.05, 0.01, 0.002)
        for factors in (32, 64, 128)
    ),
)
_ASCENT_STEPS: Final = 60
_NEGATIVES: Final = 32
"""Negatives drawn at each step of the ascent, for all users together."""


class _TimeIsUpError(Exception):
    """Ends a fit between two iterations; the factors are those of the last one."""


class _Factorisation(ABC):
    """Item factors, and a user vector for every window."""

    def __init__(self, task: Task, model: Any, events: Histories, until_s: float) -> None:
        """Fit implicit's `model` on `events`."""
        self._task, self._model = task, model
        _fit_until(model, matrices.of_users(events, task.item_count), lambda: task.is_over(until_s))
        self._trained = np.zeros(task.item_count, np.bool_)  # [V]
        self._trained[events.items] = True

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """See `Baseline.lists`; items that training had no event of, and windows of such items alone, have no score."""
        liked = self._task.liked_items(windows)
        liked = np.where((liked >= 0) & self._trained[liked], liked, np.int32(NO_ITEM))
        scores: Float32 = self._vectors(liked) @ self._model.item_factors.T  # [B, V]
        scores[:, ~self._trained] = -np.inf
        scores[(liked == NO_ITEM).all(axis=1)] = -np.inf
        return scored_then_popular(scores, windows, self._task.popularity.ranking(times_ms), count)

    @abstractmethod
    def _vectors(self, liked: Int32) -> Float32:
        """[B, F] vectors of users whose windows hold the items `liked` [B, L]."""


class Als(_Factorisation):
    """Alternating least squares."""

    def _vectors(self, liked: Int32) -> Float32:
        window_matrix = matrices.of_windows(liked, self._task.item_count)
        with threadpool_limits(1, "blas"):
            vectors: Float32 = self._model.recalculate_user(np.arange(len(liked)), window_matrix)
        return vectors


class Bpr(_Factorisation):
    """Bayesian personalised ranking; the last factor is the item's bias, and always 1 in a user's vector."""

    def _vectors(self, liked: Int32) -> Float32:
        factors, rng = self._model.item_factors, np.random.default_rng(self._task.seed)
        real = liked >= 0  # [B, L]
        positives = np.where(real[:, :, None], factors[liked], np.float32(0.0))  # [B, L, F]
        events = np.maximum(real.sum(axis=1), 1)[:, None]  # [B, 1]
        # Below this length a step of gradient ascent cannot overshoot: the logistic's curvature is at most 1/4.
        step = 1.0 / (np.square(2.0 * np.linalg.norm(factors[:, :-1], axis=1).max()) / 4.0 + self._model.regularization)
        vectors = np.zeros((len(liked), factors.shape[1]), np.float32)
        vectors[:, -1] = 1.0
        for _ in range(_ASCENT_STEPS):
            negative_items = rng.choice(self._task.events.items, _NEGATIVES)  # by popularity, as in training
            negatives = factors[negative_items]  # [M, F]
            in_window = (liked[:, :, None] == negative_items).any(axis=1)[:, None]  # [B, 1, M]
            margins = (positives @ vectors[:, :, None]) - (vectors @ negatives.T)[:, None]  # [B, L, M]
            weights = np.where(real[:, :, None] & ~in_window, 1.0 / (1.0 + np.exp(margins)), np.float32(0.0))
            gradient = (weights.sum(axis=2)[:, None] @ positives)[:, 0] - weights.sum(axis=1) @ negatives  # [B, F]
            gradient = gradient / (events * _NEGATIVES) - self._model.regularization * vectors
            vectors[:, :-1] += step * gradient[:, :-1]
        return vectors


def fit_als(task: Task) -> Fitted:
    """ALS with the configuration that does best on the validation."""

    def fit(configuration: Hyperparameters, events: Histories, until_s: float) -> Als:
        arguments = _arguments(configuration)
        model = AlternatingLeastSquares(**arguments, num_threads=task.threads, random_state=task.seed)
        return Als(task, model, events, until_s)

    with threadpool_limits(1, "blas"):  # implicit's own threads would wait for those of BLAS, and it warns of them
        return grid_search(task, ALS_GRID, fit)


def fit_bpr(task: Task) -> Fitted:
    """BPR with the configuration that does best on the validation."""

    def fit(configuration: Hyperparameters, events: Histories, until_s: float) -> Bpr:
        arguments = _arguments(configuration)
        model = BayesianPersonalizedRanking(**arguments, num_threads=task.threads, random_state=task.seed)
        return Bpr(task, model, events, until_s)

    return grid_search(task, BPR_GRID, fit)


def _arguments(configuration: Hyperparameters) -> dict[str, float]:
    return {name: int(value) if name in {"factors", "iterations"} else value for name, value in configuration.items()}


def _fit_until(model: Any, clicks: Any, time_is_up: Callable[[], bool]) -> None:
    def on_iteration(*_progress: object) -> None:
        if time_is_up():
            raise _TimeIsUpError

    try:
        model.fit(clicks, show_progress=False, callback=on_iteration)
    except _TimeIsUpError:
        return
