"""Training of a re-scorer: cross-entropy of what came next among the candidates, the release left as it is.

The negatives are hard by themselves: they are what the release would have listed.
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
from models.lab.rescoring.examples import RescoringExamples, RescoringQueries
from models.lab.rescoring.rescorer import Rescorer
from models.settings import RescoreSettings

_VALIDATED_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class RescorerProgress:
    """Where a training stands after a validation."""

    step: int
    loss: float
    """Mean of the steps since the last validation; 0 before the first step."""
    ndcg: float
    """Mean of 1 / log2(1 + place) of the next items kept aside among their candidates; 0 for one that is not there."""


@dataclass(frozen=True, slots=True)
class TrainedReranker:
    """The best re-scorer found, and how training came to it."""

    rescorer: Rescorer
    """In evaluation mode."""
    rounds: list[RescorerProgress]
    """After each validation; the first is the release's own order."""


def train(
    examples: RescoringExamples,
    vectors: Float32,
    settings: RescoreSettings,
    watch: Callable[[RescorerProgress], None] = lambda _progress: None,
    clock_s: Callable[[], float] = time.monotonic,
) -> TrainedReranker:
    """Train a re-scorer of items with these vectors [V, D]; if none gets better, what returns changes no order."""
    ends_s = clock_s() + 60.0 * settings.minutes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        rescorer, table = Rescorer(vectors.shape[1], settings), torch.from_numpy(vectors)
        learning = _rounds(rescorer, table, examples.training, settings)
        rounds, best_round = [RescorerProgress(0, 0.0, _ndcg(rescorer, table, examples.kept_aside))], 0
        best = copy.deepcopy(rescorer)
        while len(rounds) - best_round <= settings.patience and clock_s() < ends_s:
            step, loss = next(learning)
            rounds.append(RescorerProgress(step, loss, _ndcg(rescorer, table, examples.kept_aside)))
            watch(rounds[-1])
            if rounds[-1].ndcg > rounds[best_round].ndcg:
                best, best_round = copy.deepcopy(rescorer), len(rounds) - 1
    return TrainedReranker(best.eval(), rounds)


def _rounds(
    rescorer: Rescorer, table: Tensor, training: RescoringQueries, settings: RescoreSettings
) -> Iterator[tuple[int, float]]:
    """Train without end; steps so far and the mean loss of each `settings.validation_interval_steps` of them."""
    optimiser = torch.optim.AdamW(rescorer.parameters(), lr=settings.learning_rate, fused=True)
    losses = list[float]()
    for step, chosen in enumerate(_batches(len(training), settings), start=1):
        rescorer.train()
        loss = _loss(rescorer, table, training.take(chosen), settings.negatives)
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
        order = rng.permutation(count)
        yield from np.array_split(order, range(settings.batch_queries, count, settings.batch_queries))


def _loss(rescorer: Rescorer, table: Tensor, questions: RescoringQueries, negatives: int) -> Tensor:
    """Mean cross-entropy of the targets among some of their users' candidates."""
    targets = torch.from_numpy(questions.places)[:, None]
    scores = torch.from_numpy(questions.scores)
    drawn = torch.rand(scores.shape).masked_fill(scores == -torch.inf, 2.0).scatter(1, targets, -1.0)
    chosen = drawn.topk(min(1 + negatives, scores.shape[1]), largest=False, sorted=True).indices  # the target first
    found = torch.from_numpy(questions.candidates).gather(1, chosen), scores.gather(1, chosen)
    rescored = rescorer(table, _window(questions), found)
    return functional.cross_entropy(rescored, torch.zeros(len(chosen), dtype=torch.int64))


@torch.no_grad()
def _ndcg(rescorer: Rescorer, table: Tensor, questions: RescoringQueries) -> float:
    """See `RescorerProgress.ndcg`; a target stands behind those that score the same."""
    rescorer.eval()
    gained = 0.0
    for part in np.array_split(
        np.arange(len(questions)), range(_VALIDATED_AT_ONCE, len(questions), _VALIDATED_AT_ONCE)
    ):
        asked = questions.take(part)
        found = torch.from_numpy(asked.candidates), torch.from_numpy(asked.scores)
        rescored, places = rescorer(table, _window(asked), found), torch.from_numpy(asked.places)
        own = rescored.gather(1, places.clamp(min=0)[:, None])
        gains = 1.0 / torch.log2(1.0 + (rescored >= own).sum(1))
        gained += float(gains[places >= 0].sum())
    return gained / len(questions)


def _window(questions: RescoringQueries) -> tuple[Tensor, Tensor, Tensor]:
    return torch.from_numpy(questions.rows), torch.from_numpy(questions.ages), torch.from_numpy(questions.weights)
