"""Differences of two bundles: manifests, settings of the trainings, and items."""

from pathlib import Path
from typing import Any

import msgspec

from engine import contract
from engine.releases import bundles
from engine.releases.bundles import Manifest

_CHECKSUMS = "checksums."


def as_dict(manifest: Manifest) -> dict[str, Any]:
    """The fields of a manifest by name."""
    fields: dict[str, Any] = msgspec.to_builtins(manifest)
    return fields


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by dotted names."""
    values: dict[str, Any] = {}
    for name, value in fields.items():
        values.update(flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value})
    return values


def compare(first: Path, second: Path) -> dict[str, tuple[Any, Any]]:
    """Dotted names of what differs between two bundles, with both values; items are counted.

    Raises:
        ReleaseError: one of the bundles is damaged or does not fit.
    """
    releases = [bundles.read(folder) for folder in (first, second)]
    before, after = (
        flat(as_dict(release.manifest) | {"settings": _training_settings(release.folder)}) for release in releases
    )
    names = [name for name in {**before, **after} if not name.startswith(_CHECKSUMS)]
    differences = {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}
    ids = [set(release.ids) for release in releases]
    differences["items in both"] = (len(ids[0] & ids[1]), len(ids[0] & ids[1]))
    differences["items in one alone"] = (len(ids[0] - ids[1]), len(ids[1] - ids[0]))
    return differences


def _training_settings(bundle: Path) -> dict[str, Any]:
    """The settings in a bundle's report; none where its training wrote none."""
    report = msgspec.json.decode((bundle / contract.REPORT_FILE).read_bytes())
    settings = report.get("settings", {}) if isinstance(report, dict) else {}
    return settings if isinstance(settings, dict) else {}
