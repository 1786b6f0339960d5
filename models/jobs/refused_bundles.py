"""Bundles that the gate refused: the newest are kept for whoever knows better, the others are deleted.

Only a bundle whose own manifest says that the gate refused it is one of them, and none that was ever announced. Its
report stays in its run folder.
"""

import logging
import shutil
from pathlib import Path
from typing import Final

from engine.errors import ReleaseError
from engine.releases import bundles
from engine.releases.bundles import Manifest
from engine.releases.registry import Registry

logger = logging.getLogger(__name__)

_DELETED: Final = ".deleted-"


def prune(releases: Path, registry: Registry, keep: int) -> None:
    """Delete the refused bundles of the registry's model in `releases` but for the newest `keep`."""
    for left in releases.glob(f"{_DELETED}*"):  # by a kill in the middle of deleting
        shutil.rmtree(left, ignore_errors=True)
    refused = sorted(_refused(releases, registry), key=lambda pair: (pair[0].created_ms, pair[1]), reverse=True)
    for manifest, folder in refused[keep:]:
        gone = folder.with_name(f"{_DELETED}{folder.name}")
        try:
            folder.rename(gone)
        except OSError as error:
            logger.warning("the refused release %s cannot be deleted: %s", folder, error)
            continue
        shutil.rmtree(gone, ignore_errors=True)
        logger.info("refused release %s is deleted (retrain.keep_refused)", manifest.name)


def _refused(releases: Path, registry: Registry) -> list[tuple[Manifest, Path]]:
    refused = []
    for folder in releases.glob(f"{registry.model}-*"):
        try:
            manifest = bundles.read_manifest(folder)
        except ReleaseError:
            continue  # not ours to judge
        gate = manifest.provenance.gate
        is_refused = gate.get("passed") is False and not gate.get("forced")
        if manifest.model == registry.model and is_refused and manifest.version not in registry.versions:
            refused.append((manifest, folder))
    return refused
