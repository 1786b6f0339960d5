"""How a release is trained: every number that can be chosen, in one place that needs no torch."""

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from engine.contract import Contract
from engine.settings.sections import ClickSettings

DeviceName = Literal["auto", "cpu", "cuda"]
HoldoutName = Literal["none", "last", "time", "both"]
Precision = Literal["fp32", "fp16", "int8"]
Scoring = Literal["dot", "additive"]
ActionValues = Literal["set", "learned"]
InterestChoice = Literal["per_item", "per_target"]
LearningRateDecay = Literal["none", "cosine"]
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
    """How a query is matched with a key: scaled dot-product, or one hidden layer of tanh units (`attention`)."""
    hidden: PositiveInt = 128
    """Width of the two feed-forward layers."""
    window_length: Annotated[int, Ge(1), Le(1000)] = 100
    """L."""
    dropout: Annotated[float, Ge(0.0), Lt(1.0)] = 0.2
    seconds: bool = True
    """Whether attention sees the seconds between events beside the hours (`models.network.attention`)."""
    query_context: bool = True
    """Whether the first query depends on the number of events in the window, and on the gap between the newest two
    (`models.network.context`)."""
    content_buckets: PositiveInt = 1 << 18
    """Features of content hash into so many."""
    id_dropout: Annotated[float, Ge(0.0), Lt(1.0)] = 0.2
    """Share of item ids silenced in training where items have content, so that content alone works."""

    @model_validator(mode="after")
    def _heads_divide_dimensions(self) -> Self:
        if self.dimensions % self.heads:
            raise ValueError(f"dimensions ({self.dimensions}) must be a multiple of heads ({self.heads})")
        return self

    @property
    def contract(self) -> Contract:
        """What a release with these sizes promises the engine."""
        return Contract(window_length=self.window_length, interests=self.interests, dimensions=self.dimensions)


class TrainSettings(BaseModel):
    """How the encoder is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: EncoderSettings = EncoderSettings()
    clicks: ClickSettings = ClickSettings()
    """Weights of the actions, as they will be when the release serves."""
    action_values: ActionValues = "set"
    """Whether weights above 0 stay as they are set, or are learned, and served as the release's own."""
    holdout: HoldoutName = "both"
    """What training leaves out to be asked later: each user's last event, the last tenth of time, or both."""
    holdout_items: Annotated[float, Ge(0.0), Lt(1.0)] = 0.0
    """Share of the items of which training leaves out every event, to be asked as new items."""
    minutes: Annotated[float, Gt(0.0)] = 5.0
    """Training stops after this long, whatever it has reached."""
    epochs: PositiveInt | None = None
    """Training stops after this many passes over the data; none sets no limit."""
    seed: int = 0
    batch_sequences: PositiveInt = 64
    """Half of the usual 128: on the small sets, as good in the end and there in two thirds of the time."""
    learning_rate: Annotated[float, Gt(0.0)] = 1e-3
    learning_rate_decay: LearningRateDecay = "none"
    """cosine: the rate falls to 0 over all `epochs`, which must be given then (`models.training.schedule`). Training
    then goes on to their end, whatever `patience` says, and takes the weights that it ends with."""
    warmup_steps: Annotated[int, Ge(0)] = 0
    """The rate rises evenly over so many steps first."""
    matmul_precision: MatmulPrecision = "bfloat16"
    """What torch may round the factors of a matrix product to while it trains, where the machine is faster for it."""
    weight_averaging: Annotated[float, Ge(0.0), Lt(1.0)] = 0.0
    """Share of its old value that the moving average of the weights keeps per step; 0 takes the newest weights."""
    interest_choice: InterestChoice = "per_item"
    """Which interest scores an item in the loss: the one nearest to that item, as when the release serves (a soft
    choice), or for all items the one nearest to the target (a hard choice, as in ComiRec)."""
    interest_agreement: Annotated[float, Ge(0.0)] = 0.0
    """Weight in the loss of the mean cosine between the interests of a user; more keeps them apart."""
    skip_share: Annotated[float, Ge(0.0), Le(1.0)] = 0.0
    """Share of the sequences in which the newest events before each target are hidden (`models.data.sequences`)."""
    skip_most: PositiveInt = 5
    """At most so many are."""
    full_softmax_up_to: Annotated[int, Ge(0)] = 5_000
    """Catalogues up to this many items are trained with the full softmax, larger ones with a sampled one."""
    negatives: PositiveInt = 1_024
    """Draws per step of the sampled softmax."""
    round_steps: PositiveInt = 200
    """Validation comes after every epoch, and after this many steps of a long one."""
    validation_users: PositiveInt = 1_000
    """At most so many users (and at most half of them) give their newest training event to validation."""
    patience: PositiveInt = 10
    """Training stops after this many validations in a row without a better one."""
    private_epsilon: Annotated[float, Gt(0.0)] | None = None
    """Differential privacy towards every user, with this epsilon at most (`models.training.private`)."""
    private_delta: Annotated[float, Gt(0.0), Lt(1.0)] | None = None
    """The delta beside it; none takes 1 / users^1.1."""
    private_clip: Annotated[float, Gt(0.0)] = 1.0
    """Length that one user's gradient is cut to in a private training."""
    device: DeviceName = "auto"
    """auto: a GPU where there is one."""
    checkpoint_s: Annotated[float, Ge(0.0)] = 60.0
    """A validation that comes so long after the last checkpoint writes one."""

    @model_validator(mode="after")
    def _decay_has_an_end(self) -> Self:
        if self.learning_rate_decay != "none" and self.epochs is None:
            raise ValueError(
                f"learning_rate_decay is {self.learning_rate_decay!r} and epochs is not given: the rate falls over all"
                " epochs, so say how many (and give enough minutes for them)"
            )
        return self


