"""A comparison evaluates all systems on the same queries, saves its results, and resumes after a kill."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from engine.arrays import NO_ITEM
from engine.catalogue.content import Item
from engine.errors import DataError, SettingsError
from engine.settings.sections import Settings, WindowSettings
from models.cli import compare as compare_command
from models.cli import tables
from models.cli.interruption import interruptible
from models.data import dataset
from models.data.histories import Histories
from models.evaluation import ranking_metrics
from models.evaluation.baselines.task import Fitted, Task, grid_search
from models.evaluation.queries import LIST_LENGTH, EvalData
from models.evaluation.ranking_metrics import METRICS, NOT_LISTED, MetricAccumulator
from models.lab.comparison import compare, systems
from models.lab.comparison.compare import Comparison, ComparisonTerms, SplitName
from models.lab.comparison.results import Results, packed, unpacked
from models.lab.comparison.systems import TWO_HOP, Fit, System
from tests.conftest import TINY_ITEMS

TERMS = ComparisonTerms(split="last", minutes=1.0, clock="cpu", threads=1)
SMALL = {"dimensions": 16, "interests": 2, "epochs": 25, "batch_sequences": 16}
NEEDS = {
    "item-knn": "scipy",
    "session-knn": "scipy",
    "ease": "scipy",
    "als": "implicit",
    "bpr": "implicit",
    "sasrec-64": "rectools",
    "small": "torch",
}


@pytest.fixture(scope="module")
def rings(tiny_interactions: Path) -> EvalData:
    return EvalData(dataset.read(tiny_interactions), Settings(windows=WindowSettings(length=20)))


class CountedPopularity:
    """Popularity as a system, with the number of its fits."""

    def __init__(self, *, seeded: bool = True) -> None:
        self.fits = 0
        self.system = System("counted", self._load, seeded=seeded, settings={"a": 1})

    def _load(self) -> Fit:
        def fit(task: Task) -> Fitted:
            self.fits += 1
            return Fitted(task.popularity, {"seed": task.seed})

        return fit


def fitted_and_scored(comparison: Comparison, system: System) -> MetricAccumulator:
    """Metrics of a system, every list of which is checked: no item of the window, no item twice."""
    fitted = system.load()(comparison.task)
    data, training_items = comparison.eval_data, comparison.task.events.items
    accumulator = MetricAccumulator(np.unique(training_items), np.bincount(training_items, minlength=TINY_ITEMS))
    for windows, targets in comparison.queries.batches():
        lists = fitted.baseline.lists(windows, data.interactions.times_ms[targets], LIST_LENGTH)
        for window, row in zip(windows.items.tolist(), lists.tolist(), strict=True):
            items = [item for item in row if item != NO_ITEM]
            assert not set(items) & set(window)
            assert len(set(items)) == len(items)
        accumulator.add(data.interactions.users[targets], lists, data.items[targets])
    return accumulator


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("item-knn", "last"),
        ("session-knn", "last"),
        ("ease", "last"),
        ("als", "last"),
        ("bpr", "last"),
        ("sasrec-64", "last"),
        ("small", "last"),
        ("als", "time"),
    ],
)
def test_each_system_learns_the_ring_and_lists_nothing_seen(rings: EvalData, name: str, split: SplitName) -> None:
    pytest.importorskip(NEEDS[name], reason=f"{name} needs {NEEDS[name]}: pip install 'headrace[compare]'")
    comparison = Comparison(rings, replace(TERMS, split=split, minutes=0.05))
    every = [*systems.baselines(), *systems.two_hop_systems(rings, split, {"small": SMALL})]
    by_name = {system.name: system for system in every}
    popularity = fitted_and_scored(comparison, by_name["popularity-7d"]).figures()
    figures = fitted_and_scored(comparison, by_name[name]).figures()
    assert figures["hr10"] > max(2 * popularity["hr10"], 10 / TINY_ITEMS)  # and better than random lists
    assert figures["ndcg10"] > 2 * popularity["ndcg10"]


def test_a_resumed_comparison_trains_only_what_is_missing(rings: EvalData, tmp_path: Path) -> None:
    comparison, counted = Comparison(rings, TERMS), CountedPopularity()
    first = compare.run(comparison, [counted.system], [1, 2, 3], Results(tmp_path))
    assert counted.fits == 3
    file = tmp_path / "results.jsonl"
    file.write_bytes(file.read_bytes()[:-20])  # a kill while the third result was written
    second = compare.run(comparison, [counted.system], [1, 2, 3], Results(tmp_path))
    assert counted.fits == 4
    assert len(file.read_text().splitlines()) == 3
    again = compare.run(comparison, [counted.system], [1, 2, 3], Results(tmp_path))
    assert counted.fits == 4
    assert again == second
    assert again["systems"]["counted"]["figures"] == first["systems"]["counted"]["figures"]


@pytest.mark.parametrize(
    "changed", [{"minutes": 2.0}, {"clock": "wall"}, {"split": "time"}, {"threads": 2}, {"min_item_events": 5}]
)
def test_other_terms_are_another_comparison(rings: EvalData, tmp_path: Path, changed: dict[str, Any]) -> None:
    counted = CountedPopularity()
    for terms in (TERMS, replace(TERMS, **changed)):
        compare.run(Comparison(rings, terms), [counted.system], [1], Results(tmp_path))
    other = replace(counted.system, settings={"a": 2})
    compare.run(Comparison(rings, TERMS), [other], [1], Results(tmp_path))
    fewer = EvalData(rings.interactions.select(np.arange(len(rings.interactions)) > 0), rings.settings)
    compare.run(Comparison(fewer, TERMS), [counted.system], [1], Results(tmp_path))
    assert counted.fits == 4


def test_a_system_without_a_seed_is_run_once(rings: EvalData) -> None:
    counted = CountedPopularity(seeded=False)
    report = compare.run(Comparison(rings, TERMS), [counted.system], [4, 5], Results(None))
    assert counted.fits == 1
    assert report["systems"]["counted"]["seeds"] == [4]


def results_of(*values: float) -> list[dict[str, Any]]:
    """Results of seeds 0, 1, ... with these values of HR@10; popularity bias is undefined."""
    same: dict[str, Any] = {"users": 8, "targets": 9, "training_cpu_s": 1.0, "diversity": 0.75, "ranks": "..."}
    others: dict[str, Any] = {**dict.fromkeys(METRICS, 0.0), "popularity_bias": None}
    return [
        {
            **same,
            "seed": seed,
            "training_s": 2.0 * seed,
            "figures": {**others, "hr10": value, "intervals": {"hr10": [value - 0.1, value + 0.1]}},
        }
        for seed, value in enumerate(values)
    ]


def test_mean_and_spread_over_seeds() -> None:
    row = compare.summary(results_of(0.1, 0.2, 0.6))
    assert (row["training_s"], row["training_cpu_s"]) == (2.0, 1.0)
    assert row["figures"].keys() == set(METRICS)
    assert row["figures"]["popularity_bias"] == {"mean": None, "interval": None}
    # (0.1 + 0.2 + 0.6) / 3 = 0.3; deviations -0.2, -0.1, 0.3, squares 0.04 + 0.01 + 0.09 = 0.14 over 2
    assert row["figures"]["hr10"] == pytest.approx({"mean": 0.3, "deviation": 0.07**0.5, "min": 0.1, "max": 0.6})


def test_one_seed_has_the_interval_over_users() -> None:
    row = compare.summary(results_of(0.3))
    assert row["figures"]["hr10"] == {"mean": 0.3, "interval": [0.3 - 0.1, 0.3 + 0.1]}
    assert row["figures"]["coverage"] == {"mean": 0.0, "interval": None}
    assert "ranks" not in row["results"][0]


@pytest.mark.parametrize("split", ["last", "time"])
def test_the_lead_of_the_reference_is_paired_by_target(rings: EvalData, tmp_path: Path, split: SplitName) -> None:
    """The neighbours replace the reference; the queries of the time split are in another order than their targets."""
    popularity, neighbours = systems.baselines()[:2]
    reference, comparison = replace(neighbours, name=TWO_HOP), Comparison(rings, replace(TERMS, split=split))
    expected = fitted_and_scored(comparison, reference).lead(fitted_and_scored(comparison, popularity))
    for _ in range(2):  # the second time from the saved results
        rows = compare.run(comparison, [popularity, reference], [1, 2], Results(tmp_path))["systems"]
        lead = rows["popularity-7d"]["lead"]
        assert {metric: lead[metric] for metric in ranking_metrics.ACCURACY_METRICS} == pytest.approx(
            {metric: expected[metric] for metric in ranking_metrics.ACCURACY_METRICS}
        )
        assert lead["intervals"]["mrr"] == pytest.approx(expected["intervals"]["mrr"])
        assert "lead" not in rows[TWO_HOP]


def test_the_table_has_spread_over_seeds_and_users_and_fits_a_screen() -> None:
    lead = {**dict.fromkeys(ranking_metrics.ACCURACY_METRICS, 0.0), "hr10": 0.25, "intervals": {"hr10": [0.125, 0.375]}}
    deviations = {**dict.fromkeys(ranking_metrics.ACCURACY_METRICS, 0.0), "hr10": 0.0175}
    rows = {
        "one": {**compare.summary(results_of(0.3)), "lead": lead},
        "many": {**compare.summary(results_of(0.1, 0.2, 0.6)), "lead": {**lead, "deviations": deviations}},
    }
    screen = Console(width=80, record=True, file=StringIO())
    skipped = {"als": "needs implicit"}
    report = {"reference": "two-hop", "min_item_events": 5, "systems": rows, "skipped": skipped}
    screen.print(tables.comparison(report))
    text = screen.export_text()
    parts = ("0.3000", "±0.1000", "0.2500*", "±0.1250", "3 seeds", "σ 0.2646", "σ 0.0175", "..0.6000", "MRR@20")  # noqa: RUF001
    assert "diversity 0.750" in text
    for part in parts:
        assert part in text
    assert "als skipped: needs implicit" in text
    assert "9 targets of 8 users, items with 5 training events or more" in text
    assert "…" not in text


@pytest.fixture
def _default_ctrl_c() -> Iterator[None]:
    """Python's own handler, also where the tests run in the background of a shell, which ignores SIGINT."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("_default_ctrl_c")
