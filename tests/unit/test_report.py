"""The page is well-formed, loads nothing else, and has the figures of the evaluation."""

import json
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from engine import contract
from engine.releases import bundles
from engine.releases.bundles import Bundle
from engine.settings.sections import IndexSettings, Settings, WindowSettings
from models.data import dataset
from models.evaluation import plots, ranking_metrics, report
from models.evaluation.evaluate import evaluate
from models.evaluation.plots import Axis

SETTINGS = Settings(windows=WindowSettings(length=20), index=IndexSettings(kind="hnsw"))
_VOID = {"meta", "br"}


class Page(HTMLParser):
    """Elements and words of a page; an element that is not closed, or closed out of order, fails the test."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())

    def values(self, attribute: str) -> Iterator[str]:
        for _, attributes in self.elements:
            if (value := attributes.get(attribute)) is not None:
                yield value

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


@pytest.fixture(scope="module")
def bundle(tiny_release: Path) -> Bundle:
    """Trained without last events; its manifest says without the last tenth of time too, so that both splits show."""
    trained = bundles.read(tiny_release)
    return replace(trained, manifest=_with(trained, last_event=True))


@pytest.fixture(scope="module")
def evaluation(bundle: Bundle, tiny_interactions: Path) -> dict[str, Any]:
    return evaluate(bundle, dataset.read(tiny_interactions), SETTINGS, lambda *_: None)


@pytest.fixture(scope="module")
def text(evaluation: dict[str, Any], bundle: Bundle) -> str:
    return report.render(evaluation, bundle, SETTINGS)


def _with(bundle: Bundle, *, last_event: bool, from_ms: int | None = 2400_000) -> bundles.Manifest:
    fields = {name: getattr(bundle.manifest, name) for name in bundle.manifest.__struct_fields__}
    return bundles.Manifest(**fields | {"holdout": bundles.Holdout(last_event=last_event, from_ms=from_ms)})


def test_the_page_is_well_formed_and_loads_nothing(text: str) -> None:
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert "http" not in text
    assert not {"script", "link", "img", "iframe", "image"} & {tag for tag, _ in page.elements}
    assert list(page.values("src")) == []
    assert "@import" not in text
    ids = list(page.values("id"))
    assert len(ids) == len(set(ids))
    assert {value.removeprefix("#") for value in page.values("href")} <= set(ids)


def test_every_plot_has_a_description_and_a_table_of_its_numbers(text: str) -> None:
    page = Page(text)
    labels = [value for value in page.values("aria-label") if value]
    assert len(set(labels)) == len(labels) == page.count("svg") == page.count("details") - 2 == 11
    for split in ("Leave-last-out", "Time split"):
        for title in (
            "Lead over each baseline",
            "Accuracy by length of history",
            "Accuracy by age of the item",
            "Interests in use",
            "Recall of the index",
        ):
            assert f"{split}: {title}" in labels
    assert "Learning curve" in labels


def test_figures_intervals_and_training_are_on_the_page(text: str, evaluation: dict[str, Any], bundle: Bundle) -> None:
    words = Page(text).words
    for split in (evaluation, evaluation["time_split"]):
        baselines = split["baselines"].values()
        for figures in (split, *baselines, *(baseline["lead"] for baseline in baselines)):
            for metric in ranking_metrics.ACCURACY_METRICS:
                low, high = figures["intervals"][metric]
                assert f"{figures[metric]:.4f}" in words
                assert f"{low:.4f} to {high:.4f}" in words
    trained = json.loads((bundle.folder / contract.REPORT_FILE).read_text())
    assert trained["data_fingerprint"] in words
    assert f"{trained['validations'][-1]['ndcg']:.4f}" in words
    for name, value in (("encoder.dimensions", "16"), ("index.kind", "hnsw"), ("windows.length", "20")):
        assert words[words.index(name) + 1] == value


def test_a_split_without_figures_and_a_release_without_a_report(
    bundle: Bundle, tiny_interactions: Path, tmp_path: Path
) -> None:
    (tmp_path / contract.REPORT_FILE).write_text("{}")
    bare = replace(bundle, folder=tmp_path, manifest=_with(bundle, last_event=False, from_ms=None))
    without_figures = evaluate(bare, dataset.read(tiny_interactions), SETTINGS, lambda *_: None)
    page = Page(report.render(without_figures, bare, SETTINGS))
    assert page.count("svg") == 0
    assert sum("train with --holdout" in word for word in page.words) == 2
    assert "The release's report has no learning curve." in page.words
    assert "not written down" in page.words


def test_names_cannot_break_the_page(evaluation: dict[str, Any], bundle: Bundle) -> None:
    """A baseline's name with markup in it is escaped."""
    name = "<script>alert('$1 & $2')</script>"
    attacked = evaluation | {"baselines": {name: evaluation["baselines"]["popularity_7d"]}, "release": name}
    page = Page(report.render(attacked, bundle, SETTINGS))
    assert page.count("script") == 0
    assert page.words.count(name) == 3  # the table, the plot and its numbers


def test_equal_plots_are_equal_text_with_colours_of_the_page() -> None:
    panels = [(["a", "b"], [0.25, 0.75], Axis("label"), Axis("share", share=True))]
    text, again = plots.bars("Shares", panels), plots.bars("Shares", panels)
    assert text == again
    svg = Page(text)
    assert svg.elements[0][1]["role"] == "img"
    assert {"a", "b", "label", "share", "20%"} <= set(svg.words)
    assert "var(--first)" in text
    assert "#0000" not in text
