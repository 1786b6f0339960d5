"""The value of an action: how many times an event with it counts in the attention, fixed or learned.

A value enters the attention as its logarithm, like rank and age, so its gradient is that of a bias per action (a
learned weight per kind of behaviour, as in Jin et al. 2020, "Multi-behavior Recommendation with Graph Convolutional
Networks"). Only ratios count: the softmax cancels a common factor.
"""

from torch import Tensor, nn

from engine.arrays import NO_ACTION
from models.network.attention import TINY_WEIGHT


class ActionValues(nn.Module):
    """Values of the actions by code, from 1; training changes them only if they are learned."""

    def __init__(self, values: Tensor, *, learned: bool) -> None:
        super().__init__()
        self.logs = nn.Parameter(values.clamp(min=TINY_WEIGHT).log(), requires_grad=learned)

    def forward(self, actions: Tensor) -> Tensor:
        """[S, L] values of the events' actions; 0 where there is NO_ACTION."""
        return self.logs.exp()[(actions - 1).clamp(min=0)].masked_fill(actions == NO_ACTION, 0.0)

    def by_number(self) -> list[float]:
        """The current values."""
        values: list[float] = self.logs.detach().exp().tolist()
        return values
