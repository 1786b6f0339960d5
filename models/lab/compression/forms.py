"""Cheaper forms of a release: tried on recorded windows, refused when they lose too much, written, and measured.

Each form is tried against the release it is made from. Rounding is judged by the largest difference on any output, and
everything together by what it loses of NDCG@10: a pruned release gives other numbers on purpose.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
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
from models.lab.compression import rewriting as compression
from models.lab.compression import trial_windows
from models.lab.compression.trial_windows import TrialWindows
from models.settings import Form

BATCHES: Final = (16, 256)
_TIMED_USERS: Final = 12_800
"""So many users are encoded by each form, for each size of batch."""
_CALIBRATION_WINDOWS: Final = 512
_TRIAL_WINDOWS: Final = 10_000
"""Enough that chance moves the loss of a well-trained release by rounding by a few thousandths only."""
FORMS: Final = (
    Form(precision="fp32"),
    Form(precision="fp16"),
    Form(precision="int8"),
    Form(precision="fp32", pruned=0.5),
    Form(precision="int8", pruned=0.5),
)
"""What `measure` puts side by side; the first is the release as it is."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A cheaper form of a release and what it costs in quality."""

    form: Form
    bundle: Bundle
    """What is served; its folder is that of the release it was made from."""
    loss: float
    """Share of the NDCG@10 on recorded windows that is lost; below 0 when there is more than before."""
    loss_error: float
    """Standard error of the loss: how far chance moves it."""
    difference: float
    """Largest difference that rounding makes on any output, over the same windows."""
    windows: int

    def refuse(self, allowed_loss: float) -> None:
        """Refuse what loses too much.

        Raises:
            UnfitReleaseError: it does.
        """
        tolerance = self.bundle.manifest.contract.tolerance
        if not self.difference <= tolerance:
            raise UnfitReleaseError(
                f"{self.form.name} differs from fp32 by {self.difference:.2g}, at most {tolerance:.2g} is allowed;"
                " nothing was written: choose a higher precision"
            )
        if not self.loss <= allowed_loss:
            raise UnfitReleaseError(
                f"{self.form.name} loses {self.loss:.2%} (give or take {self.loss_error:.2%}) of NDCG@10 on"
                f" {self.windows} windows, at most {allowed_loss:.2%} is allowed; nothing was written: take a higher"
                " precision, prune less, or allow it with --allow-loss"
            )


