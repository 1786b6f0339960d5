"""Releases are found, verified and warmed in the background; what is damaged is refused and the old one goes on."""

import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from engine import contract
from engine.catalogue.ids import Catalogue
from engine.eventlog.base import Outgoing, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.messages.announcement import Announcement
from engine.metrics import Metrics
from engine.releases import announcements, bundles, experiments
from engine.releases.announcements import TopicFeed
from engine.releases.registry import Registry
from engine.releases.release_loader import ReleaseLoader, RunningExperiment, TrialChange
from engine.settings.sections import ReleaseSettings, Settings
from tests.unit.test_bundles import rewritten
from tests.waiting import LIMIT_S, until

TOPIC = "releases"


@pytest.fixture
def log() -> MemoryLog:
    made = MemoryLog()
    made.ensure_topics([TopicSpec(TOPIC, compacted=True)])
    return made


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def loader(log: MemoryLog, metrics: Metrics) -> Iterator[ReleaseLoader]:
    settings = Settings(releases=ReleaseSettings(poll_interval_s=0.02))

    loader = ReleaseLoader(settings, Catalogue(), metrics, lambda: TopicFeed(log.reader([TOPIC]), "two-hop"))
    loader.start()
    yield loader
    loader.close()


def publish(log: MemoryLog, bundle: Path, now_ms: int) -> Announcement:
    announcement = announcements.announce(bundle, "live", now_ms)
    with log.producer() as producer:
        announcements.send(announcement, producer, TOPIC)
    return announcement


def refusals(metrics: Metrics) -> float:
    return sum(
        sample.value
        for family in metrics.release_refusals.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    )


def test_an_announced_release_arrives_warm(loader: ReleaseLoader, log: MemoryLog, tiny_release: Path) -> None:
    assert loader.take() is None
    publish(log, tiny_release, now_ms=1)
    assert loader.wait(LIMIT_S)
    live = loader.take()
    assert live is not None
    assert live.name == bundles.read_manifest(tiny_release).name
    assert loader.take() is None


def test_a_damaged_release_is_refused_and_a_whole_one_after_it_is_taken(
    loader: ReleaseLoader, log: MemoryLog, metrics: Metrics, tiny_release: Path, tmp_path: Path
) -> None:
    damaged = rewritten(tiny_release, tmp_path / "new", version="damaged")
    announcement = announcements.announce(damaged, "live", 1)
    (damaged / contract.VECTORS_FILE).write_bytes(b"cut short")
    with log.producer() as producer:
        announcements.send(announcement, producer, TOPIC)
    publish(log, rewritten(tiny_release, tmp_path / "new", version="whole"), now_ms=2)
    assert loader.wait(LIMIT_S)
    live = loader.take()
    assert live is not None
    assert live.manifest.version == "whole"
    publish_again = msgspec.structs.replace(announcement, announced_ms=3)
    with log.producer() as producer:
        announcements.send(publish_again, producer, TOPIC)
    until(lambda: refusals(metrics) >= 1)
    assert loader.take() is None


def test_a_manifest_that_was_not_announced_is_refused(
    loader: ReleaseLoader, log: MemoryLog, metrics: Metrics, tiny_release: Path, tmp_path: Path
) -> None:
    bundle = rewritten(tiny_release, tmp_path / "new", version="swapped")
    announcement = announcements.announce(bundle, "live", 1)
    shutil.rmtree(bundle)
    rewritten(tiny_release, tmp_path / "new", version="swapped", figures={"other": 1.0})
    with log.producer() as producer:
        announcements.send(announcement, producer, TOPIC)
    until(lambda: refusals(metrics) >= 1)
    assert loader.take() is None


def _resealed(bundle: Path) -> None:
    """Give the bundle checksums that fit its files as they are now."""
    path = bundle / contract.MANIFEST_FILE
    manifest = json.loads(path.read_bytes())
    manifest["checksums"] = {name: bundles.checksum(bundle / name) for name in manifest["checksums"]}
    manifest["content_hash"] = ""
    path.write_text(json.dumps(manifest))


