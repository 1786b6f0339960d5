"""Bundles made to do harm: each is refused by a sentence, before anything of it runs and anything else is read."""

import io
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from engine import contract
from engine.cli.releases import releases
from engine.errors import DamagedReleaseError, MissingExtraError, ReleaseError, SettingsError, UnfitReleaseError
from engine.releases import announcements, bundle_files, bundles, onnx_guard, remote, signing
from engine.settings.sections import ReleaseSettings
from models.cli.publish import publish
from producers.demo.bundled import DEMO_RELEASE
from tests.unit.test_bundles import rewritten

ENCODER = (DEMO_RELEASE / contract.ENCODER_FILE).read_bytes()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the demo's release, which anybody may damage."""
    return Path(shutil.copytree(DEMO_RELEASE, tmp_path / "bundle"))


def resealed(bundle: Path, **changes: object) -> Path:
    """Give the bundle a manifest that fits its files as they are now, but for the changes."""
    path = bundle / contract.MANIFEST_FILE
    fields = json.loads(path.read_bytes())
    fields["checksums"] = {name: bundles.checksum(bundle / name) for name in fields["checksums"]}
    fields |= {"content_hash": ""} | changes
    path.write_text(json.dumps(fields))
    return bundle


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self._victim = victim

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._victim),)


def external_model(location: str) -> bytes:
    """The demo's encoder with one of its tensors in another file."""
    model = onnx.load_model_from_string(ENCODER)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("location", ["/etc/passwd", "../../secret.bin", "weights.bin"])
def test_tensors_in_other_files_are_refused(bundle: Path, location: str) -> None:
    (bundle / contract.ENCODER_FILE).write_bytes(external_model(location))
    with pytest.raises(UnfitReleaseError, match=r"encoder\.onnx: a tensor is in another file .*" + location):
        bundles.read(resealed(bundle))


def test_external_tensors_are_found_wherever_they_hide() -> None:
    """In a constant of a branch of a node in the graph, and in a sparse tensor."""
    helper = onnx.helper
    tensor = onnx.numpy_helper.from_array(np.ones(4, np.float32), "hidden")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/shadow")
    info = helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [4])
    branch = helper.make_graph([helper.make_node("Constant", [], ["out"], value=tensor)], "branch", [], [info])
    node = helper.make_node("If", ["condition"], ["out"], then_branch=branch, else_branch=branch)
    condition = helper.make_tensor_value_info("condition", onnx.TensorProto.BOOL, [])
    nested = helper.make_model(helper.make_graph([node], "graph", [condition], [info]))
    sparse = helper.make_model(helper.make_graph([], "graph", [], [info]))
    sparse.graph.sparse_initializer.add().values.CopyFrom(tensor)
    for model in (nested, sparse):
        with pytest.raises(UnfitReleaseError, match=r"a tensor is in another file .*/etc/shadow"):
            onnx_guard.check(model.SerializeToString(), "graph")


@pytest.mark.parametrize(("operator", "domain"), [("Evil", "my.library"), ("EPContext", "com.microsoft")])
def test_operators_from_elsewhere_are_refused(bundle: Path, operator: str, domain: str) -> None:
    model = onnx.load_model_from_string(ENCODER)
    model.graph.node.add(op_type=operator, domain=domain, output=["harm"])
    (bundle / contract.ENCODER_FILE).write_bytes(model.SerializeToString())
    with pytest.raises(UnfitReleaseError, match=f"operator '{operator}' of '{domain}'"):
        bundles.read(resealed(bundle))


@given(st.binary(max_size=200), st.integers(0, len(ENCODER) - 1), st.booleans())
def test_no_bytes_stop_the_guard(noise: bytes, place: int, append: bool) -> None:
    """Noise alone or within a graph is refused or let pass; what passes is for onnxruntime to refuse, in a child."""
    for model in (noise, ENCODER[:place] + noise + (ENCODER[place:] if append else b"")):
        with suppress(UnfitReleaseError):
            onnx_guard.check(model, "graph")


