"""RecTools' SASRec, with the window as its sequence.

Kang and McAuley, Self-attentive sequential recommendation, 2018, with the full softmax that makes it hard to beat
(Klenitskiy and Vasilev, Turning dross into gold loss: is BERT4Rec really better than SASRec?, 2023). Hyperparameters
are the authors'; three things are added so that it makes good use of its time: events older than one sequence holds
are trained on too, as sequences of their own; training stops by time; and the weights with the best validation are
kept.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import LambdaCallback
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.utils import leave_one_out_mask

from engine.arrays import NO_ITEM, Int32, Int64, Windows
from models.data.histories import Histories
from models.evaluation.baselines.baseline import first_unseen
from models.evaluation.baselines.task import Fitted, Task

SIZES: Final[dict[str, dict[str, int]]] = {
    "sasrec": {"n_factors": 256, "n_heads": 4},  # RecTools' defaults, like everything that is not named here
    "sasrec-64": {"n_factors": 64, "n_heads": 1},  # about what both papers use on MovieLens, and as wide as two-hop
}
_PATIENCE: Final = 50
"""Epochs without a better validation before training stops, as in RecTools' own benchmark."""


def fit(task: Task, size: str) -> Fitted:
    """SASRec in one of the `SIZES`."""
    until_s = task.clock_s() + 60.0 * task.minutes
    best = _BestWeights(lambda: task.is_over(until_s))
    torch.set_num_threads(task.threads)
    with torch.random.fork_rng(), _quiet():
        torch.manual_seed(task.seed)
        model = SASRecModel(
            **SIZES[size],
            session_max_len=task.window_length,
            get_val_mask_func=leave_one_out_mask,
            get_val_mask_func_kwargs={"val_users": task.validation.users.tolist()},
        )
        model._trainer = best.trainer()  # noqa: SLF001 - where RecTools' documentation says to put one's own trainer
        model.fit(_dataset(sessions(task.events, task.window_length), task.events.items))
    if best.weights:  # none where no target of the validation is an item of the training
        model.lightning_model.load_state_dict(best.weights)
    notes = {**SIZES[size], "epochs": best.epochs, "validation_ndcg": best.ndcg, "validations": best.validations}
    return Fitted(SasRec(task, model), notes)


class SasRec:
    """Items in the order of a fitted SASRec; then the popular ones."""

    def __init__(self, task: Task, model: SASRecModel) -> None:
        self._task, self._model = task, model
        self._known = np.zeros(task.item_count, np.bool_)  # [V]
        self._known[model.data_preparator.get_known_item_ids().astype(np.int64)] = True

    def lists(self, windows: Windows, times_ms: Int64, count: int) -> Int32:
        """See `Baseline.lists`."""
        liked = self._task.liked_items(windows)
        liked = np.where((liked >= 0) & self._known[liked], liked, np.int32(NO_ITEM))
        ranked = self._ranked(liked, min(int(self._known.sum()), count + windows.items.shape[1]))
        popular = self._task.popularity.ranking(times_ms)
        return first_unseen(np.concatenate([ranked, popular], axis=1), windows.items, count)

    def _ranked(self, sequences: Int32, depth: int) -> Int32:
        """[B, depth] items by score after these sequences [B, L], seen ones included."""
        ranked = np.full((len(sequences), depth), NO_ITEM, np.int32)
        users, events = np.nonzero(sequences != NO_ITEM)
        if len(users):
            with _quiet():
                table = self._model.recommend(
                    np.unique(users), _dataset(users, sequences[users, events]), k=depth, filter_viewed=False
                )
            ranked[table[Columns.User], table[Columns.Rank] - 1] = table[Columns.Item].astype(np.int32)
        return ranked


def sessions(events: Histories, length: int) -> Int64:
    """[n] session number of each event: runs of `length` + 1 events of a user, cut from the newest event backwards.

    A run makes `length` inputs, each with its successor as target. The newest run has the user's number.
    """
    ends = np.searchsorted(events.users, events.users, side="right")
    runs_later = (ends - 1 - np.arange(len(events))) // (length + 1)
    numbers: Int64 = events.users + runs_later * (int(events.users.max(initial=0)) + 1)
    return numbers


class _BestWeights:
    """The weights with the best validation NDCG so far, and early stopping."""

    def __init__(self, time_is_up: Callable[[], bool]) -> None:
        self._time_is_up = time_is_up
        self._gains: list[torch.Tensor] = []
        self._stale = 0
        self.weights: dict[str, torch.Tensor] = {}
        self.ndcg = -1.0
        self.epochs = 0
        self.validations: list[dict[str, float]] = []
        """Epoch and NDCG of each."""

    def trainer(self) -> Trainer:
        """A trainer without a limit of epochs, whose callbacks are methods of this object.

        RecTools makes a deep copy of the trainer, but functions are copied by reference: they still call this object.
        """
        callback = LambdaCallback(
            on_train_batch_end=lambda trainer, *_: self._stop_in_time(trainer),
            on_validation_batch_end=lambda _trainer, _module, outputs, batch, *_: self._add(outputs, batch),
            on_validation_epoch_end=lambda trainer, module: self._validate(trainer, module.state_dict()),
        )
        return Trainer(
            max_epochs=-1,
            callbacks=[callback],
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            devices=1,
        )

    def _stop_in_time(self, trainer: Trainer) -> None:
        # Lightning validates once more before it stops for this.
        trainer.should_stop = trainer.should_stop or self._time_is_up()

    def _add(self, outputs: dict[str, Any], batch: dict[str, torch.Tensor]) -> None:
        logits = outputs["logits"].reshape(len(batch["y"]), -1).clone()  # [B, 1 + V], the first for padding
        own = logits.gather(1, batch["y"])  # [B, 1]
        logits.scatter_(1, batch["x"], -torch.inf)
        above = ~(logits <= own)  # [B, 1 + V]; a NaN counts as above, so that such weights score worst
        self._gains.append(1.0 / torch.log2(2.0 + above.sum(1)))

    def _validate(self, trainer: Trainer, weights: dict[str, torch.Tensor]) -> None:
        ndcg = float(torch.cat(self._gains).mean())
        self._gains = []
        self.epochs += 1
        self.validations.append({"epoch": self.epochs, "ndcg": ndcg})
        self._stale = 0 if ndcg > self.ndcg else self._stale + 1
        if ndcg > self.ndcg:
            self.ndcg, self.weights = ndcg, copy.deepcopy(weights)
        trainer.should_stop = trainer.should_stop or self._stale == _PATIENCE


def _dataset(users: Int64, items: Int32) -> Dataset:
    """RecTools' dataset of events in order of time; it sorts by time, so each event gets a different one."""
    times = np.arange(len(users)).astype("datetime64[s]").astype("datetime64[ns]")
    columns = {Columns.User: users, Columns.Item: items, Columns.Weight: 1.0, Columns.Datetime: times}
    return Dataset.construct(pd.DataFrame(columns))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences these libraries' remarks on each other's use and on hardware."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
