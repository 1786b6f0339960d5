"""Evaluation of a release on cold starts: new items (`new_items`) and new users (`new_users`)."""

from collections.abc import Mapping
from typing import Any

from engine.catalogue.content import Item
from engine.releases.bundles import Bundle
from engine.settings.sections import Settings
from models.data.dataset import Interactions
from models.evaluation.list_evaluation import OnProgress
from models.evaluation.new_items import new_items
from models.evaluation.new_users import new_users
from models.evaluation.release_under_test import ReleaseUnderTest


def cold_start(
    bundle: Bundle, interactions: Interactions, items: Mapping[str, Item], settings: Settings, on_progress: OnProgress
) -> dict[str, Any]:
    """The report that `headrace cold-start --json` prints; a part that cannot be evaluated has a reason.

    Args:
        bundle: the release.
        interactions: recorded clicks.
        items: content by item id.
        settings: action weights, windows, index and lists.
        on_progress: called after every batch of queries.

    Raises:
        ReleaseError: the release cannot be warmed.
    """
    under_test = ReleaseUnderTest(bundle, interactions, settings)
    return {
        "release": bundle.manifest.name,
        "new_items": new_items(under_test, items, on_progress),
        "new_users": new_users(under_test, on_progress),
    }
