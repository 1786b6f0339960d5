"""A bundle is verified file by file; one that is damaged or does not fit is refused, and the error names the file."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engine import contract
from engine.catalogue.ids import Catalogue
from engine.errors import DamagedReleaseError, ReleaseError, UnfitReleaseError
from engine.releases import bundles, serving
from engine.releases.bundles import Bundle, NewRelease
from engine.settings.sections import IndexSettings


@pytest.fixture
def bundle(tiny_release: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_release, tmp_path / tiny_release.name))


def rewritten(bundle: Path, releases: Path, **changes: object) -> Path:
    """A copy of a bundle with some parts changed, and matching checksums."""
    read = bundles.read(bundle)
    parts: dict[str, object] = {
        "model": read.manifest.model,
        "version": "changed",
        "created_ms": 0,
        "contract": read.manifest.contract,
        "holdout": read.manifest.holdout,
        "encoder_onnx": read.encoder_onnx,
        "items_onnx": read.items_onnx,
        "vectors": read.vectors,
        "popularity": read.popularity,
        "ids": read.ids,
    }
    return bundles.write(NewRelease(**{**parts, **changes}), releases)  # type: ignore[arg-type]


def warm(read: Bundle) -> serving.LiveRelease:
    return serving.warm(read, Catalogue(), IndexSettings(), threads=1)


def test_the_hash_of_a_bundle_is_that_of_earlier_versions() -> None:
    """Bundles are named by it: a field that is added to the contract must not change those that lack it."""
    text = (
        b'{"schema":1,"model":"m","version":"1","created_ms":1,"items":2,"contract":{"window_length":20,"interests":4,'
        b'"dimensions":16,"neighbours":{"count":4,"last_items":10,"decay":0.8,"weight":1.0,"floor":0.01}},"holdout":'
        b'{"last_event":true},"figures":{},"checksums":{"ids.json":"00"}}'
    )
    manifest = msgspec.json.decode(text, type=bundles.Manifest)
    assert bundles.content_of(manifest) == "39f492f5e6cb95d6f1014035d966c40f9b5366a6474a3a21b44de8218004a30e"
    scaled = msgspec.structs.replace(manifest, contract=replace(manifest.contract, log_partition=9.0))
    assert bundles.content_of(scaled) != bundles.content_of(manifest)


def test_a_bundle_reads_back_as_it_was_written(bundle: Path, tmp_path: Path) -> None:
    before = bundles.read(bundle)
    after = bundles.read(rewritten(bundle, tmp_path / "new"))
    np.testing.assert_array_equal(after.vectors, before.vectors)
    assert after.ids == before.ids
    assert after.manifest.contract == before.manifest.contract
    assert after.manifest.name == f"{before.manifest.model}-changed"
    assert not list((tmp_path / "new").glob(".*"))


def test_releases_are_immutable(bundle: Path, tmp_path: Path) -> None:
    rewritten(bundle, tmp_path / "new")
    with pytest.raises(ReleaseError, match="immutable"):
        rewritten(bundle, tmp_path / "new")


@pytest.mark.parametrize("name", [*bundles.REQUIRED_FILES, contract.MANIFEST_FILE])
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(DamagedReleaseError, match=name):
        bundles.read(bundle)


@pytest.mark.parametrize("name", bundles.REQUIRED_FILES)
def test_one_changed_bit_is_detected(bundle: Path, name: str) -> None:
    raw = bytearray((bundle / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (bundle / name).write_bytes(raw)
    with pytest.raises(DamagedReleaseError, match=f"{name} has SHA-256"):
        bundles.read(bundle)


def test_a_truncated_manifest_is_refused(bundle: Path) -> None:
    path = bundle / contract.MANIFEST_FILE
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedReleaseError, match="not a manifest"):
        bundles.read(bundle)


def test_another_schema_is_refused(bundle: Path) -> None:
    path = bundle / contract.MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(UnfitReleaseError, match="schema 99"):
        bundles.read(bundle)


def test_sizes_that_disagree_are_refused(bundle: Path, tmp_path: Path) -> None:
    vectors = bundles.read(bundle).vectors
    with pytest.raises(UnfitReleaseError, match="vectors are float32"):
        bundles.read(rewritten(bundle, tmp_path / "a", vectors=vectors[:-1]))
    with pytest.raises(UnfitReleaseError, match="all different"):
        bundles.read(rewritten(bundle, tmp_path / "b", ids=["same"] * len(vectors)))
    with pytest.raises(UnfitReleaseError, match="not finite"):
        bundles.read(rewritten(bundle, tmp_path / "c", vectors=vectors * np.nan))


def test_learned_values_of_actions_are_part_of_a_release(bundle: Path, tmp_path: Path) -> None:
    assert bundles.read(bundle).manifest.action_values == {}
    learned = {"view": 1.0, "buy": 2.5}
    assert bundles.read(rewritten(bundle, tmp_path / "a", action_values=learned)).manifest.action_values == learned
    with pytest.raises(UnfitReleaseError, match="'buy' has the value 0"):
        bundles.read(rewritten(bundle, tmp_path / "b", action_values={"buy": 0.0}))


def test_bytes_that_are_no_graph_are_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UnfitReleaseError, match=r"encoder\.onnx is no ONNX graph"):
        warm(bundles.read(rewritten(bundle, tmp_path / "a", encoder_onnx=b"no graph")))


def test_a_graph_that_breaks_the_contract_is_refused(bundle: Path, tmp_path: Path) -> None:
    read = bundles.read(bundle)
    with pytest.raises(UnfitReleaseError, match=r"encoder\.onnx inputs are \['vectors'\], the contract says"):
        warm(bundles.read(rewritten(bundle, tmp_path / "a", encoder_onnx=read.items_onnx)))


def test_a_warm_release_maps_its_items_to_rows_and_others_to_no_row(tiny_release: Path) -> None:
    catalogue = Catalogue()
    catalogue.numbers(["met before"])
    read = bundles.read(tiny_release)
    served = serving.warm(read, catalogue, IndexSettings(), threads=1)
    numbers = catalogue.numbers([read.ids[3], "met before", "never met", read.ids[0]])
    assert served.rows(numbers).tolist() == [3, -1, -1, 0]
    assert served.rows(np.array([-1, 10**9], np.int32)).tolist() == [-1, -1]
