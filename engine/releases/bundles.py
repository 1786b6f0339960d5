"""Release bundles: immutable folders with checksums, written by training and verified before they go live.

    MODEL-VERSION/
      release.json     manifest: schema, model, version, contract, checksums, holdout, figures
      encoder.onnx     window -> interests     (`engine.contract`)
      items.onnx       item vectors -> attention tables
      content.onnx     features of an item's content -> item vector; only if trained with content
      vectors.npy      float32 [V, D]  item vectors e(x)
      neighbours.npy, neighbour_weights.npy
                       int32, float32 [V, M]  rows of each item's neighbours, and their weights; not in every release
      labels.json, labels.npy
                       fields with values, and int32 [m, 2] which item has which; only if trained with content
      popularity.npy   float32 [V]     events per item in the last seven days of the training data
      ids.json         V item ids, in row order
      report.json      settings, learning curve and figures of the training
      release.sig      signatures of the manifest (`engine.releases.signing`); only if somebody has signed it

The manifest is written last, so a folder without one is incomplete. It has a hash of all that workers serve by, which
is in the release's name where the trainer was given no other: MODEL-TIME-shaHASH. Loading executes nothing of a bundle
and reads nothing outside its folder: see `engine.releases.bundle_files` and `engine.releases.onnx_guard`.
"""

import hashlib
import math
import re
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
from engine.catalogue.labels import ItemLabels
from engine.contract import Contract, NeighbourSizes
from engine.errors import DamagedReleaseError, ReleaseError, UnfitReleaseError
from engine.releases import bundle_files, onnx_guard

_NAME: Final = re.compile(r"[^\s/\x00-\x1f\x7f][^\s\x00-\x1f\x7f]{0,198}[^\s/\x00-\x1f\x7f]|[^\s/\x00-\x1f\x7f]")
_WAY_OUT: Final = "train or export the release again"

REQUIRED_FILES = (
    contract.ENCODER_FILE,
    contract.ITEMS_FILE,
    contract.VECTORS_FILE,
    contract.POPULARITY_FILE,
    contract.IDS_FILE,
    contract.REPORT_FILE,
)
_GRAPHS = (contract.ENCODER_FILE, contract.ITEMS_FILE, contract.CONTENT_FILE)
_CHUNK_BYTES = 1 << 20
_HASH_MARK: Final = "-sha"
_LATER_FIELDS: Final = ("log_partition",)
"""Fields of the contract that are younger than content hashes, None where they are not used; a new one belongs here."""
_HASH_DIGITS: Final = 12
_MAX_GRAPH_BYTES: Final = (1 << 31) - 1
"""What protobuf holds at most."""
_MAX_REPORT_BYTES: Final = 64 << 20
_MAX_LABELS_BYTES: Final = 1 << 30
_MAX_NPY_HEADER_BYTES: Final = 1 << 14
_MAX_MANIFEST_BYTES = 1 << 20
_MAX_ID_BYTES = 65_535
"""Of an item id: as many as `clicks.max_id_bytes` may allow, and as a changelog record can hold."""
_MAX_LOG_PARTITION = 10_000
"""Far beyond the scores of a trained release, and far from what float32 cannot add to them."""
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


