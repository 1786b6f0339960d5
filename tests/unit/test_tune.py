"""Tuning on tiny data: it learns, resumes, prunes, and refuses trials that can't be compared.

The clock is the test's own: each reading takes a fiftieth of a second, so that trials are the same on every machine.
"""

import csv
import itertools
import json
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="tuning needs torch: pip install 'headrace[tune]'")
pytest.importorskip("optuna", reason="tuning needs Optuna: pip install 'headrace[tune]'")
pytest.importorskip("matplotlib", reason="tuning draws with matplotlib: pip install 'headrace[tune]'")

import torch

from engine.catalogue.content import Item
from engine.errors import MissingExtraError, SettingsError
from models.cli import train as train_command
from models.cli import tune as tune_command
from models.data import dataset
from models.data.dataset import Interactions
from models.lab.tuning import plot as tuning_plot
from models.lab.tuning import tuning_report
from models.lab.tuning.search_space import DEFAULTS, Categories, Domain, Range, Space
from models.lab.tuning.study import JOURNAL_NAME, End, Outcome, Proposal, StudyPlan, Trial, best, open_study
from models.lab.tuning.tune import StopTuning, TuningCallbacks, TuningProgress, _PrunedError, _TrialReporter, tune
from models.settings import EncoderSettings, TrainSettings
from models.training.trainer import TrainingProgress

