"""Export of a trained encoder to a release bundle: torch must agree with onnxruntime, or nothing is written."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from engine.arrays import Float32, Int32, Int64
from engine.contract import Contract
from engine.errors import UnfitReleaseError
from engine.releases import bundles
from engine.releases.bundles import NewRelease, Provenance
from engine.retrieval.encoder import ContentEncoder, Encoder
from engine.retrieval.features import log_ages
from models.network.item_vectors import Content
from models.network.two_hop import TwoHopEncoder
from models.publishing import graphs
from models.settings import TrainSettings
from models.training import checkpoints
from models.training.fit import TrainingResult
from models.training.private import PROMISE
from models.training.score_parts import ScoreParts

_PARITY_BATCHES = ((1, 1), (3, 2), (16, 17), (8, None))
"""Users and window length of each comparison; None is the full window."""
_PARITY_SPAN_MS = 10**11
"""Three years, the greatest age of an event in a window."""


def write(  # noqa: PLR0913 - a training, its settings, and the name, time, place and origin of its release
    trained: TrainingResult,
    settings: TrainSettings,
    name: tuple[str, str],
    created_ms: int,
    releases: Path,
    provenance: Provenance | None = None,
    *,
    named_by_content: bool = False,
) -> Path:
    """Export, compare, and write the bundle `name` = (model, version) below `releases`; returns its folder.

    `named_by_content` adds the content hash to the version.

    Raises:
        UnfitReleaseError: torch and onnxruntime differ by more than the contract's tolerance.
        ReleaseError: that bundle is there already.
    """
    sizes = settings.encoder.contract
    encoder_onnx, items_onnx = graphs.encoder_graph(trained.encoder), graphs.items_graph(trained.encoder)
    difference = largest_difference(trained.encoder, Encoder(encoder_onnx, items_onnx, sizes))
    content, content_onnx = trained.encoder.items.content, None
    if content:
        sizes = replace(sizes, content=content.sizes)
        content_onnx = graphs.content_graph(trained.encoder, content)
        exported = ContentEncoder(content_onnx, content.sizes, sizes.dimensions)
        difference = max(difference, largest_content_difference(content, exported), key=_nan_last)
    refuse_difference(difference, sizes)
    parts = trained.score_parts or ScoreParts(None, None, 0.0, 0.0, None)
    neighbours = parts.neighbours
    sizes = replace(
        sizes,
        neighbours=neighbours.sizes if neighbours else None,
        popularity=parts.popularity,
        log_partition=parts.log_partition,
    )
    bundle = NewRelease(
        model=name[0],
        version=name[1],
        created_ms=created_ms,
        contract=sizes,
        holdout=trained.holdout,
        encoder_onnx=encoder_onnx,
        items_onnx=items_onnx,
        vectors=vectors(trained.encoder),
        popularity=trained.popularity,
        action_values=trained.action_values,
        ids=trained.ids,
        content_onnx=content_onnx,
        neighbours=neighbours.table if neighbours else None,
        labels=trained.labels,
        figures={**_figures(trained), "parity_difference": difference},
        report=_report(trained, settings),
        provenance=_provenance(trained, provenance or Provenance()),
        named_by_content=named_by_content,
    )
    return bundles.write(bundle, releases)


def refuse_difference(difference: float, sizes: Contract) -> None:
    """Refuse a difference between torch and onnxruntime that is larger than the contract's tolerance, or NaN.

    Raises:
        UnfitReleaseError: it is.
    """
    if not difference <= sizes.tolerance:
        raise UnfitReleaseError(
            f"torch and onnxruntime differ by {difference:.2g}, at most {sizes.tolerance:.2g} is allowed; nothing was"
            " written: train with a smaller learning rate or another seed, which gives weights of a more usual size"
        )


@torch.no_grad()
def vectors(encoder: TwoHopEncoder) -> Float32:
    """[V, D] item vectors e(x), of an encoder in evaluation mode."""
    array: Float32 = encoder.items.table().cpu().numpy()
    return array


def largest_difference(encoder: TwoHopEncoder, exported: Encoder, seed: int = 0) -> float:
    """Largest absolute difference between torch and onnxruntime on any output, over random windows."""
    rng, table = np.random.default_rng(seed), vectors(encoder)
    tables = exported.tables(table)
    largest = 0.0
    for users, length in _PARITY_BATCHES:
        items, times_ms, weights = _random_windows(rng, (users, length or exported.sizes.window_length), len(table))
        onnx_outputs = exported.encode(tables, items, log_ages(times_ms, times_ms[:, -1:]), weights)
        torch_outputs = encode_windows(encoder, items, times_ms, weights)
        for torch_output, onnx_output in zip(torch_outputs, onnx_outputs, strict=True):
            largest = max(largest, float(np.abs(torch_output - onnx_output).max()), key=_nan_last)
    return largest


@torch.no_grad()
def largest_content_difference(content: Content, exported: ContentEncoder) -> float:
    """Largest absolute difference between torch and onnxruntime on the content vectors of the release's own items."""
    in_torch = content(torch.arange(len(content.features), device=content.table.device)).cpu().numpy()
    return float(np.abs(in_torch - exported.vectors(content.features)).max())


