"""The verbs of the producing side: `headrace produce replay`, `headrace produce simulate` and `headrace demo`."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from engine.cli.layout_options import layout_options
from engine.cli.options import config_option
from engine.errors import SettingsError
from engine.eventlog import topic_plan
from engine.eventlog.kafka import KafkaLog
from engine.interactions.layout import Layout, Source
from engine.settings.sections import Settings
from producers.cli.options import end_on_sigterm, kafka_option, settings_for, simulation_option, with_options
from producers.cli.progress_bar import bar, spell_time
from producers.clock import REAL_CLOCK
from producers.replay.click_encoder import ClickEncoder, ProducedEvents
from producers.replay.plan import ReplayPlan, ReplayRate, play
from producers.replay.recorded_events import read
from producers.simulation.recording import record
from producers.simulation.shoppers import Simulation, SimulationSettings
from producers.simulation.stream import stream

Send = Callable[[ProducedEvents], None]


simulation_options = with_options(
    simulation_option("seed", "Of the shoppers and their clicks."),
    simulation_option("catalogue_seed", "Of the shop and its items."),
    simulation_option("items", "Items in the shop."),
    simulation_option("shoppers", "Shoppers."),
    simulation_option("new_items", "Share of the items that go on sale on the way."),
    simulation_option("new_shoppers", "Share of the shoppers who first come on the way."),
    simulation_option("drift", "Probability, per session, that one interest gives way to another."),
    simulation_option("searches", "Share of the clicks after a turn to an interest that a search comes before."),
)
partitions_option = click.option(
    "--partitions",
    type=click.IntRange(min=1),
    help="Of the topic, if it is missing. Default: topics.partitions, or else the broker's default.",
)


@click.group()
def produce() -> None:
    """Put clicks on the topic of clicks: recorded or simulated ones."""


@produce.command()
@click.argument("source", metavar="SOURCE")
@click.option("--speed", type=float, help="Times the speed at which it was recorded.")
@click.option(
    "--rate", type=float, help="Clicks per second, evenly spaced. Without speed or rate: as fast as possible."
)
@click.option("--limit", type=click.IntRange(min=1), help="Play only the first so many clicks.")
@click.option("--shift-to-now", is_flag=True, help="Move event times to now, instead of keeping them.")
@click.option(
    "--event-ids",
    is_flag=True,
    help="Send event ids, so that a repeat changes nothing: those of the file, or row numbers where it has none.",
)
@layout_options
@partitions_option
@kafka_option
@config_option
def replay(
    source: str, layout: Layout, speed: float | None, rate: float | None, limit: int | None, **options: Any
) -> None:
    """Play recorded clicks from SOURCE in order of event time.

    SOURCE is a folder with interactions.csv.gz, MovieLens' ratings.dat, u.data or ratings.csv, Parquet files or one CSV
    file; one such file; or an address that fsspec knows. All of it is held in memory.
    """
    settings = settings_for(options["config"], options["kafka"])
    pace = ReplayRate(speed, rate)
    recording = read(Source(source, layout), settings.clicks, event_ids=options["event_ids"]).select(slice(limit))
    with _sending(settings, options["partitions"], len(recording)) as send:
        plan = ReplayPlan.of(recording.times_ms, pace, REAL_CLOCK.now_ms() if options["shift_to_now"] else None)
        play(recording, plan, send, event_ids=options["event_ids"])


@produce.command()
@simulation_options
@click.option("--rate", type=float, help="Clicks per second of all shoppers; without it, sessions are hours apart.")
@click.option("--seconds", type=click.FloatRange(min=0), help="How long; without it, until Ctrl-C.")
@click.option("--out", type=click.Path(path_type=Path), help="Write a data folder instead of sending.")
@click.option("--events", type=click.IntRange(min=1), help="With --out: how many clicks to write.")
@partitions_option
@kafka_option
@config_option
def simulate(rate: float | None, seconds: float | None, out: Path | None, events: int | None, **options: Any) -> None:
    """Let simulated shoppers with known hidden interests click, or write their clicks to a folder."""
    if (out is None) != (events is None) or (out is not None and seconds is not None):
        raise SettingsError("to write a folder, give --out FOLDER and --events N, without --seconds")
    settings = settings_for(options.pop("config"), options.pop("kafka"))
    partitions = options.pop("partitions")
    simulation = SimulationSettings(clicks_per_s=rate, **options)
    if out is not None and events is not None:
        _write(Simulation(simulation), out, events)
        return
    with _sending(settings, partitions, None) as send:
        stream(Simulation(dataclasses.replace(simulation, start_ms=REAL_CLOCK.now_ms())), send, seconds)


def _write(simulation: Simulation, folder: Path, clicks: int) -> None:
    with bar("writing", clicks) as progress:
        for batch in record(simulation, folder, clicks):
            progress(len(batch), int(batch.times_ms[-1]))


@contextmanager
def _sending(settings: Settings, partitions: int | None, total: int | None) -> Iterator[Send]:
    """Give a function that sends events; Ctrl-C or SIGTERM ends the block in order, with everything delivered."""
    log = KafkaLog(settings.kafka)
    encoder = ClickEncoder(settings.clicks)
    log.ensure_topics([topic_plan.clicks(settings, partitions)])
    end_on_sigterm()
    with log.producer() as producer, bar("sending", total) as progress:
        tally = _Tally()

        def send(events: ProducedEvents) -> None:
            producer.send(encoder.encode(events))
            tally.add(events)
            progress(len(events), tally.last_ms)

        with suppress(KeyboardInterrupt):
            yield send
        producer.flush()
    click.echo(tally.summary(), err=True)


@dataclasses.dataclass(slots=True)
class _Tally:
    """What was sent."""

    started_s: float = dataclasses.field(default_factory=REAL_CLOCK.elapsed_s)
    clicks: int = 0
    first_ms: int = 0
    last_ms: int = 0

    def add(self, events: ProducedEvents) -> None:
        if not self.clicks:
            self.first_ms = int(events.times_ms[0])
        self.clicks += len(events)
        self.last_ms = int(events.times_ms[-1])

    def summary(self) -> str:
        took_s = max(REAL_CLOCK.elapsed_s() - self.started_s, 1e-9)
        sent = f"sent {self.clicks:,} clicks in {took_s:.1f} s ({self.clicks / took_s:,.0f}/s)"
        if not self.clicks:
            return sent
        return f"{sent}, event times {spell_time(self.first_ms)} to {spell_time(self.last_ms)} UTC"
