"""Release bundles: an immutable folder with checksums, written by training, verified before it goes live.

    MODEL-VERSION/
      release.json     manifest: schema, model, version, contract, checksums, holdout, figures
      encoder.onnx     window -> interests     (`engine.contract`)
      items.onnx       item vectors -> attention tables
      content.onnx     features of an item's content -> item vector; only where trained with content
      vectors.npy      float32 [V, D]  item vectors e(x)
      popularity.npy   float32 [V]     events per item in the last seven days of the training data
      ids.json         V item ids, in row order
      report.json      how it was trained and what it scored

A manifest is written last, so a folder without one was cut short.
"""

import hashlib
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from engine import contract
from engine.catalogue import searches
from engine.contract import Contract
from engine.errors import DamagedReleaseError, ReleaseError, UnfitReleaseError

_WAY_OUT: Final = "train or export the release again"

REQUIRED_FILES = (
    contract.ENCODER_FILE,
    contract.ITEMS_FILE,
    contract.VECTORS_FILE,
    contract.POPULARITY_FILE,
    contract.IDS_FILE,
    contract.REPORT_FILE,
)
_CHUNK_BYTES = 1 << 20


class Holdout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which events training left out, so that an evaluation knows what it may honestly be asked."""

    last_event: bool = False
    """Each user's newest event was left out."""
    from_ms: int | None = None
    """Every event at or after this time was left out."""
    items_share: float = 0.0
    """Every event of this share of the items was left out, chosen by `items_seed` (`models.data.splits.cold_items`)."""
    items_seed: int = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What `release.json` says."""

    schema: int
    model: str
    version: str
    created_ms: int
    items: int
    """V."""
    contract: Contract
    holdout: Holdout
    figures: dict[str, float]
    """Headline figures of the report, by name."""
    action_values: dict[str, float] = {}
    """Weights that training learned for actions, by name; they stand in for those in the settings."""
    checksums: dict[str, str]
    """SHA-256 of each file, by name."""

    @property
    def name(self) -> str:
        """Model and version in one word: how lists and messages name the release."""
        return f"{self.model}-{self.version}"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A release read from disk, whole and fitting, but not yet warm."""

    folder: Path
    manifest: Manifest
    encoder_onnx: bytes
    items_onnx: bytes
    ids: list[str]
    """V item ids, in row order."""
    vectors: npt.NDArray[np.float32]
    """[V, D]"""
    popularity: npt.NDArray[np.float32]
    """[V]"""
    content_onnx: bytes | None = None