class Provenance(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a release comes from; the settings of its training are in its report. Empty: not known."""

    data: str = ""
    """Address of the recorded interactions."""
    fingerprint: str = ""
    """Of those interactions."""
    from_ms: int | None = None
    """Time of the oldest event that it was trained with."""
    until_ms: int | None = None
    """Time of the newest one."""
    code: str = ""
    """Version of Headrace, and the commit of its checkout where there is one."""
    parent: str = ""
    """Version of the release that was live when it was trained, and that it was compared with."""
    parent_content: str = ""
    """Content hash of that release."""
    gate: dict[str, Any] = {}
    """Summary of the comparison that decided on it (`models.jobs.gate_page.summary`)."""


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
    content_hash: str = ""
    """SHA-256 of contract, holdout, action values and checksums; empty in a bundle from before there was one."""
    provenance: Provenance = Provenance()

    @property
    def name(self) -> str:
        """Model and version in one word, as lists and log messages name the release."""
        return f"{self.model}-{self.version}"

    @property
    def trained_until_ms(self) -> int:
        """Time of the newest event that it was trained with; that of its making, where its provenance does not say."""
        return self.provenance.until_ms or self.created_ms


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
    labels: ItemLabels | None = None


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
    labels: ItemLabels | None = None
    action_values: Mapping[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    named_by_content: bool = False
    """The content hash is added to the version."""


def write(release: NewRelease, releases: Path) -> Path:
    """Write a bundle into the folder `releases` and return its own folder; a bundle is never overwritten.

    Raises:
        ReleaseError: a bundle of that model and version exists already.
    """
    folder = releases / f"{release.model}-{release.version}"
    refuse_existing(folder)
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
    if release.labels is not None:
        (partial / contract.LABEL_NAMES_FILE).write_bytes(msgspec.json.encode(release.labels.names))
        np.save(partial / contract.LABELS_FILE, np.ascontiguousarray(release.labels.pairs, np.int32))
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
        checksums={name: checksum(partial / name) for name in _files(release.contract, release.labels is not None)},
        provenance=release.provenance,
    )
    content_hash = content_of(manifest)
    if release.named_by_content:
        version = f"{release.version}{_HASH_MARK}{content_hash[:_HASH_DIGITS]}"
        folder = releases / f"{release.model}-{version}"
        refuse_existing(folder)
        manifest = msgspec.structs.replace(manifest, version=version)
    manifest = msgspec.structs.replace(manifest, content_hash=content_hash)
    (partial / contract.MANIFEST_FILE).write_bytes(_encoded(manifest))
    partial.rename(folder)
    return folder


def record_gate(folder: Path, gate: Mapping[str, Any]) -> None:
    """Write into the manifest of a bundle that nobody announced or signed yet what the gate decided on it.

    Nothing that workers serve by changes, and so neither the content hash nor the version; the manifest is replaced in
    one step.

    Raises:
        ReleaseError: the bundle is signed, or its manifest cannot be read.
    """
    manifest = read_manifest(folder)
    if manifest.provenance.gate == gate:
        return
    if (folder / bundle_files.SIGNATURE_FILE).exists():
        raise ReleaseError(
            f"release {folder} is signed, expected one without {bundle_files.SIGNATURE_FILE} until the gate has decided"
            " on it; remove the signature, retrain, and sign it again"
        )
    provenance = msgspec.structs.replace(manifest.provenance, gate=dict(gate))
    partial = folder.with_name(f".{folder.name}.{contract.MANIFEST_FILE}")
    partial.write_bytes(_encoded(msgspec.structs.replace(manifest, provenance=provenance)))
    partial.replace(folder / contract.MANIFEST_FILE)


def _encoded(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1)


def written_as(releases: Path, model: str, version: str) -> Path | None:
    """The folder of the bundle that was written with that version, which its content hash may follow; None if none."""
    named = releases / f"{model}-{version}"
    return named if named.exists() else next(releases.glob(f"{named.name}{_HASH_MARK}*"), None)


def refuse_existing(folder: Path) -> None:
    """Refuse to write where a bundle is.

    Raises:
        ReleaseError: one is there.
    """
    if folder.exists():
        raise ReleaseError(f"release {folder} exists already; releases are immutable, choose another version")


def content_of(manifest: Manifest) -> str:
    """SHA-256 of all that workers serve by, whatever the release is called and wherever it comes from."""
    sizes = manifest.contract.as_dict()
    for name in _LATER_FIELDS:  # a bundle from before there was the field keeps its hash
        if sizes[name] is None:
            del sizes[name]
    parts = [sizes, manifest.holdout, manifest.action_values, manifest.checksums]
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


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
    _check_names(manifest, f"release {folder}")
    _check_sizes(manifest, f"release {folder}")
    return manifest


def read(folder: Path) -> Bundle:
    """Read and verify the bundle in `folder`: checksums, sizes and ids. Its graphs are checked by `serving.warm`.

    Raises:
        DamagedReleaseError: a file is missing or not the one that was written.
        UnfitReleaseError: the files do not fit each other or the contract.
    """
    manifest = read_manifest(folder)
    bundle_files.check_folder(folder)
    _check_file_sizes(folder, manifest)
    has_labels = contract.LABELS_FILE in manifest.checksums
    for name in _files(manifest.contract, has_labels):
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
        labels=_read_labels(folder) if has_labels else None,
    )
    for name, graph in zip(_GRAPHS, (bundle.encoder_onnx, bundle.items_onnx, bundle.content_onnx), strict=True):
        if graph is not None:
            onnx_guard.check(graph, f"release {folder}: {name}")
    _check_fit(bundle)
    return bundle


def files_of(sizes: Contract) -> tuple[str, ...]:
    """Names of the files of a release with this contract, without its manifest and labels."""
    content = (contract.CONTENT_FILE,) if sizes.content else ()
    neighbours = (contract.NEIGHBOURS_FILE, contract.NEIGHBOUR_WEIGHTS_FILE) if sizes.neighbours else ()
    return REQUIRED_FILES + content + neighbours


def _files(sizes: Contract, has_labels: bool) -> tuple[str, ...]:
    """Names of the files of a release, without its manifest."""
    return files_of(sizes) + ((contract.LABEL_NAMES_FILE, contract.LABELS_FILE) if has_labels else ())


def checksum(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _check_names(manifest: Manifest, where: str) -> None:
    """Refuse names that are paths, files that no bundle has, and a content hash of something else."""
    for subject, name in (("model", manifest.model), ("version", manifest.version)):
        if not _NAME.fullmatch(name) or {"..", "."} & {*name.split("/")}:
            raise UnfitReleaseError(
                f"{where}: {subject} is {name[:80]!r}, expected a name without `..`, `/` at either end, spaces or"
                " control characters; train or export it under another"
            )
    bundle_files.check_names(manifest.checksums, f"{where}: {contract.MANIFEST_FILE}")
    expected = content_of(manifest)
    if manifest.content_hash not in {"", expected}:
        raise DamagedReleaseError(
            f"{where}: its content has the hash {expected[:_HASH_DIGITS]}…, {contract.MANIFEST_FILE} says"
            f" {manifest.content_hash[:_HASH_DIGITS]}…; copy the bundle again"
        )
    _, mark, digits = manifest.version.rpartition(_HASH_MARK)
    if mark and re.fullmatch(rf"[0-9a-f]{{{_HASH_DIGITS}}}", digits) and not expected.startswith(digits):
        raise DamagedReleaseError(
            f"{where}: version {manifest.version!r} names the content {digits}…, found {expected[:_HASH_DIGITS]}…; copy"
            " the bundle again, or export it under another version"
        )


def _check_file_sizes(folder: Path, manifest: Manifest) -> None:
    """Refuse files that are larger than the manifest's sizes allow, before any of them is read."""
    sizes, items = manifest.contract, manifest.items
    neighbours = sizes.neighbours.count if sizes.neighbours else 0
    most = dict.fromkeys(_GRAPHS, _MAX_GRAPH_BYTES) | {
        contract.IDS_FILE: items * (_MAX_ID_BYTES * 2 + 4) + 2,
        contract.REPORT_FILE: _MAX_REPORT_BYTES,
        contract.VECTORS_FILE: items * sizes.dimensions * 4 + _MAX_NPY_HEADER_BYTES,
        contract.POPULARITY_FILE: items * 4 + _MAX_NPY_HEADER_BYTES,
        contract.LABEL_NAMES_FILE: _MAX_LABELS_BYTES,
        contract.LABELS_FILE: _MAX_LABELS_BYTES,
        contract.NEIGHBOURS_FILE: items * neighbours * 4 + _MAX_NPY_HEADER_BYTES,
        contract.NEIGHBOUR_WEIGHTS_FILE: items * neighbours * 4 + _MAX_NPY_HEADER_BYTES,
    }
    for name in _files(sizes, contract.LABELS_FILE in manifest.checksums):
        path = folder / name
        size = path.stat().st_size if path.exists() else 0
        if size > most[name]:
            raise UnfitReleaseError(
                f"release {folder}: {name} has {size} bytes, at most {most[name]} are expected of {items} items;"
                f" {_WAY_OUT}"
            )


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


def _read_labels(folder: Path) -> ItemLabels:
    try:
        names = msgspec.json.decode((folder / contract.LABEL_NAMES_FILE).read_bytes(), type=list[tuple[str, str]])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedReleaseError(
            f"release {folder}: {contract.LABEL_NAMES_FILE} is no JSON array of fields with values ({error}); export"
            " the release again"
        ) from error
    return ItemLabels(names, _read_array(folder / contract.LABELS_FILE))


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
    log_partition = manifest.contract.log_partition
    if log_partition is not None and abs(log_partition) > _MAX_LOG_PARTITION:
        raise UnfitReleaseError(
            f"{where}: contract.log_partition is {log_partition}, expected none or a number from {-_MAX_LOG_PARTITION}"
            f" to {_MAX_LOG_PARTITION}; {_WAY_OUT}"
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
    if bundle.labels is not None:
        _check_labels(bundle.labels, manifest.items, release)
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


def _check_labels(labels: ItemLabels, items: int, release: str) -> None:
    _check_array(labels.pairs, f"{release}: labels are", (labels.pairs.size // 2, 2), np.int32)
    highest = labels.pairs.max(axis=0, initial=-1).tolist()
    is_ascending = bool((np.diff(labels.pairs[:, 0]) >= 0).all())
    if labels.pairs.min(initial=0) < 0 or highest[0] >= len(labels.names) or highest[1] >= items or not is_ascending:
        raise UnfitReleaseError(
            f"{release}: labels go up to {highest[0]} and items to {highest[1]}, expected pairs in ascending order"
            f" below {len(labels.names)} and {items}; {_WAY_OUT}"
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