def test_graphs_nested_without_end_are_refused() -> None:
    model = b""
    for _ in range(2000):
        attribute = b"\x32" + varint(len(model)) + model  # a graph in an attribute
        node = b"\x2a" + varint(len(attribute)) + attribute
        model = b"\x0a" + varint(len(node)) + node
    with pytest.raises(UnfitReleaseError, match=r"graphs within graphs"):
        onnx_guard.check(b"\x3a" + varint(len(model)) + model, "graph")


def varint(value: int) -> bytes:
    groups = b""
    while value > 0x7F:
        groups += struct.pack("B", value & 0x7F | 0x80)
        value >>= 7
    return groups + struct.pack("B", value)


def test_a_pickle_in_an_array_is_not_opened(bundle: Path, tmp_path: Path) -> None:
    victim = tmp_path / "harm"
    for content in (pickle.dumps(Bomb(victim)), pickled_npy(Bomb(victim))):
        (bundle / contract.VECTORS_FILE).write_bytes(content)
        with pytest.raises(DamagedReleaseError, match=r"vectors\.npy is no array that numpy reads"):
            bundles.read(resealed(bundle))
        assert not victim.exists()


def pickled_npy(value: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([value], dtype=object), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "name", ["../../.ssh/authorized_keys", "/etc/cron.d/harm", "vectors.npy.exe", "sub/vectors.npy"]
)
def test_a_manifest_that_names_other_files_is_refused(bundle: Path, name: str) -> None:
    checksums = json.loads((bundle / contract.MANIFEST_FILE).read_bytes())["checksums"] | {name: "0" * 64}
    with pytest.raises(UnfitReleaseError, match=r"found a file '.*', expected only content.onnx, encoder.onnx"):
        bundles.read(resealed(bundle, checksums=checksums))


@pytest.mark.parametrize("version", ["../../harm", "/harm", "a/../b", "a b", "a\nb", "", "x" * 300, "a/"])
def test_a_version_that_is_a_path_is_refused(bundle: Path, version: str) -> None:
    with pytest.raises(UnfitReleaseError, match=r"version is '.*', expected a name without"):
        bundles.read_manifest(resealed(bundle, version=version))


@pytest.mark.parametrize("version", ["7", "2026-11-26", "20261126014900-int8", "ä", "x" * 200, "team/7"])
def test_ordinary_versions_are_names(bundle: Path, version: str) -> None:
    assert bundles.read_manifest(resealed(bundle, version=version)).version == version


def test_a_file_that_nobody_expects_is_refused_and_nothing_is_copied(bundle: Path, tmp_path: Path) -> None:
    (bundle / "payload.so").write_bytes(b"\x7fELF")
    for act in (lambda: bundles.read(bundle), lambda: remote.fetch(str(bundle), tmp_path / "copies")):
        with pytest.raises(UnfitReleaseError, match=r"found a file 'payload\.so', expected only .*; remove it"):
            act()
    assert not (tmp_path / "copies").exists()


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe"])
def test_what_is_no_file_is_refused_unread(bundle: Path, tmp_path: Path, kind: str) -> None:
    secret, path = tmp_path / "secret", bundle / contract.REPORT_FILE
    secret.write_text("{}")
    path.unlink()
    make: dict[str, Callable[[], None]] = {
        "link": lambda: path.symlink_to(secret),
        "dangling link": lambda: path.symlink_to("/nowhere"),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
    }
    make[kind]()
    for act in (lambda: bundles.read(bundle), lambda: remote.fetch(str(bundle), tmp_path / "copies")):
        with pytest.raises(UnfitReleaseError, match=r"report\.json is (a link|a folder or a device), expected a file"):
            act()


def test_files_beyond_the_sizes_of_the_manifest_are_refused_unread(bundle: Path) -> None:
    with (bundle / contract.VECTORS_FILE).open("r+b") as file:
        file.truncate(1 << 36)  # sparse: 64 GB that take no room
    with pytest.raises(UnfitReleaseError, match=r"found \d+ bytes, at most"):
        bundles.read(bundle)
    with (bundle / contract.VECTORS_FILE).open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(UnfitReleaseError, match=r"vectors\.npy has 1073741824 bytes, at most \d+ are expected of 1998"):
        bundles.read(bundle)


