"""Settings of training, re-scoring and compression, in one place that needs no torch."""

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from engine.contract import Contract
from engine.settings.sections import ClickSettings

DeviceName = Literal["auto", "cpu", "cuda"]
HoldoutName = Literal["none", "last", "time", "both"]
Precision = Literal["fp32", "fp16", "int8"]
Scoring = Literal["dot", "additive"]
ActionValueMode = Literal["fixed", "learned"]
InterestChoice = Literal["per_item", "per_target"]
LearningRateDecay = Literal["none", "cosine", "plateau"]
MatmulPrecision = Literal["float32", "bfloat16"]
PositiveInt = Annotated[int, Ge(1)]


class EncoderSettings(BaseModel):
    """Sizes of the two-hop encoder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dimensions: Annotated[int, Ge(2), Le(1024)] = 64
    """D."""
    interests: Annotated[int, Ge(1), Le(32)] = 4
    """K."""
    heads: Annotated[int, Ge(1), Le(32)] = 2
    """Attention heads of the first hop."""
    scoring: Scoring = "dot"
    """Score of query and key: scaled dot-product, or one hidden layer of tanh units (`models.network.attention`)."""
    hidden: PositiveInt = 128
    """Width of the two feed-forward layers."""
    window_length: Annotated[int, Ge(1), Le(1000)] = 100
    """L."""
    dropout: Annotated[float, Ge(0.0), Lt(1.0)] = 0.2
    """Where it is not given and histories are short, 0.3 (`models.training.suited`)."""
    seconds: bool = True
    """Whether attention has the seconds between events, and not the hours alone (`models.network.attention`)."""
    query_context: bool = True
    """Whether the first query depends on the number of events in the window, and on the gap between the newest two
    (`models.network.context`)."""
    content_buckets: PositiveInt = 1 << 18
    """Hash buckets of content features."""
    id_dropout: Annotated[float, Ge(0.0), Lt(1.0)] = 0.2
    """Share of item ids dropped in training where items have content, so that content alone suffices."""

    @model_validator(mode="after")
    def _heads_divide_dimensions(self) -> Self:
        if self.dimensions % self.heads:
            raise ValueError(f"dimensions ({self.dimensions}) must be a multiple of heads ({self.heads})")
        return self

    @property
    def contract(self) -> Contract:
        """The contract between the engine and a release with these sizes."""
        return Contract(window_length=self.window_length, interests=self.interests, dimensions=self.dimensions)


class TrainSettings(BaseModel):
    """Settings of the encoder's training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: EncoderSettings = EncoderSettings()
    clicks: ClickSettings = ClickSettings()
    """Weights of the actions, as in the settings of the engine that serves the release."""
    action_values: ActionValueMode = "fixed"
    """Whether weights above 0 stay as in `clicks`, or are learned, and served as the release's own."""
    holdout: HoldoutName = "both"
    """Events left out of training for `evaluate`: each user's last event, the last tenth of time, or both."""
    holdout_items: Annotated[float, Ge(0.0), Lt(1.0)] = 0.0
    """Share of the items whose events are all left out of training, for `cold-start`."""
    minutes: Annotated[float, Gt(0.0)] = 5.0
    """Limit of the training time."""
    epochs: PositiveInt | None = None
    """Limit of the passes over the data; none sets no limit."""
    seed: int = 0
    batch_sequences: PositiveInt = 64
    """Half of the usual 128: on small data sets as accurate in the end, and trained in two thirds of the time."""
    learning_rate: Annotated[float, Gt(0.0)] = 1e-3
    learning_rate_decay: LearningRateDecay = "none"
    """cosine: the rate falls to 0 over all `epochs`, which must be given then (`models.training.schedule`). Training
    then ignores `patience`, and takes the newest weights unless earlier ones validate better beyond chance.
    plateau: the rate falls to 0.3 of itself, twice, where validations are no better for a third of `patience`, at the
    latest after 70 and 85 % of `minutes`; each time training continues from the best weights."""
    warmup_steps: Annotated[int, Ge(0)] = 0
    """Steps of the linear warm-up of the rate."""
    matmul_precision: MatmulPrecision = "bfloat16"
    """Type that torch may round the factors of a matrix product to in training, where that is faster."""
    weight_averaging: Annotated[float, Ge(0.0), Lt(1.0)] = 0.0
    """Decay per step of the moving average of the weights; 0 takes the newest weights."""
    interest_choice: InterestChoice = "per_item"
    """The interest that scores an item in the loss: the one nearest to that item, as when the release serves (a soft
    choice), or for all items the one nearest to the target (a hard choice, as in ComiRec)."""
    interest_agreement: Annotated[float, Ge(0.0)] = 0.0
    """Weight in the loss of the mean cosine between the interests of a user; a larger one keeps them further apart."""
    skip_share: Annotated[float, Ge(0.0), Le(1.0)] = 0.0
    """Share of the sequences in which the newest events before each target are hidden (`models.data.sequences`)."""
    skip_max: PositiveInt = 5
    """Most events that are hidden before a target."""
    full_softmax_up_to: Annotated[int, Ge(0)] = 5_000
    """Largest catalogue, in items, for the full softmax; a larger one is trained with a sampled softmax."""
    negatives: PositiveInt = 512
    """Draws per step of the sampled softmax."""
    validation_interval_steps: PositiveInt = 200
    """Most steps between two validations; there is one after every epoch in any case."""
    validation_users: PositiveInt = 1_000
    """Most users (and never more than half of them) whose newest training event is held out for validation."""
    patience: PositiveInt = 10
    """Training stops after this many validations in a row without a better one."""
    spectral_start: bool = True
    """Whether item vectors begin as a spectral embedding of what users clicked one after the other, and not at random
    (`models.training.spectral_start`). Not in a private training, nor where there are earlier vectors."""
    neighbours: bool = True
    """Whether the release gets a table of neighbours, if the validation is better with it
    (`models.training.score_parts`). A private training has none: counts of pairs are exact."""
    popularity: bool = True
    """Whether popularity of the moment is a part of scores, if the validation is better with it
    (`models.training.score_parts`). Not in a private training, which has no validation."""
    private_epsilon: Annotated[float, Gt(0.0)] | None = None
    """Largest epsilon of a differentially private training; none trains without privacy (`models.training.private`)."""
    private_delta: Annotated[float, Gt(0.0), Lt(1.0)] | None = None
    """The delta that goes with `private_epsilon`; none takes 1 / users^1.1."""
    private_clip: Annotated[float, Gt(0.0)] = 1.0
    """Norm that each user's gradient is clipped to in a private training."""
    device: DeviceName = "auto"
    """auto: a GPU where there is one."""
    checkpoint_s: Annotated[float, Ge(0.0)] = 60.0
    """Shortest time between two checkpoints; they are written at validations."""

    @model_validator(mode="after")
    def _decay_has_epochs(self) -> Self:
        if self.learning_rate_decay == "cosine" and self.epochs is None:
            raise ValueError(
                "learning_rate_decay is 'cosine' and epochs is not given: the rate falls over all epochs, so give their"
                " number (and enough minutes for them)"
            )
        return self


