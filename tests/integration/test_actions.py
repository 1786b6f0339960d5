"""What an action does, from the message on `clicks` to the list on `recommendations`."""

import json
from pathlib import Path

import numpy as np
import pytest

from engine.catalogue.ids import Catalogue
from engine.eventlog.base import Outgoing, Rebalance, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.messages.recommendation import Recommendation, decode_recommendation
from engine.metrics import Metrics
from engine.releases import bundles, serving
from engine.releases.serving import LiveRelease
from engine.settings.sections import ClickSettings, IndexSettings, RecommendationSettings, Settings, WindowSettings
from engine.worker.batch import Processor
from tests.unit.test_bundles import rewritten

WALK = [(f"i{place}", "view") for place in range(10, 16)]
Clicks = list[tuple[str, str]]
"""Item and action, oldest first."""


REASONS = 10
"""Of an interest, so that clicks of little weight are among them."""


class Served:
    """The engine on the in-process log, one batch at a time."""

    def __init__(self, bundle: Path, **actions: float) -> None:
        self.settings = Settings(
            clicks=ClickSettings(actions={"view": 1.0, **actions}),
            windows=WindowSettings(max_users=10),
            recommendations=RecommendationSettings(exclude_seen=False, reasons=REASONS),
        )
        self.catalogue = Catalogue()
        self.processor = Processor(self.settings, self.catalogue, Metrics())
        self.swap(bundle)
        self.log = MemoryLog()
        self.log.ensure_topics([TopicSpec(name) for name in ("clicks", "clicks.dead", "recommendations", "windows")])
        self.session = self.log.session(["clicks"], "engine", Rebalance())
        self.lists = self.log.reader(["recommendations"])
        self._clock_ms = 1_700_000_000_000

    def swap(self, bundle: Path) -> None:
        self.live: LiveRelease = serving.warm(bundles.read(bundle), self.catalogue, IndexSettings(), threads=1)
        self.processor.swap(self.live)

    def list_after(self, user: str, clicks: Clicks) -> Recommendation:
        values: list[bytes | None] = []
        for item, action in clicks:
            self._clock_ms += 1000
            values.append(json.dumps({"user": user, "item": item, "ts": self._clock_ms, "action": action}).encode())
        self.log.producer().send(Outgoing("clicks", [user.encode()] * len(values), values))
        self.processor.process(self.session.poll(1.0, len(values)), self.session)
        (records,) = self.lists.poll(1.0, 10)
        return decode_recommendation(records.values[-1] or b"")


def losses(served: Served, calm: Recommendation, disliking: Recommendation, disliked: str) -> tuple[list[float], ...]:
    """Of items in both lists: how much lower the second one scores them, and their likeness to what was disliked."""
    before = {place.item: place.score for place in calm.items}
    both = [place for place in disliking.items if place.item in before]
    rows = served.live.rows(served.catalogue.numbers([disliked, *(place.item for place in both)]))
    vectors = served.live.vectors[rows]
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = np.maximum(directions[1:] @ directions[0], 0.0)
    return [before[place.item] - place.score for place in both], likeness.tolist()


def test_a_dislike_takes_its_item_away_and_lowers_others_as_far_as_they_are_like_it(tiny_release: Path) -> None:
    served = Served(tiny_release, dislike=-0.5)
    calm = served.list_after("ann", WALK)
    disliked = calm.items[0].item
    angry = served.list_after("bob", [*WALK, (disliked, "dislike")])
    assert angry.interests == calm.interests  # a dislike says nothing about what somebody is after
    assert disliked not in {place.item for place in angry.items}
    lost, likeness = losses(served, calm, angry, disliked)
    assert len(lost) >= 10
    force = max(lost) / max(likeness)
    assert force > 0.1
    np.testing.assert_allclose(lost, force * np.array(likeness), atol=2e-3)
    places = [place.item for place in calm.items], [place.item for place in angry.items]
    assert places[0][1:] != places[1][: len(places[0]) - 1]


def test_twice_the_dislike_loses_twice_as_much(tiny_release: Path) -> None:
    forces = []
    for weight in (-0.1, -0.2):
        served = Served(tiny_release, dislike=weight)
        calm = served.list_after("ann", WALK)
        angry = served.list_after("bob", [*WALK, ("i40", "dislike")])
        lost, likeness = losses(served, calm, angry, "i40")
        forces.append(max(lost) / max(likeness))
    assert forces[1] == pytest.approx(2 * forces[0], rel=0.02)


def test_an_action_of_no_weight_changes_no_interest_and_one_that_counts_does(tiny_release: Path) -> None:
    served = Served(tiny_release, wish=0.0, buy=3.0)
    calm = served.list_after("ann", WALK)
    assert served.list_after("bob", [*WALK, ("i80", "wish")]).interests == calm.interests
    assert served.list_after("cleo", [*WALK, ("i80", "buy")]).interests != calm.interests


def test_a_release_brings_the_worth_of_its_actions_when_it_goes_live(tiny_release: Path, tmp_path: Path) -> None:
    """Bought on one ring, seen on the other: the bought items' share of the attention follows what was learned."""
    served = Served(tiny_release, buy=1.0)
    shares = []
    for number, learned in enumerate(({}, {"buy": 100.0}, {"buy": 0.01})):
        served.swap(rewritten(tiny_release, tmp_path / str(number), action_values=learned))
        found = served.list_after(f"user {number}", [*WALK[:3], ("i70", "buy"), ("i71", "buy"), *WALK[3:]])
        shares.append(sum(one.share for interest in found.interests for one in interest if one.item in {"i70", "i71"}))
    as_set, dear, cheap = shares
    assert dear > 1.5 * as_set
    assert cheap < 0.5 * as_set
