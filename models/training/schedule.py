"""The learning rate of each step: a linear warm-up, then constant, or a cosine decay to 0 at the last step.

The cosine is the one of Loshchilov & Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", without
restarts; the warm-up that of Goyal et al. 2017, "Accurate, Large Minibatch SGD". The rate is a function of the step
number alone, so a training that is resumed from a checkpoint needs no state for it. What falls with the validation
(`plateau`) falls in `models.training.trainer`.
"""

import math

from models.settings import TrainSettings


def learning_rate(settings: TrainSettings, step: int, epoch_steps: int) -> float:
    """Rate of the step with this number, from 0, where an epoch has `epoch_steps`."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.learning_rate_decay != "cosine" or settings.epochs is None:
        return settings.learning_rate
    decay_steps = max(1, settings.epochs * epoch_steps - settings.warmup_steps)
    decayed_share = min(1.0, (step - settings.warmup_steps) / decay_steps)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * decayed_share))
