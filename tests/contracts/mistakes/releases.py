"""Mistakes with releases: damaged, unfit, or with graphs of another contract."""

import importlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from engine import contract
from engine.catalogue import searches
from engine.catalogue.content import Item
from engine.catalogue.ids import Catalogue
from engine.catalogue.labels import ItemLabels
from engine.contract import ContentSizes, NeighbourSizes, PopularityScore
from engine.errors import (
    DamagedReleaseError,
    MessageError,
    ReleaseError,
    SettingsError,
    UnfitReleaseError,
)
from engine.messages.announcement import Announcement, ReleasePin
from engine.messages.recommendation import decode_recommendation
from engine.releases import announcements, bundles, experiments, serving
from engine.releases.bundles import Bundle, NeighbourArrays, NewRelease
from engine.releases.experiments import ArmText
from engine.releases.registry import Registry
from engine.retrieval import candidates
from engine.retrieval.encoder import ContentEncoder, Encoder
from engine.settings.sections import (
    IndexSettings,
    RecommendationSettings,
)
from producers.demo.bundled import DEMO_RELEASE
from tests.contracts.mistakes.row import Act, Row

DEMO_SIZES = bundles.read_manifest(DEMO_RELEASE).contract


ENCODER_ONNX = (DEMO_RELEASE / contract.ENCODER_FILE).read_bytes()


ITEMS_ONNX = (DEMO_RELEASE / contract.ITEMS_FILE).read_bytes()


def bundle_with(**changes: object) -> Act:
    """Write a small bundle, some parts of which are wrong although its checksums fit, and read it."""
    return lambda folder: bundles.read(written(folder, **changes))


def written(folder: Path, **changes: object) -> Path:
    demo = bundles.read_manifest(DEMO_RELEASE)
    parts: dict[str, object] = {
        "model": "two-hop",
        "version": "1",
        "created_ms": 0,
        "contract": demo.contract,
        "holdout": demo.holdout,
        "encoder_onnx": (DEMO_RELEASE / contract.ENCODER_FILE).read_bytes(),
        "items_onnx": (DEMO_RELEASE / contract.ITEMS_FILE).read_bytes(),
        "vectors": np.ones((2, demo.contract.dimensions), np.float32),
        "popularity": np.ones(2, np.float32),
        "ids": ["a", "b"],
    }
    return bundles.write(NewRelease(**{**parts, **changes}), folder)  # type: ignore[arg-type]


def with_neighbours(rows: object = ((1,), (0,)), weights: object = ((1.0,), (1.0,)), **sizes: float) -> Act:
    """Write a bundle of two items, each the other's neighbour, with some part of the table changed, and read it."""
    chosen = NeighbourSizes(**({"count": 1, "last_items": 10, "decay": 0.8, "weight": 1.0, "floor": 0.01} | sizes))  # type: ignore[arg-type]
    table = NeighbourArrays(np.array(rows, np.int32), np.array(weights, np.float32))
    demo = bundles.read_manifest(DEMO_RELEASE).contract
    return bundle_with(contract=replace(demo, neighbours=chosen), neighbours=table)


def damaged(name: str, content: bytes | None, old: str = "", new: str = "") -> Act:
    """Write a bundle, then replace a file of it, remove it, or replace a piece of its text, and read it."""

    def act(folder: Path) -> object:
        path = written(folder) / name
        if old:
            text = re.sub(old, new, path.read_text())
            path.write_text(re.sub('"content_hash": "[0-9a-f]*"', '"content_hash": ""', text))
        elif content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        return bundles.read(path.parent)

    return act


def sealed(name: str, content: bytes) -> Act:
    """Write a bundle, replace a file of it and its checksum, and read it."""

    def act(folder: Path) -> object:
        bundle = written(folder)
        (bundle / name).write_bytes(content)
        path = bundle / contract.MANIFEST_FILE
        manifest = json.loads(path.read_bytes())
        manifest["checksums"][name] = bundles.checksum(bundle / name)
        manifest["content_hash"] = ""
        path.write_text(json.dumps(manifest))
        return bundles.read(bundle)

    return act


def warm_with(change: Callable[[Bundle], Bundle]) -> Act:
    """Make a bundle ready to serve of which some part is wrong in memory."""
    return lambda folder: serving.warm(change(bundles.read(written(folder))), Catalogue(), IndexSettings(), threads=1)


