"""The messages of experiments: the experiment itself on the topic `releases`, its sums and looks on `canary-sums`."""

from typing import Final

import msgspec

EXPERIMENT_SCHEMA: Final = 1


class ExperimentArm(msgspec.Struct, frozen=True, kw_only=True):
    """One arm of an experiment: by which release, and with which settings of lists, its users are served."""

    name: str
    """Name of the arm."""
    share: float
    """Share of all users who are in it."""
    version: str = ""
    """Version of the release that serves them; empty for the live one."""
    settings: dict[str, bool | int | float] = {}
    """Settings of `[recommendations]` in the place of the worker's own, by name."""


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment on the users of one model; the record's key is `MODEL@experiment/NAME`."""

    schema: int = EXPERIMENT_SCHEMA
    """Version of this schema."""
    model: str
    """Name of the model."""
    experiment: str
    """Name of the experiment, used once."""
    state: str
    """`running` or `stopped`; only the one that was started last is served, and only while it is running."""
    salt: str
    """Key of the hash that puts users into arms: another one is another split."""
    base_version: str
    """Version of the release that was live at the start: it stays live while the experiment runs."""
    arms: list[ExperimentArm]
    """Two to eight arms; the first one is the control."""
    started_ms: int
    """Time of the start, Unix milliseconds."""
    announced_ms: int
    """Time of this record, Unix milliseconds: that of the start, or of the end."""
    error: float = 0.05
    """Probability that any arm's interval is wrong at any look."""
    difference: float = 0.01
    """The smallest difference of the mean gain of a click that matters: intervals are tightest where it is seen."""
    min_users: int = 200
    """Users in each arm before a report says more than their number."""
    reason: str = ""
    """Reason of the start or the end, in the words of the operator."""
    exposure: str = "lists"
    """Condition for a user to be counted in an arm. `lists`: a list was sent to the user, and clicks are judged by the
    last one. `impressions`: a list was shown to the user, and clicks are judged by the last one shown."""

    @property
    def key(self) -> bytes:
        """Key on the topic: one record an experiment is left by compaction."""
        return f"{self.model}@experiment/{self.experiment}".encode()

    @property
    def sums_key(self) -> str:
        """Beginning of the keys of its sums and looks."""
        return _sums_key(self.model, self.experiment, self.started_ms)


class ExperimentSums(msgspec.Struct, frozen=True, kw_only=True):
    """Sums of one worker's session; those of all sessions add up."""

    schema: int = EXPERIMENT_SCHEMA
    """Version of this schema."""
    experiment: str
    """Name of the experiment."""
    started_ms: int
    """Time at which it was started."""
    model: str
    """Name of the model."""
    writer: str
    """Random name of the worker's session; a worker that joins again begins at nothing under another."""
    arms: list[str]
    """Names of the arms, in the order of the sums."""
    clicks: list[list[int]]
    """Judged clicks, by arm and cluster of users."""
    hits: list[list[int]]
    """Of them, clicks on one of the first ten items of the list that the user had been sent, or shown."""
    gains: list[list[float]]
    """Sums of 1 / log2(1 + rank) over the hits."""
    sampled: list[str]
    """By arm, a uniform sample of the users who were sent, or shown, a list: hashes of their ids, four bytes each, in
    base64."""
    threshold: int
    """Hashes below this are in the sample, all of them; 2^32 where every user is."""
    refused: dict[str, str] = {}
    """By arm that this worker could not serve, the reason: its users got lists of the live release, and count in no
    arm."""
    exposure: str = "lists"
    """The experiment's exposure when the worker counted; a report leaves out sums counted by another exposure."""

    @property
    def key(self) -> bytes:
        """Key on the topic: one record a worker's session is left by compaction."""
        return f"{_sums_key(self.model, self.experiment, self.started_ms)}/{self.writer}".encode()


class ArmLook(msgspec.Struct, frozen=True, kw_only=True):
    """One arm at one look."""

    arm: str
    """Name of the arm."""
    users: float
    """Users who were sent, or shown, a list."""
    gain: float
    """Mean gain of a click."""
    lift: float | None = None
    """Gain of the arm over that of the control, minus 1; null for the control, and while there are too few users."""
    lower: float | None = None
    """Always-valid lower bound of the lift; null where it is unbounded."""
    upper: float | None = None
    """Always-valid upper bound of the lift; null where it is unbounded."""


class ExperimentLook(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of an experiment at one time, as the worker that adds up the sums has seen them."""

    schema: int = EXPERIMENT_SCHEMA
    """Version of this schema."""
    experiment: str
    """Name of the experiment."""
    started_ms: int
    """Time at which it was started."""
    model: str
    """Name of the model."""
    slot: int
    """Number of the stretch of time: stretches grow with the experiment's age, and the last look of each is kept."""
    looked_ms: int
    """Time of the look, Unix milliseconds."""
    arms: list[ArmLook]
    """The arms, that of the control first."""

    @property
    def key(self) -> bytes:
        """Key on the topic: one look a stretch of time is left by compaction."""
        return f"{_sums_key(self.model, self.experiment, self.started_ms)}/look/{self.slot}".encode()


def _sums_key(model: str, experiment: str, started_ms: int) -> str:
    return f"experiment/{model}/{experiment}/{started_ms}"