def _nan_last(difference: float) -> tuple[bool, float]:
    """Sort key, by which NaN is larger than any number."""
    return bool(np.isnan(difference)), difference


@torch.no_grad()
def encode_windows(encoder: TwoHopEncoder, items: Int32, times_ms: Int64, weights: Float32) -> tuple[Float32, Float32]:
    """Interests [B, K, D] and attention [B, K, L] of the training pass at the newest event of windows [B, L]."""
    ages = log_ages(times_ms, times_ms[:, -1:])[:, None]  # [B, 1, L]
    interests, attention = encoder(*map(torch.from_numpy, (items, ages, weights)))
    return interests[:, -1].numpy(), attention[:, :, -1].numpy()


def _random_windows(rng: np.random.Generator, shape: tuple[int, int], items: int) -> tuple[Int32, Int64, Float32]:
    """Windows with events of every weight, 0 included, which hides an event; the newest event has weight 1."""
    times_ms = np.sort(rng.integers(0, _PARITY_SPAN_MS, shape), axis=1)
    weights = rng.choice(np.array([0.0, 0.5, 1.0, 3.0], np.float32), shape)
    weights[:, -1] = 1.0
    return rng.integers(0, items, shape, dtype=np.int32), times_ms, weights


def _items_with_content(trained: TrainingResult) -> int:
    """Number of the release's items with a feature or a given vector."""
    content = trained.encoder.items.content
    if content is None:
        return 0
    has_features, has_vector = np.diff(content.features.starts) > 0, content.features.dense.any(axis=1)
    return int((has_features | has_vector)[: len(trained.ids)].sum())


def _figures(trained: TrainingResult) -> dict[str, float]:
    if trained.privacy:
        return {"epsilon": trained.privacy.epsilon, "delta": trained.privacy.delta}
    figures = {"validation_ndcg": trained.validations[-1].best_ndcg}
    if trained.score_parts:
        figures["validation_ndcg_of_scores"] = trained.score_parts.ndcg
    return figures


def _provenance(trained: TrainingResult, known: Provenance) -> Provenance:
    """What is known of a release's origin, with its code and data; of a private one nothing exact about its users."""
    provenance = msgspec.structs.replace(known, code=checkpoints.code_version())
    if trained.privacy:
        return provenance
    return msgspec.structs.replace(provenance, fingerprint=trained.fingerprint, until_ms=trained.newest_ms)


def _score_parts_report(parts: ScoreParts | None) -> dict[str, Any] | None:
    """The choice of the parts of the score; None where none was tried."""
    if parts is None:
        return None
    neighbours = asdict(parts.neighbours.sizes) | asdict(parts.neighbours.counting) if parts.neighbours else None
    return {
        "neighbours": neighbours,
        "popularity": asdict(parts.popularity) if parts.popularity else None,
        "encoder_ndcg": parts.encoder_ndcg,
        "ndcg": parts.ndcg,
        "log_partition": parts.log_partition,
    }


def _report(trained: TrainingResult, settings: TrainSettings) -> dict[str, Any]:
    """The release's training: its settings, data and progress; of a private one nothing exact about its users."""
    report: dict[str, Any] = {
        "settings": settings.model_dump(),
        "items_with_content": _items_with_content(trained),
    }
    if trained.privacy:
        return report | {"privacy": asdict(trained.privacy) | {"promise": PROMISE}}
    return report | {
        "newest_training_event_ms": trained.newest_ms,
        "data_fingerprint": trained.fingerprint,
        "validations": [asdict(progress) for progress in trained.validations],
        "stop_reason": trained.stop_reason,
        "step": trained.step,
        "choices": [asdict(choice) for choice in trained.choices],
        "score_parts": _score_parts_report(trained.score_parts),
    }