def refusal(error: ValidationError) -> str:
    """The problems of refused settings in one line: each setting's name, its value, and the values allowed."""
    problems = [(".".join(map(str, problem["loc"])), problem["input"], problem["msg"]) for problem in error.errors()]
    return "; ".join(f"{name}: found {value!r}, {message}" if name else message for name, value, message in problems)


class RescoreSettings(BaseModel):
    """Size and training of a re-scorer (`models.lab.rescoring`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidates: Annotated[int, Ge(20), Le(500)] = 200
    """C: top candidates of each user that get a new score."""
    events: Annotated[int, Ge(1), Le(1000)] = 20
    """W: newest events of a window that candidates attend over."""
    heads: Annotated[int, Ge(1), Le(32)] = 2
    dropout: Annotated[float, Ge(0.0), Lt(1.0)] = 0.2
    minutes: Annotated[float, Gt(0.0)] = 5.0
    """Limit of the training time."""
    seed: int = 0
    examples: PositiveInt = 40_000
    """Training events, drawn at random, whose windows and candidates are kept in memory."""
    negatives: PositiveInt = 50
    """Candidates that each target is compared with in a step, drawn from all of its example's."""
    batch_examples: PositiveInt = 32
    learning_rate: Annotated[float, Gt(0.0)] = 1e-3
    validation_interval_steps: PositiveInt = 300
    """Steps between two validations."""
    patience: PositiveInt = 4
    """Training stops after this many validations in a row without a better one."""


class Form(BaseModel):
    """A compressed form of a release."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: Precision = "int8"
    """int8 is the cheapest, and lost less than `ALLOWED_LOSS` in all measurements."""
    pruned: Annotated[float, Ge(0.0), Lt(1.0)] = 0.0
    """Share of the hidden units of each feed-forward layer that are removed."""

    @property
    def name(self) -> str:
        """Its name in versions and tables: `int8`, `int8-pruned50`."""
        return f"{self.precision}-pruned{100 * self.pruned:g}" if self.pruned else self.precision


ALLOWED_LOSS = 0.01
"""Share of NDCG@10 that a compressed form may lose."""

REQUIRED_GAIN = 0.02
"""Share of NDCG@10 by which a re-scorer must improve a release, significantly: twice the loss allowed to a compressed
form, because a re-scorer comes with two more graphs to train, to ship and to monitor."""
ALLOWED_COST = 2.0
"""Largest ratio of the time of a list with a re-scorer to that of a list without, in small batches and in large: beyond
it a worker makes less than half as many lists, and the time is better spent on a larger encoder."""
