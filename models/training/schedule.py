"""The learning rate of each step: a rise at the start, then constant, or falling like a cosine to the end.

The cosine is the one of Loshchilov & Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", without
restarts; the rise that of Goyal et al. 2017, "Accurate, Large Minibatch SGD". The rate depends on nothing but the
number of the step, so a training that goes on after a kill has nothing to remember of it.
"""

import math

from models.settings import TrainSettings


def learning_rate(settings: TrainSettings, step: int, epoch_steps: int) -> float:
    """Rate of the step with this number, from 0, where an epoch has `epoch_steps`."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.learning_rate_decay == "none" or settings.epochs is None:
        return settings.learning_rate
    falling = max(1, settings.epochs * epoch_steps - settings.warmup_steps)
    done = min(1.0, (step - settings.warmup_steps) / falling)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
