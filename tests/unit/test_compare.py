"""A comparison asks everyone the same, keeps what it found, and goes on where it was killed."""

import json
import sys
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
from models.data import dataset
from models.data.histories import Histories
from models.evaluation import ranking_metrics
from models.evaluation.baselines.task import Fitted, Task, tuned
from models.evaluation.queries import LISTED, EvalData
from models.evaluation.ranking_metrics import FIGURES, Tally
from models.lab.comparison import compare, systems
from models.lab.comparison.compare import Comparison, ComparisonTerms, SplitName
from models.lab.comparison.results import Results, packed, unpacked
from models.lab.comparison.systems import TWO_HOP, Enter, System
from tests.conftest import TINY_ITEMS

TERMS = ComparisonTerms(split="last", minutes=1.0, clock="cpu", threads=1)
SMALL = {"dimensions": 16, "interests": 2, "epochs": 25, "batch_sequences": 16}
NEEDS = {"item-knn": "scipy", "als": "implicit", "bpr": "implicit", "sasrec-64": "rectools", "small": "torch"}


@pytest.fixture(scope="module")
def rings(tiny_interactions: Path) -> EvalData:
    return EvalData(dataset.read(tiny_interactions), Settings(windows=WindowSettings(length=20)))


class Counted:
    """Popularity as a system, and how often it entered."""

    def __init__(self, *, seeded: bool = True) -> None:
        self.entered = 0
        self.system = System("counted", self._load, seeded=seeded, settings={"a": 1})

    def _load(self) -> Enter:
        def enter(task: Task) -> Fitted:
            self.entered += 1
            return Fitted(task.popularity, {"seed": task.seed})

        return enter


def entered(comparison: Comparison, system: System) -> Tally:
    """Answers of a system, whose every list is looked at: nothing seen, nothing twice."""
    fitted = system.load()(comparison.task)
    data, learned = comparison.recording, comparison.task.events.items
    tally = Tally(np.unique(learned), np.bincount(learned, minlength=TINY_ITEMS))
    for windows, places in comparison.queries.ask():
        lists = fitted.baseline.lists(windows, data.interactions.times_ms[places], LISTED)
        for window, found in zip(windows.items.tolist(), lists.tolist(), strict=True):
            items = [item for item in found if item != NO_ITEM]
            assert not set(items) & set(window)
            assert len(set(items)) == len(items)
        tally.add(data.interactions.users[places], lists, data.items[places])
    return tally


@pytest.mark.parametrize(
    ("name", "split"),
    [("item-knn", "last"), ("als", "last"), ("bpr", "last"), ("sasrec-64", "last"), ("small", "last"), ("als", "time")],
)
def test_each_learns_the_ring_and_lists_nothing_seen(rings: EvalData, name: str, split: SplitName) -> None:
    pytest.importorskip(NEEDS[name], reason=f"{name} needs {NEEDS[name]}: pip install 'headrace[compare]'")
    comparison = Comparison(rings, replace(TERMS, split=split, minutes=0.05))
    all_of_them = [*systems.baselines(), *systems.two_hops(rings, split, {"small": SMALL})]
    known = {system.name: system for system in all_of_them}
    popular = entered(comparison, known["popularity-7d"]).figures()
    found = entered(comparison, known[name]).figures()
    assert found["hr10"] > max(2 * popular["hr10"], 10 / TINY_ITEMS)  # more than chance has
    assert found["ndcg10"] > 2 * popular["ndcg10"]


def test_killed_and_started_again_it_trains_only_what_is_missing(rings: EvalData, tmp_path: Path) -> None:
    comparison, counted = Comparison(rings, TERMS), Counted()
    first = compare.run(comparison, [counted.system], [1, 2, 3], Results(tmp_path))
    assert counted.entered == 3
    file = tmp_path / "results.jsonl"
    file.write_bytes(file.read_bytes()[:-20])  # the kill came while the third result was written
    second = compare.run(comparison, [counted.system], [1, 2, 3], Results(tmp_path))
    assert counted.entered == 4
    assert len(file.read_text().splitlines()) == 3
    again = compare.run(comparison, [counted.system], [1, 2, 3], Results(tmp_path))
    assert counted.entered == 4
    assert again == second
    assert again["systems"]["counted"]["figures"] == first["systems"]["counted"]["figures"]


@pytest.mark.parametrize(
    "changed", [{"minutes": 2.0}, {"clock": "wall"}, {"split": "time"}, {"threads": 2}, {"min_item_events": 5}]
)
def test_other_terms_are_another_comparison(rings: EvalData, tmp_path: Path, changed: dict[str, Any]) -> None:
    counted = Counted()
    for each in (TERMS, replace(TERMS, **changed)):
        compare.run(Comparison(rings, each), [counted.system], [1], Results(tmp_path))
    other = replace(counted.system, settings={"a": 2})
    compare.run(Comparison(rings, TERMS), [other], [1], Results(tmp_path))
    fewer = EvalData(rings.interactions.select(np.arange(len(rings.interactions)) > 0), rings.settings)
    compare.run(Comparison(fewer, TERMS), [counted.system], [1], Results(tmp_path))
    assert counted.entered == 4


