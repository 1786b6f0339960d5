import csv
import dataclasses
import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from engine.arrays import FIRST_SEARCH
from engine.catalogue.actions import Actions
from engine.catalogue.searches import is_search
from engine.errors import DataError, SettingsError
from engine.eventlog.base import Partition, Records
from engine.ingest.decoder import ClickDecoder
from engine.settings.sections import ClickFields, ClickSettings
from models.data import dataset
from producers.replay.click_encoder import ClickEncoder, ProducedEvents
from producers.replay.plan import ReplayPlan, ReplayRate, play
from producers.replay.recorded_events import read
from producers.simulation.recording import record
from producers.simulation.shoppers import ACTIONS, Simulation, SimulationSettings, shopper_id
from producers.simulation.simulated_catalogue import MIN_ITEMS
from producers.simulation.stream import events

SETTINGS = SimulationSettings(items=MIN_ITEMS, shoppers=50)


def test_a_recorded_simulation_reads_back_as_it_was(tmp_path: Path) -> None:
    assert sum(map(len, record(Simulation(SETTINGS), tmp_path / "new", 3_000))) == 3_000

    clicks, recording = Simulation(SETTINGS).advance(3_000), read(tmp_path / "new")

    assert recording.users.spelled() == list(map(shopper_id, clicks.shoppers.tolist()))
    assert recording.items.spelled() == [f"item-{item:05d}" for item in clicks.items.tolist()]
    assert recording.times_ms.tolist() == clicks.times_ms.tolist()
    assert recording.actions is not None
    assert recording.actions.spelled() == [ACTIONS[action] for action in clicks.actions.tolist()]


def test_the_files_have_the_columns_that_training_reads(tmp_path: Path) -> None:
    list(record(Simulation(SETTINGS), tmp_path, 500))

    with gzip.open(tmp_path / "interactions.csv.gz", "rt") as file:
        clicks = list(csv.DictReader(file))
    with (tmp_path / "items.csv").open() as file:
        items = list(csv.DictReader(file))

    assert list(clicks[0]) == ["user", "item", "ts", "weight", "event"]
    assert {(click["event"], click["weight"]) for click in clicks} <= {
        ("view", "1"),
        ("cart", "2"),
        ("buy", "3"),
        ("dislike", "-1"),
    }
    assert list(items[0]) == ["item", "item_raw", "category", "n_events"]
    assert len(items) == MIN_ITEMS
    assert Counter(click["item"] for click in clicks) == {
        item["item"]: int(item["n_events"]) for item in items if item["n_events"] != "0"
    }


def test_replay_and_training_read_the_searches_back(tmp_path: Path) -> None:
    simulation = Simulation(dataclasses.replace(SETTINGS, searches=0.5))
    (batch,) = record(simulation, tmp_path, 500)
    simulated, recording = events(simulation, batch), read(tmp_path)
    assert recording.words is not None
    assert [None if is_search(item) else item for item in recording.items.spelled()] == simulated.items
    assert [words or None for words in recording.words.spelled()] == simulated.words
    batches = list[ProducedEvents]()
    play(recording, ReplayPlan.of(recording.times_ms, ReplayRate(), None), batches.append)
    (replayed,) = batches
    assert (replayed.users, replayed.items, replayed.words) == (simulated.users, simulated.items, simulated.words)
    settings = ClickSettings()
    values, count = ClickEncoder(settings).encode(replayed).values, len(replayed)
    polled = [Records(Partition("clicks", 0), [*range(count)], [0] * count, values, values, [()] * count)]
    clicks, dead_letters = ClickDecoder(settings, Actions(settings)).decode(polled, 2**41)
    assert dead_letters == []
    interactions = dataset.read(tmp_path)
    assert len(interactions.search_ids) > 5
    assert [
        (interactions.item_ids[item] if item < FIRST_SEARCH else interactions.search_ids[item - FIRST_SEARCH])
        for item in interactions.items
    ] == clicks.items


def test_searches_need_a_field_in_the_messages() -> None:
    search = ProducedEvents(["u"], [None], np.array([1]), None, words=["red shoes"])
    with pytest.raises(SettingsError, match=r"clicks\.fields\.search is empty"):
        ClickEncoder(ClickSettings(fields=ClickFields(search=""))).encode(search)


def test_nothing_is_overwritten_and_an_incomplete_file_has_another_name(tmp_path: Path) -> None:
    interrupted = record(Simulation(SETTINGS), tmp_path, 100_000)
    next(interrupted)
    interrupted.close()  # type: ignore[attr-defined]
    assert not (tmp_path / "interactions.csv.gz").exists()

    list(record(Simulation(SETTINGS), tmp_path, 10))
    with pytest.raises(DataError, match="exists already"):
        list(record(Simulation(SETTINGS), tmp_path, 10))


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DataError, match="file/inside cannot be written"):
        list(record(Simulation(SETTINGS), tmp_path / "file" / "inside", 10))
