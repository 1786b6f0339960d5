"""The verb `serve-key`: a new API key."""

from pathlib import Path

import click

from engine.view import api_keys


@click.command("serve-key")
@click.argument("name")
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Keys of the server (serve.keys_file); created where it is missing.",
)
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(api_keys.SCOPES),
    multiple=True,
    default=["read"],
    show_default=True,
    help="read: lists and items. report: impressions. explain: also windows, maps, figures. admin: all, and metrics.",
)
@click.option("--rate", type=click.FloatRange(min=0), help="Requests a second, in place of serve.rate_per_s.")
def serve_key(name: str, path: Path, scopes: tuple[str, ...], rate: float | None) -> None:
    """Make an API key called NAME, and print it: the file gets its hash alone, so it is never shown again.

    A running server knows it within seconds; a table that is taken out of the file takes the key back.
    """
    click.echo(api_keys.add(path, name, scopes, rate))