def test_what_no_seed_changes_is_asked_once(rings: EvalData) -> None:
    counted = Counted(seeded=False)
    report = compare.run(Comparison(rings, TERMS), [counted.system], [4, 5], Results(None))
    assert counted.entered == 1
    assert report["systems"]["counted"]["seeds"] == [4]


def results_of(*values: float) -> list[dict[str, Any]]:
    """Results of seeds 0, 1, ... with these values of HR@10; of popularity nothing can be said."""
    same: dict[str, Any] = {"users": 8, "targets": 9, "training_cpu_s": 1.0, "places": "..."}
    rest: dict[str, Any] = {**dict.fromkeys(FIGURES, 0.0), "popularity_bias": None}
    return [
        {
            **same,
            "seed": seed,
            "training_s": 2.0 * seed,
            "figures": {**rest, "hr10": value, "intervals": {"hr10": [value - 0.1, value + 0.1]}},
        }
        for seed, value in enumerate(values)
    ]


def test_mean_and_spread_over_seeds() -> None:
    row = compare.summary(results_of(0.1, 0.2, 0.6))
    assert (row["training_s"], row["training_cpu_s"]) == (2.0, 1.0)
    assert row["figures"].keys() == set(FIGURES)
    assert row["figures"]["popularity_bias"] == {"mean": None, "interval": None}
    # (0.1 + 0.2 + 0.6) / 3 = 0.3; deviations -0.2, -0.1, 0.3, squares 0.04 + 0.01 + 0.09 = 0.14 over 2
    assert row["figures"]["hr10"] == pytest.approx({"mean": 0.3, "deviation": 0.07**0.5, "min": 0.1, "max": 0.6})


def test_one_seed_has_the_interval_over_users() -> None:
    row = compare.summary(results_of(0.3))
    assert row["figures"]["hr10"] == {"mean": 0.3, "interval": [0.3 - 0.1, 0.3 + 0.1]}
    assert row["figures"]["coverage"] == {"mean": 0.0, "interval": None}
    assert "places" not in row["results"][0]


@pytest.mark.parametrize("split", ["last", "time"])
def test_the_lead_of_ours_is_target_by_target(rings: EvalData, tmp_path: Path, split: SplitName) -> None:
    """The neighbours stand in for ours; the time split asks in another order than that of the events."""
    popular, neighbours = systems.baselines()[:2]
    ours, comparison = replace(neighbours, name=TWO_HOP), Comparison(rings, replace(TERMS, split=split))
    expected = entered(comparison, ours).lead(entered(comparison, popular))
    for _ in range(2):  # learnt and asked, then found
        rows = compare.run(comparison, [popular, ours], [1, 2], Results(tmp_path))["systems"]
        lead = rows["popularity-7d"]["lead"]
        assert {figure: lead[figure] for figure in ranking_metrics.ACCURACY} == pytest.approx(
            {figure: expected[figure] for figure in ranking_metrics.ACCURACY}
        )
        assert lead["intervals"]["mrr"] == pytest.approx(expected["intervals"]["mrr"])
        assert "lead" not in rows[TWO_HOP]


def test_the_table_tells_seeds_from_users_and_fits_a_screen() -> None:
    lead = {**dict.fromkeys(ranking_metrics.ACCURACY, 0.0), "hr10": 0.25, "intervals": {"hr10": [0.125, 0.375]}}
    deviations = {**dict.fromkeys(ranking_metrics.ACCURACY, 0.0), "hr10": 0.0175}
    rows = {
        "one": {**compare.summary(results_of(0.3)), "lead": lead},
        "many": {**compare.summary(results_of(0.1, 0.2, 0.6)), "lead": {**lead, "deviations": deviations}},
    }
    screen = Console(width=80, record=True, file=StringIO())
    left_out = {"als": "needs implicit"}
    report = {"ours": "two-hop", "min_item_events": 5, "systems": rows, "left_out": left_out}
    screen.print(tables.comparison(report))
    text = screen.export_text()
    parts = ("0.3000", "±0.1000", "0.2500*", "±0.1250", "3 seeds", "σ 0.2646", "σ 0.0175", "..0.6000", "MRR@20")  # noqa: RUF001
    for part in parts:
        assert part in text
    assert "als left out: needs implicit" in text
    assert "9 targets of 8 users, items with 5 events to learn from" in text
    assert "…" not in text


@given(st.lists(st.integers(1, ranking_metrics.NO_PLACE)))
def test_places_are_unpacked_as_they_were_packed(places: list[int]) -> None:
    assert unpacked(packed(np.array(places, np.int64))).tolist() == places


