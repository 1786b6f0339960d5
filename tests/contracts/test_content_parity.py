"""The content graph computes what torch does; a release whose content graph is damaged or does not fit is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine import contract
from engine.catalogue.content import Item, features
from engine.catalogue.ids import Catalogue
from engine.contract import ContentSizes
from engine.errors import DamagedReleaseError, UnfitReleaseError
from engine.releases import bundles, serving
from engine.releases.bundles import Bundle, NewRelease
from engine.retrieval.encoder import ContentEncoder
from engine.settings.sections import IndexSettings
from models.network.item_vectors import Content
from models.network.two_hop import TwoHopEncoder
from models.publishing import export, graphs
from models.settings import EncoderSettings

SETTINGS = EncoderSettings(dimensions=8, interests=2, heads=2, window_length=4)
GENRES = ("drama", "comedy", "horror")


def items(dense: int) -> list[Item]:
    rng = np.random.default_rng(0)
    return [
        Item(
            id=str(number),
            title=f"Part {number % 7} of {number % 5}",
            bags={"genres": GENRES[: number % 4]},
            vector=rng.normal(size=dense) if dense and number % 3 else None,
        )
        for number in range(600)  # more than one run of the graph holds
    ]


def content_with(dense: int) -> tuple[TwoHopEncoder, Content]:
    """An encoder without a content parameter of 0."""
    sizes = ContentSizes(buckets=1 << 10, dense=dense)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        content = Content(features(items(dense), sizes), sizes, SETTINGS.dimensions)
        with torch.no_grad():
            for parameter in content.parameters():
                parameter.normal_()
    return TwoHopEncoder(600, SETTINGS, content).eval(), content


def served(encoder: TwoHopEncoder, content: Content) -> ContentEncoder:
    return ContentEncoder(graphs.content_graph(encoder, content), content.sizes, SETTINGS.dimensions)


@pytest.fixture(scope="module")
def exported() -> tuple[TwoHopEncoder, Content, ContentEncoder]:
    encoder, content = content_with(dense=3)
    return encoder, content, served(encoder, content)


@pytest.mark.parametrize("dense", [0, 3], ids=["bags alone", "with given vectors"])
def test_torch_and_the_graph_agree(dense: int) -> None:
    encoder, content = content_with(dense)
    assert export.largest_content_difference(content, served(encoder, content)) <= 1e-5


def test_a_graph_of_other_weights_differs() -> None:
    encoder, content = content_with(dense=3)
    graph = served(encoder, content)
    with torch.no_grad():
        content.table.add_(0.01)
    assert export.largest_content_difference(content, graph) > SETTINGS.contract.tolerance


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_an_item_has_the_same_vector_alone_and_among_others(
    exported: tuple[TwoHopEncoder, Content, ContentEncoder], titles: list[str]
) -> None:
    _, content, graph = exported
    new = [Item(id=str(number), title=title) for number, title in enumerate(titles)]
    together = graph.vectors(features(new, content.sizes))
    alone = [graph.vectors(features([item], content.sizes))[0] for item in new]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_features_that_training_never_saw_add_nothing(exported: tuple[TwoHopEncoder, Content, ContentEncoder]) -> None:
    """The graph holds 0 for a bucket that fewer than two items of the training data have."""
    _, content, graph = exported
    buckets = np.setdiff1d(np.arange(content.sizes.buckets), content.trained_buckets)
    unseen = features([Item(id="x")] * len(buckets), content.sizes)
    unseen = replace(
        unseen,
        buckets=buckets.astype(np.int32),
        weights=np.ones(len(buckets), np.float32),
        starts=np.arange(len(buckets) + 1),
    )
    assert not graph.vectors(unseen).any()


def test_features_of_another_recipe_are_refused(exported: tuple[TwoHopEncoder, Content, ContentEncoder]) -> None:
    encoder, content, _ = exported
    with pytest.raises(UnfitReleaseError, match="recipe 99, this engine computes those of recipe 1; train"):
        ContentEncoder(graphs.content_graph(encoder, content), replace(content.sizes, recipe=99), SETTINGS.dimensions)


def test_a_graph_of_other_sizes_is_refused(exported: tuple[TwoHopEncoder, Content, ContentEncoder]) -> None:
    encoder, content, _ = exported
    graph = graphs.content_graph(encoder, content)
    with pytest.raises(UnfitReleaseError, match=r"content\.onnx input 'dense' has shape \['V', 3\]"):
        ContentEncoder(graph, replace(content.sizes, dense=4), SETTINGS.dimensions)
    with pytest.raises(UnfitReleaseError, match=r"content\.onnx inputs are \['buckets', 'dense', 'weights'\]"):
        ContentEncoder(graph, replace(content.sizes, dense=0), SETTINGS.dimensions)


@pytest.fixture
def bundle(exported: tuple[TwoHopEncoder, Content, ContentEncoder], tmp_path: Path) -> Path:
    encoder, content, _ = exported
    return bundles.write(
        NewRelease(
            model="two-hop",
            version="content",
            created_ms=0,
            contract=replace(SETTINGS.contract, content=content.sizes),
            holdout=bundles.Holdout(),
            encoder_onnx=graphs.encoder_graph(encoder),
            items_onnx=graphs.items_graph(encoder),
            vectors=export.vectors(encoder),
            popularity=np.zeros(600, np.float32),
            ids=[item.id for item in items(0)],
            content_onnx=graphs.content_graph(encoder, content),
        ),
        tmp_path,
    )


def warm(read: Bundle) -> serving.LiveRelease:
    return serving.warm(read, Catalogue(), IndexSettings(), threads=1)


def test_a_bundle_has_its_content_graph(bundle: Path, tiny_release: Path) -> None:
    assert bundles.read(bundle).manifest.contract.content == ContentSizes(buckets=1 << 10, dense=3)
    warm(bundles.read(bundle))
    without = bundles.read(tiny_release)
    assert without.content_onnx is None
    assert without.manifest.contract.content is None
    assert not (tiny_release / contract.CONTENT_FILE).exists()


def test_a_missing_or_changed_content_graph_is_named(bundle: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged")) / contract.CONTENT_FILE
    raw = bytearray(damaged.read_bytes())
    raw[len(raw) // 2] ^= 1
    damaged.write_bytes(raw)
    with pytest.raises(DamagedReleaseError, match=r"content\.onnx has SHA-256"):
        bundles.read(damaged.parent)
    damaged.unlink()
    with pytest.raises(DamagedReleaseError, match=r"content\.onnx cannot be read"):
        bundles.read(damaged.parent)


def test_bytes_that_are_no_content_graph_are_refused(bundle: Path) -> None:
    with pytest.raises(UnfitReleaseError, match=r"content\.onnx: onnxruntime cannot load it"):
        warm(replace(bundles.read(bundle), content_onnx=b"no graph"))