def refusal(error: ValidationError) -> str:
    """What is wrong with settings, in one line: where, what was found, what was expected."""
    problems = [(".".join(map(str, one["loc"])), one["input"], one["msg"]) for one in error.errors()]
    return "; ".join(f"{where}: found {found!r}, {said}" if where else said for where, found, said in problems)


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
    """Training stops after this long, whatever it has reached."""
    seed: int = 0
    examples: PositiveInt = 40_000
    """Training events, drawn at random, whose windows and candidates are kept in memory."""
    negatives: PositiveInt = 50
    """Candidates that each target is compared with in a step, drawn from all of its example's."""
    batch_examples: PositiveInt = 32
    learning_rate: Annotated[float, Gt(0.0)] = 1e-3
    round_steps: PositiveInt = 300
    """Validation comes after so many steps."""
    patience: PositiveInt = 4
    """Training stops after this many validations in a row without a better one."""


class Form(BaseModel):
    """A cheaper form that a release can be given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: Precision = "int8"
    """The cheapest, and within `ALLOWED_LOSS` on everything measured."""
    pruned: Annotated[float, Ge(0.0), Lt(1.0)] = 0.0
    """Share of the hidden units of each feed-forward layer that are left out."""

    @property
    def name(self) -> str:
        """As it stands in versions and tables: `int8`, `int8-pruned50`."""
        return f"{self.precision}-pruned{100 * self.pruned:g}" if self.pruned else self.precision


ALLOWED_LOSS = 0.01
"""Share of NDCG@10 that a cheaper form may lose."""

REQUIRED_GAIN = 0.02
"""Share of NDCG@10 that a re-scorer must add to what a release has without it, and beyond chance: twice what a cheaper
form may lose, because it comes with two graphs more to train, to ship and to watch."""
ALLOWED_COST = 2.0
"""How many times the time of a list without it a list with a re-scorer may take, in small batches and in large: beyond
that a worker makes less than half as many lists, and a larger encoder is the better way to spend it."""