def _with_file(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        (bundle / name).write_bytes(content)
        _resealed(bundle)

    return damage


def _with_contract(**sizes: int) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        path = bundle / contract.MANIFEST_FILE
        manifest = json.loads(path.read_bytes())
        manifest["contract"] |= sizes
        manifest["content_hash"] = ""
        path.write_text(json.dumps(manifest))

    return damage


def _with_manifest(content: bytes) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        (bundle / contract.MANIFEST_FILE).write_bytes(content)

    return damage


def _array(values: object, *, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(values), allow_pickle=pickled)
    return file.getvalue()


def _archive(values: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, np.asarray(values))
    return file.getvalue()


LOOP_BODY = (
    ("step", onnx.TensorProto.INT64),
    ("go_on", onnx.TensorProto.BOOL),
    ("so_far", onnx.TensorProto.FLOAT),
    ("still", onnx.TensorProto.BOOL),
    ("after", onnx.TensorProto.FLOAT),
)


def _endless(bundle: Path) -> None:
    """An encoder that counts to 2^62 before it gives what it gave before."""
    model = onnx.load_model_from_string((bundle / contract.ENCODER_FILE).read_bytes())
    scalars = [onnx.helper.make_tensor_value_info(name, kind, []) for name, kind in LOOP_BODY]
    steps = [
        onnx.helper.make_node("Add", ["so_far", "increment"], ["after"]),
        onnx.helper.make_node("Identity", ["go_on"], ["still"]),
    ]
    increment = onnx.numpy_helper.from_array(np.array(1.0, np.float32), "increment")
    body = onnx.helper.make_graph(steps, "body", scalars[:3], scalars[3:], [increment])
    constants: dict[str, Any] = {"count": np.array(2**62), "zero": np.array(0.0, np.float32), "true": np.array(True)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    for node in model.graph.node:
        node.input[:] = ["weights_after" if name == "weights" else name for name in node.input]
    nodes = [
        onnx.helper.make_node("Loop", ["count", "true", "zero"], ["counted"], body=body),
        onnx.helper.make_node("Mul", ["counted", "zero"], ["nothing"]),
        onnx.helper.make_node("Add", ["weights", "nothing"], ["weights_after"]),
        *(onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    (bundle / contract.ENCODER_FILE).write_bytes(model.SerializeToString())
    _resealed(bundle)


BAD_BUNDLES: dict[str, Callable[[Path], None]] = {
    "ids that are no array": _with_file(contract.IDS_FILE, b'{"a": 1}'),
    "ids that are no texts": _with_file(contract.IDS_FILE, b"[1, 2, 3]"),
    "ids that are no UTF-8": _with_file(contract.IDS_FILE, b'["\xff\xfe"]'),
    "ids nested deeply": _with_file(contract.IDS_FILE, b"[" * 100_000),
    "an id of ten megabytes": _with_file(contract.IDS_FILE, json.dumps(["x" * 10_000_000]).encode()),
    "vectors that are no array": _with_file(contract.VECTORS_FILE, b"rubbish"),
    "vectors cut short": _with_file(contract.VECTORS_FILE, _array(np.zeros((9, 9), np.float32))[:-8]),
    "vectors that are objects": _with_file(contract.VECTORS_FILE, _array([{"a": 1}], pickled=True)),
    "vectors in an archive": _with_file(contract.VECTORS_FILE, _archive([1.0])),
    "popularity that is text": _with_file(contract.POPULARITY_FILE, _array(["a", "b"])),
    "an encoder that is no graph": _with_file(contract.ENCODER_FILE, b"rubbish"),
    "an items graph that is no graph": _with_file(contract.ITEMS_FILE, b""),
    "window 0": _with_contract(window_length=0),
    "window -1": _with_contract(window_length=-1),
    "window of 10^9": _with_contract(window_length=10**9),
    "other interests than the graph gives": _with_contract(interests=3),
    "a manifest that is no UTF-8": _with_manifest(b'{"schema": 1, "model": "\xff"}'),
    "a manifest nested deeply": _with_manifest(b'{"schema": 1, "figures": ' + b"[" * 100_000),
    "a manifest of 50 MB": _with_manifest(b'{"schema": 1, "model": "' + b"x" * 50_000_000 + b'"}'),
    "an encoder that never ends": _endless,
}


@pytest.mark.timeout(300)
def test_no_bundle_stops_the_thread_and_the_newest_that_can_be_served_is(
    log: MemoryLog, metrics: Metrics, tiny_release: Path, tmp_path: Path
) -> None:
    """Bad bundles of all kinds with right checksums, announced after a good one, met by a worker that starts later."""
    publish(log, tiny_release, now_ms=1)
    for number, (name, damage) in enumerate(BAD_BUNDLES.items()):
        bundle = rewritten(tiny_release, tmp_path / "bad", version=f"bad-{number}")
        announcement = announcements.announce(bundle, "live", 10 + number)
        damage(bundle)
        checksum = bundles.checksum(bundle / contract.MANIFEST_FILE)
        with log.producer() as producer:
            sealed = msgspec.structs.replace(announcement, manifest_checksum=checksum, figures={name: 1.0})
            announcements.send(sealed, producer, TOPIC)
    settings = Settings(releases=ReleaseSettings(poll_interval_s=0.02, load_timeout_s=6.0))
    loader = ReleaseLoader(settings, Catalogue(), metrics, lambda: TopicFeed(log.reader([TOPIC]), "two-hop"))
    loader.start()
    try:
        assert loader.wait(200.0)
        live = loader.take()
        assert live is not None
        assert live.name == bundles.read_manifest(tiny_release).name
        assert refusals(metrics) == len(BAD_BUNDLES)
        publish(log, rewritten(tiny_release, tmp_path / "new", version="whole"), now_ms=100)
        assert loader.wait(LIMIT_S)
        later = loader.take()
        assert later is not None
        assert later.manifest.version == "whole"
        assert refusals(metrics) == len(BAD_BUNDLES)
    finally:
        loader.close()


BAD_ANNOUNCEMENTS: dict[str, dict[str, Any]] = {
    "from the far future": {"announced_ms": 10**18},
    "a null byte in the path": {"bundle": "/releases/a\0b"},
    "no such path": {"bundle": "/nowhere/at/all"},
    "a file": {"bundle": __file__},
    "another version's bundle": {},
}


def test_no_announcement_stops_the_thread(
    loader: ReleaseLoader, log: MemoryLog, metrics: Metrics, tiny_release: Path
) -> None:
    good = announcements.announce(tiny_release, "live", 1)
    with log.producer() as producer:
        for number, changes in enumerate(BAD_ANNOUNCEMENTS.values()):
            bad = msgspec.structs.replace(good, **{"version": f"bad-{number}", "announced_ms": 2, **changes})
            announcements.send(bad, producer, TOPIC)
        producer.send(Outgoing(TOPIC, [b"two-hop/x", b"two-hop/x"], [b"\xff", b"[" * 100_000]))
    publish(log, tiny_release, now_ms=1)
    assert loader.wait(LIMIT_S)
    live = loader.take()
    assert live is not None
    assert live.manifest.version == good.version
    assert refusals(metrics) == len(BAD_ANNOUNCEMENTS)


def test_a_loader_that_tries_an_endless_graph_closes_at_once(
    log: MemoryLog, metrics: Metrics, tiny_release: Path, tmp_path: Path
) -> None:
    bundle = rewritten(tiny_release, tmp_path, version="endless")
    _endless(bundle)
    publish(log, bundle, now_ms=1)
    settings = Settings(releases=ReleaseSettings(poll_interval_s=0.02, load_timeout_s=3600.0))
    loader = ReleaseLoader(settings, Catalogue(), metrics, lambda: TopicFeed(log.reader([TOPIC]), "two-hop"))
    loader.start()
    assert not loader.wait(3.0)
    loader.close()
    assert refusals(metrics) == 0


ARMS = ("control", "wide diversity=0.3", "b release=b", "c release=c", "gone release=d")


def test_an_experiment_comes_after_the_release_that_it_is_over_and_with_all_that_can_be_served(
    loader: ReleaseLoader, log: MemoryLog, tiny_release: Path, tmp_path: Path
) -> None:
    live = announcements.announce(tiny_release, "live", 1)
    b, c, d = (
        announcements.announce(rewritten(tiny_release, tmp_path / "new", version=version), "candidate", 2)
        for version in ("b", "c", "d")
    )
    (Path(c.bundle) / contract.VECTORS_FILE).write_bytes(b"cut short")
    registry = Registry("two-hop").with_changes([live, b, c, d])
    (record,) = experiments.start(registry, "e", [*map(experiments.parse_arm, ARMS)], 3)
    with log.producer() as producer:
        announcements.send_changes([live, b, c, record], producer, TOPIC)
    until(lambda: loader._trial is not None)
    assert loader.take_trial() is None  # as the release was not taken yet
    assert loader.take() is not None
    change = loader.take_trial()
    assert change is not None
    assert isinstance(change.trial, RunningExperiment)
    assert change.trial.experiment == record
    assert [*change.trial.releases] == ["b"]
    assert "vectors.npy" in change.trial.refusals["c"]
    assert change.trial.refusals["d"].startswith("no version 'd' is announced any more")
    assert loader.take_trial() is None
    (ended,) = experiments.stop(registry.with_changes([record]), "e", 4)
    with log.producer() as producer:
        announcements.send_changes([ended], producer, TOPIC)
    until(lambda: loader._trial is None)
    assert loader.take_trial() == TrialChange(None)


def test_a_worker_whose_live_release_is_another_serves_no_experiment(
    loader: ReleaseLoader, log: MemoryLog, tiny_release: Path, tmp_path: Path
) -> None:
    """The release at its start is damaged here, and the one before serves: the arms are not over that one."""
    damaged = rewritten(tiny_release, tmp_path / "new", version="damaged")
    records = [announcements.announce(tiny_release, "live", 1), announcements.announce(damaged, "live", 2)]
    (damaged / contract.VECTORS_FILE).write_bytes(b"cut short")
    registry = Registry("two-hop").with_changes(records)
    with log.producer() as producer:
        started = experiments.start(registry, "e", [*map(experiments.parse_arm, ARMS[:2])], 3)
        announcements.send_changes([*records, *started], producer, TOPIC)
    assert loader.wait(LIMIT_S)
    live = loader.take()
    assert live is not None
    assert live.name == "two-hop-tiny"
    time.sleep(0.2)  # several looks
    assert loader.take_trial() is None