def test_ctrl_c_ends_one_training_which_is_kept_and_the_next_begins(rings: EvalData, tmp_path: Path) -> None:
    seen: list[bool] = []

    def load(*, presses: bool) -> Fit:
        def fit(task: Task) -> Fitted:
            if presses:
                os.kill(os.getpid(), signal.SIGINT)
            seen.append(task.ended())
            return Fitted(task.popularity, {})

        return fit

    pressed = System("pressed", lambda: load(presses=True), seeded=False, settings={})
    calm = System("calm", lambda: load(presses=False), seeded=False, settings={})
    comparison, sentences = Comparison(rings, TERMS), list[str]()
    with interruptible(sentences.append) as interrupted:
        report = compare.run(
            *(comparison, [pressed, calm], [1], Results(tmp_path)),
            lambda name, _seed: interrupted.arm(f"{name} ends"),
            interrupted,
        )
    assert seen == [True, False]
    assert sentences == ["pressed ends"]
    assert [row["ended_early"] for row in report["systems"].values()] == [[1], []]
    assert compare.run(comparison, [pressed, calm], [1], Results(tmp_path)) == report  # nothing is fitted again
    screen = Console(width=80, record=True, file=StringIO())
    screen.print(tables.comparison(report))
    assert "pressed ended early (seeds 1)" in screen.export_text()


