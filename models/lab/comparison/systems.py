"""Who takes part in a comparison, and how each gets ready for its questions.

Each is imported only when it enters: one whose extra is missing leaves the others undisturbed.
"""

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from engine.catalogue.content import Item
from engine.errors import DataError, SettingsError
from engine.releases import bundles, serving
from models.data import item_content
from models.evaluation.baselines import Neighbours, extras
from models.evaluation.baselines.task import Fitted, Task
from models.evaluation.queries import EvalData
from models.evaluation.release_under_test import Engine
from models.lab.comparison import variants
from models.settings import HoldoutName, TrainSettings

ONE_VECTOR: Final = "one-vector"
TWO_HOP: Final = "two-hop"

Enter = Callable[[Task], Fitted]
"""Everything from the training events to a `Baseline`, within the task's time."""


@dataclass(frozen=True, slots=True)
class System:
    """One row of the table."""

    name: str
    load: Callable[[], Enter]
    """Imports what the system needs, which costs none of its time.

    Raises:
        MissingExtraError: a package is not installed.
        DataError: the data lacks what it learns from.
    """
    seeded: bool
    """Whether another seed makes another model."""
    settings: Mapping[str, Any]
    """What tells it from a system of the same name in an earlier comparison."""


def baselines() -> list[System]:
    """What ours has to beat, the cheapest first; their settings are in their own files."""
    return [
        System("popularity-7d", _popularity, seeded=False, settings={}),
        System("neighbours", _neighbours, seeded=False, settings={}),
        System("item-knn", _item_knn, seeded=False, settings={}),
        System("als", _als, seeded=True, settings={}),
        System("bpr", _bpr, seeded=True, settings={}),
        System("sasrec", lambda: _sasrec("sasrec"), seeded=True, settings={}),
        System("sasrec-64", lambda: _sasrec("sasrec-64"), seeded=True, settings={}),
    ]


def two_hops(
    recording: EvalData,
    holdout: HoldoutName,
    chosen: Mapping[str, Mapping[str, Any]],
    items: Mapping[str, Item] | None = None,
) -> list[System]:
    """Our encoder with one interest, at its defaults, and in the variants `chosen`, by name; L is that of the windows.

    Args:
        recording: what they will be asked about, and learn from.
        holdout: what of it they do not learn from.
        chosen: settings of each variant (`variants`).
        items: what is known of each by its id, for variants that learn from content.

    Raises:
        SettingsError: a variant's settings are not to be had, or it has a name that is taken.
    """
    given = {"clicks": recording.settings.clicks, "holdout": holdout}
    shared = {"window_length": recording.settings.windows.length}
    found = []
    taken = {system.name for system in baselines()} | {ONE_VECTOR, TWO_HOP}
    clash = sorted(taken & chosen.keys())
    if clash:
        raise SettingsError(f"a variant cannot be called {clash[0]}: a system has that name; give it another")
    for name, choice in {ONE_VECTOR: {"interests": 1}, TWO_HOP: {}, **chosen}.items():
        told, others = variants.with_content(name, choice)
        plan = variants.settings(name, {**shared, **others}, **given)
        _refuse_long_window(name, plan, recording)
        settings = plan.model_dump(mode="json", exclude={"clicks", "holdout", "minutes", "seed"})
        if told:
            settings["content"] = item_content.fingerprint(items or {})
        entry = _Entry(recording, plan, (items or {}) if told else None)
        found.append(System(name, entry.load, seeded=True, settings=settings))
    return found


def named(known: Sequence[System], names: Collection[str]) -> list[System]:
    """The systems with these names; without any, all.

    Raises:
        SettingsError: there is none of that name.
    """
    there = [system.name for system in known]
    unknown = sorted(set(names) - set(there))
    if unknown:
        raise SettingsError(f"--only {unknown[0]}: there is no such system; there are {', '.join(there)}")
    return [system for system in known if not names or system.name in names]


def _refuse_long_window(name: str, plan: TrainSettings, recording: EvalData) -> None:
    wanted, kept = plan.encoder.window_length, recording.settings.windows.length
    if wanted > kept:
        raise SettingsError(
            f"{name} looks at {wanted} events, but windows keep {kept}, and all systems are asked with the same"
            " windows; raise windows.length in a file for --config"
        )


class _Entry:
    """Our encoder, trained, exported, and served by the engine."""

    def __init__(self, recording: EvalData, plan: TrainSettings, items: Mapping[str, Item] | None) -> None:
        self._recording, self._plan, self._items = recording, plan, items

    def load(self) -> Enter:
        """See `System.load`."""
        if self._items is not None and not self._items:
            raise DataError("learns from content, and no items file with any lies beside the data")
        with extras.needed("train"):
            import torch  # noqa: PLC0415 - only where it is installed

            from models.publishing import export  # noqa: PLC0415
            from models.training.fit import train  # noqa: PLC0415

        def enter(task: Task) -> Fitted:
            torch.set_num_threads(task.threads)
            plan = self._plan.model_copy(update={"minutes": task.minutes, "seed": task.seed})
            trained = train(self._recording.interactions, plan, clock_s=task.clock_s, items=self._items)
            settings = self._recording.settings
            with tempfile.TemporaryDirectory() as folder:
                bundle = bundles.read(export.write(trained, plan, ("two-hop", "compared"), 0, Path(folder)))
                ready = serving.warm(bundle, self._recording.catalogue, settings.index, task.threads)
            ended = trained.validations[-1]
            notes: dict[str, Any] = {"epochs": ended.epoch + 1, "steps": ended.step, "validation_ndcg": ended.best_ndcg}
            if trained.action_values:
                notes["action_values"] = trained.action_values
            return Fitted(Engine(ready, self._recording), notes)

        return enter


def _popularity() -> Enter:
    return lambda task: Fitted(task.popularity, {})


def _neighbours() -> Enter:
    return lambda task: Fitted(Neighbours(task.events.users, task.events.items, task.popularity), {})


def _item_knn() -> Enter:
    with extras.needed("compare"):
        from models.evaluation.baselines import item_knn  # noqa: PLC0415 - only where the extra is installed
    return item_knn.fit


def _als() -> Enter:
    with extras.needed("compare"):
        from models.evaluation.baselines import factorisation  # noqa: PLC0415
    return factorisation.fit_als


def _bpr() -> Enter:
    with extras.needed("compare"):
        from models.evaluation.baselines import factorisation  # noqa: PLC0415
    return factorisation.fit_bpr


def _sasrec(size: str) -> Enter:
    with extras.needed("compare"):
        from models.evaluation.baselines import sasrec  # noqa: PLC0415
    return partial(sasrec.fit, size=size)
