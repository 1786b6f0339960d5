"""Files and tables of a tuning: the best settings, and all trials."""

import csv
import json
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from models.lab.tuning.search_space import flat
from models.lab.tuning.study import StudyPlan, Trial, best

SETTINGS_NAME: Final = "best.toml"
TABLE_NAME: Final = "trials.csv"
PLOT_NAME: Final = "tuning.svg"
_SHOWN = 10


def write(trials: list[Trial], plan: StudyPlan, folder: Path) -> None:
    """Write the best settings and the table of trials."""
    best_trial = best(trials)
    if best_trial:
        _write_settings(best_trial, plan, folder / SETTINGS_NAME)
    _write_table(trials, folder / TABLE_NAME)


def line(trial: Trial) -> str:
    """A trial as a line of text."""
    return f"trial {trial.number}: {_score(trial)}, {trial.outcome.end}  {_values(trial)}"


def table(trials: list[Trial]) -> Table:
    """The best trials, best first, and trial 0, which has the default settings."""
    rows = Table(title=f"The best of {len(trials)} trials")
    for name in ("trial", "validation NDCG", "end", "seconds"):
        rows.add_column(name, no_wrap=True)
    rows.add_column("settings")
    ranked = sorted(trials, key=lambda trial: -trial.outcome.ndcg)
    for trial in ranked[:_SHOWN] + [trial for trial in ranked[_SHOWN:] if trial.number == 0]:
        number = f"{trial.number}{' (default)' if trial.number == 0 else ''}"
        outcome = trial.outcome
        rows.add_row(number, f"{outcome.ndcg:.4f}", outcome.end, f"{outcome.elapsed_s:.0f}", _values(trial))
    return rows


def summary(trials: list[Trial], plan: StudyPlan, folder: Path) -> dict[str, Any]:
    """The object that `headrace tune --json` prints."""
    best_trial = best(trials)
    return {
        "validation_ndcg": best_trial.outcome.ndcg if best_trial else None,
        "trial": best_trial.number if best_trial else None,
        "settings": flat(plan.space.settings(plan.base, best_trial.values)) if best_trial else None,
        "trials": [
            {
                "trial": trial.number,
                "end": trial.outcome.end,
                "validation_ndcg": trial.outcome.ndcg,
                "training_s": trial.outcome.elapsed_s,
                "values": dict(trial.values),
            }
            for trial in trials
        ],
        "files": [str(path) for name in (SETTINGS_NAME, TABLE_NAME, PLOT_NAME) if (path := folder / name).exists()],
    }


def _write_settings(trial: Trial, plan: StudyPlan, path: Path) -> None:
    """A file for `headrace train --settings`: every setting, so that later defaults change nothing."""
    settings = flat(plan.space.settings(plan.base, trial.values))
    lines = [f"# Trial {trial.number} of a tuning: validation NDCG {_score(trial)}."]
    lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items() if value is not None]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_table(trials: list[Trial], path: Path) -> None:
    names = list(trials[0].values)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "end", "validation_ndcg", "training_s", *names])
        for trial in trials:
            values = [trial.values[name] for name in names]
            writer.writerow(
                [
                    trial.number,
                    trial.outcome.end,
                    f"{trial.outcome.ndcg:.6f}",
                    f"{trial.outcome.elapsed_s:.1f}",
                    *values,
                ]
            )


def _score(trial: Trial) -> str:
    score = f"{trial.outcome.ndcg:.4f}" if trial.outcome.ndcg else "no score"
    return f"{score} after {trial.outcome.elapsed_s:.0f} s"


def _values(trial: Trial) -> str:
    return "  ".join(f"{name} {_short(value)}" for name, value in trial.values.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