def test_a_two_hop_training_that_is_ended_keeps_its_best_weights_and_its_curve(rings: EvalData) -> None:
    pytest.importorskip("torch", reason="a variant is trained: pip install 'headrace[train]'")
    looks = iter(range(100_000))
    variant = systems.select(systems.two_hop_systems(rings, "last", {"small": SMALL}), {"small"})[0]
    result = Comparison(rings, TERMS).result(variant, 1, lambda: next(looks) >= 10)
    notes = result["notes"]
    assert result["ended_early"]
    assert notes["stop_reason"] == "interrupted"
    assert notes["steps"] < 20
    assert [point["step"] for point in notes["validations"]] == sorted(point["step"] for point in notes["validations"])
    assert max(point["ndcg"] for point in notes["validations"]) == notes["validation_ndcg"]
    assert all(0.0 < point["elapsed_s"] < 60.0 for point in notes["validations"])


def test_a_grid_search_that_is_ended_keeps_the_best_it_has_tried(rings: EvalData) -> None:
    fitted_on: list[int] = []
    comparison = Comparison(rings, TERMS)

    def fit(configuration: Any, events: Histories, _until_s: float) -> Any:
        fitted_on.append(len(events))
        neighbours = systems.baselines()[1].load()(replace(comparison.task, events=events)).baseline
        return neighbours if configuration["good"] else comparison.task.popularity

    ended = replace(comparison.task, ended=lambda: len(fitted_on) >= 2)
    fitted = grid_search(ended, [{"good": 0}, {"good": 1}, {"good": 0}], fit)
    assert (fitted.notes["good"], fitted.notes["configurations_tried"]) == (1, 2)
    assert len(fitted_on) == 2
    assert fitted.baseline is not comparison.task.popularity


@given(st.lists(st.integers(1, NOT_LISTED)))
def test_ranks_are_unpacked_as_they_were_packed(ranks: list[int]) -> None:
    assert unpacked(packed(np.array(ranks, np.int64))).tolist() == ranks


