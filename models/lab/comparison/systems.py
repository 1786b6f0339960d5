"""Systems of a comparison, and how each is fitted.

A system's packages are imported only when it is fitted: a missing extra leaves out one system, not the comparison.
"""

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.catalogue.content import Item
from engine.errors import DataError, SettingsError
from engine.releases import bundles, serving
from models.data import item_content
from models.evaluation.baselines import Neighbours, extras
from models.evaluation.baselines.task import Fitted, Task
from models.evaluation.queries import EvalData
from models.evaluation.release_under_test import ReleaseRecommender
from models.lab.comparison import variants
from models.settings import HoldoutName, TrainSettings

if TYPE_CHECKING:
    from models.training.trainer import TrainingProgress

ONE_VECTOR: Final = "one-vector"
ENCODER_ALONE: Final = "encoder-alone"
TWO_HOP: Final = "two-hop"

Fit = Callable[[Task], Fitted]
"""Everything from the training events to a `Baseline`, within the task's time."""


@dataclass(frozen=True, slots=True)
class System:
    """A row of the comparison's table."""

    name: str
    load: Callable[[], Fit]
    """Imports the packages that the system needs, outside of its time limit.

    Raises:
        MissingExtraError: a package is not installed.
        DataError: the data lacks what it is trained on.
    """
    seeded: bool
    """True where another seed gives another model."""
    settings: Mapping[str, Any]
    """Distinguish it from a system of the same name in an earlier comparison."""


def baselines() -> list[System]:
    """The baselines, the cheapest first; their hyperparameters are in their own modules."""
    return [
        System("popularity-7d", _popularity, seeded=False, settings={}),
        System("neighbours", _neighbours, seeded=False, settings={}),
        System("item-knn", _item_knn, seeded=False, settings={}),
        System("session-knn", _session_knn, seeded=False, settings={}),
        System("ease", _ease, seeded=False, settings={}),
        System("als", _als, seeded=True, settings={}),
        System("bpr", _bpr, seeded=True, settings={}),
        System("sasrec", lambda: _sasrec("sasrec"), seeded=True, settings={}),
        System("sasrec-64", lambda: _sasrec("sasrec-64"), seeded=True, settings={}),
    ]


def two_hop_systems(
    eval_data: EvalData,
    holdout: HoldoutName,
    variant_settings: Mapping[str, Mapping[str, Any]],
    items: Mapping[str, Item] | None = None,
) -> list[System]:
    """The two-hop encoder with one interest, as the only part of the score, with its defaults, and in variants.

    L is that of the windows.

    Args:
        eval_data: recorded interactions.
        holdout: the events that training leaves out.
        variant_settings: settings by name of variant (`variants`).
        items: content by item id, for variants that are trained on it.

    Raises:
        SettingsError: a variant's settings are invalid, or its name belongs to another system.
    """
    reserved = {system.name for system in baselines()} | {ONE_VECTOR, ENCODER_ALONE, TWO_HOP}
    clashes = sorted(reserved & variant_settings.keys())
    if clashes:
        raise SettingsError(f"a variant cannot be called {clashes[0]}: a system has that name; give it another")
    alone = {"neighbours": False, "popularity": False}
    every: dict[str, Mapping[str, Any]] = {
        ONE_VECTOR: {"interests": 1},
        ENCODER_ALONE: alone,
        TWO_HOP: {},
        **variant_settings,
    }
    return [_two_hop_system(name, values, eval_data, holdout, items or {}) for name, values in every.items()]


def select(systems: Sequence[System], names: Collection[str]) -> list[System]:
    """The systems with these names; all of them where there are no names.

    Raises:
        SettingsError: no system has that name.
    """
    known_names = [system.name for system in systems]
    unknown = sorted(set(names) - set(known_names))
    if unknown:
        raise SettingsError(f"--only {unknown[0]}: there is no such system; there are {', '.join(known_names)}")
    return [system for system in systems if not names or system.name in names]


