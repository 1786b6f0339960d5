"""Cross-entropy over the catalogue when K interests score it.

    logit(item) = max_k  interest_k · e(item)            loss = -log softmax(logit)[target]

That is the soft choice, where each item is scored by the interest nearest to it, as when the release serves. The hard
choice keeps one interest of each position, the one nearest to the target, which then scores all items
(`nearest_interest`; Cen et al. 2020, "Controllable Multi-Interest Framework for Recommendation").

A sampled softmax replaces the full one where the catalogue is large: the negatives are drawn once per step for all
positions, each logit is lowered by the log of its item's expected count among them, and the target has its own logit,
uncorrected and left out of the negatives. With growing samples this is the full softmax, not a biased relative of it
(Bengio & Senécal 2003; Khrylchenko et al. 2025, "Correcting the LogQ Correction"). Both cases are the same function:
the full softmax has the whole catalogue as candidates, with corrections of 0.

The gradient is computed in the forward pass, some positions at a time: [P, K, C] scores never exist at once.
Letters: P positions with a target, C candidates, K interests, D dimensions, V items, R rows in use.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

_CHUNK_SCORES = 1 << 20
"""Scores alive at once: 4 MB of float32, which stays near the cores (measured fastest between 1/8 and 4 million)."""
_POPULARITY_EXPONENT = 0.75
"""Negatives follow the item counts to this power, as in word2vec (Mikolov et al. 2013)."""


@dataclass(frozen=True, slots=True)
class SoftmaxCandidates:
    """The items that compete with the targets in one step."""

    items: Tensor
    """int [C] item rows, each once, ascending."""
    corrections: Tensor
    """[C] log of the expected count of each among the candidates."""

    def columns(self, targets: Tensor) -> Tensor:
        """Int [P] index of each target in `items`; -1 where it is no candidate."""
        indices = torch.searchsorted(self.items, targets).clamp(max=len(self.items) - 1)
        return torch.where(self.items[indices] == targets, indices, -1)


def whole_catalogue(num_items: int, device: torch.device | None = None) -> SoftmaxCandidates:
    """All V items, as candidates of a full softmax."""
    return SoftmaxCandidates(
        items=torch.arange(num_items, device=device), corrections=torch.zeros(num_items, device=device)
    )


def compacted(targets: Tensor, candidates: SoftmaxCandidates) -> tuple[Tensor, Tensor, SoftmaxCandidates]:
    """The item rows in use in one step, int [R], and targets [P] and candidates as indices into them."""
    rows, indices = torch.unique(torch.cat([targets, candidates.items]), return_inverse=True)
    renumbered = SoftmaxCandidates(items=indices[len(targets) :], corrections=candidates.corrections)
    return rows, indices[: len(targets)], renumbered


class NegativeSampler:
    """Draws the candidates of a sampled softmax by smoothed item frequency."""

    def __init__(self, counts: Tensor, negatives: int, generator: torch.Generator) -> None:
        """Args: counts [V] training events per item; draws per sample; a source of randomness (CPU)."""
        smoothed = counts.double().pow(_POPULARITY_EXPONENT)
        self._probabilities = smoothed / smoothed.sum()  # [V]
        self._cumulative = self._probabilities.cumsum(0)  # [V]
        self._negatives, self._generator = negatives, generator

    def draw(self) -> SoftmaxCandidates:
        """A new sample; an item drawn several times is in it once, with its expected count corrected for that."""
        uniform = torch.rand(self._negatives, generator=self._generator, dtype=torch.float64)
        drawn = torch.searchsorted(self._cumulative, uniform.to(self._cumulative.device))
        items, repeats = torch.unique(drawn.clamp(max=len(self._cumulative) - 1), return_counts=True)
        expected = self._negatives * self._probabilities[items]
        return SoftmaxCandidates(items=items, corrections=(expected / repeats).log().float())


def catalogue_loss(interests: Tensor, targets: Tensor, vectors: Tensor, candidates: SoftmaxCandidates) -> Tensor:
    """Mean cross-entropy of P positions, differentiable in interests and vectors.

    Args:
        interests: [P, K, D].
        targets: int [P] the item that came next.
        vectors: [V, D] the item table.
        candidates: the items that compete with the targets.
    """
    loss: Tensor = _CrossEntropy.apply(  # type: ignore[no-untyped-call] # torch leaves it untyped
        interests,
        functional.embedding(targets, vectors),
        functional.embedding(candidates.items, vectors),
        candidates.corrections,
        candidates.columns(targets),
    )
    return loss


def nearest_interest(interests: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
    """The interest [P, 1, D] of each position that scores its target highest, from interests [P, K, D]."""
    with torch.no_grad():
        nearest = (interests @ vectors[targets][:, :, None]).argmax(1)  # [P, 1]
    return interests.take_along_dim(nearest[:, :, None], 1)


def interest_agreement(interests: Tensor) -> Tensor:
    """Mean cosine between any two of the K interests [P, K, D] of a position: 1 where they have become one.

    Added to the loss it keeps them apart: Li et al. 2018, "Multi-Head Attention with Disagreement Regularization", on
    the outputs. The squared length of a sum of K unit vectors is K plus the cosines of all K (K - 1) ordered pairs.
    """
    count = interests.shape[1]
    if count == 1:
        return interests.new_zeros(())
    squared_sums = functional.normalize(interests, dim=2).sum(1).square().sum(1)  # [P]
    return (squared_sums.mean() - count) / (count * (count - 1))


def interests_in_use(scores: Tensor) -> float:
    """Effective number of interests, 1 to K: exp of the entropy of each interest's share of the targets nearest to it.

    Args:
        scores: [P, K] interest · e(target); those that tie share alike.
    """
    nearest = (scores == scores.amax(1, keepdim=True)).double()
    shares = (nearest / nearest.sum(1, keepdim=True)).mean(0)  # [K]
    return float(torch.special.entr(shares).sum().exp())


class _CrossEntropy(Function):
    """Loss and gradients of all positions, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, interests: Tensor, positives: Tensor, candidates: Tensor, *rest: Tensor) -> Tensor:
        """Interests [P, K, D], positives [P, D], candidates [C, D], corrections [C], columns [P] to the mean loss."""
        corrections, columns = rest
        positions, count, _ = interests.shape
        gradients = torch.empty_like(interests), torch.empty_like(positives), torch.zeros_like(candidates)
        total = 0.0
        rows = max(1, _CHUNK_SCORES // (count * len(candidates)))
        for start in range(0, positions, rows):
            part = slice(start, start + rows)
            loss, by_interest, by_positive, by_candidate = _chunk(
                interests[part], positives[part], candidates, corrections, columns[part]
            )
            gradients[0][part], gradients[1][part] = by_interest, by_positive
            gradients[2].add_(by_candidate)
            total += loss
        ctx.save_for_backward(*(gradient.div_(positions) for gradient in gradients))
        return interests.new_tensor(total / positions)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        interests, positives, candidates = ctx.saved_tensors
        return interests * upstream, positives * upstream, candidates * upstream, None, None


def _chunk(
    interests: Tensor, positives: Tensor, candidates: Tensor, corrections: Tensor, columns: Tensor
) -> tuple[float, Tensor, Tensor, Tensor]:
    """Summed loss of p positions, and its gradients by interests, positives and candidates."""
    positions, count, size = interests.shape
    flat = interests.transpose(0, 1).reshape(count * positions, size)  # [K * p, D]
    scores = (flat @ candidates.T).view(count, positions, -1)  # [K, p, C]
    top = scores.amax(0)  # [p, C]
    logits = top - corrections
    overlap = torch.nonzero(columns >= 0)[:, 0]  # positions whose target is among the candidates
    logits[overlap, columns[overlap]] = -torch.inf
    target_scores = (interests @ positives[:, :, None])[:, :, 0]  # [p, K]
    target_logits = target_scores.amax(1)  # [p]
    partition = torch.logaddexp(logits.logsumexp(1), target_logits)  # [p]
    # A logit's gradient goes to the interest that gave the maximum. Interests tie wherever a window holds one event, as
    # all attention is on that one then: they share alike, or a target's gradient would not balance the negatives'.
    is_top = scores.eq_(top)  # [K, p, C]
    shares = logits.sub_(partition[:, None]).exp_().div_(is_top.sum(0))  # [p, C] probability of each negative
    by_score = is_top.mul_(shares).view(count * positions, -1)  # [K * p, C]
    by_interest = (by_score @ candidates).view(count, positions, size).transpose(0, 1)  # [p, K, D]
    by_target_score = (target_scores == target_logits[:, None]).float()  # [p, K]
    by_target_score *= ((target_logits - partition).exp() - 1.0)[:, None] / by_target_score.sum(1, keepdim=True)
    by_interest = by_interest + by_target_score[:, :, None] * positives[:, None]
    by_positive = (by_target_score[:, None] @ interests)[:, 0]  # [p, D]
    return float((partition - target_logits).sum()), by_interest, by_positive, by_score.T @ flat
