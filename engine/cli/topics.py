"""The verb `topics`, with `create`."""

from dataclasses import replace
from pathlib import Path

import click

from engine.cli.options import config_option, log_to_stderr
from engine.errors import SettingsError
from engine.eventlog import topic_plan
from engine.eventlog.base import TopicSpec
from engine.eventlog.kafka import KafkaLog
from engine.eventlog.kafka.topic_admin import ExistingTopic
from engine.settings import loader
from engine.settings.sections import Settings


@click.group()
def topics() -> None:
    """Create the topics of a deployment, and compare those that exist with the settings."""


@topics.command("create")
@click.option(
    "--partitions", type=click.IntRange(min=1), help="Of clicks, lists and windows. Default: topics.partitions."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be created, and what differs.")
@config_option
def create_topics(partitions: int | None, dry_run: bool, config: Path | None) -> None:
    """Create the topics that are missing, that of clicks too, by the settings in the section [topics].

    A topic that exists is left as it is. A line for each topic says whether it exists, and what differs from the
    settings.
    """
    settings = loader.load(config)
    log_to_stderr(settings)
    log = KafkaLog(settings.kafka)
    partitions = partitions or settings.topics.partitions
    existing = log.existing([spec.name for spec in topic_plan.whole(settings, 1)])
    clicks = existing.get(settings.clicks.topic)
    if clicks is None and partitions is None:
        raise SettingsError(
            f"--partitions is missing, and topic {settings.clicks.topic!r} (clicks.topic) does not exist; expected the"
            " number of partitions to create it with: name it here, or as topics.partitions"
        )
    specs = [*topic_plan.whole(settings, clicks.partitions if clicks else partitions or 1)]
    if not dry_run:
        log.ensure_topics(specs)
    for spec in specs:
        click.echo(f"{spec.name}: {_outcome(settings, spec, existing.get(spec.name), partitions, dry_run)}")


def _outcome(
    settings: Settings, spec: TopicSpec, topic: ExistingTopic | None, partitions: int | None, dry_run: bool
) -> str:
    """A line on a topic: created or there already, and its differences from the settings."""
    if topic is None:
        return f"{'would be created' if dry_run else 'created'}, partitions: {spec.partitions}"
    is_clicks = spec.name == settings.clicks.topic
    if is_clicks:
        spec = replace(spec, partitions=partitions or topic_plan.ANY_NUMBER)
    elif spec.name != settings.windows.topic:
        spec = replace(spec, partitions=topic_plan.ANY_NUMBER)  # only windows are where their users' clicks are
    # The topic of clicks is the user's own: that it may take smaller records than one created here is no difference.
    differences = [text for text in topic.differences(spec) if not (is_clicks and text.startswith("max.message"))]
    return "; ".join([f"exists, partitions: {topic.partitions}", *differences])