def test_one_without_its_extra_is_left_out_with_the_reason(
    rings: EvalData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "models.evaluation.baselines.sasrec", raising=False)
    monkeypatch.delattr("models.evaluation.baselines.sasrec", raising=False)
    for name in ("rectools", "pandas", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    chosen = systems.named(systems.baselines(), {"popularity-7d", "sasrec"})
    report = compare.run(Comparison(rings, TERMS), chosen, [1], Results(tmp_path))
    assert list(report["systems"]) == ["popularity-7d"]
    assert "which is not installed: pip install 'headrace[compare]'" in report["left_out"]["sasrec"]


def test_leads_over_seeds_say_how_far_apart_they_are() -> None:
    """One target. Two seeds of ours put it first and second, two of theirs nowhere and fourth.

    HR@10 leads by 1 and 0, on average 1/2; its deviation is the root of (1/4 + 1/4) / 1.
    """
    found = list[list[dict[str, Any]]]()
    for places in ((1, 2), (ranking_metrics.NO_PLACE, 4)):
        hits = [{**dict.fromkeys(ranking_metrics.ACCURACY, 0.0), "hr10": float(place <= 10)} for place in places]
        packs = [packed(np.array([place], np.int64)) for place in places]
        found.append([{"figures": one, "places": pack} for one, pack in zip(hits, packs, strict=True)])
    ours, theirs = found
    lead = compare.lead(ours, theirs, np.zeros(1, np.int32))
    assert lead["hr10"] == 0.5
    assert lead["deviations"]["hr10"] == pytest.approx(0.5**0.5)
    assert "deviations" not in compare.lead(ours, theirs[:1], np.zeros(1, np.int32))


def test_a_variant_learns_from_content_or_says_that_there_is_none(rings: EvalData) -> None:
    pytest.importorskip("torch", reason="a variant is trained: pip install 'headrace[train]'")
    chosen = {"told": {**SMALL, "epochs": 1, "content": True}}
    halves = {item: Item(id=item, bags={"half": [str(int(item[1:]) % 2)]}) for item in rings.interactions.item_ids}
    with_items, without = (
        systems.named(systems.two_hops(rings, "last", chosen, items), {"told"}) for items in (halves, None)
    )
    assert with_items[0].settings != without[0].settings
    comparison = Comparison(rings, TERMS)
    assert compare.run(comparison, with_items, [1], Results(None))["systems"]["told"]["targets"] == 60
    assert "no items file" in compare.run(comparison, without, [1], Results(None))["left_out"]["told"]


def test_a_file_that_holds_no_results_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("dear diary\n")
    with pytest.raises(DataError, match="is no file of results"):
        Results(tmp_path)


def test_tuning_takes_the_best_option_that_there_is_time_for(rings: EvalData) -> None:
    """Options are learners from so many events: the more, the better, and the last fit is on all events."""
    fitted_on: list[int] = []

    def fit(option: Any, events: Histories, _until_s: float) -> Any:
        fitted_on.append(len(events))
        task = replace(comparison.task, events=events)
        neighbours = systems.baselines()[1].load()(task).baseline
        return neighbours if option["good"] else task.popularity

    comparison = Comparison(rings, TERMS)
    options: list[dict[str, float]] = [{"good": 0}, {"good": 1}, {"good": 0}]
    chosen = tuned(comparison.task, options, fit).notes
    assert (chosen["good"], chosen["options_tried"]) == (1, 3)
    rest, everything = len(comparison.task.validation.rest()), len(comparison.task.events)
    assert fitted_on == [rest, rest, rest, everything]
    hurried = tuned(replace(comparison.task, minutes=1e-9), options, fit).notes
    assert (hurried["good"], hurried["options_tried"]) == (0, 1)


def test_the_command_prints_table_or_json_and_keeps_results(tiny_interactions: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(tiny_interactions), "--only", "popularity-7d", "--only", "neighbours", "--seeds", "7"]
    run = CliRunner().invoke
    table = run(compare_command.compare, [*arguments, "--out", str(tmp_path)], catch_exceptions=False)
    assert "neighbours" in table.stdout
    printed = run(compare_command.compare, [*arguments, "--out", str(tmp_path), "--json"], catch_exceptions=False)
    report = json.loads(printed.stdout)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in line.items() if key != "places"} for line in lines]
    assert [row["results"][0] for row in report["systems"].values()] == kept
    assert [line["seed"] for line in lines] == [7, 7]


def test_the_command_refuses_what_it_does_not_know(tiny_interactions: Path) -> None:
    arguments = ["--data", str(tiny_interactions)]
    with pytest.raises(SettingsError, match=r"--only sasreck: there is no such system; there are .*sasrec, "):
        CliRunner().invoke(compare_command.compare, [*arguments, "--only", "sasreck"], catch_exceptions=False)
    refused = CliRunner().invoke(compare_command.compare, [*arguments, "--seeds", "1;2"])
    assert "expected whole numbers with commas between them" in refused.output
