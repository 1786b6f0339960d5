"""The command `headrace`: finds its verbs by entry point, so that each is imported only when it is used."""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import click

from engine.errors import HeadraceError

GROUP = "headrace.commands"
_FAILED = 2


class _Verbs(click.Group):
    """Verbs registered under the entry point group `headrace.commands`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all verbs."""
        del ctx
        return sorted(self._entry_points())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb, or None when there is none of that name."""
        verb = self._entry_points().get(cmd_name)
        if verb is None:
            return None
        if ctx.obj is not None:
            ctx.obj(verb.module)
        command: click.Command = verb.load()
        return command

    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=GROUP)}


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="headrace", prog_name="headrace")
def headrace() -> None:
    """Streaming recommendations: clicks in from Kafka, fresh lists out within milliseconds."""


def main(before_import: Callable[[str], None] | None = None) -> None:
    """Run the command line; a HeadraceError is printed as a sentence, not as a traceback.

    Args:
        before_import: called with the name of a verb's module before it is imported.
    """
    try:
        headrace(obj=before_import)
    except HeadraceError as error:
        click.echo(f"headrace: {error}", err=True)
        sys.exit(_FAILED)
