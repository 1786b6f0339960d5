"""Release bundles: immutable folders with checksums, written by training and verified before they go live.

    MODEL-VERSION/
      release.json     manifest: schema, model, version, contract, checksums, holdout, figures
      encoder.onnx     window -> interests     (`engine.contract`)
      items.onnx       item vectors -> attention tables
      content.onnx     features of an item's content -> item vector; only if trained with content
      vectors.npy      float32 [V, D]  item vectors e(x)
      neighbours.npy, neighbour_weights.npy
                       int32, float32 [V, M]  rows of each item's neighbours, and their weights; not in every release
      popularity.npy   float32 [V]     events per item in the last seven days of the training data
      ids.json         V item ids, in row order
      report.json      settings, learning curve and figures of the training

The manifest is written last, so a folder without one is incomplete.
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
from engine.arrays import NO_ITEM
from engine.catalogue import searches
from engine.contract import Contract, NeighbourSizes
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
_MAX_MANIFEST_BYTES = 1 << 20
_MAX_ID_BYTES = 65_535
"""Of an item id: as many as `clicks.max_id_bytes` may allow, and as a changelog record can hold."""
_MAX_NEIGHBOURS = 1024
_LIMITS = {"window_length": 1000, "interests": 64, "dimensions": 4096}
"""Largest sizes of a contract that the engine serves; the least is 1."""


class Holdout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Events that training left out, and so the only ones that an evaluation of the release may use as targets."""

    last_event: bool = False
    """Each user's newest event was left out."""
    from_ms: int | None = None
    """Every event at or after this time was left out."""
    items_share: float = 0.0
    """Every event of this share of the items was left out (`models.data.splits.cold_items`)."""
    items_seed: int = 0
    """Seed of the draw of those items."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `release.json`."""

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
    """Learned weights of actions, by name; they replace those in the settings (`features.action_weights`)."""
    checksums: dict[str, str]
    """SHA-256 of each file, by name."""

    @property
    def name(self) -> str:
        """Model and version in one word, as lists and log messages name the release."""
        return f"{self.model}-{self.version}"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A release read from disk: complete, and its files fit each other; its graphs are not loaded yet."""

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
    neighbours: "NeighbourArrays | None" = None


@dataclass(frozen=True, slots=True)
class NeighbourArrays:
    """The table of neighbours of V items, as it is on disk; present if and only if the contract has its sizes."""

    rows: npt.NDArray[np.int32]
    """[V, M] rows of each item's neighbours; NO_ITEM after the last."""
    weights: npt.NDArray[np.float32]
    """[V, M] their weights, 0 and up; 0 after the last."""


@dataclass(frozen=True, slots=True)
class NewRelease:
    """The parts of a bundle to be written."""

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
    """Present if and only if the contract has its sizes."""
    neighbours: NeighbourArrays | None = None
    action_values: Mapping[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


def write(release: NewRelease, releases: Path) -> Path:
    """Write a bundle into the folder `releases` and return its own folder; a bundle is never overwritten.

    Raises:
        ReleaseError: a bundle of that model and version exists already.
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
    if release.neighbours is not None:
        np.save(partial / contract.NEIGHBOURS_FILE, np.ascontiguousarray(release.neighbours.rows, np.int32))
        np.save(partial / contract.NEIGHBOUR_WEIGHTS_FILE, np.ascontiguousarray(release.neighbours.weights, np.float32))
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
    """The manifest of the bundle in `folder`; the other files are not read.

    Raises:
        DamagedReleaseError: there is no manifest, or it cannot be read.
        UnfitReleaseError: it was written for another version of the contract.
    """
    path = folder / contract.MANIFEST_FILE
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise DamagedReleaseError(
                f"release {folder}: {path.name} has {path.stat().st_size} bytes, at most {_MAX_MANIFEST_BYTES} are"
                " expected; export the release again"
            )
        raw = path.read_bytes()
    except (OSError, ValueError) as error:  # a path with a null byte is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        raise DamagedReleaseError(
            f"release {folder}: {path.name} cannot be read ({reason}); expected the folder of a release,"
            " RELEASES/MODEL-VERSION, as `headrace train` writes it: name another, or copy the bundle again"
        ) from error
    try:
        schema = msgspec.json.decode(raw, type=dict[str, Any]).get("schema")
        if schema != contract.SCHEMA:
            raise UnfitReleaseError(
                f"release {folder}: schema {schema!r}, this engine reads {contract.SCHEMA}; train or export it again"
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedReleaseError(
            f"release {folder}: {path.name} is not a manifest: {error}; copy the bundle again"
        ) from error
    _check_sizes(manifest, f"release {folder}")
    return manifest


def read(folder: Path) -> Bundle:
    """Read and verify the bundle in `folder`: checksums, sizes and ids. Its graphs are checked by `serving.warm`.

    Raises:
        DamagedReleaseError: a file is missing or not the one that was written.
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
        ids=_read_ids(folder / contract.IDS_FILE),
        vectors=_read_array(folder / contract.VECTORS_FILE),
        popularity=_read_array(folder / contract.POPULARITY_FILE),
        content_onnx=(folder / contract.CONTENT_FILE).read_bytes() if manifest.contract.content else None,
        neighbours=_read_neighbours(folder) if manifest.contract.neighbours else None,
    )
    _check_fit(bundle)
    return bundle