def test_a_flipped_byte_is_refused_wherever_it_is(bundle: Path) -> None:
    """In every file; that of the manifest in its contract, where it is still JSON."""
    for name in (*bundles.files_of(bundles.read_manifest(bundle).contract), contract.MANIFEST_FILE):
        path = bundle / name
        whole = path.read_bytes()
        place = whole.index(b'"interests": 4') + 13 if name == contract.MANIFEST_FILE else len(whole) // 2
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ReleaseError):
            announcements.announce(bundle, "live", 0) if name != contract.MANIFEST_FILE else warm(bundle)
        path.write_bytes(whole)
    assert announcements.announce(bundle, "live", 0).version == "demo"


def warm(bundle: Path) -> None:
    from engine.catalogue.ids import Catalogue  # noqa: PLC0415
    from engine.releases import serving  # noqa: PLC0415
    from engine.settings.sections import IndexSettings  # noqa: PLC0415

    serving.warm(bundles.read(bundle), Catalogue(), IndexSettings(), threads=1)


def test_a_flipped_byte_of_a_manifest_with_a_content_hash_is_refused_at_once(bundle: Path, tmp_path: Path) -> None:
    sealed = rewritten(bundle, tmp_path / "sealed")
    path = sealed / contract.MANIFEST_FILE
    path.write_text(path.read_text().replace('"interests": 4', '"interests": 5'))
    with pytest.raises(DamagedReleaseError, match=r"its content has the hash \w{12}…, release\.json says \w{12}…"):
        bundles.read_manifest(sealed)


def test_a_release_is_named_by_its_content(bundle: Path, tmp_path: Path) -> None:
    first = rewritten(bundle, tmp_path / "first", version="7", named_by_content=True)
    again = rewritten(bundle, tmp_path / "again", version="8", named_by_content=True, created_ms=5, figures={"x": 1.0})
    other = rewritten(bundle, tmp_path / "other", version="7", named_by_content=True, action_values={"buy": 2.0})
    names = [bundles.read(folder).manifest for folder in (first, again, other)]
    assert first.name == f"two-hop-7-sha{names[0].content_hash[:12]}" == names[0].name
    assert names[0].content_hash == names[1].content_hash != names[2].content_hash
    with pytest.raises(ReleaseError, match="immutable"):
        rewritten(bundle, tmp_path / "first", version="7", named_by_content=True)
    renamed = resealed(other, version=names[0].version)
    with pytest.raises(DamagedReleaseError, match=r"names the content"):
        bundles.read_manifest(renamed)


