"""The verb `releases`: the registry, with `list`, `show`, `diff`, `promote`, `rollback`, pins; and signatures."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click

from engine.cli.options import config_option
from engine.errors import ReleaseError, SettingsError
from engine.eventlog import topic_plan
from engine.eventlog.kafka import KafkaLog
from engine.messages.announcement import Announcement, ReleasePin
from engine.messages.experiment_messages import Experiment
from engine.releases import bundles, release_diff, remote, signing
from engine.releases.bundles import Manifest
from engine.releases.registrar import Registrar
from engine.releases.registry import Change, Registry
from engine.settings import loader

_folder_option: Final = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Only this watched folder, without a broker. Default: the topic, and releases.folder where it is set.",
)
_reason_option: Final = click.option("--reason", default="", help="Kept with the change, for those who look later.")
_json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print one object.")
_BUNDLE: Final = click.Path(path_type=Path, file_okay=False)
_version_argument: Final = click.argument("version")


@click.group()
def releases() -> None:
    """Look at the releases of a model, and say by which of them the workers serve.

    VERSION is a version, or one of the aliases live, previous, canary and candidate.
    """


def open_registrar(config: Path | None, folder: Path | None) -> Registrar:
    """The registry that the settings name; that of a watched folder alone where one is given."""
    settings = loader.load(config)
    topic = topic_plan.releases(settings)
    if folder is not None:
        return Registrar(settings.releases.model, None, topic, folder)
    return Registrar(settings.releases.model, KafkaLog(settings.kafka), topic, settings.releases.folder)


@releases.command("list")
@_json_option
@_folder_option
@config_option
def list_releases(as_json: bool, folder: Path | None, config: Path | None) -> None:
    """Print the versions, newest first: time, state, aliases, headline figures and place."""
    registry = _opened(config, folder).read()
    if as_json:
        click.echo(json.dumps(_as_dict(registry)))
        return
    if registry.pinned is not None and registry.last_pin is not None:
        click.echo(f"{registry.model} is pinned: {_pin_line(registry.last_pin)}")
    if (experiment := registry.experiment()) is not None:
        base = f"{registry.model}-{experiment.base_version}"
        click.echo(f"the experiment {experiment.experiment!r} is running: {base} stays live until it is stopped")
    for announcement in _newest_first(registry):
        click.echo("  ".join(_columns(registry, announcement)))


@releases.command("show")
@_version_argument
@_json_option
@_folder_option
@config_option
def show_release(version: str, as_json: bool, folder: Path | None, config: Path | None) -> None:
    """Print everything about VERSION: its announcement, and the manifest of its bundle where this host can read it."""
    registry = _opened(config, folder).read()
    announcement = registry.resolve(version)
    fields: dict[str, Any] = _row(registry, announcement)
    with TemporaryDirectory(prefix="headrace-releases-") as place:
        try:
            manifest = _manifest(announcement, Path(place))
        except ReleaseError as error:
            fields["bundle_error"] = str(error)
        else:
            fields["manifest"] = release_diff.as_dict(manifest)
    if as_json:
        click.echo(json.dumps(fields))
        return
    for name, value in release_diff.flat(fields).items():
        click.echo(f"{name:28} {value}")


@releases.command("diff")
@click.argument("first")
@click.argument("second")
@_json_option
@_folder_option
@config_option
def diff_releases(first: str, second: str, as_json: bool, folder: Path | None, config: Path | None) -> None:
    """Print where the bundles of two versions differ: figures, sizes, origin, settings of the training, and items."""
    registry = _opened(config, folder).read()
    with TemporaryDirectory(prefix="headrace-releases-") as place:
        folders = [_fetched(registry.resolve(name), Path(place) / name) for name in (first, second)]
        differences = release_diff.compare(*folders)
    if as_json:
        click.echo(json.dumps({name: [*pair] for name, pair in differences.items()}))
        return
    for name, (before, after) in differences.items():
        click.echo(f"{name:36} {before} -> {after}")


@releases.command("promote")
@_version_argument
@_reason_option
@_folder_option
@config_option
def promote(version: str, reason: str, folder: Path | None, config: Path | None) -> None:
    """Let the workers serve by VERSION. Refused while another version is pinned."""
    _change(config, folder, lambda registry, now_ms: registry.promote(version, now_ms, reason))


@releases.command("rollback")
@click.argument("version", required=False)
@_reason_option
@_folder_option
@config_option
def rollback(version: str | None, reason: str, folder: Path | None, config: Path | None) -> None:
    """Go back to the previous release, or to VERSION, and stay there: it is pinned, and what was newer is retired."""
    _change(config, folder, lambda registry, now_ms: registry.rollback(now_ms, version, reason))


@releases.command("retire")
@_version_argument
@_reason_option
@_folder_option
@config_option
def retire(version: str, reason: str, folder: Path | None, config: Path | None) -> None:
    """Take VERSION back, such as a canary that is to end; the live one is rolled back instead."""
    _change(config, folder, lambda registry, now_ms: registry.retire(version, now_ms, reason))


@releases.command("pin")
@_version_argument
@_reason_option
@_folder_option
@config_option
def pin(version: str, reason: str, folder: Path | None, config: Path | None) -> None:
    """Let the workers keep to VERSION, whatever is announced, until the pin is lifted."""
    _change(config, folder, lambda registry, now_ms: registry.pin(version, now_ms, reason))


@releases.command("unpin")
@_folder_option
@config_option
def unpin(folder: Path | None, config: Path | None) -> None:
    """Lift the pin: the newest live release is served, also one that was announced meanwhile."""
    if not _change(config, folder, lambda registry, now_ms: registry.unpin(now_ms)):
        click.echo("nothing is pinned")


@releases.command("keygen")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File for the private key.")
def keygen(out: Path) -> None:
    """Make a pair of keys: the private one goes to a file, the public one is printed for `releases.public_keys`."""
    click.echo(signing.generate(out))


@releases.command("sign")
@click.argument("bundle", type=_BUNDLE)
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Private key of `keygen`.")
def sign(bundle: Path, key: Path) -> None:
    """Verify the checksums of BUNDLE, and sign it."""
    bundles.read(bundle)
    click.echo(f"{bundle} is signed by {signing.sign(bundle, key)}")


@releases.command("verify")
@click.argument("bundle", type=_BUNDLE)
@config_option
def verify(bundle: Path, config: Path | None) -> None:
    """Verify checksums, sizes, graphs and, by the keys of the settings, the signature of BUNDLE. Nothing runs."""
    settings = loader.load(config).releases
    manifest = bundles.read(bundle).manifest
    signing.check(bundle, settings)
    click.echo(f"{manifest.name} is whole, content {bundles.content_of(manifest)}")
    if settings.public_keys:
        click.echo(f"signed by {signing.signer(bundle, settings.public_keys) or 'none of releases.public_keys'}")


def _change(config: Path | None, folder: Path | None, rule: Callable[[Registry, int], list[Change]]) -> list[Change]:
    """Change the registry by a rule, print a line for each record, and then by what is served from now on."""
    registrar = _opened(config, folder)
    now_ms = time.time_ns() // 1_000_000
    changes = registrar.change(lambda registry: rule(registry, now_ms))
    for change in changes:
        click.echo(_change_line(change))
    if changes and (live := registrar.read().live()):
        click.echo(f"workers serve by {live[0].name}")
        _warn_if_gone(live[0])
    return changes


def _opened(config: Path | None, folder: Path | None) -> Registrar:
    """See `open_registrar`; a watched folder that is not there is refused: it would look like one without releases."""
    if folder is not None and not folder.is_dir():
        raise SettingsError(
            f"--folder: found {folder}, which is not there, expected a folder that workers watch; name another, or"
            " publish a release in it first (`headrace publish --folder`)"
        )
    return open_registrar(config, folder)


def _warn_if_gone(live: Announcement) -> None:
    """Say so where this host sees no bundle at the place that is announced, and it may be that no worker does."""
    if not remote.is_address(live.bundle) and not Path(live.bundle).is_dir():
        click.echo(
            f"this host sees no bundle at {live.bundle}: workers that do not see it either, and kept no copy, go on"
            " with the release that they have",
            err=True,
        )


def _change_line(change: Change) -> str:
    if isinstance(change, ReleasePin):
        return _pin_line(change)
    if isinstance(change, Experiment):
        return f"the experiment {change.experiment!r} is {change.state}"
    return f"{change.name} is {change.state}"


def _pin_line(pin: ReleasePin) -> str:
    if not pin.pinned_version:
        return "the pin is lifted"
    reason = f" ({pin.reason})" if pin.reason else ""
    return f"{pin.model}-{pin.pinned_version} is pinned{reason} until `headrace releases unpin`"


def _newest_first(registry: Registry) -> list[Announcement]:
    return sorted(registry.versions.values(), key=lambda known: (known.announced_ms, known.version), reverse=True)


def _row(registry: Registry, announcement: Announcement) -> dict[str, Any]:
    aliases = [alias for alias, version in registry.aliases().items() if version == announcement.version]
    return {
        "version": announcement.version,
        "announced": datetime.fromtimestamp(announcement.announced_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "state": announcement.state,
        "aliases": aliases,
        "pinned": registry.pinned == announcement.version,
        "reason": announcement.reason,
        "figures": announcement.figures,
        "bundle": announcement.bundle,
    }


def _columns(registry: Registry, announcement: Announcement) -> list[str]:
    row = _row(registry, announcement)
    names = [*row["aliases"], *(["pinned"] if row["pinned"] else [])]
    figures = " ".join(f"{name}={value:.4g}" for name, value in [*announcement.figures.items()][:3])
    texts = [row["version"], row["announced"], row["state"], ",".join(names) or "-", figures, row["bundle"]]
    return [text for text in [*texts, row["reason"]] if text]


def _as_dict(registry: Registry) -> dict[str, Any]:
    waiting = registry.waiting()
    return {
        "model": registry.model,
        "aliases": registry.aliases(),
        "pinned": registry.pinned,
        "waiting": waiting.version if waiting else None,
        "versions": [_row(registry, announcement) for announcement in _newest_first(registry)],
    }


def _fetched(announcement: Announcement, folder: Path) -> Path:
    """The bundle of an announcement; copied here where it is at an address."""
    if not remote.is_address(announcement.bundle):
        return Path(announcement.bundle)
    folder.mkdir(parents=True, exist_ok=True)
    return remote.fetch(announcement.bundle, folder)


def _manifest(announcement: Announcement, folder: Path) -> Manifest:
    return bundles.read_manifest(_fetched(announcement, folder / "bundle"))