def files_of(sizes: Contract) -> tuple[str, ...]:
    """Names of the files of a release with this contract, without its manifest."""
    content = (contract.CONTENT_FILE,) if sizes.content else ()
    neighbours = (contract.NEIGHBOURS_FILE, contract.NEIGHBOUR_WEIGHTS_FILE) if sizes.neighbours else ()
    return REQUIRED_FILES + content + neighbours


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
        digest = checksum(path)
    except OSError as error:
        raise DamagedReleaseError(
            f"release {path.parent}: {path.name} cannot be read ({error.strerror}), though the manifest names it;"
            " copy the bundle again"
        ) from error
    if digest != expected:
        raise DamagedReleaseError(
            f"release {path.parent}: {path.name} has SHA-256 {digest[:12]}…, the manifest says {expected[:12]}…;"
            " copy the bundle again"
        )


def _read_ids(path: Path) -> list[str]:
    try:
        ids = msgspec.json.decode(path.read_bytes(), type=list[str])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedReleaseError(
            f"release {path.parent}: {path.name} is no JSON array of item ids ({error}); export the release again"
        ) from error
    for item in ids:
        if len(item) * 4 > _MAX_ID_BYTES and len(item.encode("utf-8", "surrogatepass")) > _MAX_ID_BYTES:
            raise UnfitReleaseError(
                f"release {path.parent}: item id {item[:20]!r}... has more than {_MAX_ID_BYTES} bytes; shorten it"
            )
    return ids


def _read_neighbours(folder: Path) -> NeighbourArrays:
    return NeighbourArrays(
        _read_array(folder / contract.NEIGHBOURS_FILE), _read_array(folder / contract.NEIGHBOUR_WEIGHTS_FILE)
    )


def _read_array(path: Path) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError) as error:
        raise DamagedReleaseError(
            f"release {path.parent}: {path.name} is no array that numpy reads ({error}); export the release again"
        ) from error
    if isinstance(array, np.lib.npyio.NpzFile):
        array.close()
        raise DamagedReleaseError(
            f"release {path.parent}: {path.name} holds several arrays, expected one; export the release again"
        )
    return array


def _check_sizes(manifest: Manifest, where: str) -> None:
    for name, most in _LIMITS.items():
        size = getattr(manifest.contract, name)
        if not 1 <= size <= most:
            raise UnfitReleaseError(
                f"{where}: contract.{name} is {size}, expected 1 to {most}; train it with other sizes"
            )
    if manifest.contract.neighbours is not None:
        _check_neighbour_sizes(manifest.contract.neighbours, where)
    score = manifest.contract.popularity
    if score is not None and not (0.0 <= score.weight < math.inf and 0.0 < score.floor < math.inf):
        raise UnfitReleaseError(
            f"{where}: contract.popularity is {score}, expected a weight of 0 or more and a floor above 0; {_WAY_OUT}"
        )
    if not (0.0 < manifest.contract.tolerance < math.inf and manifest.items >= 0):
        raise UnfitReleaseError(
            f"{where}: contract.tolerance is {manifest.contract.tolerance} and items is {manifest.items}, expected a"
            " number above 0 and a count; export the release again"
        )


