"""Training of a re-scorer: cross-entropy of the target among the candidates, with the release itself unchanged.

The negatives are hard without further sampling: they are items that the release would have listed.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.arrays import Float32, Int64
from models.evaluation.queries import split_batches
from models.lab.rescoring.examples import RescorerData, RescorerExamples
from models.lab.rescoring.rescorer import Rescorer, rescorer_tensors
from models.settings import RescoreSettings

_VALIDATION_BATCH = 64


@dataclass(frozen=True, slots=True)
class RescorerProgress:
    """State of a training after a validation."""

    step: int
    loss: float
    """Mean of the steps since the last validation; 0 before the first step."""
    ndcg: float
    """Mean over the validation of 1 / log2(1 + rank) of the target among its candidates; 0 for one that is none."""


@dataclass(frozen=True, slots=True)
class TrainedRescorer:
    """The re-scorer with the best validation, and the course of its training."""

    rescorer: Rescorer
    """In evaluation mode."""
    rounds: list[RescorerProgress]
    """After each validation; the first is the release's own order."""


def train(
    data: RescorerData,
    vectors: Float32,
    settings: RescoreSettings,
    on_round: Callable[[RescorerProgress], None] = lambda _progress: None,
    clock_s: Callable[[], float] = time.monotonic,
) -> TrainedRescorer:
    """Train a re-scorer of items with these vectors [V, D].

    Where no validation is better than the release's own order, the re-scorer that is returned changes no order.
    """
    ends_s = clock_s() + 60.0 * settings.minutes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        rescorer, table = Rescorer(vectors.shape[1], settings), torch.from_numpy(vectors)
        training = _rounds(rescorer, table, data.training, settings)
        rounds, best_round = [RescorerProgress(0, 0.0, _ndcg(rescorer, table, data.validation))], 0
        best = copy.deepcopy(rescorer)
        while len(rounds) - best_round <= settings.patience and clock_s() < ends_s:
            step, loss = next(training)
            rounds.append(RescorerProgress(step, loss, _ndcg(rescorer, table, data.validation)))
            on_round(rounds[-1])
            if rounds[-1].ndcg > rounds[best_round].ndcg:
                best, best_round = copy.deepcopy(rescorer), len(rounds) - 1
    return TrainedRescorer(best.eval(), rounds)


def _rounds(
    rescorer: Rescorer, table: Tensor, examples: RescorerExamples, settings: RescoreSettings
) -> Iterator[tuple[int, float]]:
    """Train without end; yields steps so far and mean loss after every `settings.validation_interval_steps` steps."""
    optimiser = torch.optim.AdamW(rescorer.parameters(), lr=settings.learning_rate, fused=True)
    losses = list[float]()
    for step, batch in enumerate(_batches(len(examples), settings), start=1):
        rescorer.train()
        loss = _loss(rescorer, table, examples.take(batch), settings.negatives)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(loss.item())
        if step % settings.validation_interval_steps == 0:
            yield step, float(np.mean(losses))
            losses.clear()


def _batches(count: int, settings: RescoreSettings) -> Iterator[Int64]:
    rng = np.random.default_rng(settings.seed)
    while True:
        yield from split_batches(rng.permutation(count), settings.batch_examples)


def _loss(rescorer: Rescorer, table: Tensor, examples: RescorerExamples, negatives: int) -> Tensor:
    """Mean cross-entropy of the targets among a sample of their candidates."""
    targets = torch.from_numpy(examples.target_columns)[:, None]
    window, (candidates, scores) = rescorer_tensors(examples.rescorer_inputs())
    # Random keys, with the target's below all and those of missing candidates above all: the smallest are the sample.
    keys = torch.rand(scores.shape).masked_fill(scores == -torch.inf, 2.0).scatter(1, targets, -1.0)
    sample = keys.topk(min(1 + negatives, scores.shape[1]), largest=False, sorted=True).indices  # the target first
    rescored = rescorer(table, window, (candidates.gather(1, sample), scores.gather(1, sample)))
    return functional.cross_entropy(rescored, torch.zeros(len(sample), dtype=torch.int64))


@torch.no_grad()
def _ndcg(rescorer: Rescorer, table: Tensor, examples: RescorerExamples) -> float:
    """See `RescorerProgress.ndcg`; a target ranks after the candidates with the same score."""
    rescorer.eval()
    total_gain = 0.0
    for batch in map(examples.take, split_batches(np.arange(len(examples)), _VALIDATION_BATCH)):
        rescored = rescorer(table, *rescorer_tensors(batch.rescorer_inputs()))
        columns = torch.from_numpy(batch.target_columns)
        target_scores = rescored.gather(1, columns.clamp(min=0)[:, None])
        gains = 1.0 / torch.log2(1.0 + (rescored >= target_scores).sum(1))
        total_gain += float(gains[columns >= 0].sum())
    return total_gain / len(examples)