class CompressionCheck:
    """A release and the recorded windows that its cheaper forms are tried on."""

    def __init__(self, bundle: Bundle, interactions: Interactions, clicks: ClickSettings) -> None:
        """Draw the windows.

        Raises:
            DataError: the data has none for this release.
        """
        windows = trial_windows.draw(bundle, interactions, clicks, _CALIBRATION_WINDOWS + _TRIAL_WINDOWS)
        aside = min(_CALIBRATION_WINDOWS, len(windows) // 2)
        self._bundle = bundle
        self._calibration, self._windows = windows.part(0, aside), windows.part(aside, len(windows))
        self._gains = self._gains_of(_outputs(bundle, self._windows))

    def run(self, form: Form) -> Tried:
        """Make the release cheaper and see what that costs.

        Raises:
            UnfitReleaseError: the release is not in fp32.
        """
        pruned = compression.pruned(self._bundle, form.pruned) if form.pruned else self._bundle
        lowered = compression.lowered(pruned, form.precision, self._calibration)
        exact, found = _outputs(pruned, self._windows), _outputs(lowered, self._windows)
        lost = self._gains - self._gains_of(found)
        ndcg = float(self._gains.mean()) or 1.0  # a release that finds nothing has nothing to lose
        return Tried(
            form=form,
            bundle=lowered,
            loss=float(lost.mean()) / ndcg,
            loss_error=float(lost.std()) / math.sqrt(len(lost)) / ndcg,
            difference=float(np.max([np.abs(ours - theirs).max() for ours, theirs in zip(exact, found, strict=True)])),
            windows=len(self._windows),
        )

    def _gains_of(self, outputs: tuple[Float32, Float32]) -> Float64:
        return trial_windows.gains(outputs[0], self._bundle.vectors, self._windows)


def write(tried: Tried, version: str | None, created_ms: int, releases: Path) -> Path:
    """Write a tried form as a release of its own below `releases`; returns its folder.

    Raises:
        ReleaseError: that bundle is there already.
    """
    bundle, form = tried.bundle, tried.form
    manifest = bundle.manifest
    compressed = {
        "release": manifest.name,
        **form.model_dump(),
        "ndcg_loss": tried.loss,
        "ndcg_loss_error": tried.loss_error,
        "windows": tried.windows,
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
        popularity=bundle.popularity,
        ids=bundle.ids,
        action_values=manifest.action_values,
        figures={
            **manifest.figures,
            "parity_difference": manifest.figures.get("parity_difference", 0.0) + tried.difference,
            "ndcg_loss": tried.loss,
        },
        report={**_report(bundle), "compressed": compressed},
    )
    return bundles.write(new, releases)


def measure(
    trial: CompressionCheck, interactions: Interactions, settings: Settings, items: int | None = None
) -> list[dict[str, Any]]:
    """A row for each of `FORMS`: quality by `evaluate`, cost by the processor's own clock, and sizes.

    Args:
        trial: of the release.
        interactions: what the release was trained on.
        settings: how it is evaluated.
        items: size of the catalogue that the cost is measured on, made from the release's; None takes it as it is.

    Raises:
        ReleaseError: a form cannot be served.
    """
    tried = [trial.run(form) for form in FORMS]
    costs = _costs([one.bundle for one in tried], items)
    rows = []
    for one, cost in zip(tried, costs, strict=True):
        report = evaluate(one.bundle, interactions, settings, lambda *_: None)
        rows.append(
            {
                "form": one.form.name,
                "ndcg10": report["ndcg10"],
                "hr10": report["hr10"],
                "time_split_ndcg10": report["time_split"]["ndcg10"],
                "trial_loss": one.loss,
                "trial_loss_error": one.loss_error,
                "difference": one.difference,
                **cost,
                "bundle_bytes": _bundle_bytes(one.bundle),
            }
        )
    return rows


class _Timed:
    """One form, its tables, and how long it took for each batch."""

    def __init__(self, bundle: Bundle, vectors: Float32) -> None:
        self.encoder = Encoder(bundle.encoder_onnx, bundle.items_onnx, bundle.manifest.contract)
        self.tables: Tables = self.encoder.tables(vectors)
        self.spent_s: dict[int, list[float]] = {users: [] for users in BATCHES}

    def run(self, batch: Mapping[str, Any]) -> None:
        began_s = time.thread_time()
        self.encoder.encode(self.tables, **batch)
        self.spent_s[len(batch["items"])].append(time.thread_time() - began_s)


def _costs(bundles: list[Bundle], items: int | None) -> list[dict[str, float]]:
    """Processor time per user of each bundle, and that time over the first one's; medians, the bundles in turn.

    Windows are full and of random items, so that what a catalogue beyond the processor's caches costs is in it.
    """
    first = bundles[0]
    count, sizes = items or len(first.ids), first.manifest.contract
    vectors = np.resize(first.vectors, (count, sizes.dimensions))
    timed, rng = [_Timed(bundle, vectors) for bundle in bundles], np.random.default_rng(0)
    for users in BATCHES:
        for _ in range(_TIMED_USERS // users):
            shape = (users, sizes.window_length)
            batch = {
                "items": rng.integers(0, count, shape, dtype=np.int32),
                "ages": np.sort(rng.random(shape, np.float32))[:, ::-1].copy(),
                "weights": np.ones(shape, np.float32),
            }
            for one in timed:
                one.run(batch)
    return [_cost(one, timed[0]) for one in timed]


def _cost(one: _Timed, first: _Timed) -> dict[str, float]:
    figures: dict[str, float] = {}
    for users, spent_s in one.spent_s.items():
        figures[f"us_per_user_{users}"] = 1e6 * median(spent_s) / users
        figures[f"ratio_{users}"] = median(mine / its for mine, its in zip(spent_s, first.spent_s[users], strict=True))
    figures["table_bytes"] = sum(one.tables[name].nbytes for name in contract.TABLES)
    return figures


def _outputs(bundle: Bundle, windows: TrialWindows) -> tuple[Float32, Float32]:
    encoder = Encoder(bundle.encoder_onnx, bundle.items_onnx, bundle.manifest.contract)
    return trial_windows.interests(encoder, bundle, windows)


def _report(bundle: Bundle) -> dict[str, Any]:
    raw = (bundle.folder / contract.REPORT_FILE).read_bytes()
    return msgspec.json.decode(raw, type=dict[str, Any])


def _bundle_bytes(bundle: Bundle) -> int:
    """What the form takes on disk: its graphs, and the other files as they are."""
    graphs = {contract.ENCODER_FILE, contract.ITEMS_FILE}
    others = (path.stat().st_size for path in bundle.folder.iterdir() if path.name not in graphs)
    return len(bundle.encoder_onnx) + len(bundle.items_onnx) + sum(others)