def test_two_names_for_one_release_are_refused_and_nothing_is_published(bundle: Path, tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    publishing = [rewritten(bundle, tmp_path, version=version) for version in ("first", "second")]
    run = CliRunner().invoke
    assert run(publish, [str(publishing[0]), "--folder", str(watched)]).exit_code == 0
    with pytest.raises(ReleaseError, match=r"found two names for one release, .* as two-hop-first, .* first"):
        run(publish, [str(publishing[1]), "--folder", str(watched)], catch_exceptions=False)
    assert [path.name for path in watched.iterdir() if path.is_dir()] == ["two-hop-first"]
    changed = rewritten(bundle, tmp_path / "changed", version="first", action_values={"buy": 2.0})
    with pytest.raises(ReleaseError, match=r"announced under this version is .*publish it under another version"):
        run(publish, [str(changed), "--folder", str(watched)], catch_exceptions=False)


def test_a_release_without_its_parent_is_refused_and_nothing_is_published(bundle: Path, tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    child = rewritten(bundle, tmp_path, version="child", provenance=bundles.Provenance(parent="mother", code="1"))
    run = CliRunner().invoke
    with pytest.raises(ReleaseError, match=r"two-hop-mother was never announced, .*publish the parent first"):
        run(publish, [str(child), "--folder", str(watched)], catch_exceptions=False)
    assert not watched.exists()
    run(publish, [str(child), "--folder", str(watched), "--without-parent"], catch_exceptions=False)
    assert announcements.FolderFeed(watched, "two-hop").registry().aliases() == {"live": "child"}
    shown = json.loads(run(releases, ["show", "child", "--folder", str(watched), "--json"]).stdout)
    assert shown["manifest"]["provenance"] == {"parent": "mother", "code": "1"}


def test_signatures(bundle: Path, tmp_path: Path) -> None:
    """keygen, sign, verify; required by the settings; two keys; another manifest; a key that is nobody's."""
    run = CliRunner().invoke
    keys = [tmp_path / name for name in ("old.pem", "new.pem")]
    public = [run(releases, ["keygen", "--out", str(key)]).stdout.strip() for key in keys]
    assert keys[0].stat().st_mode & 0o777 == 0o600
    settings = ReleaseSettings(require_signature=True, public_keys=[public[0]])
    with pytest.raises(UnfitReleaseError, match=r"found no signature, expected a valid one by a key of releases\.pub"):
        signing.check(bundle, settings)
    assert f"is signed by {public[1]}" in run(releases, ["sign", str(bundle), "--key", str(keys[1])]).stdout
    with pytest.raises(UnfitReleaseError, match=r"found signatures by "):
        signing.check(bundle, settings)
    run(releases, ["sign", str(bundle), "--key", str(keys[0])])
    signing.check(bundle, settings)
    assert signing.signer(bundle, [public[1]]) == public[1]
    environ = {"HEADRACE_RELEASES__PUBLIC_KEYS": json.dumps(public)}
    assert run(releases, ["verify", str(bundle)], env=environ).stdout.splitlines() == [
        f"two-hop-demo is whole, content {bundles.content_of(bundles.read_manifest(bundle))}",
        f"signed by {public[0]}",
    ]
    copy = remote.fetch(str(bundle), tmp_path / "copies")
    signing.check(copy, settings)
    resealed(copy, created_ms=1)
    with pytest.raises(UnfitReleaseError, match=r"found signatures by"):
        signing.check(copy, settings)
    file = msgspec.json.decode((bundle / bundle_files.SIGNATURE_FILE).read_bytes())
    file["signatures"] = [
        {"public_key": public[0], "signature": entry["signature"]} for entry in file["signatures"][:1]
    ]
    (bundle / bundle_files.SIGNATURE_FILE).write_bytes(msgspec.json.encode(file))
    assert signing.signer(bundle, public) is None  # somebody else's signature under a trusted key


def test_a_signature_is_withdrawn_and_others_stay(bundle: Path, tmp_path: Path) -> None:
    keys = [tmp_path / name for name in ("first.pem", "second.pem")]
    public = [signing.generate(key) for key in keys]
    for key in keys:
        signing.sign(bundle, key)
    signing.withdraw(bundle, public[0])
    signing.withdraw(bundle, public[0])
    assert [signing.signer(bundle, [key]) for key in public] == [None, public[1]]
    assert signing.public_key(keys[1]) == public[1]
    signing.withdraw(bundle, public[1])
    assert not (bundle / bundle_files.SIGNATURE_FILE).exists()


@pytest.mark.parametrize("content", [b"{", b"x" * 100_000, b'{"signatures": [{"public_key": 1}]}', b"\xff"])
def test_signatures_that_are_none(bundle: Path, content: bytes) -> None:
    (bundle / bundle_files.SIGNATURE_FILE).write_bytes(content)
    with pytest.raises(DamagedReleaseError, match=r"release\.sig cannot be read .*sign the release again"):
        signing.check(bundle, ReleaseSettings(require_signature=True, public_keys=["A" * 43 + "="]))


def test_keys_that_are_none(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"--key: .* cannot be read as a private key"):
        signing.sign(bundle, tmp_path / "nowhere.pem")
    (tmp_path / "there.pem").write_text("")
    with pytest.raises(SettingsError, match=r"--out: .* cannot be written .File exists., expected a new file"):
        signing.generate(tmp_path / "there.pem")
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    foreign = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "foreign.pem").write_bytes(foreign)
    with pytest.raises(SettingsError, match=r"holds a .*, expected an Ed25519 key"):
        signing.sign(bundle, tmp_path / "foreign.pem")
    monkeypatch.setitem(__import__("sys").modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'headrace\[signing\]'"):
        signing.generate(tmp_path / "new.pem")