def test_a_system_without_its_extra_is_skipped_with_the_reason(
    rings: EvalData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "models.evaluation.baselines.sasrec", raising=False)
    monkeypatch.delattr("models.evaluation.baselines.sasrec", raising=False)
    for name in ("rectools", "pandas", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    selected = systems.select(systems.baselines(), {"popularity-7d", "sasrec"})
    report = compare.run(Comparison(rings, TERMS), selected, [1], Results(tmp_path))
    assert list(report["systems"]) == ["popularity-7d"]
    assert "which is not installed: pip install 'headrace[compare]'" in report["skipped"]["sasrec"]


def test_leads_over_seeds_have_a_deviation() -> None:
    """One target. Two seeds of the reference rank it first and second, two of the baseline nowhere and fourth.

    HR@10 leads by 1 and 0, on average 1/2; its deviation is the root of (1/4 + 1/4) / 1.
    """
    reference, baseline = (
        [
            {
                "figures": {**dict.fromkeys(ranking_metrics.ACCURACY_METRICS, 0.0), "hr10": float(rank <= 10)},
                "ranks": packed(np.array([rank], np.int64)),
            }
            for rank in ranks
        ]
        for ranks in ((1, 2), (NOT_LISTED, 4))
    )
    lead = compare.lead(reference, baseline, np.zeros(1, np.int32))
    assert lead["hr10"] == 0.5
    assert lead["deviations"]["hr10"] == pytest.approx(0.5**0.5)
    assert "deviations" not in compare.lead(reference, baseline[:1], np.zeros(1, np.int32))


def test_a_variant_is_trained_on_content_or_skipped_without_any(rings: EvalData) -> None:
    pytest.importorskip("torch", reason="a variant is trained: pip install 'headrace[train]'")
    variant_settings = {"rich": {**SMALL, "epochs": 1, "content": True}}
    halves = {item: Item(id=item, bags={"half": [str(int(item[1:]) % 2)]}) for item in rings.interactions.item_ids}
    with_items, without = (
        systems.select(systems.two_hop_systems(rings, "last", variant_settings, items), {"rich"})
        for items in (halves, None)
    )
    assert with_items[0].settings != without[0].settings
    comparison = Comparison(rings, TERMS)
    assert compare.run(comparison, with_items, [1], Results(None))["systems"]["rich"]["targets"] == 60
    assert "no items file" in compare.run(comparison, without, [1], Results(None))["skipped"]["rich"]


def test_a_file_without_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("dear diary\n")
    with pytest.raises(DataError, match="does not hold results"):
        Results(tmp_path)


def test_a_grid_search_takes_the_best_configuration_that_it_has_time_for(rings: EvalData) -> None:
    """Configurations are fitted on the training events of the validation, the best one at last on all events."""
    fitted_on: list[int] = []

    def fit(configuration: Any, events: Histories, _until_s: float) -> Any:
        fitted_on.append(len(events))
        task = replace(comparison.task, events=events)
        neighbours = systems.baselines()[1].load()(task).baseline
        return neighbours if configuration["good"] else task.popularity

    comparison = Comparison(rings, TERMS)
    grid: list[dict[str, float]] = [{"good": 0}, {"good": 1}, {"good": 0}]
    notes = grid_search(comparison.task, grid, fit).notes
    assert (notes["good"], notes["configurations_tried"]) == (1, 3)
    training, total = len(comparison.task.validation.training_events()), len(comparison.task.events)
    assert fitted_on == [training, training, training, total]
    hurried = grid_search(replace(comparison.task, minutes=1e-9), grid, fit).notes
    assert (hurried["good"], hurried["configurations_tried"]) == (0, 1)


def test_the_command_prints_table_or_json_and_saves_results(tiny_interactions: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(tiny_interactions), "--only", "popularity-7d", "--only", "neighbours", "--seeds", "7"]
    run = CliRunner().invoke
    table = run(compare_command.compare, [*arguments, "--out", str(tmp_path)], catch_exceptions=False)
    assert "neighbours" in table.stdout
    printed = run(compare_command.compare, [*arguments, "--out", str(tmp_path), "--json"], catch_exceptions=False)
    report = json.loads(printed.stdout)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    saved = [{key: value for key, value in line.items() if key != "ranks"} for line in lines]
    assert [row["results"][0] for row in report["systems"].values()] == saved
    assert [line["seed"] for line in lines] == [7, 7]


def test_the_command_refuses_unknown_systems_and_seeds(tiny_interactions: Path) -> None:
    arguments = ["--data", str(tiny_interactions)]
    with pytest.raises(SettingsError, match=r"--only sasreck: there is no such system; there are .*sasrec, "):
        CliRunner().invoke(compare_command.compare, [*arguments, "--only", "sasreck"], catch_exceptions=False)
    refused = CliRunner().invoke(compare_command.compare, [*arguments, "--seeds", "1;2"])
    assert "expected whole numbers with commas between them" in refused.output