def sparse_graph(_folder: Path) -> object:
    """Warm the demo's release with a graph of so few links that a search misses near items, however deep it goes."""
    links = IndexSettings(kind="hnsw", m=2, ef_construction=1, target_recall=1.0, least_recall=1.0)
    return serving.warm(bundles.read(DEMO_RELEASE), Catalogue(), links, threads=1)


def graph(inputs: dict[str, tuple[str, str]], outputs: dict[str, tuple[list[int], float]]) -> bytes:
    """An ONNX graph with outputs of these shapes and values, which nobody can tell before it runs."""
    onnx = importlib.import_module("onnx")
    helper, array = onnx.helper, onnx.numpy_helper.from_array
    kinds = {"tensor(float)": onnx.TensorProto.FLOAT, "tensor(int32)": onnx.TensorProto.INT32}
    nodes = [
        helper.make_node("ReduceMin", [next(iter(inputs))], ["least"], keepdims=0),
        helper.make_node("Cast", ["least"], ["whole"], to=onnx.TensorProto.INT64),
        helper.make_node("Sub", ["whole", "whole"], ["zero"]),
    ]
    for name, (shape, value) in outputs.items():
        nodes += [
            helper.make_node("Constant", [], [f"{name} sizes"], value=array(np.array(shape, np.int64))),
            helper.make_node("Add", ["zero", f"{name} sizes"], [f"{name} shape"]),
            helper.make_node("ConstantOfShape", [f"{name} shape"], [name], value=array(np.array([value], np.float32))),
        ]
    info = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "graph",
            [info(name, kinds[kind], list(axes)) for name, (kind, axes) in inputs.items()],
            [info(name, 1, [f"{name}{axis}" for axis in range(len(shape))]) for name, (shape, _) in outputs.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    return bytes(model.SerializeToString())


def encoder_of_other_sizes(folder: Path) -> object:
    encoder = graph(contract.ENCODER_INPUTS, {"interests": ([8, 2, 64], 0.0), "attention": ([8, 2, 100], 0.0)})
    return serving.warm(bundles.read(written(folder, encoder_onnx=encoder)), Catalogue(), IndexSettings(), threads=1)


def content_graph_without_numbers(folder: Path) -> object:
    sizes = ContentSizes(buckets=16)
    changed = written(
        folder,
        contract=replace(bundles.read_manifest(DEMO_RELEASE).contract, content=sizes),
        content_onnx=graph(sizes.inputs, {"vectors": ([1, 64], float("nan"))}),
    )
    catalogue = Catalogue()
    live = serving.warm(bundles.read(changed), catalogue, IndexSettings(), threads=1)
    return live.with_items([Item(id="new", title="tent")], catalogue)


def new_item_without_content(folder: Path) -> object:
    live = serving.warm(bundles.read(written(folder)), Catalogue(), IndexSettings(), threads=1)
    return live.with_items([Item(id="new")], Catalogue())


def gate_after_signature(folder: Path) -> object:
    bundle = written(folder)
    (bundle / "release.sig").write_text("{}")
    bundles.record_gate(bundle, {"passed": True})
    return None


def announcement_cut_short(folder: Path) -> object:
    (folder / "two-hop.json").write_text("{")
    return announcements.FolderFeed(folder, "two-hop").live()


V1 = Announcement(model="two-hop", version="v1", state="live", bundle="/v1", manifest_checksum="0" * 64, announced_ms=1)
REGISTRY = Registry("two-hop").with_changes([V1])
PINNED = REGISTRY.with_changes(
    [
        msgspec.structs.replace(V1, version="v2", announced_ms=2),
        ReleasePin(model="two-hop", pinned_version="v1", pinned_ms=3, reason="lists were empty"),
    ]
)

RUNNING = REGISTRY.with_changes([msgspec.structs.replace(V1, version="v2", state="candidate", announced_ms=2)])
RUNNING = RUNNING.with_changes(
    experiments.start(RUNNING, "first", [ArmText("control"), ArmText("new", release="v2")], 3)
)
WITH_CANARY = REGISTRY.with_changes([msgspec.structs.replace(V1, version="v2", state="canary", announced_ms=2)])


def arm(text: str) -> Act:
    return lambda _folder: experiments.parse_arm(text)


def started(registry: Registry, name: str, *arms: str) -> Act:
    return lambda _folder: experiments.start(registry, name, [*map(experiments.parse_arm, arms)], 4)


EXPERIMENTS = [
    Row(
        "a promotion during an experiment",
        lambda _folder: RUNNING.promote("v2", 4),
        ReleaseError,
        r"two-hop-v2 cannot be promoted | experiment 'first' running over two-hop-v1 | expected none"
        r" | `headrace experiment stop first`",
    ),
    Row(
        "a canary during an experiment",
        lambda _folder: RUNNING.refuse_canary(V1),
        ReleaseError,
        r"two-hop-v1 cannot be a canary | experiment 'first' running | expected none | headrace experiment stop first",
    ),
    Row(
        "an experiment during an experiment",
        started(RUNNING, "second", "control", "same"),
        ReleaseError,
        r"experiment 'second' cannot start | found 'first' running | expected none | `headrace experiment stop first`",
    ),
    Row(
        "an experiment during a canary",
        started(WITH_CANARY, "first", "control", "same"),
        ReleaseError,
        r"experiment 'first' cannot start | found the canary two-hop-v2 | expected none | retire canary.*release=v2",
    ),
    Row(
        "an experiment without a live release",
        started(Registry("two-hop"), "first", "control", "same"),
        ReleaseError,
        r"experiment 'first' cannot start | no live release of 'two-hop' | the control is served by | publish it first",
    ),
    Row(
        "the name of an earlier experiment",
        started(RUNNING, "first", "control", "same"),
        ReleaseError,
        r"experiment 'first' cannot start | another of this name \(running\) | expected a new one | another name",
    ),
    Row(
        "an experiment of one arm",
        started(REGISTRY, "first", "control"),
        SettingsError,
        r"--arm | found 1 arms \(control\) | expected 2 to 8 of different names | give --arm once for each",
    ),
    Row(
        "shares of more than all users",
        started(REGISTRY, "first", "control share=0.7", "new share=0.7"),
        SettingsError,
        r"--arm | add up to 1.4 | expected at most 1 | lower them",
    ),
    Row(
        "an experiment whose name is a path",
        started(REGISTRY, "a/b", "control", "same"),
        SettingsError,
        r"NAME | found 'a/b' | letters, digits, dots | name it otherwise",
    ),
    Row(
        "an arm without an equals sign",
        arm("wide diversity 0.3"),
        SettingsError,
        r"--arm 'wide diversity 0.3' | found 'diversity' | expected KEY=VALUE | quote the arm as a whole",
    ),
    Row(
        "an arm of all users",
        arm("wide share=1"),
        SettingsError,
        r"--arm 'wide share=1' | found share=1 | between 0 and 1 | such as share=0.2",
    ),
    Row(
        "a setting of an arm that is a word",
        arm("wide diversity=high"),
        SettingsError,
        r"--arm 'wide diversity=high' | found diversity=high | true, false or a number | correct the value",
    ),
    Row(
        "a setting of an arm that all users share",
        lambda _folder: RecommendationSettings().with_arm({"reasons": 1}),
        SettingsError,
        r"setting 'reasons' of an arm | - | count, .*diversity | the same for all users, in the settings file",
    ),
    Row(
        "a setting of an arm out of range",
        lambda _folder: RecommendationSettings().with_arm({"diversity": 1.5}),
        SettingsError,
        r"setting 'diversity' of an arm | found 1.5 | less than or equal to 1 | `headrace settings`",
    ),
    Row(
        "an experiment stopped twice",
        lambda _folder: experiments.stop(RUNNING.with_changes(experiments.stop(RUNNING, "first", 4)), "first", 5),
        ReleaseError,
        r"experiment 'first' cannot be stopped | found it stopped | one that is running | `headrace experiment report",
    ),
    Row(
        "an experiment purged while it runs",
        lambda _folder: experiments.ended(RUNNING, "first"),
        ReleaseError,
        r"experiment 'first' cannot be purged | found it running | one that is over | `headrace experiment stop first`",
    ),
    Row(
        "an experiment that was never started",
        lambda _folder: experiments.resolve(RUNNING, "second"),
        ReleaseError,
        r"NAME | found 'second' | an experiment of 'two-hop'; there are first | name one of them",
    ),
]

REGISTRIES = [
    Row(
        "a version that was never announced",
        lambda _folder: REGISTRY.promote("v9", 2),
        ReleaseError,
        r"VERSION | found 'v9' | a version of 'two-hop' or one of the aliases .* announced are v1 | publish it first",
    ),
    Row(
        "an alias that points to no version",
        lambda _folder: REGISTRY.promote("canary", 2),
        ReleaseError,
        r"VERSION | found 'canary' | it to point to a version, and now it points to none.* announced are v1 | publish",
    ),
    Row(
        "a promotion over a pin",
        lambda _folder: PINNED.promote("v2", 4),
        ReleaseError,
        r"two-hop-v2 cannot be promoted | pinned to v1 \(lists were empty\) | expected no pin | lift it first",
    ),
    Row(
        "a rollback of the only release",
        lambda _folder: REGISTRY.rollback(2),
        ReleaseError,
        r"nothing to roll back to | found 1 live versions of 'two-hop' | and an earlier one | publish an earlier",
    ),
    Row(
        "the live release retired",
        lambda _folder: REGISTRY.retire("v1", 2),
        ReleaseError,
        r"two-hop-v1 cannot be retired | found it live | that is not served by | `headrace releases rollback`",
    ),
]

RELEASES = [
    Row(
        "a gate that decides on a signed release",
        gate_after_signature,
        ReleaseError,
        r"release .*two-hop-1 | is signed | expected one without release\.sig until | remove the signature, retrain",
    ),
    Row(
        "a release that is there already",
        lambda folder: [written(folder), written(folder)],
        ReleaseError,
        r"release .*two-hop-1 | exists already | releases are immutable | choose another version",
    ),
    Row(
        "a folder that is no release",
        bundles.read,
        DamagedReleaseError,
        r"release .*: release\.json | cannot be read \(No such file | the folder of a release | name another, or copy",
    ),
    Row(
        "a manifest cut short",
        damaged("release.json", b"{"),
        DamagedReleaseError,
        r"release .*two-hop-1: release\.json | truncated | is not a manifest | copy the bundle again",
    ),
    Row(
        "a manifest of megabytes",
        damaged("release.json", b" " * 2_000_000),
        DamagedReleaseError,
        r"release .*two-hop-1: release\.json | has 2000000 bytes | at most 1048576 | export the release again",
    ),
    Row(
        "a window of no events",
        damaged("release.json", None, '"window_length": [0-9]+', '"window_length": 0'),
        UnfitReleaseError,
        r"release .*two-hop-1: contract\.window_length | is 0 | expected 1 to 1000 | train it with other sizes",
    ),
    Row(
        "a tolerance of nothing",
        damaged("release.json", None, '"tolerance": [0-9.e-]+', '"tolerance": 0'),
        UnfitReleaseError,
        r"release .*two-hop-1: contract\.tolerance | is 0 | a number above 0 | export the release again",
    ),
    Row(
        "item ids that are an object",
        sealed("ids.json", b"{}"),
        DamagedReleaseError,
        r"release .*two-hop-1: ids\.json | Expected `array` | no JSON array of item ids | export the release again",
    ),
    Row(
        "an item id of many bytes",
        sealed("ids.json", b'["' + b"x" * 70_000 + b'"]'),
        UnfitReleaseError,
        r"release .*two-hop-1: item id 'xxx | has more than | 65535 bytes | shorten it",
    ),
    Row(
        "vectors that are no array",
        sealed("vectors.npy", b"rubbish"),
        DamagedReleaseError,
        r"release .*two-hop-1: vectors\.npy | is no array that numpy reads | - | export the release again",
    ),
    Row(
        "vectors in an archive of arrays",
        sealed("vectors.npy", b"PK\x05\x06" + bytes(18)),
        DamagedReleaseError,
        r"release .*two-hop-1: vectors\.npy | holds several arrays | expected one | export the release again",
    ),
    Row(
        "a watched folder that is gone",
        lambda folder: announcements.FolderFeed(folder / "gone", "two-hop").live(),
        ReleaseError,
        r"'releases\.folder': .*two-hop\.json | cannot be read \(No such file | a folder that | `headrace publish",
    ),
    Row(
        "bytes that are no list",
        lambda _folder: decode_recommendation(b"{"),
        MessageError,
        r"topic of recommendations | begins with b'\{' | expected a list | check which topic it came from",
    ),
    Row(
        "a release for a later engine",
        damaged("release.json", None, '"schema": 1', '"schema": 9'),
        UnfitReleaseError,
        r"release .*two-hop-1 | schema 9 | this engine reads 1 | train or export it again",
    ),
    Row(
        "a manifest that lacks a checksum",
        damaged("release.json", None, '"vectors.npy": "[0-9a-f]*",?', ""),
        DamagedReleaseError,
        r"release .*two-hop-1 | no checksum of vectors\.npy | expected one for every file | copy the bundle again",
    ),
    Row(
        "a release that lacks a file",
        damaged("vectors.npy", None),
        DamagedReleaseError,
        r"two-hop-1: vectors\.npy | cannot be read \(No such file | the manifest names it | copy the bundle again",
    ),
    Row(
        "a file of a release that was changed",
        damaged("vectors.npy", b"changed"),
        DamagedReleaseError,
        r"two-hop-1: vectors\.npy | has SHA-256 \w{12} | the manifest says \w{12} | copy the bundle again",
    ),
    Row(
        "item vectors of another length",
        bundle_with(vectors=np.ones((2, 3), np.float32)),
        UnfitReleaseError,
        r"two-hop-1: vectors | are float32 \(2, 3\) | expected float32 \(2, 64\) | train or export the release again",
    ),
    Row(
        "popularity of fewer items",
        bundle_with(popularity=np.ones(1, np.float32)),
        UnfitReleaseError,
        r"two-hop-1: popularity | is float32 \(1,\) | expected float32 \(2,\) | train or export the release again",
    ),
    Row(
        "a decay of neighbours that grows",
        with_neighbours(decay=1.5),
        UnfitReleaseError,
        r"two-hop-1: contract\.neighbours | is NeighbourSizes\(.*decay=1\.5 | expected .*a decay above 0 and up to 1"
        r" | train or export the release again",
    ),
    Row(
        "popularity with a weight below 0",
        bundle_with(contract=replace(DEMO_SIZES, popularity=PopularityScore(weight=-1.0, floor=0.01))),
        UnfitReleaseError,
        r"two-hop-1: contract\.popularity | is PopularityScore\(weight=-1\.0, .* | expected a weight of 0 or more"
        r" | train or export the release again",
    ),
    Row(
        "a sum of scores beyond all scores",
        bundle_with(contract=replace(DEMO_SIZES, log_partition=-1e300)),
        UnfitReleaseError,
        r"two-hop-1: contract\.log_partition | is -1e\+300 | expected none or a number from -10000 to 10000"
        r" | train or export the release again",
    ),
    Row(
        "neighbours beyond the items",
        with_neighbours(rows=((1,), (2,))),
        UnfitReleaseError,
        r"two-hop-1: neighbours | are rows from -1 to 2 | expected -1 to 1 | train or export the release again",
    ),
    Row(
        "more neighbours than the contract says",
        with_neighbours(count=3),
        UnfitReleaseError,
        r"two-hop-1: neighbours | are int32 \(2, 1\) | expected int32 \(2, 3\) | train or export the release again",
    ),
    Row(
        "neighbours that weigh less than nothing",
        with_neighbours(weights=((1.0,), (-1.0,))),
        UnfitReleaseError,
        r"two-hop-1: weights of neighbours | hold negative or infinite values | expected numbers from 0 on | train or"
        r" export the release again",
    ),
    Row(
        "labels of items that are not there",
        bundle_with(labels=ItemLabels([("category", "shoes")], np.array([[0, 0], [0, 2]], np.int32))),
        UnfitReleaseError,
        r"two-hop-1: labels | go up to 0 and items to 2 | expected pairs in ascending order below 1 and 2 | train or"
        r" export the release again",
    ),
    Row(
        "labels without names",
        bundle_with(labels=ItemLabels([7], np.zeros((1, 2), np.int32))),  # type: ignore[list-item] # the mistake
        DamagedReleaseError,
        r"two-hop-1: labels\.json | is no JSON array of fields | - | export the release again",
    ),
    Row(
        "an action that is worth nothing",
        bundle_with(action_values={"buy": 0.0}),
        UnfitReleaseError,
        r"two-hop-1: action 'buy' | has the value 0\.0 | expected one above 0 | train or export the release again",
    ),
    Row(
        "item vectors that are no numbers",
        bundle_with(vectors=np.full((2, 64), np.nan, np.float32)),
        UnfitReleaseError,
        r"two-hop-1: vectors | not finite | expected numbers | train or export the release again",
    ),
    Row(
        "an item twice",
        bundle_with(ids=["a", "a"]),
        UnfitReleaseError,
        r"two-hop-1: | found 2 item ids, 1 of them different | expected 2, all different | train or export the release",
    ),
    Row(
        "an item that looks like a search",
        bundle_with(ids=["a", f"{searches.MARK}b"]),
        UnfitReleaseError,
        r"item id '\\x1fb' | begins with '\\x1f' | only searches may | give the item another id and train again",
    ),
    Row(
        "a release without items",
        bundle_with(ids=[], vectors=np.ones((0, 64), np.float32), popularity=np.ones(0, np.float32)),
        UnfitReleaseError,
        r"two-hop-1: | found no items | expected one at least | train or export the release again",
    ),
    Row(
        "an announcement cut short",
        announcement_cut_short,
        DamagedReleaseError,
        r"two-hop\.json | is not an announcement: .*truncated | what `headrace publish --folder` writes | publish the",
    ),
]


GRAPHS = [
    Row(
        "a graph that is none",
        lambda _folder: Encoder(b"none", ITEMS_ONNX, DEMO_SIZES),
        UnfitReleaseError,
        r"encoder\.onnx: | onnxruntime cannot load it: .+; | - | copy the release again, or export it for this engine",
    ),
    Row(
        "two graphs that have changed places",
        lambda _folder: Encoder(ITEMS_ONNX, ENCODER_ONNX, DEMO_SIZES),
        UnfitReleaseError,
        r"encoder\.onnx inputs | are \['vectors'\] | the contract says \['ages', | copy the release again",
    ),
    Row(
        "tables of another type",
        lambda _folder: Encoder(ENCODER_ONNX, ITEMS_ONNX, replace(DEMO_SIZES, tables="int8")),
        UnfitReleaseError,
        r"encoder\.onnx input 'keys1' | is tensor\(float\) | the contract says tensor\(int8\) | copy the release again",
    ),
    Row(
        "fewer interests than the contract says",
        lambda _folder: Encoder(ENCODER_ONNX, ITEMS_ONNX, replace(DEMO_SIZES, interests=7)),
        UnfitReleaseError,
        r"output 'interests' | has shape \['?B'?, 4, 64\] | the contract says \['B', 7, 64\] | copy the release again",
    ),
    Row(
        "content features of another version",
        lambda _folder: ContentEncoder(b"", ContentSizes(buckets=8, recipe=99), 64),
        UnfitReleaseError,
        r"content\.onnx expects features | of recipe 99 | computes those of recipe 1 | train the release again",
    ),
    Row(
        "more items than can be served",
        warm_with(lambda bundle: replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, items=1 << 40))),
        UnfitReleaseError,
        rf"release .*two-hop-1 | {1 << 40} items | at most {candidates.MAX_ITEMS} can be served | without those",
    ),
    Row(
        "an index that misses near items",
        sparse_graph,
        UnfitReleaseError,
        r"two-hop-demo | find 0\.\d+ of the nearest items | 'index\.least_recall' expects 1\.0 | raise index\.m",
    ),
    Row(
        "an encoder whose outputs are of other sizes",
        encoder_of_other_sizes,
        UnfitReleaseError,
        r"release two-hop-1 | interests \(8, 2, 64\) and attention | says \(8, 4, 64\) | export the release again",
        needs="onnx",
    ),
    Row(
        "item vectors that turned into no numbers",
        warm_with(lambda bundle: replace(bundle, vectors=np.full((2, 64), np.nan, np.float32))),
        UnfitReleaseError,
        r"release two-hop-1: the encoder | returns values that are not finite | expected numbers | train it again",
    ),
    Row(
        "a new item for a release without content",
        new_item_without_content,
        UnfitReleaseError,
        r"release two-hop-1 | was trained without item content | - | train a release with an items file",
    ),
    Row(
        "a content graph that gives no numbers",
        content_graph_without_numbers,
        UnfitReleaseError,
        r"two-hop-1: content\.onnx | returns values that are not finite | expected numbers | train it again",
        needs="onnx",
    ),
]

ROWS = [*REGISTRIES, *EXPERIMENTS, *RELEASES, *GRAPHS]
