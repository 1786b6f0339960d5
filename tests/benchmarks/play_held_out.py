"""Held-out clicks played in order through the worker's own path: next-click rates with and without new neighbours.

    python -m tests.benchmarks.play_held_out RELEASE FOLDER [--batch 32]

The windows of the events before the release's time split are there from the start, as if restored. The clicks from then
on come in order, in small batches. Each is judged twice: by the list that its user was sent last, as the worker's
metrics judge it (pushed), and by one made of the user's window just before the click (pulled). A click on the item that
its user clicked last is left out.
"""

import json
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np

from engine.arrays import Bool, Int32, Int64
from engine.catalogue.ids import Catalogue
from engine.eventlog.base import Outgoing, Rebalance, TopicSpec
from engine.eventlog.memory.log import MemoryLog
from engine.metrics import Metrics
from engine.quality.next_click import PLACES, target_ranks
from engine.releases import bundles, serving
from engine.releases.bundles import Bundle
from engine.settings.sections import RecommendationSettings, Settings, WindowSettings
from engine.windows.store import Events
from engine.worker.batch import Processor
from models.data import dataset
from models.data.dataset import Interactions

_COUNTS = ("next_clicks", "next_click_hits", "next_click_popular_hits")


def play(bundle: Bundle, interactions: Interactions, stream_neighbours: int, batch: int) -> dict[str, Any]:
    """Figures of the clicks since the release's time split."""
    settings = Settings(
        windows=WindowSettings(max_users=len(interactions.user_ids)),
        recommendations=RecommendationSettings(stream_neighbours=stream_neighbours),
    )
    metrics, catalogue = Metrics(), Catalogue()
    live = serving.warm(bundle, catalogue, settings.index, threads=1)
    processor = Processor(settings, catalogue, metrics)
    processor.swap(live)
    held_out = interactions.times_ms >= (bundle.manifest.holdout.from_ms or 0)
    _restore(processor, catalogue, interactions.select(~held_out))
    log = MemoryLog()
    topic = settings.clicks.topic
    log.ensure_topics([TopicSpec(name) for name in (topic, settings.recommendations.topic, settings.windows.topic)])
    session = log.session([topic], "play", Rebalance())
    played = interactions.select(held_out)
    numbers = catalogue.numbers(interactions.item_ids)
    pulled = list[Int64]()
    for start in range(0, len(played), batch):
        index = np.arange(start, min(start + batch, len(played)))
        pulled.append(_pulled_ranks(processor, played, index, numbers))
        log.producer().send(_records(topic, played, index))
        processor.process(session.poll(0.0, batch), session)
    processor.set_gauges()
    ranks = np.concatenate(pulled)
    counts = {name: _total(metrics, name) for name in _COUNTS}
    return counts | {
        "played": len(played),
        "new_item_share": float((live.rows(numbers[played.items]) < 0).mean()),
        "pulled_rate": float((ranks > 0).mean()),
        "pulled_ndcg10": float(np.where(ranks > 0, 1.0 / np.log2(1.0 + np.maximum(ranks, 1)), 0.0).mean()),
        "pushed_rate": counts["next_click_hits"] / max(1.0, counts["next_clicks"]),
        "popular_rate": counts["next_click_popular_hits"] / max(1.0, counts["next_clicks"]),
        "stream_items": metrics.stream_items._value.get(),
        "stage_s": {name: round(seconds, 2) for name, seconds in _stages(metrics).items()},
    }


def _pulled_ranks(processor: Processor, played: Interactions, index: Int64, numbers: Int32) -> Int64:
    """Ranks among the first ten of clicked items in lists made before the clicks, of users with a window."""
    store, serving_now = processor.windows.store, processor._serving
    users = [played.user_ids[user] for user in played.users[index].tolist()]
    found = [(place, slot) for place, user in enumerate(users) if (slot := store.find(user)) is not None]
    places, slots = np.array(found, np.int32).reshape(-1, 2).T
    known = store.known(slots)
    places, slots = places[known], slots[known]
    if serving_now is None or not len(slots):
        return np.empty(0, np.int64)
    lists = serving_now.recommender.recommend(store.read(slots), serving_now.live)
    return target_ranks(lists.items[:, :PLACES], numbers[played.items[index[places]]])


def without_repeats(interactions: Interactions) -> Interactions:
    """The clicks that are not on the item which their user clicked before."""
    order: Int64 = interactions.by_user()
    users, items = interactions.users[order], interactions.items[order]
    repeats: Bool = np.zeros(len(order), np.bool_)
    repeats[order[1:]] = (users[1:] == users[:-1]) & (items[1:] == items[:-1])
    return interactions.select(~repeats & interactions.clicks())


def _restore(processor: Processor, catalogue: Catalogue, known: Interactions) -> None:
    """Put the windows of known events into the store, and have them counted as a worker's are."""
    store = processor.windows.store
    slots = store.slots(known.user_ids, np.zeros(len(known.user_ids), np.int32))
    events = Events(
        slots=slots[known.users],
        items=catalogue.numbers(known.item_ids)[known.items],
        times_ms=known.times_ms,
        actions=np.ones(len(known), np.uint8),
        event_hashes=np.zeros(len(known), np.uint32),
    )
    store.append(events)
    processor.restored([0])
    while processor.count_restored():
        pass


def _records(topic: str, played: Interactions, index: Int64) -> Outgoing:
    users = [played.user_ids[user] for user in played.users[index].tolist()]
    items = [played.item_ids[item] for item in played.items[index].tolist()]
    rows = zip(users, items, played.times_ms[index].tolist(), strict=True)
    values: list[bytes | None] = [
        msgspec.json.encode({"user": user, "item": item, "ts": time_ms}) for user, item, time_ms in rows
    ]
    return Outgoing(topic, [user.encode() for user in users], values)


def _total(metrics: Metrics, name: str) -> float:
    samples = next(iter(getattr(metrics, name).collect())).samples
    return float(sum(sample.value for sample in samples if sample.name.endswith("_total")))


def _stages(metrics: Metrics) -> dict[str, float]:
    samples = next(iter(metrics.stage_seconds.collect())).samples
    return {sample.labels["stage"]: sample.value for sample in samples if sample.name.endswith("_total")}


@click.command()
@click.argument("release", type=click.Path(path_type=Path, exists=True))
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--batch", default=32, show_default=True, help="Clicks in a micro-batch.")
@click.option("--items", default=[0, 65_536], multiple=True, help="Values of recommendations.stream_neighbours.")
def main(release: Path, data: Path, batch: int, items: tuple[int, ...]) -> None:
    """Play the clicks of DATA that RELEASE was not trained with."""
    bundle, interactions = bundles.read(release), without_repeats(dataset.read(data))
    for count in items:
        click.echo(json.dumps({"stream_neighbours": count, **play(bundle, interactions, count, batch)}))


if __name__ == "__main__":
    main()
