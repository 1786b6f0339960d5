"""The verb `publish`; it needs no torch."""

import time
from contextlib import ExitStack
from pathlib import Path

import click

from engine.cli.options import config_option
from engine.cli.releases import open_registrar
from engine.eventlog import topic_plan
from engine.eventlog.kafka import KafkaLog
from engine.messages.announcement import Announcement
from engine.releases import remote
from engine.releases.announcements import State
from engine.releases.registry import Registry
from engine.settings import loader
from engine.settings.sections import Settings
from models.cli.options import FOLDER
from models.publishing import announce


@click.command()
@config_option
@click.argument("bundle")
@click.option("--folder", type=FOLDER, help="Copy into this watched folder and announce there, not on the topic.")
@click.option(
    "--as",
    "state",
    type=click.Choice(["candidate", "canary", "live"]),
    default="live",
    show_default=True,
    help="candidate: known, not served. canary: for a share of users.",
)
@click.option("--without-parent", is_flag=True, help="Publish although the release's parent was never announced.")
@click.option(
    "--wait", "wait_s", type=click.FloatRange(min=0.0, min_open=True), help="Seconds to wait for a list by it."
)
def publish(  # noqa: PLR0913 - an option each
    config: Path | None,
    bundle: str,
    folder: Path | None,
    state: State,
    without_parent: bool,
    wait_s: float | None,
) -> None:
    """Load a release BUNDLE, a folder or an address (s3://...), as a worker does, and announce it to the workers.

    They switch to it without a pause. They must be able to read the folder, or the address, themselves.
    """
    settings = loader.load(config)
    with ExitStack() as stack:
        local = stack.enter_context(announce.checked(bundle, settings.releases))
        registrar = open_registrar(config, folder)
        registry = registrar.read()
        announce.refuse_unfit(local, registry, state, with_parent=not without_parent)
        if wait_s is not None:
            topic = settings.recommendations.topic
            lists = stack.enter_context(announce.lists_from_now(KafkaLog(settings.kafka), topic))
        now_ms = registry.next_ms(time.time_ns() // 1_000_000)
        announcement = _announce(settings, bundle, local, folder, state, now_ms)
        name = announcement.name
        click.echo(f"{name} is announced as {announcement.state}: {announcement.bundle}")
        registry = registrar.read()
        if registry.waiting() is not None and announcement.state == "live":
            click.echo(_wait_line(registry))
        if wait_s is not None:
            click.echo(f"the first list by {name} came after {announce.wait_until_taken(lists, name, wait_s):.1f} s")


def _wait_line(registry: Registry) -> str:
    experiment = registry.experiment()
    if registry.pinned is None and experiment is not None:
        name = experiment.experiment
        return f"the experiment {name!r} is running: it waits for `headrace experiment stop {name}`"
    return f"{registry.model} is pinned to {registry.pinned}: it waits for `headrace releases unpin`"


def _announce(  # noqa: PLR0913 - a bundle, where to, and as what
    settings: Settings, bundle: str, local: Path, folder: Path | None, state: State, now_ms: int
) -> Announcement:
    if folder:
        return announce.to_folder(local, folder, now_ms, state)
    address = bundle if remote.is_address(bundle) else None
    return announce.to_topic(local, KafkaLog(settings.kafka), topic_plan.releases(settings), now_ms, address, state)