def _check_neighbour_sizes(sizes: NeighbourSizes, where: str) -> None:
    fits = (
        1 <= sizes.count <= _MAX_NEIGHBOURS
        and 1 <= sizes.last_items <= _LIMITS["window_length"]
        and 0.0 < sizes.decay <= 1.0
        and 0.0 <= sizes.weight < math.inf
        and 0.0 < sizes.floor < math.inf
    )
    if not fits:
        raise UnfitReleaseError(
            f"{where}: contract.neighbours is {sizes}, expected a count from 1 to {_MAX_NEIGHBOURS}, last_items from 1"
            f" to {_LIMITS['window_length']}, a decay above 0 and up to 1, a weight of 0 or more and a floor above 0;"
            f" {_WAY_OUT}"
        )


def _check_fit(bundle: Bundle) -> None:
    """Refuse a bundle whose arrays, ids or action values contradict its manifest.

    Raises:
        UnfitReleaseError: names the part, its value and the expected one.
    """
    manifest, release = bundle.manifest, f"release {bundle.folder}"
    shape = (manifest.items, manifest.contract.dimensions)
    _check_array(bundle.vectors, f"{release}: vectors are", shape)
    _check_array(bundle.popularity, f"{release}: popularity is", shape[:1])
    for action, value in manifest.action_values.items():
        if not 0.0 < value < math.inf:
            raise UnfitReleaseError(
                f"{release}: action {action!r} has the value {value}, expected one above 0; {_WAY_OUT}"
            )
    if not np.isfinite(bundle.vectors).all():
        raise UnfitReleaseError(f"{release}: vectors hold values that are not finite, expected numbers; {_WAY_OUT}")
    if bundle.neighbours is not None and manifest.contract.neighbours is not None:
        _check_neighbours(bundle.neighbours, (manifest.items, manifest.contract.neighbours.count), release)
    _check_ids(bundle.ids, manifest.items, release)
    if manifest.items == 0:
        raise UnfitReleaseError(f"{release}: found no items, expected one at least; {_WAY_OUT}")


def _check_neighbours(neighbours: NeighbourArrays, shape: tuple[int, int], release: str) -> None:
    _check_array(neighbours.rows, f"{release}: neighbours are", shape, np.int32)
    _check_array(neighbours.weights, f"{release}: weights of neighbours are", shape)
    lowest, highest = int(neighbours.rows.min(initial=NO_ITEM)), int(neighbours.rows.max(initial=NO_ITEM))
    if lowest < NO_ITEM or highest >= shape[0]:
        raise UnfitReleaseError(
            f"{release}: neighbours are rows from {lowest} to {highest}, expected {NO_ITEM} to {shape[0] - 1};"
            f" {_WAY_OUT}"
        )
    if not (np.isfinite(neighbours.weights).all() and neighbours.weights.min(initial=0.0) >= 0.0):
        raise UnfitReleaseError(
            f"{release}: weights of neighbours hold negative or infinite values, expected numbers from 0 on; {_WAY_OUT}"
        )


def _check_array(
    array: npt.NDArray[Any], subject: str, shape: tuple[int, ...], dtype: type[np.generic] = np.float32
) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise UnfitReleaseError(
            f"{subject} {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}; {_WAY_OUT}"
        )


def _check_ids(ids: list[str], items: int, release: str) -> None:
    if len(ids) != items or len(set(ids)) != len(ids) or "" in ids:
        raise UnfitReleaseError(
            f"{release}: found {len(ids)} item ids, {len(set(ids))} of them different,"
            f" expected {items}, all different and none empty; {_WAY_OUT}"
        )
    if marked := [item for item in ids if searches.is_search(item)]:
        raise UnfitReleaseError(
            f"{release}: item id {marked[0]!r} begins with {searches.MARK!r}, which only searches may begin with;"
            " give the item another id and train again"
        )
