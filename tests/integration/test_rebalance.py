"""Rebalance storm: members join, leave and die under load, and the outcome is that of one worker left in peace."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen

import numpy as np
import pytest

from engine.eventlog.kafka import KafkaLog
from tests.conftest import only_long
from tests.integration import equality
from tests.integration.equality import Recorded
from tests.integration.site import Site
from tests.waiting import LIMIT_S

pytestmark = pytest.mark.kafka

SEED = int(os.environ.get("TESTS_SEED", "1"))
MEMBERS = 3
TURNS, CLICKS = 24, 6000
"""Members that go, one after the other, each replaced by a new one; and clicks that arrive meanwhile."""
PER_TURN_S = 2.5
AT_ONCE = 20
"""Clicks per request of the producer."""


@pytest.fixture
def site(
    kafka_log: KafkaLog, kafka_bootstrap: str, topic_names: Callable[[str], str], tiny_release: Path, tmp_path: Path
) -> Site:
    return Site(kafka_log, kafka_bootstrap, topic_names, tiny_release, tmp_path)


@only_long
@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_a_storm_changes_nothing(delivery: str, site: Site, data_folder: Path) -> None:
    rng = np.random.default_rng(SEED)
    clicks = equality.recorded(data_folder, CLICKS)
    chosen = equality.on_site(site, delivery, batch=1)
    calm = equality.undisturbed(clicks, chosen)
    site.log.ensure_topics(equality.topics(chosen))
    with ExitStack() as stack:
        members = [stack.enter_context(site.worker()) for _ in range(MEMBERS)]
        with load(site, clicks, TURNS * PER_TURN_S):
            for turn in range(TURNS):
                # Progress says when, so that members go while there is work, on a slow machine as on a fast one.
                share = (turn + rng.uniform(0.5, 1.0)) / (TURNS + 1)
                site.wait_for_count(int(share * len(calm.lists)))
                leave(members.pop(int(rng.integers(MEMBERS))), kill=bool(rng.integers(2)))
                members.append(stack.enter_context(site.worker()))
        site.wait_for_lists(lambda found: equality.newest(found) == clicks.last_places())
        for member in members:
            leave(member, kill=False)
    found = equality.outcome(site.log, chosen)
    equality.assert_equal(found, calm, clicks, repeats=delivery == "at_least_once")
    equality.assert_none_missing(found, calm)


def leave(member: "Popen[bytes]", *, kill: bool) -> None:
    """In order, or not."""
    member.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
    # One that was only just started may not have got as far as stopping in order.
    assert member.wait(LIMIT_S) in ([-signal.SIGKILL] if kill else [0, -signal.SIGTERM])


@contextmanager
def load(site: Site, clicks: Recorded, duration_s: float) -> Iterator[None]:
    """Clicks at an even pace, all of them sent when the block ends."""
    pause_s = duration_s * AT_ONCE / len(clicks)
    hurry = threading.Event()

    def send() -> None:
        with site.log.producer() as producer:
            for start in range(0, len(clicks), AT_ONCE):
                producer.send(clicks.outgoing(site.clicks, start, start + AT_ONCE))
                hurry.wait(pause_s)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        hurry.set()
        sender.join()