@dataclass(frozen=True, slots=True)
class NewRelease:
    """What training hands over to `write`."""

    model: str
    version: str
    created_ms: int
    contract: Contract
    holdout: Holdout
    encoder_onnx: bytes
    items_onnx: bytes
    vectors: npt.NDArray[np.float32]
    """[V, D]"""
    popularity: npt.NDArray[np.float32]
    """[V]"""
    ids: list[str]
    content_onnx: bytes | None = None
    """There if and only if the contract names its sizes."""
    action_values: Mapping[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


def write(release: NewRelease, releases: Path) -> Path:
    """Write a bundle below the folder `releases` and return its own folder; a bundle is never overwritten.

    Raises:
        ReleaseError: a bundle of that model and version is there already.
    """
    folder = releases / f"{release.model}-{release.version}"
    if folder.exists():
        raise ReleaseError(f"release {folder} exists already; releases are immutable, choose another version")
    partial = releases / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / contract.ENCODER_FILE).write_bytes(release.encoder_onnx)
    (partial / contract.ITEMS_FILE).write_bytes(release.items_onnx)
    if release.content_onnx is not None:
        (partial / contract.CONTENT_FILE).write_bytes(release.content_onnx)
    (partial / contract.IDS_FILE).write_bytes(msgspec.json.encode(release.ids))
    (partial / contract.REPORT_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(release.report), indent=1))
    np.save(partial / contract.VECTORS_FILE, np.ascontiguousarray(release.vectors, np.float32))
    np.save(partial / contract.POPULARITY_FILE, np.ascontiguousarray(release.popularity, np.float32))
    manifest = Manifest(
        schema=contract.SCHEMA,
        model=release.model,
        version=release.version,
        created_ms=release.created_ms,
        items=len(release.ids),
        contract=release.contract,
        holdout=release.holdout,
        figures=release.figures,
        action_values=dict(release.action_values),
        checksums={name: checksum(partial / name) for name in files_of(release.contract)},
    )
    (partial / contract.MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    partial.rename(folder)
    return folder


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`; its files are not looked at.

    Raises:
        DamagedReleaseError: there is no manifest, or it cannot be read.
        UnfitReleaseError: it was written for another version of this contract.
    """
    path = folder / contract.MANIFEST_FILE
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DamagedReleaseError(
            f"release {folder}: {path.name} cannot be read ({error.strerror}); expected the folder of a release:"
            " name another, or copy the bundle again"
        ) from error
    try:
        schema = msgspec.json.decode(raw, type=dict[str, Any]).get("schema")
        if schema != contract.SCHEMA:
            raise UnfitReleaseError(
                f"release {folder}: schema {schema!r}, this engine reads {contract.SCHEMA}; train or export it again"
            )
        return msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DamagedReleaseError(
            f"release {folder}: {path.name} is not a manifest: {error}; copy the bundle again"
        ) from error


def read(folder: Path) -> Bundle:
    """Read and verify the bundle in `folder`: every checksum, then sizes and ids. The graphs are checked when warmed.

    Raises:
        DamagedReleaseError: a file is missing, cut short or changed.
        UnfitReleaseError: the files do not fit each other or the contract.
    """
    manifest = read_manifest(folder)
    for name in files_of(manifest.contract):
        _verify(folder / name, manifest.checksums.get(name))
    bundle = Bundle(
        folder=folder,
        manifest=manifest,
        encoder_onnx=(folder / contract.ENCODER_FILE).read_bytes(),
        items_onnx=(folder / contract.ITEMS_FILE).read_bytes(),
        ids=msgspec.json.decode((folder / contract.IDS_FILE).read_bytes(), type=list[str]),
        vectors=np.load(folder / contract.VECTORS_FILE, allow_pickle=False),
        popularity=np.load(folder / contract.POPULARITY_FILE, allow_pickle=False),
        content_onnx=(folder / contract.CONTENT_FILE).read_bytes() if manifest.contract.content else None,
    )
    _check_fit(bundle)
    return bundle


def files_of(sizes: Contract) -> tuple[str, ...]:
    """The files of a release with this contract, but for its manifest."""
    return (*REQUIRED_FILES, contract.CONTENT_FILE) if sizes.content else REQUIRED_FILES


def checksum(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _verify(path: Path, expected: str | None) -> None:
    if expected is None:
        raise DamagedReleaseError(
            f"release {path.parent}: the manifest has no checksum of {path.name}, expected one for every file;"
            " copy the bundle again"
        )
    try:
        found = checksum(path)
    except OSError as error:
        raise DamagedReleaseError(
            f"release {path.parent}: {path.name} cannot be read ({error.strerror}), though the manifest names it;"
            " copy the bundle again"
        ) from error
    if found != expected:
        raise DamagedReleaseError(
            f"release {path.parent}: {path.name} has SHA-256 {found[:12]}…, the manifest says {expected[:12]}…;"
            " copy the bundle again"
        )


def _check_fit(bundle: Bundle) -> None:
    manifest = bundle.manifest
    where = f"release {bundle.folder}"
    expected = (manifest.items, manifest.contract.dimensions)
    if bundle.vectors.dtype != np.float32 or bundle.vectors.shape != expected:
        raise UnfitReleaseError(
            f"{where}: vectors are {bundle.vectors.dtype} {bundle.vectors.shape}, expected float32 {expected};"
            f" {_WAY_OUT}"
        )
    if bundle.popularity.dtype != np.float32 or bundle.popularity.shape != expected[:1]:
        raise UnfitReleaseError(
            f"{where}: popularity is {bundle.popularity.dtype} {bundle.popularity.shape},"
            f" expected float32 {expected[:1]}; {_WAY_OUT}"
        )
    for action, value in manifest.action_values.items():
        if not 0.0 < value < math.inf:
            raise UnfitReleaseError(
                f"{where}: action {action!r} has the value {value}, expected one above 0; {_WAY_OUT}"
            )
    if not np.isfinite(bundle.vectors).all():
        raise UnfitReleaseError(f"{where}: vectors hold values that are not finite, expected numbers; {_WAY_OUT}")
    if len(bundle.ids) != manifest.items or len(set(bundle.ids)) != len(bundle.ids) or "" in bundle.ids:
        raise UnfitReleaseError(
            f"{where}: found {len(bundle.ids)} item ids, {len(set(bundle.ids))} of them different,"
            f" expected {manifest.items}, all different and none empty; {_WAY_OUT}"
        )
    if marked := [item for item in bundle.ids if searches.is_search(item)]:
        raise UnfitReleaseError(
            f"{where}: item id {marked[0]!r} begins with {searches.MARK!r}, which only searches may begin with;"
            " give the item another id and train again"
        )
    if manifest.items == 0:
        raise UnfitReleaseError(f"{where}: found no items, expected one at least; {_WAY_OUT}")
