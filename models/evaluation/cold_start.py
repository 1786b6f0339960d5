"""How good a release is about those of whom little is known: new items (`new_items`) and new users (`new_users`)."""

from collections.abc import Mapping
from typing import Any

from engine.catalogue.content import Item
from engine.releases.bundles import Bundle
from engine.settings.sections import Settings
from models.data.dataset import Interactions
from models.evaluation.new_items import new_items
from models.evaluation.new_users import new_users
from models.evaluation.release_under_test import ReleaseUnderTest, Watch


def cold_start(
    bundle: Bundle, interactions: Interactions, items: Mapping[str, Item], settings: Settings, watch: Watch
) -> dict[str, Any]:
    """All that `headrace cold-start --json` prints; what cannot be asked has a reason instead of figures.

    Raises:
        ReleaseError: the release cannot be warmed.
    """
    under_test = ReleaseUnderTest(bundle, interactions, settings)
    return {
        "release": bundle.manifest.name,
        "new_items": new_items(under_test, items, watch),
        "new_users": new_users(under_test, watch),
    }