SMALL = EncoderSettings(dimensions=8, interests=2, heads=2, hidden=16, window_length=10, dropout=0.0)
RATE: dict[str, Domain] = {"learning_rate": Range(low=1e-5, high=3e-2, log=True)}
BASE = TrainSettings(encoder=SMALL, epochs=1, batch_sequences=32, learning_rate=1e-5, minutes=0.05)
TIMED = BASE.model_copy(update={"epochs": None, "minutes": 2 / 60, "patience": 1000, "validation_interval_steps": 2})
"""Every trial takes its two seconds, with a validation after every second step."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def interactions(tiny_interactions: Path) -> Interactions:
    return dataset.read(tiny_interactions)


def clock() -> Callable[[], float]:
    return itertools.count(0.0, 0.02).__next__


def plan(searched: Mapping[str, Domain], minutes: float = 0.05, base: TrainSettings = BASE) -> StudyPlan:
    return StudyPlan(base=base, space=Space(searched=searched, fixed={}), minutes=minutes)


def ndcgs(trials: list[Trial]) -> list[float]:
    return [trial.outcome.ndcg for trial in trials]


def ends(trials: list[Trial]) -> list[str]:
    return [trial.outcome.end for trial in trials]


def cut_after(steps: int) -> TuningCallbacks:
    """Stops the tuning at a step of the second trial."""

    def on_step(progress: TuningProgress) -> None:
        if progress.number == 1 and progress.training.step >= steps:
            raise StopTuning

    return TuningCallbacks(on_step=on_step)


def test_it_finds_better_than_a_bad_start_and_resumes_without_repeating(
    interactions: Interactions, tmp_path: Path
) -> None:
    first = tune(interactions, plan(RATE), tmp_path, clock_s=clock())
    assert first[0].values == {"learning_rate": 1e-5}
    best_trial = best(first)
    assert best_trial is not None
    assert best_trial.outcome.ndcg > 1.2 * first[0].outcome.ndcg
    again = tune(interactions, plan(RATE), tmp_path, clock_s=clock())
    finished = [trial for trial in first if trial.outcome.end != "cut short"]
    assert again[: len(first)] == first
    assert len(again) > len(first) + 1
    rates = [trial.values["learning_rate"] for trial in again if trial.outcome.end != "cut short"]
    assert len(set(rates)) == len(rates) > len(finished)


def test_same_seed_same_trials(interactions: Interactions, tmp_path: Path) -> None:
    once, again, other = (
        tune(interactions, plan(RATE, base=BASE.model_copy(update={"seed": seed})), tmp_path / name, clock_s=clock())
        for name, seed in (("once", 0), ("again", 0), ("other", 1))
    )
    assert once == again
    assert other[1].values != once[1].values


def test_a_tuning_ends_with_its_time(interactions: Interactions, tmp_path: Path) -> None:
    """Trials take 2 s, the budget is 3 s: the second trial is cut short, and repeated by the next call."""
    trials = tune(interactions, plan(RATE, 3 / 60, TIMED), tmp_path, clock_s=clock())
    assert ends(trials) == ["complete", "cut short"]
    assert trials[0].outcome.elapsed_s == pytest.approx(2.0, abs=0.2)
    assert trials[1].outcome.elapsed_s < 1.0
    again = tune(interactions, plan(RATE, 3 / 60, TIMED), tmp_path, clock_s=clock())
    assert again[2].values == trials[1].values
    assert again[2].outcome.end == "complete"


def test_a_stopped_tuning_returns_its_trials(interactions: Interactions, tmp_path: Path) -> None:
    trials = tune(interactions, plan(RATE), tmp_path, cut_after(steps=3), clock())
    assert ends(trials) == ["complete", "cut short"]
    assert best(trials) == trials[0]


def test_other_trials_cannot_be_compared(interactions: Interactions, tmp_path: Path) -> None:
    first = plan(RATE)
    tune(interactions, first, tmp_path, cut_after(steps=0), clock())
    fewer = interactions.select(interactions.users > 0)
    narrower = {"learning_rate": Range(low=1e-5, high=1e-2, log=True)}
    for other, changed, difference in (
        (fewer, first, "data: fingerprint"),
        (interactions, plan(RATE, base=BASE.model_copy(update={"holdout": "last"})), "holdout: both there, last here"),
        (interactions, plan(RATE, base=BASE.model_copy(update={"holdout_items": 0.1})), "holdout-items: 0 there, 0.1"),
        (interactions, plan(RATE, base=BASE.model_copy(update={"seed": 7})), "seed: 0 there, 7 here"),
        (interactions, plan(RATE, base=BASE.model_copy(update={"minutes": 0.01})), "trial-minutes: 0.05 there"),
        (interactions, plan(narrower), "learning_rate: 1e-05 to 0.03 on a log scale there, 1e-05 to 0.01"),
        (interactions, plan({**RATE, "heads": Categories(choices=(1, 2))}), "heads: 2 there, one of 1, 2 here"),
    ):
        with pytest.raises(SettingsError, match=f"holds another tuning \\({difference}"):
            tune(other, changed, tmp_path, clock_s=clock())


def test_device_and_checkpoints_do_not_make_it_another_tuning(interactions: Interactions, tmp_path: Path) -> None:
    default, changed = (
        tune(interactions, plan(RATE, base=BASE.model_copy(update=changes)), tmp_path, cut_after(steps=0), clock())
        for changes in ({}, {"device": "cpu", "checkpoint_s": 1.0})
    )
    assert changed[: len(default)] == default


def test_trials_are_trained_on_content(interactions: Interactions, tmp_path: Path) -> None:
    items = {item: Item(id=item, bags={"category": [item[-1]]}) for item in interactions.item_ids}
    quick = plan(RATE, base=BASE.model_copy(update={"learning_rate": 1e-2}))  # both begin with the same vectors
    without = tune(interactions, quick, tmp_path / "without", cut_after(steps=0), clock())
    with_content = tune(interactions, quick, tmp_path / "content", cut_after(steps=0), clock(), items=items)
    assert with_content[0].outcome.ndcg != without[0].outcome.ndcg
    with pytest.raises(SettingsError, match=r"another tuning \(content: none there, fingerprint [0-9a-f]{12} here"):
        tune(interactions, quick, tmp_path / "without", items=items)


def test_one_tuning_at_a_time(interactions: Interactions, tmp_path: Path) -> None:
    with (
        open_study(tmp_path, plan(RATE), {}),
        pytest.raises(SettingsError, match="a tuning is running there"),
    ):
        tune(interactions, plan(RATE), tmp_path)


def test_a_trial_longer_than_the_budget_is_refused(interactions: Interactions, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"one trial may take 0\.05 minutes, but all of them together have 0\.01"):
        tune(interactions, plan(RATE, minutes=0.01), tmp_path)


def test_invalid_combinations_are_skipped(interactions: Interactions, tmp_path: Path) -> None:
    """Two of the choices divide 8 dimensions evenly: only those are trained, and then the space is exhausted."""
    odd = {"heads": Categories(choices=(3, 4, 5, 6, 7, 8))}
    trials = tune(interactions, plan(odd, minutes=10.0), tmp_path / "some", clock_s=clock())
    assert sorted(trial.values["heads"] for trial in trials) == [4, 8]
    with pytest.raises(SettingsError, match=r"search space is invalid: .*dimensions \(8\) must be a multiple of heads"):
        tune(interactions, plan({"heads": Categories(choices=(3, 5))}), tmp_path / "none", clock_s=clock())


def test_a_finite_space_is_exhausted(tmp_path: Path) -> None:
    """Even where TPE proposes known settings alone: every combination of three times four comes once."""
    searched: dict[str, Domain] = {"heads": Categories(choices=(1, 2, 4)), "interests": Range(low=1, high=4)}
    with open_study(tmp_path, plan(searched), {}) as study:
        while proposal := study.propose():
            encoder = proposal.settings.encoder
            proposal.end(Outcome("complete", 1.0 / (encoder.heads + encoder.interests), 1.0))
        assert len(study.trials()) == len({tuple(trial.values.values()) for trial in study.trials()}) == 3 * 4


def test_a_training_that_diverges_never_wins(interactions: Interactions, tmp_path: Path) -> None:
    rates = {"learning_rate": Categories(choices=(1e-5, 1e30))}
    trials = tune(interactions, plan(rates, minutes=10.0), tmp_path, clock_s=clock())
    assert ends(trials) == ["complete", "diverged"]
    assert best(trials) == trials[0]
    assert trials[1].outcome.ndcg == 0.0


def test_the_median_rule_compares_at_equal_time(tmp_path: Path) -> None:
    """Trials of 100 s, milestones every 10 s. Three finished ones have 0.4, 0.5 and 0.6 from 25 s on.

    seconds      0        10        20        30        40
    fast         |--0.45--|--0.45--|--0.45--|--0.45-x             below the median of 0.5 at the third milestone, 30 s
    late         |-----------------------0.5|-------------...     has caught up at 29 s: continues
    slow         |--------------------------------------0.1-x     no validation before 39 s: first compared at 40 s
    """
    space = plan(RATE, base=BASE.model_copy(update={"minutes": 100 / 60}))
    with open_study(tmp_path, space, {}) as study:

        def new_reporter() -> tuple[Proposal, _TrialReporter]:
            proposal = study.propose()
            assert proposal is not None
            return proposal, _TrialReporter(proposal, lambda _progress: None)

        def at(seconds: float, ndcg: float) -> TrainingProgress:
            return TrainingProgress(epoch=0, step=0, loss=1.0, ndcg=ndcg, best_ndcg=ndcg, elapsed_s=seconds)

        for ndcg in (0.4, 0.5, 0.6):
            proposal, reporter = new_reporter()
            reporter.on_step(at(25.0, ndcg))
            reporter.finish()
            proposal.end(Outcome("complete", ndcg, 25.0))
        _, fast = new_reporter()
        for seconds in (5.0, 12.0, 22.0):
            fast.on_step(at(seconds, 0.45))
        with pytest.raises(_PrunedError):
            fast.on_step(at(31.0, 0.45))
        _, late = new_reporter()
        late.on_step(at(12.0, 0.3))
        late.on_step(at(29.0, 0.5))
        late.on_step(at(31.0, 0.5))
        _, slow = new_reporter()
        slow.on_step(at(31.0, 0.0))
        slow.on_step(at(39.0, 0.1))
        with pytest.raises(_PrunedError):
            slow.on_step(at(41.0, 0.2))  # better since, but after the milestone


def test_a_bad_trial_is_pruned_and_reported(interactions: Interactions, tmp_path: Path) -> None:
    whole = plan(RATE, 16 / 60, TIMED.model_copy(update={"learning_rate": 1e-2}))
    trials = tune(interactions, whole, tmp_path, clock_s=clock())
    pruned = [trial for trial in trials if trial.outcome.end == "pruned"]
    finished = [trial for trial in trials if trial.outcome.end == "complete"]
    assert pruned
    assert len(finished) >= 3
    assert max(trial.outcome.elapsed_s for trial in pruned) < 2.0
    assert best(trials) in finished
    tuning_report.write(trials, whole, tmp_path)
    with (tmp_path / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["end"] for row in rows] == ends(trials)


def test_a_killed_tuning_is_resumed(tiny_interactions: Path, interactions: Interactions, tmp_path: Path) -> None:
    """kill -9 in the second trial, then the remains of a kill during a write: an incomplete line and Optuna's lock."""
    program = f"""
import itertools, os, signal
from pathlib import Path
from models.data import dataset
from models.lab.tuning.search_space import Range, Space
from models.settings import TrainSettings
from models.lab.tuning.study import StudyPlan
from models.lab.tuning.tune import TuningCallbacks, tune

def on_step(progress):
    if progress.number == 1 and progress.training.step == 2:
        os.kill(os.getpid(), signal.SIGKILL)

base = TrainSettings.model_validate_json({BASE.model_dump_json()!r})
plan = StudyPlan(base, Space({{"learning_rate": Range(low=1e-5, high=3e-2, log=True)}}, {{}}), 0.05)
clock = itertools.count(0.0, 0.02).__next__
tune(dataset.read(Path({str(tiny_interactions)!r})), plan, Path({str(tmp_path)!r}), TuningCallbacks(on_step), clock)
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    journal = tmp_path / JOURNAL_NAME
    proposed = [json.loads(line) for line in journal.read_text().splitlines() if "param_value_internal" in line]
    with journal.open("a") as file:
        file.write('{"op_code": 5, "torn')
    Path(f"{journal}.lock").symlink_to(journal)
    trials = tune(interactions, plan(RATE), tmp_path, cut_after(steps=10**9), clock())
    assert [trial.number for trial in trials][:2] == [0, 2]
    assert trials[1].values["learning_rate"] == pytest.approx(proposed[-1]["param_value_internal"])
    assert ends(trials)[:2] == ["complete", "complete"]


def trial_of(number: int, rate: float, end: End = "complete", ndcg: float = 0.1) -> Trial:
    return Trial(number, {"learning_rate": rate, "heads": 1 + number % 2}, Outcome(end, ndcg, 30.0))


@pytest.mark.parametrize(
    "trials",
    [
        [
            trial_of(0, 1e-3),
            trial_of(1, 2e-3, "pruned", 0.05),
            trial_of(2, 5e-3, ndcg=0.2),
            trial_of(3, 1e-2, "diverged", 0.0),
        ],
        [trial_of(0, 1e-2, "diverged", 0.0)],
    ],
    ids=["some", "none usable"],
)
def test_the_plot_names_every_setting(trials: list[Trial], tmp_path: Path) -> None:
    searched = {**RATE, "heads": Categories(choices=(1, 2))}
    tuning_plot.plot(trials, searched, tmp_path / "tuning.svg")
    picture = (tmp_path / "tuning.svg").read_text()
    for text in ("learning_rate", "heads", "validation NDCG", "minutes of training so far"):
        assert f"<!-- {text} -->" in picture


def test_tune_then_train_with_the_best_settings(tiny_interactions: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.toml"
    space.write_text(
        "window_length = 10\nepochs = 1\ndimensions = { choices = [4, 8] }\nheads = { choices = [1, 2] }\n"
        "hidden = 8\ninterests = 2\nbatch_sequences = 32\ndropout = 0.1\nlearning_rate = 1e-2\n"
        "weight_averaging = 0.0\nscoring = 'dot'\ninterest_choice = 'per_item'\n"
    )
    out, data = tmp_path / "tuning", ["--data", str(tiny_interactions)]
    arguments = [*data, "--out", str(out), "--minutes", "1", "--trial-minutes", "0.5", "--space", str(space)]
    run = CliRunner().invoke
    report = json.loads(run(tune_command.tune, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert len(report["trials"]) == 4  # two times two, and the space is exhausted
    assert report["validation_ndcg"] == max(trial["validation_ndcg"] for trial in report["trials"])
    assert report["files"] == [str(out / name) for name in ("best.toml", "trials.csv", "tuning.svg")]
    best_settings = tomllib.loads((out / "best.toml").read_text())
    assert best_settings == {name: value for name, value in report["settings"].items() if value is not None}
    table = run(tune_command.tune, arguments, catch_exceptions=False)
    assert "best.toml: for `headrace train --settings`" in table.stdout
    assert "(default)" in table.stdout
    training = [*data, "--out", str(tmp_path / "releases"), "--settings", str(out / "best.toml"), "--interests", "1"]
    bundle = Path(run(train_command.train, training, catch_exceptions=False).stdout.strip())
    used = json.loads((bundle / "report.json").read_text())["settings"]
    assert used["encoder"]["interests"] == 1
    assert used["encoder"]["dimensions"] == best_settings["dimensions"]
    assert used["learning_rate"] == 1e-2


def test_tune_without_optuna_says_how_to_get_it(
    tiny_interactions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tune", "study", "tuning_report", "plot"):
        monkeypatch.delitem(sys.modules, f"models.lab.tuning.{name}")
        monkeypatch.delattr(f"models.lab.tuning.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"tune needs optuna.*pip install 'headrace\[tune\]'"):
        CliRunner().invoke(
            tune_command.tune,
            ["--data", str(tiny_interactions), "--out", str(tmp_path), "--minutes", "9"],
            catch_exceptions=False,
        )
    assert not list(tmp_path.iterdir())


def test_the_documentation_lists_what_is_searched() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text()
    rows = [f"| `{name}` | {domain} |" for name, domain in DEFAULTS.items()]
    assert [row for row in rows if row not in page] == []
