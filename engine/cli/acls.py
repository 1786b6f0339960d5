"""The verb `acls`."""

from pathlib import Path

import click

from engine.cli.options import config_option
from engine.eventlog import acl_plan
from engine.eventlog.acl_plan import Grant
from engine.settings import loader


@click.command()
@click.option(
    "--role",
    "roles",
    type=click.Choice([*acl_plan.ROLES]),
    multiple=True,
    help="Only this role; may be given several times.",
)
@click.option(
    "--commands",
    "principal",
    metavar="PRINCIPAL",
    help="Print commands for Kafka's own kafka-acls.sh that give these rights to PRINCIPAL, such as User:headrace.",
)
@config_option
def acls(roles: tuple[str, ...], principal: str | None, config: Path | None) -> None:
    """Print the rights that each role needs on the cluster, and no more.

    Names are those of the settings. Nothing is sent to the cluster.
    """
    settings = loader.load(config)
    grants = {role: list(acl_plan.ROLES[role](settings)) for role in roles or acl_plan.ROLES}
    for role, of_role in grants.items():
        if principal:
            click.echo(f"# {role}")
            for command in acl_plan.commands(of_role, principal, settings.kafka.bootstrap_servers):
                click.echo(command)
        else:
            _table(role, of_role)


def _table(role: str, grants: list[Grant]) -> None:
    """A line for each resource of a role."""
    click.echo(f"{role}:")
    for grant in grants:
        name = f"{grant.name}*" if grant.prefixed else grant.name
        click.echo(f"  {grant.kind:16} {name:32} {', '.join(grant.operations)}  # {grant.purpose}")