def _two_hop_system(
    name: str, values: Mapping[str, Any], eval_data: EvalData, holdout: HoldoutName, items: Mapping[str, Item]
) -> System:
    content, others = variants.split_content(name, values)
    others = {"window_length": eval_data.settings.windows.length, **others}
    train_settings = variants.settings(name, others, clicks=eval_data.settings.clicks, holdout=holdout)
    _refuse_long_window(name, train_settings, eval_data)
    settings = train_settings.model_dump(mode="json", exclude={"clicks", "holdout", "minutes", "seed"})
    if content:
        settings["content"] = item_content.fingerprint(items)
    two_hop = _TwoHop(eval_data, train_settings, items if content else None)
    return System(name, two_hop.load, seeded=True, settings=settings)


def _refuse_long_window(name: str, settings: TrainSettings, eval_data: EvalData) -> None:
    window_length, kept = settings.encoder.window_length, eval_data.settings.windows.length
    if window_length > kept:
        raise SettingsError(
            f"variant {name}: window_length is {window_length}, but windows keep {kept} events, the same for all"
            " systems; raise windows.length in a file for --config"
        )


class _TwoHop:
    """The two-hop encoder, trained, exported, and served by the engine."""

    def __init__(self, eval_data: EvalData, settings: TrainSettings, items: Mapping[str, Item] | None) -> None:
        self._eval_data, self._settings, self._items = eval_data, settings, items

    def load(self) -> Fit:
        """See `System.load`."""
        if self._items is not None and not self._items:
            raise DataError("is trained on content, and there is no items file with any next to the interactions")
        with extras.required("train"):
            import torch  # noqa: PLC0415 - only where it is installed

            from models.publishing import export  # noqa: PLC0415
            from models.training.fit import train  # noqa: PLC0415
            from models.training.trainer import StopTraining, TrainingProgress  # noqa: PLC0415

        def fit(task: Task) -> Fitted:
            torch.set_num_threads(task.threads)
            settings = self._settings.model_copy(update={"minutes": task.minutes, "seed": task.seed})

            def on_step(_progress: TrainingProgress) -> None:
                if task.ended():
                    raise StopTraining

            trained = train(self._eval_data.interactions, settings, on_step, task.clock_s, items=self._items)
            index = self._eval_data.settings.index
            with tempfile.TemporaryDirectory() as folder:
                bundle = bundles.read(export.write(trained, settings, ("two-hop", "compared"), 0, Path(folder)))
                live = serving.warm(bundle, self._eval_data.catalogue, index, task.threads)
            end = trained.validations[-1]
            notes: dict[str, Any] = {"epochs": end.epoch + 1, "steps": end.step, "validation_ndcg": end.best_ndcg}
            notes |= {"stop_reason": trained.stop_reason, "validations": [*map(_point, trained.validations)]}
            if trained.action_values:
                notes["action_values"] = trained.action_values
            return Fitted(ReleaseRecommender(live, self._eval_data, task.popularity_mask), notes)

        return fit


def _point(progress: "TrainingProgress") -> dict[str, float]:
    """A point of the validation curve."""
    names = ("epoch", "step", "elapsed_s", "loss", "ndcg", "interests_in_use")
    return {name: getattr(progress, name) for name in names}


def _popularity() -> Fit:
    return lambda task: Fitted(task.popularity, {})


def _neighbours() -> Fit:
    return lambda task: Fitted(Neighbours(task.events.users, task.events.items, task.popularity), {})


def _item_knn() -> Fit:
    with extras.required("compare"):
        from models.evaluation.baselines import item_knn  # noqa: PLC0415 - only where the extra is installed
    return item_knn.fit


def _session_knn() -> Fit:
    with extras.required("compare"):
        from models.evaluation.baselines import session_knn  # noqa: PLC0415
    return session_knn.fit


def _ease() -> Fit:
    with extras.required("compare"):
        from models.evaluation.baselines import ease  # noqa: PLC0415
    return ease.fit


def _als() -> Fit:
    with extras.required("compare"):
        from models.evaluation.baselines import factorisation  # noqa: PLC0415
    return factorisation.fit_als


def _bpr() -> Fit:
    with extras.required("compare"):
        from models.evaluation.baselines import factorisation  # noqa: PLC0415
    return factorisation.fit_bpr


def _sasrec(size: str) -> Fit:
    with extras.required("compare"):
        from models.evaluation.baselines import sasrec  # noqa: PLC0415
    return partial(sasrec.fit, size=size)
