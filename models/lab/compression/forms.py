"""Compressed forms of a release: checked against the release, refused when they lose too much, written, measured.

Every form is checked on a sample of recorded windows. Rounding is limited by the largest difference on any output, and
rounding and pruning together by the loss of NDCG@10: pruning changes outputs on purpose.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine import contract
from engine.arrays import Float32, Float64
from engine.errors import UnfitReleaseError
from engine.releases import bundles
from engine.releases.bundles import Bundle, NewRelease
from engine.retrieval.encoder import Encoder, Tables
from engine.settings.sections import ClickSettings, Settings
from models.data.dataset import Interactions
from models.evaluation.evaluate import evaluate
from models.evaluation.release_under_test import training_report
from models.lab import timing
from models.lab.compression import rewriting, window_sample
from models.lab.compression.window_sample import WindowSample
from models.settings import Form

_TIMED_USERS: Final = 12_800
"""Users that each form encodes, for each size of batch."""
_CALIBRATION_WINDOWS: Final = 512
_CHECK_WINDOWS: Final = 10_000
"""Enough that the loss of a well-trained release by rounding has a standard error of a few thousandths."""
FORMS: Final = (
    Form(precision="fp32"),
    Form(precision="fp16"),
    Form(precision="int8"),
    Form(precision="fp32", pruned=0.5),
    Form(precision="int8", pruned=0.5),
)
"""Forms that `measure` compares; the first is the release as it is."""


@dataclass(frozen=True, slots=True)
class CompressedRelease:
    """A compressed form of a release, and what it loses."""

    form: Form
    bundle: Bundle
    """The release with its new graphs; its folder is that of the release it was made from."""
    ndcg_loss: float
    """Share of the NDCG@10 on recorded windows that is lost; negative where the form has more."""
    ndcg_loss_error: float
    """Standard error of the loss."""
    output_difference: float
    """Largest absolute difference that rounding makes on any output, over the same windows."""
    windows: int
    """Windows that it was checked on."""

    def raise_if_unfit(self, allowed_loss: float) -> None:
        """Check the limits on differences and loss.

        Raises:
            UnfitReleaseError: outputs differ by more than the contract's tolerance, or the loss is above
                `allowed_loss`.
        """
        tolerance = self.bundle.manifest.contract.tolerance
        if not self.output_difference <= tolerance:
            raise UnfitReleaseError(
                f"{self.form.name} differs from fp32 by {self.output_difference:.2g}, at most {tolerance:.2g} is"
                " allowed; nothing was written: choose a higher precision"
            )
        if not self.ndcg_loss <= allowed_loss:
            raise UnfitReleaseError(
                f"{self.form.name} loses {self.ndcg_loss:.2%} (standard error {self.ndcg_loss_error:.2%}) of NDCG@10 on"
                f" {self.windows} windows, at most {allowed_loss:.2%} is allowed; nothing was written: choose a higher"
                " precision, prune less, or allow it with --allow-loss"
            )


class CompressionCheck:
    """A release, and recorded windows on which its compressed forms are checked."""

    def __init__(self, bundle: Bundle, interactions: Interactions, clicks: ClickSettings) -> None:
        """Draw the windows.

        Raises:
            DataError: the data has too few for this release.
        """
        sample = window_sample.draw(bundle, interactions, clicks, _CALIBRATION_WINDOWS + _CHECK_WINDOWS)
        calibration_windows = min(_CALIBRATION_WINDOWS, len(sample) // 2)
        self._bundle = bundle
        self._calibration = sample.part(0, calibration_windows)
        self._sample = sample.part(calibration_windows, len(sample))
        self._gains = self._ndcg_gains(_outputs(bundle, self._sample))

    def run(self, form: Form) -> CompressedRelease:
        """Compress the release, and measure what that loses.

        Raises:
            UnfitReleaseError: the release is not in fp32.
        """
        pruned = rewriting.pruned(self._bundle, form.pruned) if form.pruned else self._bundle
        quantised = rewriting.quantised(pruned, form.precision, self._calibration)
        exact, rounded = _outputs(pruned, self._sample), _outputs(quantised, self._sample)
        lost_gains = self._gains - self._ndcg_gains(rounded)
        ndcg = float(self._gains.mean()) or 1.0  # an NDCG of 0 has nothing to lose
        return CompressedRelease(
            form=form,
            bundle=quantised,
            ndcg_loss=float(lost_gains.mean()) / ndcg,
            ndcg_loss_error=float(lost_gains.std()) / math.sqrt(len(lost_gains)) / ndcg,
            output_difference=float(
                np.max([np.abs(left - right).max() for left, right in zip(exact, rounded, strict=True)])
            ),
            windows=len(self._sample),
        )

    def _ndcg_gains(self, outputs: tuple[Float32, Float32]) -> Float64:
        return window_sample.ndcg_gains(outputs[0], self._bundle.vectors, self._sample)


def write(compressed: CompressedRelease, version: str | None, created_ms: int, releases: Path) -> Path:
    """Write a compressed form as a release of its own below `releases`; returns its folder.

    Raises:
        ReleaseError: a bundle of that name is there already.
    """
    bundle, form = compressed.bundle, compressed.form
    manifest = bundle.manifest
    origin = {
        "release": manifest.name,
        **form.model_dump(),
        "ndcg_loss": compressed.ndcg_loss,
        "ndcg_loss_error": compressed.ndcg_loss_error,
        "windows": compressed.windows,
    }
    new = NewRelease(
        model=manifest.model,
        version=version or f"{manifest.version}-{form.name}",
        created_ms=created_ms,
        contract=manifest.contract,
        holdout=manifest.holdout,
        encoder_onnx=bundle.encoder_onnx,
        items_onnx=bundle.items_onnx,
        content_onnx=bundle.content_onnx,
        vectors=bundle.vectors,
        neighbours=bundle.neighbours,
        labels=bundle.labels,
        popularity=bundle.popularity,
        ids=bundle.ids,
        action_values=manifest.action_values,
        figures={
            **manifest.figures,
            "parity_difference": manifest.figures.get("parity_difference", 0.0) + compressed.output_difference,
            "ndcg_loss": compressed.ndcg_loss,
        },
        report={**training_report(bundle), "compressed": origin},
    )
    return bundles.write(new, releases)


def measure(
    check: CompressionCheck, interactions: Interactions, settings: Settings, items: int | None = None
) -> list[dict[str, Any]]:
    """A row for each of `FORMS`: quality by `evaluate`, processor time per user, and sizes in bytes.

    Args:
        check: of the release.
        interactions: recorded interactions that the release was trained on.
        settings: for the evaluation.
        items: size of the catalogue that the cost is measured on, filled with the release's items; None takes the
            release's own.

    Raises:
        ReleaseError: a form cannot be served.
    """
    compressed_releases = [check.run(form) for form in FORMS]
    costs = _costs([compressed.bundle for compressed in compressed_releases], items)
    return [
        {**_quality(compressed, interactions, settings), **cost, "bundle_bytes": _bundle_bytes(compressed.bundle)}
        for compressed, cost in zip(compressed_releases, costs, strict=True)
    ]


def _quality(compressed: CompressedRelease, interactions: Interactions, settings: Settings) -> dict[str, Any]:
    report = evaluate(compressed.bundle, interactions, settings, lambda *_: None)
    return {
        "form": compressed.form.name,
        "ndcg10": report["ndcg10"],
        "hr10": report["hr10"],
        "time_split_ndcg10": report["time_split"]["ndcg10"],
        "ndcg_loss": compressed.ndcg_loss,
        "ndcg_loss_error": compressed.ndcg_loss_error,
        "output_difference": compressed.output_difference,
    }


def _costs(bundles: list[Bundle], items: int | None) -> list[dict[str, float]]:
    """Processor time per user of each bundle, its ratio to that of the first one, and the size of its tables."""
    first = bundles[0]
    count = items or len(first.ids)
    vectors = np.resize(first.vectors, (count, first.manifest.contract.dimensions))
    encoders = [_encoder(bundle) for bundle in bundles]
    tables = [encoder.tables(vectors) for encoder in encoders]
    costs: list[dict[str, float]] = [
        {"table_bytes": sum(by_name[name].nbytes for name in contract.TABLES)} for by_name in tables
    ]
    rng = np.random.default_rng(0)
    for users in timing.BATCHES:
        batches = _random_batches(rng, (users, first.manifest.contract.window_length), count)
        seconds = [[_encoding_s(*timed, batch) for timed in zip(encoders, tables, strict=True)] for batch in batches]
        for cost, us, ratio in zip(costs, *timing.cost_per_user(np.array(seconds), users), strict=True):
            cost |= {f"us_per_user_{users}": us, f"ratio_{users}": ratio}
    return costs


def _random_batches(rng: np.random.Generator, shape: tuple[int, int], items: int) -> Iterator[dict[str, Any]]:
    """Full windows [B, L] of random items: the tables of a large catalogue are read from beyond the caches."""
    for _ in range(_TIMED_USERS // shape[0]):
        yield {
            "items": rng.integers(0, items, shape, dtype=np.int32),
            "ages": np.sort(rng.random(shape, np.float32))[:, ::-1].copy(),
            "weights": np.ones(shape, np.float32),
        }


def _encoding_s(encoder: Encoder, tables: Tables, batch: dict[str, Any]) -> float:
    began_s = time.thread_time()
    encoder.encode(tables, **batch)
    return time.thread_time() - began_s


def _outputs(bundle: Bundle, sample: WindowSample) -> tuple[Float32, Float32]:
    return window_sample.interests(_encoder(bundle), bundle, sample)


def _encoder(bundle: Bundle) -> Encoder:
    return Encoder(bundle.encoder_onnx, bundle.items_onnx, bundle.manifest.contract)


def _bundle_bytes(bundle: Bundle) -> int:
    """Size on disk: the new graphs, and the other files as they are."""
    graphs = {contract.ENCODER_FILE, contract.ITEMS_FILE}
    other_sizes = (path.stat().st_size for path in bundle.folder.iterdir() if path.name not in graphs)
    return len(bundle.encoder_onnx) + len(bundle.items_onnx) + sum(other_sizes)
